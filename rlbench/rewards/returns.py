"""Return of each rank: the discounted sum of its own and all later gains."""

import torch


def tail_returns(gains: torch.Tensor, gamma: float) -> torch.Tensor:
    """r_k = sum over j >= k of gamma^(j - k) * gain_j.

    gamma = 0 keeps a rank's own gain (Rank-GRPO's exp_inf), gamma = 1 with DCG gains is its log-decay (Eq. 8), and
    gamma = 1/Γ with plain relevance is its exponential decay (Eq. 9).

    Args:
        gains: (B, N).
        gamma: in [0, 1].

    Returns:
        (B, N).

    Raises:
        ValueError: gamma is outside [0, 1].
    """
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
    returns = gains.clone()
    for k in range(gains.size(1) - 2, -1, -1):
        returns[:, k] += gamma * returns[:, k + 1]
    return returns
