"""Importance ratios: at which unit pi/pi_old is taken.

Each takes log_ratio (B, T) = log pi - log pi_old, mask (B, T), unit_ids (B, T), count U, and returns the log of the
ratio that each token uses, (B, T), constant inside its unit.
"""

from collections.abc import Callable

import torch

from rlbench.objective.units import masked_mean, scatter_mean

LogRatio = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]


def token(log_ratio: torch.Tensor, mask: torch.Tensor, unit_ids: torch.Tensor, count: int) -> torch.Tensor:
    """Each token its own ratio (PPO, GRPO)."""
    return log_ratio


def rank(log_ratio: torch.Tensor, mask: torch.Tensor, unit_ids: torch.Tensor, count: int) -> torch.Tensor:
    """Geometric mean inside the unit (Rank-GRPO, Eq. 6); all tokens of a special unit share one ratio too."""
    return scatter_mean(log_ratio, unit_ids, mask, count).gather(1, unit_ids)


def sequence(log_ratio: torch.Tensor, mask: torch.Tensor, unit_ids: torch.Tensor, count: int) -> torch.Tensor:
    """Geometric mean over the completion (GSPO, arXiv 2507.18071)."""
    return masked_mean(log_ratio, mask).unsqueeze(1).expand_as(log_ratio)


RATIOS: dict[str, LogRatio] = {"token": token, "rank": rank, "sequence": sequence}
