"""The geometry of representations: how many dimensions they fill, and how fast their spectrum falls (arXiv 2509.23024).

A matrix has one representation a row: (n, H).
"""

import torch

from rlbench.objective.effective_rank import exp_entropy

SMALLEST = 1e-12
"""Eigenvalues below this share of the largest are rounding noise."""


def rank_me(states: torch.Tensor) -> float:
    """exp of the entropy of the singular values, normalised to sum to 1 (RankMe, arXiv 2210.02885).

    States are not centred. The result lies between 1 and min(n, H).
    """
    return float(exp_entropy(torch.linalg.svdvals(states.double())))


def effective_rank(states: torch.Tensor) -> float:
    """exp of the entropy of the eigenvalues of the covariance matrix, normalised to sum to 1."""
    return float(exp_entropy(spectrum(states)))


def alpha_req(states: torch.Tensor) -> float:
    """alpha of the power law i^-alpha that fits the i-th eigenvalue of the covariance matrix (alpha-ReQ).

    Least squares between logarithms, over the eigenvalues that are not rounding noise. NaN with fewer than two.
    """
    values = spectrum(states)
    kept = values[values > SMALLEST * values.max()]
    if len(kept) < 2:
        return float("nan")
    x = torch.arange(1, len(kept) + 1, dtype=torch.float64).log()
    y = kept.log()
    return -float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def spectrum(states: torch.Tensor) -> torch.Tensor:
    """(min(n, H),) eigenvalues of the covariance matrix, the largest first."""
    centred = states.double() - states.double().mean(dim=0)
    return torch.linalg.svdvals(centred).square() / max(len(states) - 1, 1)
