"""Baselines: from returns to advantages, relative to the group.

Each takes returns (P, G, C): P prompts, G completions a prompt, C columns (1 under sequence credit, N under rank
credit) and returns advantages of the same shape. Columns are never mixed.
"""

from collections.abc import Callable

import torch

STD_EPSILON = 1e-4  # TRL's guard against a zero standard deviation; the published Rank-GRPO code keeps it


def group_std(returns: torch.Tensor) -> torch.Tensor:
    """(r - mean) / (std + 1e-4) over the group, std unbiased (GRPO, arXiv 2402.03300; Rank-GRPO, Eq. 7)."""
    return group_mean(returns) / (returns.std(dim=1, keepdim=True) + STD_EPSILON)


def group_mean(returns: torch.Tensor) -> torch.Tensor:
    """r - mean over the group (Dr. GRPO, arXiv 2503.20783)."""
    return returns - returns.mean(dim=1, keepdim=True)


BASELINES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"group_std": group_std, "group_mean": group_mean}
