"""Intervals against slow loops and against simulated data whose truth is known."""

import time

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import (
    Scores,
    context_sums,
    mean_interval,
    paired_difference,
    resample_weights,
    satterthwaite,
    seed_interval,
)


def simulate(
    rng: np.random.Generator,
    *,
    seeds: int,
    contexts: int = 100,
    between_seeds: float,
    between_contexts: float,
    crossed: float,
    within: float = 0.1,
    truth: float = 0.3,
) -> Scores:
    """Scores whose mean is `truth`: a seed's part, a context's part, one of both, and noise of each sample."""
    index = np.repeat(np.arange(contexts), rng.integers(1, 5, size=contexts))
    parts = (
        rng.normal(0, between_seeds, (seeds, 1))
        + rng.normal(0, between_contexts, contexts)[index]
        + rng.normal(0, crossed, (seeds, contexts))[:, index]
        + rng.normal(0, within, (seeds, len(index)))
    )
    return Scores(truth + parts[..., None], index, tuple(range(seeds)))


def slow_interval(per_seed: list[list[dict[int, list[float]]]], signs: list[int], resamples: int, stream: int):
    """The definition, in loops: rows x seeds x context -> scores of one metric; rows are added with their signs.

    Each row's seeds are resampled by themselves; contexts are resampled for all at once.
    """
    rng = np.random.default_rng(stream)
    contexts = sorted(per_seed[0][0])
    draws = resample_weights(len(contexts), resamples, rng)
    seed_draws = [resample_weights(len(row), resamples, rng) if len(row) > 1 else None for row in per_seed]

    def mean(scores: dict[int, list[float]], times: list[float]) -> float:
        total = sum(t * s for t, c in zip(times, contexts, strict=True) for s in scores[c])
        return total / sum(t * len(scores[c]) for t, c in zip(times, contexts, strict=True))

    once = [1.0] * len(contexts)
    means = [[mean(scores, once) for scores in row] for row in per_seed]
    point = sum(sign * sum(row) / len(row) for sign, row in zip(signs, means, strict=True))
    context_part, replicates = [], []
    for r in range(resamples):
        value = 0.0
        for sign, row in zip(signs, per_seed, strict=True):
            value += sign * sum(mean(scores, list(draws[r])) for scores in row) / len(row)
        context_part.append(value)
        for sign, row, chosen in zip(signs, means, seed_draws, strict=True):
            if chosen is None:
                continue
            resampled = sum(t * m for t, m in zip(chosen[r], row, strict=True)) / len(row)
            value += sign * (len(row) / (len(row) - 1)) ** 0.5 * (resampled - sum(row) / len(row))
        replicates.append(value)
    parts = [(np.var(context_part), len(contexts) - 1)]
    parts += [(np.var(row, ddof=1) / len(row), len(row) - 1) for row in means if len(row) > 1]
    freedom = sum(v for v, _ in parts) ** 2 / sum(v**2 / df for v, df in parts)
    stretch = stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975)
    low, high = np.quantile(replicates, [0.025, 0.975])
    return point, point + stretch * (low - point), point + stretch * (high - point)


def by_context(scores: Scores, metric: int = 0) -> list[dict[int, list[float]]]:
    table: list[dict[int, list[float]]] = []
    for seed in range(len(scores.seeds)):
        table.append({})
        for query, context in enumerate(scores.contexts):
            table[-1].setdefault(int(context), []).append(float(scores.values[seed, query, metric]))
    return table


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def random_scores(rng: np.random.Generator, seeds: tuple[int, ...], metrics: int = 2) -> Scores:
    contexts = np.array([2, 0, 1, 1, 4, 3, 0, 2, 2, 4, 3])
    return Scores(rng.random((len(seeds), len(contexts), metrics)), contexts, seeds)


def test_context_sums_of_unsorted_contexts(rng: np.random.Generator) -> None:
    scores = random_scores(rng, (0, 1))
    sums, sizes = context_sums(scores)
    assert sizes.tolist() == [2, 2, 3, 2, 2]
    for context in range(5):
        expected = sum(scores.values[:, q] for q in range(11) if scores.contexts[q] == context)
        np.testing.assert_allclose(sums[:, context], expected)


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2, 3, 4)])
def test_mean_interval_is_the_loop(rng: np.random.Generator, seeds: tuple[int, ...]) -> None:
    scores = random_scores(rng, seeds)
    estimate = mean_interval(scores, resamples=200, stream=3)
    for metric in range(2):
        expected = slow_interval([by_context(scores, metric)], [1], 200, 3)
        found = estimate.mean[metric], estimate.low[metric], estimate.high[metric]
        np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert estimate.contexts_only == (len(seeds) == 1)


def test_difference_with_the_same_seeds_is_the_loop_over_differences(rng: np.random.Generator) -> None:
    a, b = random_scores(rng, (3, 5, 8)), random_scores(rng, (3, 5, 8))
    estimate = paired_difference(a, b, resamples=200, stream=3)
    differences = Scores(a.values - b.values, a.contexts, a.seeds)
    expected = slow_interval([by_context(differences)], [1], 200, 3)
    np.testing.assert_allclose((estimate.mean[0], estimate.low[0], estimate.high[0]), expected, rtol=1e-10)


@pytest.mark.parametrize("turned", [False, True])
def test_a_single_seed_is_held_fixed(rng: np.random.Generator, turned: bool) -> None:
    many, single = random_scores(rng, (0, 1, 2)), random_scores(rng, (0,))
    a, b = (single, many) if turned else (many, single)
    estimate = paired_difference(a, b, resamples=200, stream=3)
    differences = Scores(a.values - b.values, a.contexts, (0, 1, 2))
    expected = slow_interval([by_context(differences)], [1], 200, 3)
    np.testing.assert_allclose((estimate.mean[0], estimate.low[0], estimate.high[0]), expected, rtol=1e-10)
    assert not estimate.contexts_only


def test_rows_of_other_seeds_are_resampled_by_themselves(rng: np.random.Generator) -> None:
    a, b = random_scores(rng, (0, 1, 2)), random_scores(rng, (0, 1))
    estimate = paired_difference(a, b, resamples=200, stream=3)
    expected = slow_interval([by_context(a), by_context(b)], [1, -1], 200, 3)
    np.testing.assert_allclose((estimate.mean[0], estimate.low[0], estimate.high[0]), expected, rtol=1e-9)


def test_the_same_stream_gives_the_same_digits_and_another_does_not(rng: np.random.Generator) -> None:
    scores = random_scores(rng, (0, 1, 2))
    first, second = mean_interval(scores), mean_interval(scores)
    np.testing.assert_array_equal(first.low, second.low)
    assert not np.array_equal(first.low, mean_interval(scores, stream=1).low)


def test_scores_that_do_not_vary_have_no_width() -> None:
    scores = Scores(np.full((3, 6, 1), 0.25), np.array([0, 0, 1, 1, 2, 2]), (0, 1, 2))
    estimate = mean_interval(scores)
    np.testing.assert_allclose([estimate.low[0], estimate.mean[0], estimate.high[0]], 0.25)


def test_what_cannot_be_averaged_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Scores(np.array([[[0.1], [np.nan]]]), np.array([0, 1]), (0,))
    with pytest.raises(ValueError, match="shape"):
        Scores(np.zeros((2, 3, 1)), np.array([0, 1, 2]), (0,))
    a = random_scores(rng, (0,))
    with pytest.raises(ValueError, match="same queries"):
        paired_difference(a, Scores(a.values, a.contexts[::-1].copy(), a.seeds))


def test_satterthwaite() -> None:
    one_part = satterthwaite(np.array([[2.0], [0.0]]), np.array([4, 99]))
    np.testing.assert_allclose(one_part, 4)
    equal = satterthwaite(np.array([[1.0], [1.0]]), np.array([3, 3]))  # (1 + 1)² / (1/3 + 1/3)
    np.testing.assert_allclose(equal, 6)
    assert np.isinf(satterthwaite(np.zeros((2, 1)), np.array([3, 3])))


def test_seed_interval_has_the_width_of_a_t_interval(rng: np.random.Generator) -> None:
    values = rng.normal(size=(12, 40))
    estimate = seed_interval(values, resamples=4_000)
    expected = 2 * stats.t.ppf(0.975, 11) * values.std(axis=0, ddof=1) / 12**0.5
    np.testing.assert_allclose(estimate.mean, values.mean(axis=0))
    np.testing.assert_allclose(estimate.high - estimate.low, expected, rtol=0.1)


# Coverage: how often the interval holds the truth. Fixed streams, so that the numbers are the same on every run.

TRIALS = 400
CASES = {
    "contexts dominate": dict(seeds=5, between_seeds=0.005, between_contexts=0.2, crossed=0.1),
    "contexts dominate, 3 seeds": dict(seeds=3, between_seeds=0.005, between_contexts=0.2, crossed=0.1),
    "seeds dominate": dict(seeds=5, between_seeds=0.05, between_contexts=0.05, crossed=0.05),
    "seeds dominate, 3 seeds": dict(seeds=3, between_seeds=0.05, between_contexts=0.05, crossed=0.05),
    "both": dict(seeds=5, between_seeds=0.02, between_contexts=0.15, crossed=0.1),
    "one seed, as if it were all": dict(seeds=1, between_seeds=0.0, between_contexts=0.2, crossed=0.1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_interval_holds_the_truth_about_95_times_in_100(case: str) -> None:
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(TRIALS):
        estimate = mean_interval(simulate(rng, **CASES[case]), resamples=400)
        held += bool(estimate.low[0] <= 0.3 <= estimate.high[0])
    assert 0.925 <= held / TRIALS <= 0.98


def test_samples_as_if_independent_would_hold_it_far_less_often() -> None:
    """Why contexts are resampled whole and for all seeds at once."""
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(TRIALS):
        values = simulate(rng, **CASES["contexts dominate"]).values[..., 0].ravel()
        error = 1.96 * values.std(ddof=1) / len(values) ** 0.5
        held += bool(abs(values.mean() - 0.3) <= error)
    assert held / TRIALS < 0.7


@pytest.mark.parametrize("seeds", [3, 5])
def test_differences_of_equal_rows_exclude_zero_about_5_times_in_100(seeds: int) -> None:
    rng = np.random.default_rng(12)
    found = 0
    for _ in range(TRIALS):
        base = simulate(rng, seeds=1, between_seeds=0.0, between_contexts=0.2, crossed=0.0)
        a, b = (
            Scores(
                base.values
                + rng.normal(0, 0.02, (seeds, 1, 1))
                + rng.normal(0, 0.05, (seeds, base.values.shape[1], 1)),
                base.contexts,
                tuple(range(seeds)),
            )
            for _ in range(2)
        )
        estimate = paired_difference(a, b, resamples=400)
        found += bool(estimate.low[0] > 0 or estimate.high[0] < 0)
    assert 0.015 <= found / TRIALS <= 0.075


def test_pairing_takes_the_contexts_out_of_the_difference() -> None:
    rng = np.random.default_rng(13)
    a = simulate(rng, seeds=3, between_seeds=0.002, between_contexts=0.3, crossed=0.02, within=0.02)
    b = Scores(a.values - 0.03, a.contexts, a.seeds)
    difference, mean = paired_difference(a, b), mean_interval(a)
    assert difference.low[0] > 0
    assert difference.high[0] - difference.low[0] < 0.2 * (mean.high[0] - mean.low[0])


def test_speed() -> None:
    rng = np.random.default_rng(14)
    scores = Scores(rng.random((5, 600, 10)), np.repeat(np.arange(300), 2), tuple(range(5)))
    started = time.perf_counter()
    mean_interval(scores, resamples=2_000)
    paired_difference(scores, scores, resamples=2_000)
    assert time.perf_counter() - started < 2
