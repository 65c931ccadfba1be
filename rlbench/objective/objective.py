"""An algorithm: the pieces that its configuration names, composed into advantages and a loss."""

from dataclasses import dataclass

import torch

from rlbench.config import AlgorithmConfig, RewardConfig
from rlbench.lists import TokenUnits, UnitLayout
from rlbench.objective.aggregation import AGGREGATIONS, Window
from rlbench.objective.baselines import BASELINES
from rlbench.objective.credit import RETURNS, SPREAD
from rlbench.objective.ratios import RATIOS
from rlbench.objective.regularisers import KL_ESTIMATORS
from rlbench.objective.shaping import SHAPINGS
from rlbench.objective.surrogates import SURROGATES, clip_shares
from rlbench.rewards.batch import RewardBatch
from rlbench.rewards.combine import COMBINERS, solve_rate, weighted_sum


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
    """The algorithm of a configuration, with the reward's part that needs whole groups: returns and their combination.

    Args:
        algorithm: the point in the algebra, as in `conf/algorithm/`.
        reward: its terms' weights, discount and combiner, as in `conf/reward/`.
        list_length: N.
    """

    def __init__(self, algorithm: AlgorithmConfig, reward: RewardConfig, list_length: int):
        self.algorithm = algorithm
        self.reward = reward
        self.units = UnitLayout(list_length)

    def unit_returns(self, rewards: RewardBatch, group_size: int) -> torch.Tensor:
        """Returns of the credited units, one reward term beside the other, unweighted: (B, M, C).

        C = 1 under sequence credit, N under rank credit, where a term that scores whole lists counts for every rank.

        Args:
            rewards: of B completions, the G completions of a prompt next to each other.
            group_size: G.
        """
        solved = solve_rate(rewards.success, group_size)
        of_terms = []
        for m, term in enumerate(self.reward.terms.values()):
            of_gains = RETURNS[self.algorithm.credit](rewards.gains[:, m], self.reward.gamma)
            returns = of_gains + rewards.scores[:, m, None]
            of_terms.append(returns * solved.to(returns)[:, None] if term.get("scaled_by") == "solve_rate" else returns)
        return torch.stack(of_terms, dim=1)

    def unit_advantages(self, rewards: RewardBatch, group_size: int) -> torch.Tensor:
        """Advantages of the credited units, (B, C)."""
        returns = self.unit_returns(rewards, group_size)
        grouped = (-1, group_size, returns.size(2))
        counted = torch.ones_like(returns[:, 0], dtype=torch.bool)
        if self.algorithm.missing_rank == "excluded" and self.algorithm.credit == "rank":
            counted = rewards.present

        def normalise(of_units: torch.Tensor) -> torch.Tensor:
            baseline = BASELINES[self.algorithm.baseline]
            return baseline(of_units.view(grouped), counted.view(grouped)).view_as(of_units)

        return COMBINERS[self.reward.combine](returns, self.weights.to(returns), normalise, self.reward.power)

    @property
    def weights(self) -> torch.Tensor:
        """(M,) the weights of the reward's terms."""
        return torch.tensor([float(term["weight"]) for term in self.reward.terms.values()])

    def weighted(self, returns: torch.Tensor) -> torch.Tensor:
        """(B, M, C) -> (B, C): the terms' weighted sum."""
        return weighted_sum(returns, self.weights.to(returns))

    def token_units(self, tokens: TokenUnits) -> torch.Tensor:
        """Unit of every token as this algorithm sees it, (B, T): EOS may belong to the last rank."""
        absorbed = SHAPINGS[self.algorithm.length_shaping.rule].absorbed(tokens, self.units)
        return tokens.unit_ids.masked_fill(absorbed, self.units.list_length - 1)

    def token_advantages(self, unit_advantages: torch.Tensor, tokens: TokenUnits) -> torch.Tensor:
        """Spread unit advantages (B, C) over tokens, (B, T)."""
        shaping = self.algorithm.length_shaping
        rule = SHAPINGS[shaping.rule]
        special = rule.special(tokens.n_units, self.units, shaping).to(unit_advantages)
        spread = SPREAD[self.algorithm.credit](unit_advantages, special, self.units)
        advantages = spread.gather(1, self.token_units(tokens))
        # Under the published layout EOS shares the unit, and so the ratio, of its line, but not that line's advantage.
        alone = tokens.is_eos & ~rule.absorbed(tokens, self.units)
        return torch.where(alone, spread[:, self.units.eos, None], advantages)

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
