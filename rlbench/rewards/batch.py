"""What the scorer hands to the objective: each reward term's gains and scores, as tensors that can be gathered."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

FEATURES = ("tokens", "entries", "in_catalog", "duplicates", "popularity")
"""Tokens and entries of a list, shares of its entries, and the mean popularity percentile of its films."""


@dataclass(frozen=True)
class RewardBatch:
    """Rewards of B completions under M terms, unweighted.

    Gains, scores and totals are float64: lists that are worth the same in different ways must come out the same, since
    a baseline divides what is left between them by as little as 1e-4.

    Attributes:
        gains: (B, M, N) what each rank is worth; 0 for a term that scores whole lists.
        scores: (B, M) what each list is worth; 0 for a term that scores ranks.
        hits: (B, N) relevance.
        n_truth: (B,) different relevant films.
        present: (B, N) bool, whether the list has rank k.
        totals: (B,) each list's terms, weighted and summed over its ranks; without scaling by the solve rate.
        success: (B,) bool, the reward's success rule.
        features: (B, F) what else a baseline may compare lists by, in the order of `FEATURES`.
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
        """The batch with every tensor changed, e.g. moved to a device or gathered over processes."""
        return RewardBatch(**{field.name: function(getattr(self, field.name)) for field in fields(self)})
