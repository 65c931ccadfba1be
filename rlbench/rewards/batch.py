"""What the scorer hands to the objective: each reward term's gains and scores, as tensors that can be gathered."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch


@dataclass(frozen=True)
class RewardBatch:
    """Rewards of B completions under M terms, unweighted.

    Attributes:
        gains: (B, M, N) what each rank is worth; 0 for a term that scores whole lists.
        scores: (B, M) what each list is worth; 0 for a term that scores ranks.
        hits: (B, N) relevance.
        present: (B, N) bool, whether the list has rank k.
        totals: (B,) each list's terms, weighted and summed over its ranks; without scaling by the solve rate.
        success: (B,) bool, the reward's success rule.
    """

    gains: torch.Tensor
    scores: torch.Tensor
    hits: torch.Tensor
    present: torch.Tensor
    totals: torch.Tensor
    success: torch.Tensor

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "RewardBatch":
        """The batch with every tensor changed, e.g. moved to a device or gathered over processes."""
        return RewardBatch(**{field.name: function(getattr(self, field.name)) for field in fields(self)})
