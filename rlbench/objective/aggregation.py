"""Aggregation: how per-token losses become one number.

A piece takes per_token (B, T), which is finite even on padding, and returns a scalar. The sum of these scalars over the
micro-batches of an accumulation window is the loss of one optimiser update. Fact of a piece:

separate: the loss is a weighted sum of `per_token`, and its weights depend on no log-probabilities; default false.
"""

import torch

from rlbench.config.options import NonNegative, WholeNumber
from rlbench.objective.inputs import LossInputs, Window
from rlbench.objective.pieces import aggregations
from rlbench.objective.units import masked_mean, scatter_mean


@aggregations.piece(separate=True)
def sequence_mean(per_token: torch.Tensor, inputs: LossInputs, window: Window) -> torch.Tensor:
    """Mean over tokens, then over completions (GRPO, Eq. 3 of the Rank-GRPO paper)."""
    return masked_mean(per_token, inputs.mask).mean() / window.accumulation_steps


@aggregations.piece(separate=True)
def rank_mean(per_token: torch.Tensor, inputs: LossInputs, window: Window) -> torch.Tensor:
    """1/(B N) sum over completions and units of the unit's token mean (Rank-GRPO, Eq. 6).

    Every rank has weight 1/N, however long its title. A special unit with tokens has the weight of one rank.
    """
    of_unit = scatter_mean(per_token, inputs.unit_ids, inputs.mask, inputs.units.count)
    return of_unit.sum(1).mean() / inputs.units.list_length / window.accumulation_steps


@aggregations.piece(separate=True)
def token_mean(per_token: torch.Tensor, inputs: LossInputs, window: Window) -> torch.Tensor:
    """Mean over the tokens of the micro-batch (TRL's "bnpo"; what the published Rank-GRPO code does)."""
    weights = inputs.mask.to(per_token.dtype)
    return (per_token * weights).sum() / weights.sum().clamp(min=1.0) / window.accumulation_steps


@aggregations.piece(separate=True)
def global_token_mean(per_token: torch.Tensor, inputs: LossInputs, window: Window) -> torch.Tensor:
    """Mean over the tokens of the whole window (DAPO, arXiv 2503.14476)."""
    return (per_token * inputs.mask.to(per_token.dtype)).sum() / window.tokens.clamp(min=1.0)


@aggregations.piece(separate=True)
def constant(per_token: torch.Tensor, inputs: LossInputs, window: Window) -> torch.Tensor:
    """Sum over tokens divided by B times the token limit (Dr. GRPO, arXiv 2503.20783)."""
    total = (per_token * inputs.mask.to(per_token.dtype)).sum()
    return total / (per_token.size(0) * window.max_completion_length) / window.accumulation_steps


@aggregations.piece(separate=True)
def sequence_sum(per_token: torch.Tensor, inputs: LossInputs, window: Window) -> torch.Tensor:
    """Sum over tokens, mean over completions (LUSPO, arXiv 2602.05261, as TRL 1.16); intended for a sequence ratio."""
    return (per_token * inputs.mask.to(per_token.dtype)).sum(1).mean() / window.accumulation_steps


@aggregations.piece(separate=True)
def segment_weights(
    per_token: torch.Tensor,
    inputs: LossInputs,
    window: Window,
    *,
    preamble: NonNegative = 1.0,
    answer: NonNegative = 1.0,
) -> torch.Tensor:
    """Weighted sum of the token means of preamble and answer, mean over completions.

    Inspired by E2C (arXiv 2509.23946), which multiplies the loss of exploration tokens by a factor above 1. The mean
    within each segment follows GRPO-MA (arXiv 2509.24494). The preamble is the unit `other`.
    """
    block = (inputs.unit_ids != inputs.units.other).long()
    of_block = scatter_mean(per_token, block, inputs.mask, 2)
    return (preamble * of_block[:, 0] + answer * of_block[:, 1]).mean() / window.accumulation_steps


@aggregations.piece(separate=True)
def plan_weights(
    per_token: torch.Tensor, inputs: LossInputs, window: Window, *, plan: NonNegative = 2.0, ranks: WholeNumber = 3
) -> torch.Tensor:
    """`sequence_mean` with the losses of the plan's tokens multiplied by `plan` (E2C, arXiv 2509.23946; after notes:
    its factor is above 1 and otherwise unknown to us).

    The paper's plan is a short exploration that the execution follows. Adapted to lists: the plan is what a rollout
    writes before the list (`rollout=planned`), and the first ranks, which the later ones follow.

    Args:
        plan: factor of the plan's tokens.
        ranks: number of ranks that belong to the plan; 0 for none.
    """
    first = inputs.unit_ids < min(ranks, inputs.units.list_length)
    weights = torch.where(first | (inputs.extras["segment"] > 0), plan, 1.0).to(per_token)
    return masked_mean(per_token * weights, inputs.mask).mean() / window.accumulation_steps
