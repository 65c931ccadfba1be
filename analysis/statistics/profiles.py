"""Beyond the mean: the probability that one method beats another, and the whole distribution of scores.

Both follow Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", 2021.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from analysis.statistics.aggregates import stratified_draws
from analysis.statistics.intervals import LEVEL, RESAMPLES, STREAM, Estimate, Floats, Scores, mean_interval

HALVINGS = 50
"""Bisection steps for the interval's ends, enough for the last digit."""


@dataclass(frozen=True)
class Probability:
    """Probability that a run of one method scores higher than a run of the other.

    Attributes:
        value: (M,) mean over cells of U / (m·n); ties count half.
        low, high: (M,) the interval of `probability_interval`.
        bootstrap_low, bootstrap_high: (M,) rliable's percentile interval, seeds resampled within cells.
    """

    value: Floats
    low: Floats
    high: Floats
    bootstrap_low: Floats
    bootstrap_high: Floats


def superiority(a: Floats, b: Floats) -> Floats:
    """(..., M) share of pairs of (..., m, M) and (..., n, M) run scores in which a is higher; ties count half.

    This is the Mann-Whitney statistic U / (m·n).
    """
    signs = np.sign(a[..., :, None, :] - b[..., None, :, :])
    return np.asarray((1 + signs.mean(axis=(-3, -2))) / 2)


def probability_of_improvement(
    a: Sequence[Floats],
    b: Sequence[Floats],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    stream: int = STREAM,
) -> Probability:
    """Probability that a run of a scores higher than a run of b in a random cell, with the test samples fixed.

    Args:
        a, b: (S, M) run scores of each cell, with the cells in the same order.

    Raises:
        ValueError: if a and b have different numbers of cells.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} cells against {len(b)}: both methods need the same cells")
    value = np.mean([superiority(x, y) for x, y in zip(a, b, strict=True)], axis=0)
    sizes = [(len(x), len(y)) for x, y in zip(a, b, strict=True)]
    low, high = probability_interval(value, sizes, level=level)
    rng = np.random.default_rng(stream)
    replicates = np.zeros((resamples, *value.shape))
    for x, y in zip(a, b, strict=True):
        drawn_x, drawn_y = (side[stratified_draws([len(side)], resamples, rng)] for side in (x, y))
        replicates += superiority(drawn_x, drawn_y) / len(a)
    tail = (1 - level) / 2
    return Probability(value, low, high, *np.quantile(replicates, [tail, 1 - tail], axis=0))


def probability_interval(
    value: Floats, sizes: Sequence[tuple[int, int]], *, level: float = LEVEL
) -> tuple[Floats, Floats]:
    """Score interval of a probability of improvement (Newcombe 2006, method 5).

    It contains every probability θ for which |value - θ| is at most z times the standard error of `value` under θ. The
    variance is Hanley and McNeil's (1982),

        variance = θ(1-θ) (1 + N (1-θ)/(2-θ) + N θ/(1+θ)) / (m·n),   N = (m + n)/2 - 1,

    for one cell, carried over to the mean of cells. Unlike a bootstrap interval it does not shrink to a point if all
    runs of one method beat all runs of the other.

    Args:
        value: (M,) mean over cells.
        sizes: (m, n) number of runs of each method in each cell.
    """
    z = stats.norm.ppf((1 + level) / 2)

    def farther(theta: Floats) -> np.ndarray:
        spread = np.zeros_like(theta)
        for m, n in sizes:
            several = (m + n) / 2 - 1
            spread += theta * (1 - theta) * (1 + several * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * n)
        return np.abs(value - theta) > z * np.sqrt(spread) / len(sizes)

    ends = []
    for end in (0.0, 1.0):
        inside, outside = value.astype(float), np.full_like(value, end, dtype=float)
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            out = farther(middle)
            inside, outside = np.where(out, inside, middle), np.where(out, middle, outside)
        ends.append(inside)
    return ends[0], ends[1]


def performance_profile(
    scores: Scores,
    thresholds: Floats,
    metric: int = 0,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    stream: int = STREAM,
) -> Estimate:
    """Share of runs × samples that score above each threshold, with pointwise bands over seeds and contexts.

    For a score between 0 and 1 the area under the profile is its mean. Every point is a mean too, so the band is that
    of `mean_interval`, clipped to 0..1. A row whose profile is nowhere below another's is at least as good under every
    utility.

    Args:
        thresholds: (T,).
        metric: index of the metric.

    Returns:
        an estimate whose "metrics" are the thresholds.
    """
    above = (scores.values[:, :, metric, None] > thresholds).astype(float)
    found = mean_interval(Scores(above, scores.contexts, scores.seeds), resamples=resamples, level=level, stream=stream)
    return replace(found, low=np.maximum(found.low, 0.0), high=np.minimum(found.high, 1.0))
