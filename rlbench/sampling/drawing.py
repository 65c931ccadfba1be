"""Draws prompts by their weights."""

import numpy as np
from numpy.typing import NDArray


def draw(
    weights: NDArray[np.float64], count: int, rng: np.random.Generator, taken: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], int]:
    """Draw prompts without replacement, each next one with a chance in proportion to its weight.

    Where fewer than `count` prompts have a weight, the others fill the gap, with equal chances.

    Args:
        weights: (n,) of at least 0.
        count: at most n minus the taken ones.
        rng: source of randomness.
        taken: prompts that must not be drawn.

    Returns:
        (count,) places of the prompts, and how many of them have no weight.
    """
    # The largest values of log w + Gumbel noise are such a sample (Gumbel top-k; Efraimidis and Spirakis, 2006).
    noise = rng.gumbel(size=len(weights))
    keys = np.where(weights > 0, np.log(np.where(weights > 0, weights, 1.0)) + noise, -np.inf)
    without = weights <= 0
    order = np.lexsort((noise, keys))[::-1]  # by key, then by noise
    if taken is not None and len(taken):
        order = order[~np.isin(order, taken)]
    chosen = order[:count]
    return chosen, int(without[chosen].sum())
