"""Credit: which unit an advantage belongs to, and how it reaches the tokens of that unit."""

from collections.abc import Callable

import torch

from rlbench.lists import UnitLayout
from rlbench.rewards.returns import tail_returns


def sequence_returns(gains: torch.Tensor, gamma: float) -> torch.Tensor:
    """(B, 1) the list's total gain; gamma plays no part, since the whole list is one unit."""
    return gains.sum(dim=1, keepdim=True)


def rank_returns(gains: torch.Tensor, gamma: float) -> torch.Tensor:
    """(B, N) the return of each rank, `tail_returns`."""
    return tail_returns(gains, gamma)


def spread_sequence(advantages: torch.Tensor, special: torch.Tensor, units: UnitLayout) -> torch.Tensor:
    """(B, 1) -> (B, U): every unit of the completion carries the list's advantage."""
    spread = advantages.expand(-1, units.count).clone()
    spread[:, units.padding] = 0.0
    return spread


def spread_rank(advantages: torch.Tensor, special: torch.Tensor, units: UnitLayout) -> torch.Tensor:
    """(B, N) -> (B, U): ranks carry their own advantage, the special units what length shaping gives them."""
    return torch.cat([advantages, special], dim=1)


RETURNS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "sequence": sequence_returns,
    "rank": rank_returns,
}
SPREAD: dict[str, Callable[[torch.Tensor, torch.Tensor, UnitLayout], torch.Tensor]] = {
    "sequence": spread_sequence,
    "rank": spread_rank,
}
