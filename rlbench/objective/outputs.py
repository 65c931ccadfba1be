"""Checks of the values that an algorithm's pieces return.

Pieces may come from plugins. Shapes are always checked, which is free: a tensor of another shape might be broadcast or
reshaped, and silently train something else. Values are checked once per rollout. In the loss they are checked only
after it was not finite, because reading them waits for the GPU.
"""

from collections.abc import Iterable, Sequence

import torch

from rlbench.base.errors import BadInput


def shaped(piece: str, values: object, shape: Sequence[int]) -> torch.Tensor:
    """The returned values, after checks of type, shape and dtype.

    Args:
        piece: place and name, e.g. "baseline 'group_median'".
        values: the function's return value.
        shape: the required shape; () for a scalar.

    Raises:
        BadInput: the return value is not a floating-point tensor of this shape.
    """
    if not isinstance(values, torch.Tensor):
        raise BadInput(f"{piece} returned {type(values).__name__} instead of a tensor of shape {tuple(shape)}")
    if tuple(values.shape) != tuple(shape):
        raise BadInput(f"{piece} returned a tensor of shape {tuple(values.shape)} instead of {tuple(shape)}")
    if not values.is_floating_point():
        raise BadInput(f"{piece} returned a tensor of {values.dtype} instead of floating-point numbers")
    return values


def made_not_finite(piece: str, values: torch.Tensor, made_of: Iterable[torch.Tensor]) -> str:
    """A clause that blames a piece for values that are not finite, or "" if the piece is not to blame.

    Args:
        piece: place and name.
        values: the function's return value.
        made_of: the function's inputs. If one of them is not finite, the piece is not to blame.
    """
    known = values.isfinite()
    if known.all() or not all(given.isfinite().all() for given in made_of):
        return ""
    place = tuple(int(i) for i in (~known).nonzero()[0])
    return (
        f"{piece}, which returned {values[place].item()} at {place} of a tensor of shape {tuple(values.shape)}, "
        "although all its inputs were finite"
    )


def first_not_finite(parts: Iterable[tuple[str, torch.Tensor]], mask: torch.Tensor) -> str:
    """Name of the first part of a loss, in the order of computation, that is not finite; "" if all are finite.

    Args:
        parts: name and values, (B, T) or any other shape.
        mask: (B, T). Values of this shape are checked only where it is not 0.
    """
    for name, values in parts:
        counted = values[mask.bool()] if values.shape == mask.shape else values
        if not counted.isfinite().all():
            return name
    return ""
