"""Tests of differences: permutations for two models and for two methods, Holm's correction, a table against a baseline.

Which test says what:

- `sign_flip_test` on contexts compares **two models** (two trained checkpoints). Null hypothesis: the two are
  exchangeable on every context. It does not compare the methods that trained them: of two equally good methods, the
  one with the luckier seed comes out clearly better.
- `label_test` on seeds compares **two methods**. Null hypothesis: the run scores of both methods have the same
  distribution on this test set.
- `sign_flip_test` on seeds compares methods paired by seed. Null hypothesis: runs are exchangeable within each pair.
  It is the only test possible against a single fixed baseline (SFT). It then tests whether run scores are distributed
  symmetrically around the baseline's score.

With few seeds a permutation test cannot reach a small p (`smallest_p`). The t test behind the interval can, because it
assumes approximately normal seed means.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.statistics.intervals import (
    RESAMPLES,
    STREAM,
    Estimate,
    Floats,
    Scores,
    compared_seeds,
    context_sums,
    paired_difference,
    require_same_queries,
    seed_means,
)

EXACT = 10_000
"""Enumerate all permutations up to this many."""

DRAWN = 10_000
"""Number of permutations drawn if there are more."""

SAME = 1e-9
"""Statistics within this relative difference count as equal: they are equal sums added in another order."""

ROUND = 512
"""Permutations per batch, to limit memory."""


@dataclass(frozen=True)
class Permutation:
    """A permutation test.

    Attributes:
        p: (M,) two-sided; counts the observed arrangement, so it is never 0.
        arrangements: number of arrangements evaluated, including the observed one.
        exact: whether these are all possible arrangements.
    """

    p: Floats
    arrangements: int
    exact: bool


@dataclass(frozen=True)
class Comparison:
    """A row against the baseline.

    Attributes:
        estimate: row minus baseline, with interval and p.
        p_holm: (M,) `estimate.p`, Holm-corrected over all rows.
        permutation: the permutation test that the seeds allow.
        permuted: what the test permutes: "labels" of seeds, "seeds" in pairs, or "contexts" of two models.
        permutation_holm: (M,) p of the permutation test, Holm-corrected over all rows.
    """

    estimate: Estimate
    p_holm: Floats
    permutation: Permutation
    permuted: str
    permutation_holm: Floats


def sign_flip_test(differences: Floats, *, drawn: int = DRAWN, stream: int = STREAM) -> Permutation:
    """Whether the sum of paired differences is farther from 0 than with random signs.

    Enumerates all 2^n sign vectors if there are at most `EXACT`. Otherwise it draws `drawn` of them, and
    p = (1 + number as far from 0) / (1 + drawn). Without the added 1, p would be too small (Phipson & Smyth 2010).

    Args:
        differences: (n, M), one row per pair: a context (summed over its queries) or a seed.
    """
    n = len(differences)
    observed = np.abs(differences.sum(axis=0))
    if n <= math.log2(EXACT):  # 2^n of a thousand contexts is no float
        signs = np.array(list(itertools.product([1.0, -1.0], repeat=n)))
        return Permutation(_as_far(signs @ differences, observed) / len(signs), len(signs), True)
    rng = np.random.default_rng(stream)
    count = np.ones(differences.shape[1])
    for start in range(0, drawn, ROUND):
        signs = 2.0 * rng.integers(0, 2, size=(min(ROUND, drawn - start), n)) - 1
        count += _as_far(signs @ differences, observed)
    return Permutation(count / (1 + drawn), 1 + drawn, False)


def label_test(a: Floats, b: Floats, *, drawn: int = DRAWN, stream: int = STREAM) -> Permutation:
    """Whether the mean run scores of two rows are farther apart than with randomly assigned labels.

    Enumerates all assignments if there are at most `EXACT`; otherwise draws them, as in `sign_flip_test`.

    Args:
        a, b: (S, M) run scores of each row.
    """
    pooled = np.concatenate([a, b])
    n, first = len(pooled), len(a)
    centred = pooled - pooled.mean(axis=0)  # all runs then sum to 0, so the sum of one row determines the difference
    observed = np.abs(centred[:first].sum(axis=0))
    arrangements = math.comb(n, first)
    if arrangements <= EXACT:
        chosen = np.zeros((arrangements, n))
        for row, places in enumerate(itertools.combinations(range(n), first)):
            chosen[row, list(places)] = 1
        return Permutation(_as_far(chosen @ centred, observed) / arrangements, arrangements, True)
    rng = np.random.default_rng(stream)
    chosen = np.zeros((drawn, n))
    np.put_along_axis(chosen, rng.random((drawn, n)).argsort(axis=1)[:, :first], 1.0, axis=1)
    return Permutation((1 + _as_far(chosen @ centred, observed)) / (1 + drawn), 1 + drawn, False)


def _as_far(rearranged: Floats, observed: Floats) -> Floats:
    """(M,) number of the (R, M) statistics that are at least as far from 0 as the observed one."""
    return np.asarray((np.abs(rearranged) >= observed * (1 - SAME)).sum(axis=0), float)


def smallest_p(seeds: int, others: int | None = None) -> float:
    """Smallest two-sided p of an exact test of seed pairs, or of the labels of `seeds` and `others` runs.

    The mirrored arrangement is as extreme as the observed one, so at least two arrangements count. Rows of different
    sizes cannot be mirrored, so there only one counts.
    """
    if others is None:
        return 2 / 2**seeds
    return (2 if seeds == others else 1) / float(special.comb(seeds + others, seeds))


def holm(p: Floats) -> Floats:
    """(E,) p-values corrected for E tests (Holm 1979): the i-th smallest times E - i + 1, kept in ascending order."""
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(corrected)
    result[order] = np.minimum(corrected, 1.0)
    return result


def holm_known(p: Sequence[float | None]) -> list[float | None]:
    """`holm` over the p-values that are there. None is no test: it stays and does not count."""
    corrected = iter(holm(np.array([one for one in p if one is not None], float)).tolist())
    return [None if one is None else next(corrected) for one in p]


def permutation_test(a: Scores, b: Scores, *, drawn: int = DRAWN, stream: int = STREAM) -> tuple[Permutation, str]:
    """The permutation test of a - b that the seeds allow, and what it permutes.

    It permutes "labels" if both rows have several seeds, and "seeds" if one row has a single seed (held fixed). If both
    rows have one seed it permutes "contexts", which compares only the two models.

    Raises:
        ValueError: if the rows do not cover the same queries.
    """
    require_same_queries(a, b)
    a, b = compared_seeds(a, b)
    sums_a, sizes = context_sums(a)
    sums_b, _ = context_sums(b)
    fewer, more = sorted((len(a.seeds), len(b.seeds)))
    if more == 1:
        return sign_flip_test(sums_a[0] - sums_b[0], drawn=drawn, stream=stream), "contexts"
    means_a, means_b = seed_means(sums_a, sizes), seed_means(sums_b, sizes)
    if fewer == 1:
        return sign_flip_test(means_a - means_b, drawn=drawn, stream=stream), "seeds"
    return label_test(means_a, means_b, drawn=drawn, stream=stream), "labels"


def compare(
    rows: Mapping[str, Scores],
    baseline: str,
    *,
    resamples: int = RESAMPLES,
    drawn: int = DRAWN,
    stream: int = STREAM,
) -> dict[str, Comparison]:
    """Compare every other row with the baseline. Each metric's p-values are corrected over the rows.

    Raises:
        ValueError: if no row is named `baseline`, or the rows do not cover the same queries.
    """
    if baseline not in rows:
        raise ValueError(f"baseline {baseline!r} is no row; the rows are {', '.join(rows)}")
    others = [name for name in rows if name != baseline]
    if not others:
        return {}
    estimates = [paired_difference(rows[name], rows[baseline], resamples=resamples, stream=stream) for name in others]
    permuted = [permutation_test(rows[name], rows[baseline], drawn=drawn, stream=stream) for name in others]
    p_holm = np.apply_along_axis(holm, 0, np.stack([estimate.p for estimate in estimates]))
    permuted_holm = np.apply_along_axis(holm, 0, np.stack([test.p for test, _ in permuted]))
    return {name: Comparison(estimates[i], p_holm[i], *permuted[i], permuted_holm[i]) for i, name in enumerate(others)}
