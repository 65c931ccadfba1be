"""Means over units, that is, over blocks of tokens."""

import torch


def scatter_mean(x: torch.Tensor, unit_ids: torch.Tensor, mask: torch.Tensor, count: int) -> torch.Tensor:
    """Mean of x over the tokens of each unit.

    Args:
        x: (B, T).
        unit_ids: (B, T) int64 in [0, count).
        mask: (B, T); tokens with 0 are ignored.
        count: U, the number of unit codes.

    Returns:
        (B, U); 0 for a unit without tokens.
    """
    weights = mask.to(x.dtype)
    total = x.new_zeros(x.size(0), count).scatter_add(1, unit_ids, x * weights)
    return total / unit_sizes(unit_ids, mask, count).to(x.dtype).clamp(min=1.0)


def unit_sizes(unit_ids: torch.Tensor, mask: torch.Tensor, count: int) -> torch.Tensor:
    """(B, U) number of unmasked tokens in each unit."""
    return torch.zeros(unit_ids.size(0), count, dtype=torch.long, device=unit_ids.device).scatter_add(
        1, unit_ids, mask.long()
    )


def masked_mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B,) mean of x (B, T) over the unmasked tokens of each row; 0 for a row without unmasked tokens."""
    weights = mask.to(x.dtype)
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1.0)
