"""What a design can detect: variance components of a difference, and the difference that is found 8 times in 10.

The test meant is that of `intervals.paired_difference` with rows paired by seed: no difference lies in the interval or
does not. Its power at a true difference δ, with S seeds and C contexts, is

    P(|δ + Z √V| > t √(A + B)),   V = σ²_seed / S + σ²_context / C + σ²_own / (S·C),   B = σ²_context / C,

with A the variance found among the seeds, (V - B) χ²/(S-1) on S - 1 degrees of freedom and never below
σ²_own / (S·C), and t the `critical_value` at the seeds' share that was found. Given A that is a normal probability; it
is averaged over A, and the minimum detectable difference is the δ at which the average is 0.8. With many seeds it
is the textbook's (t(1 - α/2) + t(0.8)) √V (Bloom 1995).
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
"""Of the range of a detectable difference."""

QUANTILES = 2_000
"""Points over which the seeds' variance is averaged."""

HALVINGS = 60
"""Steps of bisection for the detectable difference."""


@dataclass(frozen=True)
class Components:
    """Variance components of (S, C) scores, or of their differences.

    Attributes:
        seed: (M,) between trainings.
        context: (M,) between contexts, alike for all seeds.
        own: (M,) what one training makes of one context beside both, samples' noise included.
    """

    seed: Floats
    context: Floats
    own: Floats

    def variance(self, seeds: int, contexts: int) -> Floats:
        """(M,) of the mean over that many seeds and contexts."""
        return self.seed / seeds + self.context / contexts + self.own / (seeds * contexts)


def difference(a: Scores, b: Scores) -> Scores:
    """Scores of a - b by seed, on the seeds that `compared_seeds` takes; a single seed on one side is held fixed.

    Raises:
        ValueError: where rows are not of the same queries, or their seeds do not pair.
    """
    require_same_queries(a, b)
    a, b = compared_seeds(a, b)
    if a.seeds != b.seeds and 1 not in (len(a.seeds), len(b.seeds)):
        raise ValueError(f"seeds {a.seeds} do not pair with {b.seeds}")
    return Scores(a.values - b.values, a.contexts, max(a.seeds, b.seeds, key=len))


def variance_components(scores: Scores) -> Components:
    """Components by analysis of variance, none below 0. Contexts weigh by their samples, as they do in the mean.

    Raises:
        ValueError: for one seed, which cannot tell what is a context's from what is its own.
    """
    sums, sizes = context_sums(scores)
    n, contexts = len(sums), len(sizes)
    if n == 1:
        raise ValueError("variance components need two seeds or more")
    influences = context_influences(sums, sizes) / n
    own = own_variance(influences, np.full(n, 1 / n))  # of the mean over seeds
    total = (influences.sum(axis=0) ** 2).sum(axis=0) / max(contexts - 1, 1)
    seed = seed_means(sums, sizes).var(axis=0, ddof=1) - n * own / contexts
    return Components(np.maximum(seed, 0), total - own, n * own)


@lru_cache
def _found_over_true(seeds: int) -> Floats:
    """(QUANTILES,) what a variance among seeds is found to be, over what it is."""
    return np.asarray(stats.chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, seeds - 1) / (seeds - 1))


def detection_power(
    components: Components, seeds: int, contexts: int, true: Floats | float, *, level: float = LEVEL
) -> Floats:
    """(M,) how likely the interval excludes 0 where the true difference is `true`; two seeds or more.

    Raises:
        ValueError: for one seed: its interval has no variation between trainings in it.
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
    """(M,) true difference that the interval tells from 0 with the given power; 0 where nothing varies."""
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
    """(M,) the minimum detectable difference, and the ends of its range for components that are estimates.

    What S seeds vary is known on S - 1 degrees of freedom. The ends are those of its central range by χ², with
    σ²_own and σ²_context as they were found. Where the seeds were found to vary no more than σ²_own makes them, the
    lower end is the difference itself.
    """
    own = components.own / (seeds * contexts)
    among = components.seed / seeds + own
    found = [minimum_detectable_difference(components, seeds, contexts, power=power, level=level)]
    for tail in ((1 + certainty) / 2, (1 - certainty) / 2):
        end = among * (seeds - 1) / stats.chi2.ppf(tail, seeds - 1)
        moved = Components(np.maximum(end - own, 0) * seeds, components.context, components.own)
        found.append(minimum_detectable_difference(moved, seeds, contexts, power=power, level=level))
    return found[0], found[1], found[2]
