"""Baselines: from returns to advantages, relative to the group.

Each takes returns (P, G, C): P prompts, G completions a prompt, C columns (1 under sequence credit, N under rank
credit) and `counted` (P, G, C) bool, which returns the baseline may look at, and gives advantages of the same shape:
0 where not counted. Columns are never mixed.
"""

from collections.abc import Callable

import torch

STD_EPSILON = 1e-4  # TRL's guard against a zero standard deviation; the published Rank-GRPO code keeps it

Baseline = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def group_std(returns: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """(r - mean) / (std + 1e-4) over the group, std unbiased (GRPO, arXiv 2402.03300; Rank-GRPO, Eq. 7)."""
    centred = group_mean(returns, counted)
    if counted.all():
        return centred / (returns.std(dim=1, keepdim=True) + STD_EPSILON)
    freedom = (counted.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    return centred / ((centred.square().sum(dim=1, keepdim=True) / freedom).sqrt() + STD_EPSILON)


def group_mean(returns: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """r - mean over the group (Dr. GRPO, arXiv 2503.20783)."""
    if counted.all():
        return returns - returns.mean(dim=1, keepdim=True)
    weights = counted.to(returns.dtype)
    mean = (returns * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(min=1.0)
    return (returns - mean) * weights


BASELINES: dict[str, Baseline] = {"group_std": group_std, "group_mean": group_mean}
