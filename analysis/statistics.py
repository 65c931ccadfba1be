"""Means with 95 % intervals over seeds and contexts, and paired differences.

A row of a table is S runs (seeds) judged on the same Q samples, and samples of one dialogue share one generated list:
they are not independent, and neither are the S answers to one dialogue. So a resample draws

- contexts, with replacement, each with all its samples and for every seed at once (the pairs cluster bootstrap:
  Davison & Hinkley 1997, section 3.8; one draw for all seeds because seeds and contexts are crossed, not nested:
  Owen, "The pigeonhole bootstrap", 2007), applied to the mean over seeds; and
- seeds, with replacement, applied to the seed means.

The two parts are added. A plain percentile interval of few seeds is far too narrow, which is amended in two places: the
seed part is scaled by √(S/(S-1)), so that its variance is the unbiased one, and the percentile interval is stretched
about the mean by t_df / z, with Satterthwaite's degrees of freedom (1946) from the variances of the two parts. Where
contexts dominate this changes next to nothing; where seeds dominate it gives the width of a t interval over seeds.
Noise that is neither a seed's nor a context's is counted in both parts, so intervals err on the wide side.
With one seed the interval is over contexts only and says nothing of the variation between trainings.

Everything is computed from sums per context, so that a resample is one row of a product of matrices.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

RESAMPLES = 2_000
LEVEL = 0.95
STREAM = 20_150
"""Seed of the resampling: the same runs give the same digits, and all rows the same resampled contexts."""


@dataclass(frozen=True)
class Scores:
    """Per-query scores of one row.

    Attributes:
        values: (S, Q, M) metric m of query q under seed s.
        contexts: (Q,) the context that query q belongs to, as an index 0..C-1, every one of which occurs.
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
        mean, low, high: (M,).
        error: (M,) standard deviation of the resampled means.
        freedom: (M,) Satterthwaite's degrees of freedom of `error`.
        contexts_only: no seed could be resampled, so the interval leaves out the variation between trainings.
    """

    mean: Floats
    low: Floats
    high: Floats
    error: Floats
    freedom: Floats
    contexts_only: bool

    @property
    def p(self) -> Floats:
        """(M,) two-sided p of a mean of 0: mean / error against Student's t. It goes with the interval."""
        size = np.abs(self.mean)
        t = np.divide(size, self.error, out=np.where(size > 0, np.inf, 0.0), where=self.error > 0)
        return np.asarray(2 * stats.t.sf(t, self.freedom))


def mean_interval(
    scores: Scores, *, resamples: int = RESAMPLES, level: float = LEVEL, stream: int = STREAM
) -> Estimate:
    """Mean over seeds and queries, with its interval; every query weighs the same."""
    sums, sizes = context_sums(scores)
    return _interval(sums.mean(axis=0), sizes, [_seed_means(sums, sizes)], resamples, level, stream)


def pooled_interval(
    scores: Scores, *, resamples: int = RESAMPLES, level: float = LEVEL, stream: int = STREAM
) -> Estimate:
    """Mean over parts (pairs of runs, say) and queries, where `scores.seeds` may name a seed more than once.

    Every part weighs the same, and the parts of a seed are resampled together. Seeds may have different numbers of
    parts: what a seed contributes is what the mean loses without it (the jackknife), so that a seed with most of the
    parts weighs as much in the interval as it does in the mean. With one part a seed this is `mean_interval`.
    """
    sums, sizes = context_sums(scores)
    means = _seed_means(sums, sizes)
    mean = means.mean(axis=0)
    seeds, member = np.unique(scores.seeds, return_inverse=True)
    if len(seeds) == 1:
        return _interval(sums.mean(axis=0), sizes, [mean[None]], resamples, level, stream)
    without = np.stack([means[member != seed].mean(axis=0) for seed in range(len(seeds))])
    lost = (len(seeds) - 1) * (mean - without)
    about = lost - lost.mean(axis=0)
    squares = (lost**2).sum(axis=0), (about**2).sum(axis=0)
    scale = np.sqrt(np.divide(*squares, out=np.ones_like(mean), where=squares[1] > 0))
    return _interval(sums.mean(axis=0), sizes, [mean + scale * about], resamples, level, stream)


def paired_difference(
    a: Scores, b: Scores, *, resamples: int = RESAMPLES, level: float = LEVEL, stream: int = STREAM
) -> Estimate:
    """Mean of a - b, with its interval; contexts are resampled for both at once.

    Seeds pair where both rows have the same ones. A single seed on one side (the SFT checkpoint that all RL runs start
    from) is held fixed. Otherwise the seeds of each row are resampled by themselves.

    Raises:
        ValueError: where the two rows are not of the same queries.
    """
    if not np.array_equal(a.contexts, b.contexts):
        raise ValueError("a paired difference needs the same queries in both rows")
    sums_a, sizes = context_sums(a)
    sums_b, _ = context_sums(b)
    means_a, means_b = _seed_means(sums_a, sizes), _seed_means(sums_b, sizes)
    together = a.seeds == b.seeds or 1 in (len(a.seeds), len(b.seeds))
    seed_means = [means_a - means_b] if together else [means_a, -means_b]
    return _interval(sums_a.mean(axis=0) - sums_b.mean(axis=0), sizes, seed_means, resamples, level, stream)


def seed_interval(
    values: Floats, *, resamples: int = RESAMPLES, level: float = LEVEL, stream: int = STREAM
) -> Estimate:
    """Mean and interval of (S, M) values over seeds alone, for curves."""
    return _interval(values.mean(axis=0)[None], np.ones(1), [values], resamples, level, stream)


def context_sums(scores: Scores) -> tuple[Floats, Floats]:
    """(S, C, M) sums over the queries of each context, and (C,) how many queries it has."""
    sizes = np.bincount(scores.contexts).astype(float)
    order = np.argsort(scores.contexts, kind="stable")
    starts = np.concatenate([[0], sizes.cumsum()[:-1]]).astype(int)
    return np.add.reduceat(scores.values[:, order], starts, axis=1), sizes


def _seed_means(sums: Floats, sizes: Floats) -> Floats:
    """(S, M) mean of each seed over all queries."""
    return sums.sum(axis=1) / sizes.sum()


def resample_weights(n: int, resamples: int, rng: np.random.Generator) -> Floats:
    """(resamples, n) how often each of n things is drawn when n are drawn with replacement."""
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def _interval(
    sums: Floats, sizes: Floats, seed_means: Sequence[Floats], resamples: int, level: float, stream: int
) -> Estimate:
    """Interval from (C, M) sums over contexts (mean over seeds) and the (S, M) seed means of each independent part."""
    rng = np.random.default_rng(stream)
    weights = resample_weights(len(sizes), resamples, rng)
    replicates = (weights @ sums) / (weights @ sizes)[:, None]
    variances, freedom = [replicates.var(axis=0)], [max(len(sizes) - 1, 1)]
    for means in seed_means:
        n = len(means)
        if n > 1:
            shares = resample_weights(n, resamples, rng) / n
            replicates = replicates + np.sqrt(n / (n - 1)) * (shares @ (means - means.mean(axis=0)))
            variances.append(means.var(axis=0, ddof=1) / n)
            freedom.append(n - 1)
    mean = sums.sum(axis=0) / sizes.sum()
    tail = (1 - level) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail], axis=0)
    together = satterthwaite(np.stack(variances), np.array(freedom))
    stretch = stats.t.ppf(1 - tail, together) / stats.norm.ppf(1 - tail)
    return Estimate(
        mean=mean,
        low=mean + stretch * (low - mean),
        high=mean + stretch * (high - mean),
        error=replicates.std(axis=0),
        freedom=together,
        contexts_only=len(variances) == 1,
    )


def satterthwaite(variances: Floats, freedom: NDArray[np.int64]) -> Floats:
    """(M,) degrees of freedom of a sum of independent variances (P, M), of which part p has freedom[p].

    Infinite where nothing varies.
    """
    total = variances.sum(axis=0) ** 2
    spread = (variances**2 / freedom[:, None]).sum(axis=0)
    return np.divide(total, spread, out=np.full_like(total, np.inf), where=spread > 0)


def holm(p: Floats) -> Floats:
    """(E,) p-values corrected for E tests (Holm 1979): the i-th smallest times E - i + 1, in order."""
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(corrected)
    result[order] = np.minimum(corrected, 1.0)
    return result
