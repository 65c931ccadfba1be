"""Losses of preference optimisation. Shapes: B tuples of one chosen and L rejected lists.

A log-ratio is log pi(y|x) - log pi_ref(y|x), summed over the tokens of a list. Multiplied by beta it is the implicit
reward.
"""

import torch
from torch.nn import functional


def softmax_dpo(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """-log sigma(-log sum_l exp(beta (r_l - r_w))) (S-DPO, arXiv 2406.09215; L = 1 is DPO, 2305.18290, Eq. 7).

    Args:
        chosen: (B,) log-ratios r_w.
        rejected: (B, L) log-ratios r_l.
        beta: weight of the log-ratios.

    Returns:
        (B,) losses.
    """
    return functional.softplus((beta * (rejected - chosen[:, None])).logsumexp(dim=1))


def mean_negative_log_likelihood(logps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """-log pi(y|x) / |y|. Every list has the same weight, however an update is split into micro-batches.

    Args:
        logps: (B,) log-probabilities of lists.
        tokens: (B,) their numbers of tokens.

    Returns:
        (B,) losses.
    """
    return -logps / tokens.clamp(min=1)
