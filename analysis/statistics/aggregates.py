"""The interquartile mean over the runs of several cells, and rliable's stratified bootstrap.

The interquartile mean (IQM) is the mean without the lowest and the highest quarter (Agarwal et al., "Deep reinforcement
learning at the edge of the statistical precipice", 2021). One collapsed seed does not dominate it, as it would the
mean, and it discards less data than the median. It is taken over **run scores**, pooled over seeds and cells (for
example dataset-model pairs). A run score is the mean of one run over all its samples. The IQM is not taken over
samples: most lists contain no hit, so trimming the upper quarter would trim the hits. Below four runs nothing is
trimmed.

Two intervals:

- `iqm_interval` covers seeds and contexts, as `intervals.mean_interval` does for means. Its seed part is the standard
  error of a trimmed mean, from winsorised scores (Tukey & McLaughlin 1963; Yuen 1974), within cells.
- `stratified_bootstrap` is rliable's percentile interval for any statistic of run scores. It resamples seeds within
  each cell and keeps the test samples fixed. With few seeds it is too narrow, because percentiles of a few resampled
  values do not account for the small number; docs/statistics.md gives the size of the effect.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from analysis.statistics.intervals import (
    LEVEL,
    RESAMPLES,
    STREAM,
    Estimate,
    Floats,
    Scores,
    SeedPart,
    combine,
    context_influences,
    context_sums,
    own_variance,
    resample_weights,
    satterthwaite,
    seed_means,
)

TRIM = 0.25
"""Share of values that the interquartile mean drops at each end."""

FEWEST_RUNS = 6
"""Smallest total number of runs for an interval of the interquartile mean over several cells."""


def iqm(values: Floats, axis: int = 0) -> Floats:
    """Interquartile mean: the mean without the lowest and the highest int(n / 4) of n values."""
    return np.asarray(stats.trim_mean(values, TRIM, axis=axis))


def run_scores(cells: Sequence[Scores]) -> list[Floats]:
    """(S, M) run scores of each cell: the mean of each run over its queries."""
    return [seed_means(*context_sums(cell)) for cell in cells]


def stratified_draws(sizes: Sequence[int], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(resamples, N) indices into N runs ordered by cell. Runs are resampled within their cell."""
    starts = np.cumsum([0, *sizes[:-1]])
    return np.concatenate(
        [start + rng.integers(n, size=(resamples, n)) for start, n in zip(starts, sizes, strict=True)], axis=1
    )


def stratified_bootstrap(
    cells: Sequence[Floats],
    statistic: Callable[[Floats], Floats],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    stream: int = STREAM,
) -> tuple[Floats, Floats, Floats]:
    """A statistic of run scores with rliable's percentile interval: seeds resampled within cells, all else fixed.

    Args:
        cells: (S, M) run scores of each cell.
        statistic: reduces the second-to-last axis of (..., N, M) run scores of all cells.

    Returns:
        the statistic and the lower and upper end of its interval, (M,) each.
    """
    rng = np.random.default_rng(stream)
    pooled = np.concatenate(cells)
    draws = stratified_draws([len(cell) for cell in cells], resamples, rng)
    low, high = np.quantile(statistic(pooled[draws]), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return statistic(pooled), low, high


def iqm_interval(
    cells: Sequence[Scores], *, resamples: int = RESAMPLES, level: float = LEVEL, stream: int = STREAM
) -> Estimate:
    """Interquartile mean of the run scores of all cells, with its interval over seeds and contexts.

    Every run has the same weight. Cells with the same queries (several models on one test set) have their contexts
    resampled together. A cell with one run contributes nothing to the variance between seeds.

    Args:
        cells: scores of the same metrics; their queries may differ.

    Raises:
        ValueError: for several cells with fewer than six runs in total. Trimming keeps only two or three of four or
            five runs, too few to separate variation within cells from variation between them.
    """
    if len(cells) > 1 and sum(len(cell.seeds) for cell in cells) < FEWEST_RUNS:
        raise ValueError(f"the interquartile mean of several cells needs {FEWEST_RUNS} runs for an interval")
    rng = np.random.default_rng(stream)
    sizes = [len(cell.seeds) for cell in cells]
    member = np.repeat(np.arange(len(cells)), sizes)
    sums = [context_sums(cell) for cell in cells]
    pooled = np.concatenate([seed_means(*one) for one in sums])
    weights = trim_weights(pooled)
    sets = _test_sets(cells)

    resampled = np.empty((resamples, *pooled.shape))
    total = np.zeros(pooled.shape[1])
    freedom = []
    for places in sets:
        contexts = len(sums[places[0]][1])
        draws = resample_weights(contexts, resamples, rng)
        together = np.zeros((contexts, pooled.shape[1]))
        for place in places:
            values, queries = sums[place]
            means = np.einsum("rc,scm->rsm", draws, values, optimize=True) / (draws @ queries)[:, None, None]
            resampled[:, member == place] = means
            together += (context_influences(values, queries) * weights[member == place][:, None]).sum(axis=0)
        total += (together**2).sum(axis=0) / max(contexts - 1, 1) / contexts
        freedom.append(max(contexts - 1, 1))
    replicates = iqm(resampled, axis=1)

    parts = [_seed_part(sums, pooled, weights, sizes)] if max(sizes) > 1 else []
    return combine(iqm(pooled), replicates, total, min(freedom), parts, level, rng)


def trim_weights(values: Floats) -> Floats:
    """(N, M) weight of each of (N, M) values in the interquartile mean: 1 / number kept, or 0 if trimmed."""
    n = len(values)
    cut = int(TRIM * n)
    rank = values.argsort(axis=0, kind="stable").argsort(axis=0)
    return np.where((rank >= cut) & (rank < n - cut), 1 / (n - 2 * cut), 0.0)


def _test_sets(cells: Sequence[Scores]) -> list[list[int]]:
    """Indices of the cells, grouped by the queries they were scored on."""
    sets: list[list[int]] = []
    for place, cell in enumerate(cells):
        for known in sets:
            if np.array_equal(cells[known[0]].contexts, cell.contexts):
                known.append(place)
                break
        else:
            sets.append([place])
    return sets


def _seed_part(
    sums: Sequence[tuple[Floats, Floats]], pooled: Floats, weights: Floats, sizes: Sequence[int]
) -> SeedPart:
    """Variance between seeds of the interquartile mean of (N, M) run scores."""
    n, kept = len(pooled), int(round(1 / weights.max()))
    low = np.where(weights > 0, pooled, np.inf).min(axis=0)
    high = np.where(weights > 0, pooled, -np.inf).max(axis=0)
    few = (n - 1) * kept / (n * (kept - 1)) if kept > 1 else 1.0  # Yuen's divisor kept (kept - 1), for n (n - 1)
    own = np.zeros(pooled.shape[1])
    variances, freedom = [], []
    for (values, queries), end, size in zip(sums, np.cumsum(sizes), sizes, strict=True):
        if size == 1:
            continue
        runs = slice(end - size, end)
        variances.append(few * size * np.clip(pooled[runs], low, high).var(axis=0, ddof=1) / kept**2)
        freedom.append(np.maximum((weights[runs] > 0).sum(axis=0) - 1, 1))
        one_run = own_variance(context_influences(values, queries) / size, np.full(size, 1 / size)) * size
        own += (weights[runs] ** 2).sum(axis=0) * one_run / len(queries)
    return SeedPart(np.sum(variances, axis=0), satterthwaite(np.stack(variances), np.stack(freedom)), own)
