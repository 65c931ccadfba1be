"""The definition of the intervals in analysis.statistics, written as loops over runs and contexts."""

from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from analysis.statistics.intervals import NARROWING, SHARPNESS, resample_weights

Part = tuple[int, dict]
"""A run or a pair of runs: its seed, and context -> scores of one metric."""


def slow_interval(
    rows: Sequence[tuple[int, Sequence[Part]]], resamples: int, stream: int, *, metrics: int = 1, metric: int = 0
) -> tuple[float, float, float, float]:
    """Mean, low, high and p of a sum of rows with signs; contexts are resampled for all rows at once.

    Args:
        metrics: number of metrics that share the random numbers.
        metric: position of this metric among them.
    """
    rng = np.random.default_rng(stream)
    contexts = sorted(rows[0][1][0][1])
    count = len(contexts)
    queries = sum(len(rows[0][1][0][1][context]) for context in contexts)

    def mean(scores: dict, times: Sequence[float]) -> float:
        total = sum(t * s for t, c in zip(times, contexts, strict=True) for s in scores[c])
        return total / sum(t * len(scores[c]) for t, c in zip(times, contexts, strict=True))

    def at(times: Sequence[float]) -> float:
        return sum(sign * sum(mean(scores, times) for _, scores in parts) / len(parts) for sign, parts in rows)

    once = [1.0] * count
    point = at(once)
    draws = [at(list(times)) for times in resample_weights(count, resamples, rng)]
    together = np.zeros(count)
    own, variances = 0.0, []
    for sign, parts in rows:
        seeds = sorted({seed for seed, _ in parts})
        n = len(seeds)
        adds = {seed: np.zeros(count) for seed in seeds}
        for seed, scores in parts:
            middle = mean(scores, once)
            adds[seed] += [sum(s - middle for s in scores[c]) * count / queries / len(parts) for c in contexts]
        together += sign * sum(adds.values())
        if n == 1:
            continue
        means = [(seed, mean(scores, once)) for seed, scores in parts]
        middle = np.mean([m for _, m in means])
        lost = [(n - 1) * (middle - np.mean([m for of, m in means if of != seed])) for seed in seeds]
        variances.append((sum(u**2 for u in lost) / n / (n - 1), n - 1))
        weights = {seed: sum(of == seed for of, _ in parts) / len(parts) for seed in seeds}
        covariances = sum(adds[s] @ adds[t] for s in seeds for t in seeds if s != t) / (count - 1)
        shared = covariances / (1 - sum(w**2 for w in weights.values()))
        everything = sum(adds.values()) @ sum(adds.values()) / (count - 1)
        own += min(max(everything - shared, 0), everything) / count
    variance, share, among = np.var(draws), 0.0, 1.0
    if variances:
        total = together @ together / (count - 1) / count
        kept = max(total - own, 0) / total
        among = sum(v for v, _ in variances) ** 2 / sum(v**2 / df for v, df in variances)
        of_seeds = sum(v for v, _ in variances)
        floored = max(of_seeds, min(own, total))
        variance = kept * variance + floored
        share = of_seeds / variance
        quantiles = [stats.norm.ppf((r + 0.5) / resamples) for r in range(resamples)]
        noise = rng.permuted(np.array([[q] * metrics for q in quantiles]), axis=0)[:, metric]
        draws = [point + kept**0.5 * (d - point) + floored**0.5 * e for d, e in zip(draws, noise, strict=True)]

    def critical(p: float) -> float:
        weight = share ** (SHARPNESS * min(1.0, p / 0.05) ** (NARROWING / among**1.5))
        return weight * stats.t.isf(p / 2, among) + (1 - weight) * stats.t.isf(p / 2, count - 1)

    low, high = np.quantile(draws, [0.025, 0.975])
    stretch = critical(0.05) / stats.norm.ppf(0.975)
    t = abs(point) / variance**0.5
    p = optimize.brentq(lambda p: critical(p) - t, 1e-12, 1 - 1e-12, xtol=1e-15)
    low, high = point + stretch * (low - point), point + stretch * (high - point)
    return point, low, high, min(p, np.nextafter(0.05, 0)) if low > 0 or high < 0 else max(p, 0.05)
