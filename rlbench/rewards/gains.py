"""Gain of each rank: functions of the relevance matrix, (B, N) -> (B, N)."""

from collections.abc import Callable

import torch


def relevance(hits: torch.Tensor) -> torch.Tensor:
    """gain_k = rel_k."""
    return hits


def dcg(hits: torch.Tensor) -> torch.Tensor:
    """gain_k = rel_k / log2(k + 1), so that the gains of a list sum to DCG@N (Rank-GRPO, Eq. 8 at k = 1)."""
    ranks = torch.arange(1, hits.size(1) + 1, dtype=hits.dtype, device=hits.device)
    return hits / torch.log2(ranks + 1)


GAINS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"relevance": relevance, "dcg": dcg}
