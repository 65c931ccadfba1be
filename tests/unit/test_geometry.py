"""Geometry of representations, against loops and spectra that are known."""

import math

import pytest
import torch

from rlbench.evaluation.geometry import alpha_req, effective_rank, rank_me, spectrum


def random(n, h, seed=0):
    return torch.randn(n, h, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_entropy(values):
    total = sum(values)
    return math.exp(-sum(v / total * math.log(v / total) for v in values if v > 0))


def eigenvalues(states, centred):
    """Of X^T X, with X centred or not, from torch's solver for symmetric matrices."""
    mean = sum(states) / len(states) if centred else torch.zeros(states.size(1), dtype=torch.float64)
    gram = sum(torch.outer(row - mean, row - mean) for row in states)
    return sorted((max(value, 0.0) for value in torch.linalg.eigvalsh(gram).tolist()), reverse=True)


@pytest.mark.parametrize(("n", "h"), [(12, 5), (40, 8)])
def test_ranks_against_a_loop(n, h):
    states = random(n, h) + 0.7
    assert rank_me(states) == pytest.approx(slow_entropy([math.sqrt(v) for v in eigenvalues(states, False)]), rel=1e-9)
    assert effective_rank(states) == pytest.approx(slow_entropy(eigenvalues(states, True)), rel=1e-9)


def test_ranks_of_known_matrices():
    assert rank_me(torch.eye(6)) == pytest.approx(6)
    assert rank_me(torch.ones(5, 3)) == pytest.approx(1)
    corners = torch.cat([torch.eye(4), -torch.eye(4)])
    assert effective_rank(corners) == pytest.approx(4)
    assert rank_me(random(30, 4).float() * 1e3) == pytest.approx(rank_me(random(30, 4)), rel=1e-5)  # no unit


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_alpha_of_a_power_law(alpha):
    """States whose covariance has the eigenvalues i^-alpha."""
    n, h = 64, 10
    centred = random(n, h) - random(n, h).mean(dim=0)
    orthogonal = torch.linalg.qr(centred).Q
    sizes = torch.arange(1, h + 1, dtype=torch.float64) ** (-alpha / 2)
    states = orthogonal * sizes * math.sqrt(n - 1)
    assert spectrum(states).tolist() == pytest.approx([i**-alpha for i in range(1, h + 1)], rel=1e-9)
    assert alpha_req(states + 3.0) == pytest.approx(alpha, rel=1e-6)


def test_no_law_through_one_point():
    assert math.isnan(alpha_req(torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]])))
