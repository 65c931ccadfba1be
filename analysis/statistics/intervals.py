"""Means with 95 % intervals over seeds and contexts, and paired differences.

A table row is S runs (seeds) scored on the same Q samples. Samples of one dialogue share one generated list, so they
are not independent. Neither are the S answers to one dialogue. With C contexts the variance of the mean has three
terms,

    variance = σ²_seed / S + σ²_context / C + σ²_own / (S·C),

where σ²_own is the interaction of seed and context. The interval adds two independent parts, which together count each
term once:

- **seeds**: the deviations of the seed means from their mean. Their variance over S estimates
  σ²_seed / S + σ²_own / (S·C). A bootstrap with normal multipliers draws this part, because S seeds allow too few
  distinct resampled means. The estimated variance is never taken to be less than σ²_own / (S·C), its true minimum.
  Otherwise two seeds that agree by luck would give a narrower interval than the same two models held fixed.
- **contexts**: contexts drawn with replacement and applied to the mean over seeds. Each context keeps all its samples
  (the pairs cluster bootstrap: Davison & Hinkley 1997, section 3.8). All seeds share one draw because seeds and
  contexts are crossed (Owen, "The pigeonhole bootstrap", 2007). This part varies by σ²_context / C plus a second
  σ²_own / (S·C). The deviations are shrunk so that only σ²_context / C remains, the covariance between different seeds
  of one context.

A percentile interval treats estimated variances as known. It is therefore stretched around the mean by
`critical_value` / z, which lies between Student's t for few seeds and that for many contexts. With one seed the
interval covers contexts only and ignores the variation between trained runs. Sources and measured coverage:
docs/statistics.md.

Everything is computed from sums per context, so a resample is one row of a matrix product.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.resamples import RESAMPLES

Floats = NDArray[np.float64]

LEVEL = 0.95
STREAM = 20_150
"""Seed of the resampling: the same runs give the same digits, and all rows the same resampled contexts."""

SHARPNESS = 1.2
"""Exponent of the seeds' share in `critical_value` at p of .05 and more, chosen for coverage
(`python -m benchmarks.coverage`)."""

NARROWING = 0.7
"""How fast that exponent falls as p falls below .05, chosen so that p below .02 is nominal with any number of seeds."""

LEAST_COMMON = 3
"""Rows with different seeds are compared on their common seeds only if there are at least this many, ..."""
COMMON_SHARE = 0.75
"""... and they are at least this share of each row's seeds."""

BISECTIONS = 60
"""Bisection steps for p, enough for the last digit."""


@dataclass(frozen=True)
class Scores:
    """Per-query scores of one row.

    Attributes:
        values: (S, Q, M) metric m of query q under seed s.
        contexts: (Q,) context index of query q, 0..C-1. Every index occurs.
        seeds: S seeds, in the order of `values`.
    """

    values: Floats
    contexts: NDArray[np.int64]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        expected = (len(self.seeds), len(self.contexts))
        if self.values.shape[:2] != expected:
            raise ValueError(f"values of shape {self.values.shape} for {expected} (seeds, queries)")
        if not np.isfinite(self.values).all():
            raise ValueError("scores that are not finite cannot be averaged")


@dataclass(frozen=True)
class Estimate:
    """Means with their intervals, one for each metric.

    Attributes:
        mean, low, high: (M,) the mean and the ends of its interval.
        error: (M,) standard error of the mean.
        share: (M,) share of the variance `error`² that comes from seeds.
        among: (M,) degrees of freedom among seeds.
        contexts: degrees of freedom among contexts.
        contexts_only: whether no seed could be resampled, so the interval excludes variation between trained runs.
        level: confidence level of the interval.
    """

    mean: Floats
    low: Floats
    high: Floats
    error: Floats
    share: Floats
    among: Floats
    contexts: float
    contexts_only: bool
    level: float = LEVEL

    @property
    def p(self) -> Floats:
        """(M,) two-sided p for a true mean of 0: the p at which `critical_value` equals |mean| / error.

        It is below 1 - level exactly where the interval excludes 0. The interval follows the resampled means, which
        may be skewed; this formula does not. Near the threshold the two can disagree by the resampling error, and the
        interval decides.
        """
        edge = round(1 - self.level, 12)
        excludes = (self.low > 0) | (self.high < 0)
        found = self._p()
        return np.where(excludes, np.minimum(found, np.nextafter(edge, 0)), np.maximum(found, edge))

    def _p(self) -> Floats:
        """(M,) the p at which `critical_value` equals |mean| / error."""
        size = np.abs(self.mean)
        t = np.divide(size, self.error, out=np.where(size > 0, np.inf, 0.0), where=self.error > 0)
        contexts, seeds = 2 * special.stdtr(self.contexts, -t), 2 * special.stdtr(self.among, -t)
        if not ((self.share > 0) & (self.share < 1)).any():
            return np.where(self.share > 0, seeds, contexts)
        low, high = np.minimum(contexts, seeds), np.maximum(contexts, seeds)  # the mixture's p lies between the two
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            beyond = t > critical_value(middle, self.share, self.among, self.contexts)
            low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
        return high


@dataclass(frozen=True)
class SeedPart:
    """The seeds' part of the variance of an estimate, for one row.

    Attributes:
        variance: (M,) variance of the estimate between seeds, including σ²_own / (S·C).
        freedom: degrees of freedom of `variance`, (M,) or one number.
        own: (M,) σ²_own / (S·C) alone.
    """

    variance: Floats
    freedom: Floats | float
    own: Floats


def mean_interval(
    scores: Scores, *, resamples: int = RESAMPLES, level: float = LEVEL, stream: int = STREAM
) -> Estimate:
    """Mean over seeds and queries, with its interval. Every query has the same weight."""
    sums, sizes = context_sums(scores)
    return _interval(sums.mean(axis=0), sizes, [_row_part(sums, sizes)], resamples, level, stream)


def pooled_interval(
    scores: Scores, *, resamples: int = RESAMPLES, level: float = LEVEL, stream: int = STREAM
) -> Estimate:
    """Mean over parts (for example pairs of runs) and queries; `scores.seeds` may repeat a seed.

    Every part has the same weight, and the parts of a seed are resampled together. Seeds may have different numbers of
    parts. A seed's contribution is the change of the mean without it (the jackknife), so a seed with most of the parts
    has the same influence on the interval as on the mean. With one part per seed this is `mean_interval`.
    """
    sums, sizes = context_sums(scores)
    means = seed_means(sums, sizes)
    seeds, member, count = np.unique(scores.seeds, return_inverse=True, return_counts=True)
    parts = []
    if len(seeds) > 1:
        without = np.stack([means[member != seed].mean(axis=0) for seed in range(len(seeds))])
        lost = (len(seeds) - 1) * (means.mean(axis=0) - without)
        influences = context_influences(sums, sizes)
        contributions = np.stack([influences[member == seed].sum(axis=0) for seed in range(len(seeds))]) / len(member)
        parts = [
            SeedPart(
                variance=(lost**2).sum(axis=0) / (len(seeds) * (len(seeds) - 1)),
                freedom=len(seeds) - 1,
                own=own_variance(contributions, count / len(member)) / len(sizes),
            )
        ]
    return _interval(sums.mean(axis=0), sizes, parts, resamples, level, stream)


def paired_difference(
    a: Scores, b: Scores, *, resamples: int = RESAMPLES, level: float = LEVEL, stream: int = STREAM
) -> Estimate:
    """Mean of a - b, with its interval. Both rows share the resampled contexts.

    `compared_seeds` decides which seeds pair. A single seed on one side (the SFT checkpoint that all RL runs start
    from) is held fixed. Unpaired seeds are resampled separately for each row.

    Raises:
        ValueError: if the rows do not cover the same queries.
    """
    require_same_queries(a, b)
    a, b = compared_seeds(a, b)
    sums_a, sizes = context_sums(a)
    sums_b, _ = context_sums(b)
    together = a.seeds == b.seeds or 1 in (len(a.seeds), len(b.seeds))
    rows = [sums_a - sums_b] if together else [sums_a, sums_b]
    parts = [_row_part(sums, sizes) for sums in rows]
    return _interval(sums_a.mean(axis=0) - sums_b.mean(axis=0), sizes, parts, resamples, level, stream)


def compared_seeds(a: Scores, b: Scores) -> tuple[Scores, Scores]:
    """The runs of two rows that a comparison uses.

    Rows with the same seeds pair, in any order. Rows with different seeds are reduced to their common seeds, which
    pair, if there are at least `LEAST_COMMON` of them and they are at least `COMMON_SHARE` of each row's seeds.
    Otherwise all runs are used unpaired. A row with one seed is held fixed against all runs of the other row. The rule
    depends on seeds only, never on scores.
    """
    if a.seeds == b.seeds or 1 in (len(a.seeds), len(b.seeds)):
        return a, b
    common = tuple(seed for seed in a.seeds if seed in b.seeds)
    longer = max(len(a.seeds), len(b.seeds))
    if len(common) == longer or (len(common) >= LEAST_COMMON and len(common) >= COMMON_SHARE * longer):
        return of_seeds(a, common), of_seeds(b, common)
    return a, b


def of_seeds(scores: Scores, seeds: Sequence[int]) -> Scores:
    """The scores of the given seeds, in the given order."""
    places = [scores.seeds.index(seed) for seed in seeds]
    return Scores(scores.values[places], scores.contexts, tuple(seeds))


def seed_interval(values: Floats, *, level: float = LEVEL) -> Estimate:
    """Mean and Student's t interval of (S, M) values over seeds only, for curves. NaN where a seed has NaN."""
    seeds = len(values)
    mean = values.mean(axis=0)
    error = values.std(axis=0, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.zeros_like(mean)
    half = special.stdtrit(max(seeds - 1, 1), (1 + level) / 2) * error
    among = np.full_like(mean, max(seeds - 1, 1))
    share = np.full_like(mean, float(seeds > 1))
    return Estimate(mean, mean - half, mean + half, error, share, among, 1.0, contexts_only=seeds == 1, level=level)


def require_same_queries(a: Scores, b: Scores) -> None:
    """Raise ValueError if the rows do not cover the same queries."""
    if not np.array_equal(a.contexts, b.contexts):
        raise ValueError("a paired difference needs the same queries in both rows")


def context_sums(scores: Scores) -> tuple[Floats, Floats]:
    """(S, C, M) sums over the queries of each context, and (C,) number of queries of each context."""
    sizes = np.bincount(scores.contexts).astype(float)
    order = np.argsort(scores.contexts, kind="stable")
    starts = np.concatenate([[0], sizes.cumsum()[:-1]]).astype(int)
    return np.add.reduceat(scores.values[:, order], starts, axis=1), sizes


def seed_means(sums: Floats, sizes: Floats) -> Floats:
    """(S, M) mean of each seed over all queries."""
    return np.asarray(sums.sum(axis=1) / sizes.sum())


def context_influences(sums: Floats, sizes: Floats) -> Floats:
    """(S, C, M) influence of each context on its seed's mean, times C: the linearised ratio.

    The influences sum to 0 over contexts. Their variance divided by C is the variance over contexts of a seed's mean.
    """
    about = sums - sizes[:, None] * seed_means(sums, sizes)[:, None]
    return np.asarray(about * (len(sizes) / sizes.sum()))


def own_variance(contributions: Floats, weights: Floats) -> Floats:
    """(M,) part of the variance over contexts of a weighted sum over seeds that seeds do not share.

    This is an analysis of variance. The covariance between seeds over contexts is the shared part; the rest is each
    seed's own.

    Args:
        contributions: (S, C, M) contribution of each seed to the sum, with mean 0 over contexts.
        weights: (S,) weight of each seed in the sum; they add up to 1.
    """
    divisor = max(contributions.shape[1] - 1, 1)
    total = (contributions.sum(axis=0) ** 2).sum(axis=0) / divisor
    each = (contributions**2).sum(axis=(0, 1)) / divisor
    shared = (total - each) / (1 - (weights**2).sum())
    return np.clip(total - shared, 0, total)


def resample_weights(n: int, resamples: int, rng: np.random.Generator) -> Floats:
    """(resamples, n) number of times each of n items occurs in n draws with replacement."""
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def _drawn_contexts(n: int, resamples: int, stream: int) -> tuple[Floats, np.random.Generator]:
    """The resamples of n contexts that all rows of a table share, and the generator in its state after the draw."""
    weights, state = _drawn(n, resamples, stream)
    rng = np.random.default_rng(stream)
    rng.bit_generator.state = state
    return weights, rng


@lru_cache(maxsize=2)
def _drawn(n: int, resamples: int, stream: int) -> tuple[Floats, Mapping[str, Any]]:
    """Resamples, and the generator's state after them. Cached because drawing is the slowest step."""
    rng = np.random.default_rng(stream)
    weights = resample_weights(n, resamples, rng)
    weights.flags.writeable = False
    return weights, rng.bit_generator.state


def _row_part(sums: Floats, sizes: Floats) -> SeedPart | None:
    """The seed part of a mean over the S seeds of (S, C, M) sums; None for one seed."""
    n = len(sums)
    if n == 1:
        return None
    return SeedPart(
        variance=seed_means(sums, sizes).var(axis=0, ddof=1) / n,
        freedom=n - 1,
        own=own_variance(context_influences(sums, sizes) / n, np.full(n, 1 / n)) / len(sizes),
    )


def _interval(
    sums: Floats, sizes: Floats, parts: Sequence[SeedPart | None], resamples: int, level: float, stream: int
) -> Estimate:
    """Interval from (C, M) sums per context (mean over seeds) and the independent seed parts."""
    weights, rng = _drawn_contexts(len(sizes), resamples, stream)
    replicates = (weights @ sums) / (weights @ sizes)[:, None]
    total = (context_influences(sums[None], sizes)[0] ** 2).sum(axis=0) / max(len(sizes) - 1, 1) / len(sizes)
    mean = sums.sum(axis=0) / sizes.sum()
    return combine(mean, replicates, total, max(len(sizes) - 1, 1), [part for part in parts if part], level, rng)


def combine(
    mean: Floats,
    replicates: Floats,
    total: Floats,
    contexts: float,
    parts: Sequence[SeedPart],
    level: float,
    rng: np.random.Generator,
) -> Estimate:
    """Interval from resampled contexts and seed parts.

    Args:
        mean: (M,) the estimate.
        replicates: (R, M) the estimate on resampled contexts.
        total: (M,) variance of the estimate over contexts, including the seeds' own part.
        contexts: degrees of freedom of `total`.
        parts: seed parts of the rows with several seeds.
        rng: draws the seeds' deviations.
    """
    share, among = np.zeros_like(mean), np.ones_like(mean)
    variance = replicates.var(axis=0)
    if parts:
        own = np.minimum(np.sum([part.own for part in parts], axis=0), total)
        shared = np.divide(total - own, total, out=np.zeros_like(mean), where=total > 0)
        seeds = np.sum([part.variance for part in parts], axis=0)
        floored = np.maximum(seeds, own)
        replicates = mean + np.sqrt(shared) * (replicates - mean)
        variance = shared * variance + floored
        replicates = replicates + np.sqrt(floored) * normal_deviations(len(replicates), len(mean), rng)
        # The part that the floor adds has many degrees of freedom, so the seeds' share excludes it.
        share = np.divide(seeds, variance, out=np.zeros_like(mean), where=variance > 0)
        freedoms = np.stack([np.broadcast_to(part.freedom, mean.shape) for part in parts])
        among = satterthwaite(np.stack([part.variance for part in parts]), freedoms)
    tail = (1 - level) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail], axis=0)
    stretch = critical_value(1 - level, share, among, contexts) / special.ndtri(1 - tail)
    return Estimate(
        mean=mean,
        low=mean + stretch * (low - mean),
        high=mean + stretch * (high - mean),
        error=np.sqrt(variance),
        share=share,
        among=among,
        contexts=contexts,
        contexts_only=not parts,
        level=level,
    )


def normal_deviations(resamples: int, metrics: int, rng: np.random.Generator) -> Floats:
    """(resamples, metrics) standard normal deviations: in each column the normal quantiles, in random order.

    Random draws would be only approximately normal; quantiles make the seed part exactly normal.
    """
    quantiles = special.ndtri((np.arange(resamples) + 0.5) / resamples)
    return rng.permuted(np.tile(quantiles[:, None], metrics), axis=0)


def critical_value(p: Floats | float, share: Floats, among: Floats, contexts: float) -> Floats:
    """(M,) critical value at two-sided p, in standard errors, for a seed part with few degrees of freedom plus a
    context part with many.

    Cochran (1964) weights the two critical values of Student's t by the parts' shares of the variance. That is exact
    if one part has the whole variance. In between it is too wide: for two seeds coverage exceeds 97 %. With the seeds'
    share raised to the power `SHARPNESS`, coverage for two seeds is between 93.2 and 97.2 % at any share, and closer
    to 95 % for more seeds. Below p = .05 the exponent falls, so that p is nominal there. Satterthwaite's degrees of
    freedom (1946) do not work here: whenever the seeds' variance is estimated too low, so is their share. Coverage
    falls to 87 % with two seeds and to 92 % with three (docs/statistics.md).

    Args:
        share: (M,) share of the variance that comes from seeds, 0 to 1.
        among: (M,) degrees of freedom among seeds.
        contexts: degrees of freedom among contexts.
    """
    # A seed variance that is underestimated by luck also has a low share. Far out in the tail this happens in a larger
    # part of the false findings, so the seeds' share counts more there, and most with few seeds.
    weight = share ** (SHARPNESS * np.minimum(np.asarray(p) / (1 - LEVEL), 1) ** (NARROWING / among**1.5))
    tail = np.asarray(p) / 2
    return -(weight * special.stdtrit(among, tail) + (1 - weight) * special.stdtrit(contexts, tail))


def satterthwaite(variances: Floats, freedom: Floats | NDArray[np.int64]) -> Floats:
    """(M,) degrees of freedom of a sum of P independent variances (P, M), where part p has freedom[p].

    Infinite where all variances are 0.
    """
    total = variances.sum(axis=0) ** 2
    spread = (variances**2 / freedom.reshape(len(variances), -1)).sum(axis=0)
    return np.divide(total, spread, out=np.full_like(total, np.inf), where=spread > 0)
