"""Statistical power: variance components of a difference, and the difference that is detected with power 0.8.

The test is that of `intervals.paired_difference` with rows paired by seed: it detects a difference if the interval
excludes 0. Its power at a true difference δ, with S seeds and C contexts, is

    P(|δ + Z √V| > t √(A + B)),   V = σ²_seed / S + σ²_context / C + σ²_own / (S·C),   B = σ²_context / C.

A is the estimated variance between seeds: (V - B) χ²/(S-1) with S - 1 degrees of freedom, and never below
σ²_own / (S·C). t is the `critical_value` at the estimated share of the seeds. Given A, the power is a normal
probability; it is averaged over A. The minimum detectable difference is the δ at which the average is 0.8. With many
seeds it is the textbook's (t(1 - α/2) + t(0.8)) √V (Bloom 1995).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from analysis.statistics.intervals import (
    LEVEL,
    Floats,
    Scores,
    compared_seeds,
    context_influences,
    context_sums,
    critical_value,
    own_variance,
    require_same_queries,
    seed_means,
)

POWER = 0.8

CERTAINTY = 0.8
"""Confidence level of the range of a detectable difference."""

QUANTILES = 2_000
"""Number of quantiles in the average over the seeds' variance."""

HALVINGS = 60
"""Bisection steps for the detectable difference."""


@dataclass(frozen=True)
class Components:
    """Variance components of (S, C) scores, or of their differences.

    Attributes:
        seed: (M,) between trained runs.
        context: (M,) between contexts, shared by all seeds.
        own: (M,) interaction of seed and context, including the noise of samples.
    """

    seed: Floats
    context: Floats
    own: Floats

    def variance(self, seeds: int, contexts: int) -> Floats:
        """(M,) variance of the mean over this many seeds and contexts."""
        return self.seed / seeds + self.context / contexts + self.own / (seeds * contexts)


def difference(a: Scores, b: Scores) -> Scores:
    """Scores of a - b per seed, on the seeds that `compared_seeds` selects. A single seed on one side is held fixed.

    Raises:
        ValueError: if the rows do not cover the same queries, or their seeds do not pair.
    """
    require_same_queries(a, b)
    a, b = compared_seeds(a, b)
    if a.seeds != b.seeds and 1 not in (len(a.seeds), len(b.seeds)):
        raise ValueError(f"seeds {a.seeds} do not pair with {b.seeds}")
    return Scores(a.values - b.values, a.contexts, max(a.seeds, b.seeds, key=len))


def variance_components(scores: Scores) -> Components:
    """Variance components by analysis of variance, at least 0. Contexts are weighted by their number of samples.

    Raises:
        ValueError: for one seed, where the context part and the interaction cannot be separated.
    """
    sums, sizes = context_sums(scores)
    n, contexts = len(sums), len(sizes)
    if n == 1:
        raise ValueError("variance components need two seeds or more")
    influences = context_influences(sums, sizes) / n
    own = own_variance(influences, np.full(n, 1 / n))  # for the mean over seeds
    total = (influences.sum(axis=0) ** 2).sum(axis=0) / max(contexts - 1, 1)
    seed = seed_means(sums, sizes).var(axis=0, ddof=1) - n * own / contexts
    return Components(np.maximum(seed, 0), total - own, n * own)


@lru_cache
def _found_over_true(seeds: int) -> Floats:
    """(QUANTILES,) quantiles of the estimated variance between seeds divided by the true one."""
    return np.asarray(stats.chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, seeds - 1) / (seeds - 1))


def detection_power(
    components: Components, seeds: int, contexts: int, true: Floats | float, *, level: float = LEVEL
) -> Floats:
    """(M,) probability that the interval excludes 0 if the true difference is `true`, for at least two seeds.

    Raises:
        ValueError: for one seed, whose interval excludes the variation between trained runs.
    """
    if seeds < 2:
        raise ValueError("the power of a comparison of methods needs two seeds or more")
    context = components.context / contexts
    among = components.variance(seeds, contexts) - context
    found = among * _found_over_true(seeds)[:, None]
    estimated = np.maximum(found, components.own / (seeds * contexts)) + context
    share = np.divide(found, estimated, out=np.zeros_like(found), where=estimated > 0)
    reach = critical_value(1 - level, share, np.full_like(share, seeds - 1), max(contexts - 1, 1)) * np.sqrt(estimated)
    error = np.sqrt(among + context)
    size = np.abs(true) * np.ones_like(error)
    return np.asarray((stats.norm.sf((reach - size) / error) + stats.norm.cdf((-reach - size) / error)).mean(axis=0))


def minimum_detectable_difference(
    components: Components, seeds: int, contexts: int, *, power: float = POWER, level: float = LEVEL
) -> Floats:
    """(M,) true difference at which the interval excludes 0 with the given power; 0 where nothing varies."""
    error = np.sqrt(components.variance(seeds, contexts))
    varies = error > 0
    kept = Components(*(part[varies] for part in (components.seed, components.context, components.own)))
    low, high = np.zeros(int(varies.sum())), error[varies]
    while (short := detection_power(kept, seeds, contexts, high, level=level) < power).any():
        high = np.where(short, 2 * high, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = detection_power(kept, seeds, contexts, middle, level=level) >= power
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    result = np.zeros_like(error)
    result[varies] = high
    return result


def detectable_range(
    components: Components,
    seeds: int,
    contexts: int,
    *,
    power: float = POWER,
    level: float = LEVEL,
    certainty: float = CERTAINTY,
) -> tuple[Floats, Floats, Floats]:
    """(M,) the minimum detectable difference and the ends of its range, given that the components are estimates.

    The variance between S seeds has S - 1 degrees of freedom. The ends come from its central χ² range, with the
    estimated σ²_own and σ²_context kept. If σ²_own explains all variation between seeds, the lower end is the
    difference itself.
    """
    own = components.own / (seeds * contexts)
    among = components.seed / seeds + own
    found = [minimum_detectable_difference(components, seeds, contexts, power=power, level=level)]
    for tail in ((1 + certainty) / 2, (1 - certainty) / 2):
        end = among * (seeds - 1) / stats.chi2.ppf(tail, seeds - 1)
        moved = Components(np.maximum(end - own, 0) * seeds, components.context, components.own)
        found.append(minimum_detectable_difference(moved, seeds, contexts, power=power, level=level))
    return found[0], found[1], found[2]
