"""Importance ratios: the unit over which pi/pi_old is taken.

A piece gives the log of each token's ratio, (B, T), differentiable. On padding it may be any finite number. Fact of a
piece:

separate: the ratios of a completion depend on its own log-probabilities alone; default false.
"""

import torch

from rlbench.objective.inputs import LossInputs
from rlbench.objective.pieces import ratios
from rlbench.objective.units import masked_mean, scatter_mean


def on_tokens(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, T) x with 0 on padding, where x may be infinite or NaN. No gradient flows through padding."""
    return x.masked_fill(mask == 0, 0.0)


@ratios.piece(separate=True)
def token(inputs: LossInputs) -> torch.Tensor:
    """One ratio per token (PPO, GRPO)."""
    return on_tokens(inputs.log_ratio, inputs.mask)


@ratios.piece(separate=True)
def rank(inputs: LossInputs) -> torch.Tensor:
    """Geometric mean over the unit (Rank-GRPO, Eq. 6). The tokens of a special unit share one ratio too."""
    of_unit = scatter_mean(token(inputs), inputs.unit_ids, inputs.mask, inputs.units.count)
    return of_unit.gather(1, inputs.unit_ids)


@ratios.piece(separate=True)
def sequence(inputs: LossInputs) -> torch.Tensor:
    """Geometric mean over the completion (GSPO, arXiv 2507.18071)."""
    return masked_mean(token(inputs), inputs.mask).unsqueeze(1).expand_as(inputs.logps)


@ratios.piece(separate=True)
def product(inputs: LossInputs) -> torch.Tensor:
    """Product over the completion: the whole list is one action (RLOO, arXiv 2402.14740, as TRL 1.16's RLOOTrainer)."""
    return token(inputs).sum(dim=1, keepdim=True).expand_as(inputs.logps)


@ratios.piece(separate=True)
def sequence_token(inputs: LossInputs) -> torch.Tensor:
    """Value of `sequence` with the gradient of the token's log-probability (GSPO-token, arXiv 2507.18071, Eq. 13)."""
    return sequence(inputs).detach() + none(inputs)


@ratios.piece(separate=True)
def segment(inputs: LossInputs) -> torch.Tensor:
    """Geometric mean over each of two blocks: preamble and answer.

    The preamble is the unit `other`. It also holds blank lines and the lines between entries that are not entries.
    """
    block = (inputs.unit_ids != inputs.units.other).long()
    return scatter_mean(token(inputs), block, inputs.mask, 2).gather(1, block)


@ratios.piece(separate=True)
def none(inputs: LossInputs) -> torch.Tensor:
    """Ratio 1 with the gradient of the token's log-probability: no correction for an older rollout policy."""
    logps = on_tokens(inputs.logps, inputs.mask)
    return logps - logps.detach()
