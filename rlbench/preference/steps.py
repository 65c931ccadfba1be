"""Which part of an update is made. A choice is one pure function; its fact `earlier` says whether it needs the trained
weights at the start of each round's comparisons."""

from collections.abc import Sequence

import torch

from rlbench.config.options import PositiveInt
from rlbench.objective.pieces import Place

updates = Place("update", ("earlier",))
"""(what earlier rounds have added to a weight, each as a matrix) -> orthonormal columns that no update may use."""


@updates.piece(earlier=False)
def free(moves: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """All of an update is made."""
    return None


@updates.piece(earlier=True)
def orthogonal(moves: Sequence[torch.Tensor], *, rank: PositiveInt = 8) -> torch.Tensor | None:
    """Updates are projected away from what earlier rounds have learned (OrthAlign, arXiv 2509.24610).

    A round's contribution to a weight is the difference between its value at the next round's start and at its own. The
    `rank` largest left singular vectors of each span the subspace that later updates leave alone. Bounds on the size of
    updates are left out. Inspired by the abstract. With one round it changes nothing.

    Args:
        rank: singular vectors of each earlier round, at most the rank of its contribution.
    """
    spans = []
    for move in moves:
        left, sizes, _ = torch.linalg.svd(move.double(), full_matrices=False)
        spans.append(left[:, :rank][:, sizes[:rank] > sizes[0] * 1e-9])
    columns = torch.cat(spans, dim=1) if spans else torch.zeros(0, 0)
    if not columns.numel():
        return None
    # Spans of two rounds may overlap: an orthonormal basis of their sum.
    basis, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    return basis[:, sizes > sizes[0] * 1e-9]


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """A weight as a matrix: its first dimension, and all others; a vector is one column."""
    return weight.reshape(weight.shape[0], -1) if weight.dim() else weight.reshape(1, 1)


def without(step: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """A step of a weight without its part in the span of orthonormal columns, in float64."""
    matrix = as_matrix(step).double()
    return (matrix - basis @ (basis.T @ matrix)).reshape(step.shape)
