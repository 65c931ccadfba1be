"""The scorer's output for the objective: gains and scores of each reward term, as tensors that can be gathered."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

FEATURES = ("tokens", "entries", "in_catalog", "duplicates", "popularity")
"""Tokens and entries of a list, shares of its entries, and mean popularity percentile of its items."""


@dataclass(frozen=True)
class RewardBatch:
    """Rewards of B completions under M terms, unweighted.

    Gains, scores and totals are float64. Lists of equal value must get equal numbers, however they reach that value,
    because a baseline divides the remaining difference by as little as 1e-4.

    Attributes:
        gains: (B, M, N) gain of each rank; 0 for a term that scores whole lists.
        scores: (B, M) score of each list; 0 for a term that scores ranks.
        hits: (B, N) relevance.
        n_truth: (B,) number of distinct relevant items.
        present: (B, N) bool, whether the list has rank k.
        totals: (B,) weighted sum of each list's terms over its ranks, not scaled by the solve rate.
        success: (B,) bool, by the reward's success rule.
        features: (B, F) other properties by which a baseline may compare lists, in the order of `FEATURES`.
    """

    gains: torch.Tensor
    scores: torch.Tensor
    hits: torch.Tensor
    n_truth: torch.Tensor
    present: torch.Tensor
    totals: torch.Tensor
    success: torch.Tensor
    features: torch.Tensor

    def named_features(self) -> dict[str, torch.Tensor]:
        """(B,) each, by name."""
        return dict(zip(FEATURES, self.features.unbind(dim=1), strict=True))

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "RewardBatch":
        """The batch with the function applied to every tensor, e.g. to move or gather them."""
        return RewardBatch(**{field.name: function(getattr(self, field.name)) for field in fields(self)})
