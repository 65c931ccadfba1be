"""Surrogates: what is made of ratio and advantage, token by token."""

from collections.abc import Callable

import torch


def clip(ratio: torch.Tensor, advantages: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """min(w A, clamp(w, 1 - low, 1 + high) A) (PPO, arXiv 1707.06347; separate bounds as in DAPO, arXiv 2503.14476).

    Args:
        ratio: (B, T) w.
        advantages: (B, T) A.

    Returns:
        (B, T), to be maximised.
    """
    return torch.min(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def clip_shares(
    ratio: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares of tokens whose gradient the lower and the upper bound stop, two scalars."""
    total = mask.sum().clamp(min=1)
    at_low = ((ratio < 1 - low) & (advantages < 0) & mask.bool()).sum() / total
    at_high = ((ratio > 1 + high) & (advantages > 0) & mask.bool()).sum() / total
    return at_low, at_high


SURROGATES: dict[str, Callable[[torch.Tensor, torch.Tensor, float, float], torch.Tensor]] = {"clip": clip}
