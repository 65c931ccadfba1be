"""Aggregation: how per-token losses become one number.

Each takes per_token (B, T), mask (B, T), unit_ids (B, T), the layout and a `Window`, and returns a scalar which,
summed over the micro-batches of an accumulation window, is the loss of one optimiser update.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from rlbench.lists import UnitLayout
from rlbench.objective.units import masked_mean, scatter_mean


@dataclass(frozen=True)
class Window:
    """What an aggregation may know of the accumulation window around its micro-batch.

    Attributes:
        accumulation_steps: micro-batches an update.
        tokens: completion tokens of the whole window, over all processes and divided by their number (gradients are
            averaged over processes).
        max_completion_length: the token limit of a completion.
    """

    accumulation_steps: int
    tokens: torch.Tensor
    max_completion_length: int


Aggregation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, UnitLayout, Window], torch.Tensor]


def sequence_mean(
    per_token: torch.Tensor, mask: torch.Tensor, unit_ids: torch.Tensor, units: UnitLayout, window: Window
) -> torch.Tensor:
    """Mean over tokens, then over completions (GRPO, Eq. 3 of the Rank-GRPO paper)."""
    return masked_mean(per_token, mask).mean() / window.accumulation_steps


def rank_mean(
    per_token: torch.Tensor, mask: torch.Tensor, unit_ids: torch.Tensor, units: UnitLayout, window: Window
) -> torch.Tensor:
    """1/(B N) sum over completions and units of the unit's token mean (Rank-GRPO, Eq. 6).

    Every rank weighs 1/N however long its title; a special unit that has tokens weighs as much as one rank.
    """
    of_unit = scatter_mean(per_token, unit_ids, mask, units.count)
    return of_unit.sum(1).mean() / units.list_length / window.accumulation_steps


def token_mean(
    per_token: torch.Tensor, mask: torch.Tensor, unit_ids: torch.Tensor, units: UnitLayout, window: Window
) -> torch.Tensor:
    """Mean over the tokens of the micro-batch (TRL's "bnpo"; what the published Rank-GRPO code does)."""
    weights = mask.to(per_token.dtype)
    return (per_token * weights).sum() / weights.sum().clamp(min=1.0) / window.accumulation_steps


def global_token_mean(
    per_token: torch.Tensor, mask: torch.Tensor, unit_ids: torch.Tensor, units: UnitLayout, window: Window
) -> torch.Tensor:
    """Mean over the tokens of the whole window (DAPO, arXiv 2503.14476)."""
    return (per_token * mask.to(per_token.dtype)).sum() / window.tokens.clamp(min=1.0)


def constant(
    per_token: torch.Tensor, mask: torch.Tensor, unit_ids: torch.Tensor, units: UnitLayout, window: Window
) -> torch.Tensor:
    """Sum over tokens divided by B times the token limit (Dr. GRPO, arXiv 2503.20783)."""
    total = (per_token * mask.to(per_token.dtype)).sum()
    return total / (per_token.size(0) * window.max_completion_length) / window.accumulation_steps


AGGREGATIONS: dict[str, Aggregation] = {
    "rank_mean": rank_mean,
    "sequence_mean": sequence_mean,
    "token_mean": token_mean,
    "global_token_mean": global_token_mean,
    "constant": constant,
}
