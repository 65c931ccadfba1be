"""Tests of differences: permutations for two models and for two methods, Holm's correction, a table against a baseline.

Which test says what:

- `sign_flip_test` on contexts asks of **two models** (two trained checkpoints): were their lists dealt out at random,
  would their means differ so much? Null hypothesis: on every context the two are exchangeable. It says nothing of the
  methods that trained them: of two equally good methods the one with the luckier seed is found better beyond doubt.
- `label_test` on seeds asks of **two methods**: were the labels of their runs dealt out at random, would their means
  differ so much? Null hypothesis: both methods' run scores have one distribution, on this test set.
- `sign_flip_test` on seeds asks it of methods paired by seed: exchangeable within each pair. It is what a single,
  fixed baseline (SFT) leaves, and then asks whether run scores are distributed symmetrically about the baseline's.

With few seeds a permutation test cannot reach a small p at all (`smallest_p`); the t test that goes with the interval
can, and buys it by supposing that seed means are about normal.
"""

import itertools
import math
from collections.abc import Mapping
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
"""Up to so many rearrangements all of them are looked at."""

DRAWN = 10_000
"""Rearrangements drawn where there are more."""

SAME = 1e-9
"""Statistics that differ by less than this share are the same: equal sums added in another order."""

ROUND = 512
"""Rearrangements worked on at a time, for memory."""


@dataclass(frozen=True)
class Permutation:
    """A permutation test.

    Attributes:
        p: (M,) two-sided, the observed arrangement counted (so never 0).
        arrangements: how many were looked at, the observed one included.
        exact: they are all that there are.
    """

    p: Floats
    arrangements: int
    exact: bool


@dataclass(frozen=True)
class Comparison:
    """A row against the baseline.

    Attributes:
        estimate: row minus baseline, with interval and its p.
        p_holm: (M,) `estimate.p`, corrected for all rows.
        permutation: the test that the seeds allow.
        permuted: what it rearranged: "labels" of seeds, "seeds" in pairs, or "contexts" of two models.
        permutation_holm: (M,) its p, corrected for all rows.
    """

    estimate: Estimate
    p_holm: Floats
    permutation: Permutation
    permuted: str
    permutation_holm: Floats


def sign_flip_test(differences: Floats, *, drawn: int = DRAWN, stream: int = STREAM) -> Permutation:
    """Whether the sum of paired differences is farther from 0 than with signs at random.

    All 2^n signs where there are at most `EXACT`; otherwise `drawn` of them, and p is (1 + as far) / (1 + drawn),
    without which a p of a drawn test would be too small (Phipson & Smyth 2010).

    Args:
        differences: (n, M), one row a pair: of contexts (summed over their queries) or of seeds.
    """
    n = len(differences)
    observed = np.abs(differences.sum(axis=0))
    if 2.0**n <= EXACT:
        signs = np.array(list(itertools.product([1.0, -1.0], repeat=n)))
        return Permutation(_as_far(signs @ differences, observed) / len(signs), len(signs), True)
    rng = np.random.default_rng(stream)
    count = np.ones(differences.shape[1])
    for start in range(0, drawn, ROUND):
        signs = 2.0 * rng.integers(0, 2, size=(min(ROUND, drawn - start), n)) - 1
        count += _as_far(signs @ differences, observed)
    return Permutation(count / (1 + drawn), 1 + drawn, False)


def label_test(a: Floats, b: Floats, *, drawn: int = DRAWN, stream: int = STREAM) -> Permutation:
    """Whether the means of two rows' runs are farther apart than with their labels dealt out at random.

    All assignments where there are at most `EXACT`, otherwise drawn as in `sign_flip_test`.

    Args:
        a, b: (S, M) run scores of either row.
    """
    pooled = np.concatenate([a, b])
    n, first = len(pooled), len(a)
    centred = pooled - pooled.mean(axis=0)  # the mean of either row then says all: they sum to 0
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
    """(M,) how many of (R, M) statistics are as far from 0 as the observed."""
    return np.asarray((np.abs(rearranged) >= observed * (1 - SAME)).sum(axis=0), float)


def smallest_p(seeds: int, others: int | None = None) -> float:
    """Smallest two-sided p of an exact test: of pairs of seeds, or of the labels of `seeds` and `others` runs.

    The mirrored arrangement is as far out as the observed one, so there are two of that distance, except where rows
    have different sizes and cannot be mirrored.
    """
    if others is None:
        return 2 / 2**seeds
    return (2 if seeds == others else 1) / float(special.comb(seeds + others, seeds))


def holm(p: Floats) -> Floats:
    """(E,) p-values corrected for E tests (Holm 1979): the i-th smallest times E - i + 1, in order."""
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(corrected)
    result[order] = np.minimum(corrected, 1.0)
    return result


def permutation_test(a: Scores, b: Scores, *, drawn: int = DRAWN, stream: int = STREAM) -> tuple[Permutation, str]:
    """The permutation test of a - b that the seeds allow, and what it rearranges.

    "labels" where both rows have several seeds, "seeds" where one of them has a single one (held fixed), "contexts"
    where both have: then it compares the two models only.

    Raises:
        ValueError: where the two rows are not of the same queries.
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
    """Every other row against the baseline; p corrected over the rows, for each metric by itself.

    Raises:
        ValueError: where there is no such row, or rows are not of the same queries.
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
