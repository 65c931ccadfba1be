"""Checks of what an algorithm's pieces return, where it enters the computation.

A piece may come from a plugin. Shapes are checked always, which costs nothing: a tensor of another shape might be
broadcast, or laid out anew, and train something else. Values are looked at once a rollout, and in the loss only after
it turned out not to be finite, since looking waits for the GPU.
"""

from collections.abc import Iterable, Sequence

import torch

from rlbench.errors import BadInput


def shaped(piece: str, values: object, shape: Sequence[int]) -> torch.Tensor:
    """The values of a piece.

    Args:
        piece: place and name, as "baseline 'group_median'".
        values: what its function returned.
        shape: what it has to have; () for a scalar.

    Raises:
        BadInput: where it returned no tensor of floating-point numbers of this shape.
    """
    if not isinstance(values, torch.Tensor):
        raise BadInput(f"{piece} returned {type(values).__name__} instead of a tensor of shape {tuple(shape)}")
    if tuple(values.shape) != tuple(shape):
        raise BadInput(f"{piece} returned a tensor of shape {tuple(values.shape)} instead of {tuple(shape)}")
    if not values.is_floating_point():
        raise BadInput(f"{piece} returned a tensor of {values.dtype} instead of floating-point numbers")
    return values


def made_not_finite(piece: str, values: torch.Tensor, made_of: Iterable[torch.Tensor]) -> str:
    """A clause that blames a piece for values that are not finite; "" where it is not to blame.

    Args:
        piece: place and name.
        values: what its function returned.
        made_of: what it was given. Where that is not finite already, the piece is not to blame.
    """
    known = values.isfinite()
    if known.all() or not all(given.isfinite().all() for given in made_of):
        return ""
    place = tuple(int(i) for i in (~known).nonzero()[0])
    return (
        f"{piece}, which returned {values[place].item()} at {place} of a tensor of shape {tuple(values.shape)}, though "
        "all that it was given is finite"
    )


def first_not_finite(parts: Iterable[tuple[str, torch.Tensor]], mask: torch.Tensor) -> str:
    """The first of a loss's parts, in the order of their computation, that is not finite; "" where all are.

    Args:
        parts: name and values, (B, T) or of any other shape.
        mask: (B, T); values of that shape count where it is not 0.
    """
    for name, values in parts:
        counted = values[mask.bool()] if values.shape == mask.shape else values
        if not counted.isfinite().all():
            return name
    return ""
