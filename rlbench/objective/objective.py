"""An algorithm: the pieces that its configuration names, composed into advantages and a loss."""

from dataclasses import dataclass

import torch

from rlbench.config import AlgorithmConfig
from rlbench.lists import UnitLayout
from rlbench.objective.aggregation import AGGREGATIONS, Window
from rlbench.objective.baselines import BASELINES
from rlbench.objective.credit import RETURNS, SPREAD
from rlbench.objective.ratios import RATIOS
from rlbench.objective.regularisers import KL_ESTIMATORS
from rlbench.objective.shaping import eos_into_last_rank, special_advantages
from rlbench.objective.surrogates import SURROGATES, clip_shares


@dataclass(frozen=True)
class LossInputs:
    """Tensors of one micro-batch, all (B, T); `ref_logps` is None where the algorithm has no KL term."""

    logps: torch.Tensor
    old_logps: torch.Tensor
    ref_logps: torch.Tensor | None
    advantages: torch.Tensor
    unit_ids: torch.Tensor
    mask: torch.Tensor


class Objective:
    """The algorithm of a configuration.

    Args:
        algorithm: the point in the algebra, as in `conf/algorithm/`.
        gamma: the reward's discount over later ranks.
        list_length: N.
    """

    def __init__(self, algorithm: AlgorithmConfig, gamma: float, list_length: int):
        self.algorithm = algorithm
        self.gamma = gamma
        self.units = UnitLayout(list_length)

    def unit_advantages(self, gains: torch.Tensor, group_size: int) -> torch.Tensor:
        """Advantages of the credited units, (B, C): C = 1 under sequence credit, N under rank credit.

        Args:
            gains: (B, N), the G completions of a prompt next to each other.
            group_size: G.
        """
        returns = RETURNS[self.algorithm.credit](gains, self.gamma)
        grouped = returns.view(-1, group_size, returns.size(1))
        return BASELINES[self.algorithm.baseline](grouped).view_as(returns)

    def token_units(self, unit_ids: torch.Tensor, n_entries: torch.Tensor) -> torch.Tensor:
        """Unit of every token as this algorithm sees it, (B, T): EOS may belong to the last rank."""
        if self.algorithm.length_shaping.eos == "last_rank":
            return eos_into_last_rank(unit_ids, n_entries, self.units)
        return unit_ids

    def token_advantages(
        self, unit_advantages: torch.Tensor, unit_ids: torch.Tensor, n_entries: torch.Tensor
    ) -> torch.Tensor:
        """Spread unit advantages (B, C) over tokens, (B, T)."""
        shaping = self.algorithm.length_shaping
        special = special_advantages(
            n_entries, self.units, early_stop=shaping.early_stop, overflow=shaping.overflow
        ).to(unit_advantages.dtype)
        return SPREAD[self.algorithm.credit](unit_advantages, special, self.units).gather(1, unit_ids)

    def loss(self, inputs: LossInputs, window: Window) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a micro-batch and what is logged of it (scalars, detached)."""
        algorithm, mask = self.algorithm, inputs.mask
        log_ratio = inputs.logps - inputs.old_logps
        ratio = RATIOS[algorithm.ratio](log_ratio, mask, inputs.unit_ids, self.units.count).exp()
        low, high = algorithm.surrogate.low, algorithm.surrogate.high
        per_token = -SURROGATES[algorithm.surrogate.name](ratio, inputs.advantages, low, high)
        at_low, at_high = clip_shares(ratio, inputs.advantages, mask, low, high)
        stats = {
            "clip_low": at_low,
            "clip_high": at_high,
            "max_abs_log_ratio": (log_ratio.detach() * mask).abs().max(),
        }
        if inputs.ref_logps is not None:
            kl = KL_ESTIMATORS[algorithm.kl.estimator](inputs.logps, inputs.ref_logps)
            if algorithm.kl.importance_weighted:
                kl = kl * ratio
            per_token = per_token + algorithm.kl.beta * kl
            stats["kl"] = (kl.detach() * mask).sum() / mask.sum().clamp(min=1)
        loss = AGGREGATIONS[algorithm.aggregation](per_token, mask, inputs.unit_ids, self.units, window)
        return loss, stats
