"""A baseline outside the package (docs/adding-an-algorithm.md)."""

import torch

from rlbench.config.options import Share
from rlbench.objective.inputs import Group
from rlbench.objective.pieces import baselines


@baselines.piece(shift="invariant", scale="equivariant")
def group_median(group: Group, *, quantile: Share = 0.5) -> torch.Tensor:
    """R - median over the group, or another quantile.

    If most of a group misses, the median is 0. Misses then get no gradient, and a rare hit keeps its full return. A
    mean would penalise every miss for a hit of another list.
    """
    returns = group.returns.masked_fill(~group.counted, torch.nan)
    return (returns - returns.nanquantile(quantile, dim=1, keepdim=True)).masked_fill(~group.counted, 0.0)
