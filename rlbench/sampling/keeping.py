"""Which groups train. P groups of G completions. The other groups are drawn again, up to `sampler.rounds` times."""

import torch

from rlbench.config.options import Share
from rlbench.sampling.places import keeps


@keeps.piece
def all(totals: torch.Tensor, success: torch.Tensor) -> torch.Tensor:  # noqa: A001 - the name in a config
    """Every group."""
    return torch.ones(len(totals), dtype=torch.bool)


@keeps.piece
def varied(totals: torch.Tensor, success: torch.Tensor) -> torch.Tensor:
    """Groups whose rewards differ (DAPO's dynamic sampling, arXiv 2503.14476: std > 0)."""
    return totals.amax(1) > totals.amin(1)


@keeps.piece
def mixed(totals: torch.Tensor, success: torch.Tensor) -> torch.Tensor:
    """Groups with at least one success and one failure (CLPO, arXiv 2509.25004: 0 < accuracy < 1)."""
    return success.any(1) & ~success.all(1)


@keeps.piece
def middling(totals: torch.Tensor, success: torch.Tensor, *, low: Share = 0.25, high: Share = 0.75) -> torch.Tensor:
    """Groups of which a share between `low` and `high` succeeds (near 50 %, as Socratic-Zero's, arXiv 2509.24726)."""
    share = success.to(torch.float64).mean(1)
    return (share >= low) & (share <= high)
