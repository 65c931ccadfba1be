"""Regularisers: what is added to the loss, token by token."""

from collections.abc import Callable

import torch


def kl_k3(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """(B, T) the k3 estimate of KL(pi || pi_ref): exp(d) - d - 1 with d = log pi_ref - log pi (Schulman 2020)."""
    d = ref_logps - logps
    return d.exp() - d - 1


KL_ESTIMATORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"k3": kl_k3}
