"""A baseline from outside the package (docs/adding-an-algorithm.md)."""

import torch

from rlbench.objective.inputs import Group
from rlbench.objective.pieces import baselines
from rlbench.options import Share


@baselines.piece(shift="invariant", scale="equivariant")
def group_median(group: Group, *, quantile: Share = 0.5) -> torch.Tensor:
    """R - median over the group, or another quantile of it.

    Where most of a group misses, the median is 0: misses are left alone, and the rare hit is pushed up by all it is
    worth. A mean lies between the two, so that every miss is pushed down for a hit that another list has.
    """
    returns = group.returns.masked_fill(~group.counted, torch.nan)
    return (returns - returns.nanquantile(quantile, dim=1, keepdim=True)).masked_fill(~group.counted, 0.0)
