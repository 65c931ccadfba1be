"""IQM, permutation tests, probability of improvement, profiles and power: against scipy, by hand, on known truths."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from analysis import statistics
from analysis.statistics import Components, Scores
from benchmarks import coverage

MIX = (0.3, 0.4, 0.3)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(21)


def rows_of(rng: np.random.Generator, seeds: Sequence[int], shifts: Sequence[float]) -> dict[str, Scores]:
    """Rows on shared contexts with two metrics; each row has its own number of seeds and shift."""
    shared = rng.standard_normal((40, 2))
    made = [coverage.simulate(rng, n, 40, MIX, trials=2, shared=shared) for n in seeds]
    return {f"r{i}": Scores(s.values + shifts[i], s.contexts, s.seeds) for i, s in enumerate(made)}


# Interquartile mean.


def test_iqm_by_hand() -> None:
    values = np.array([9.0, 1, 2, 3, 4, -50, 5, 100])[:, None]
    assert statistics.iqm(values) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert statistics.iqm(values[:3]) == pytest.approx(4)  # three values are not trimmed
    assert statistics.iqm(np.array([0.0, 1, 5, 90])[:, None]) == pytest.approx(3)


def test_iqm_of_one_cell_of_three_runs_is_the_mean_with_its_interval(rng: np.random.Generator) -> None:
    scores = coverage.simulate(rng, 3, 30, MIX, trials=4)
    found, mean = statistics.iqm_interval([scores]), statistics.mean_interval(scores)
    np.testing.assert_allclose(found.mean, mean.mean)
    np.testing.assert_allclose(found.error, mean.error)
    np.testing.assert_allclose(found.high, mean.high, rtol=1e-6)


def test_one_collapsed_seed_moves_the_mean_but_hardly_the_iqm(rng: np.random.Generator) -> None:
    cells = [coverage.simulate(rng, 5, 50, MIX, trials=3) for _ in range(3)]
    fallen = Scores(cells[0].values - 1_000 * (np.arange(5) == 2)[:, None, None], cells[0].contexts, cells[0].seeds)
    before, after = statistics.iqm_interval(cells), statistics.iqm_interval([fallen, *cells[1:]])
    assert np.abs(after.mean - before.mean).max() < 1
    assert (after.high - after.low).max() < 20


def test_the_iqm_interval_of_several_cells_needs_six_runs(rng: np.random.Generator) -> None:
    cells = [coverage.simulate(rng, 2, 20, MIX, trials=1) for _ in range(2)]
    with pytest.raises(ValueError, match="needs 6 runs"):
        statistics.iqm_interval(cells)


@pytest.mark.parametrize(("cells", "seeds", "apart"), [(1, 5, 0), (3, 3, 2), (4, 5, 8)])
def test_the_iqm_interval_holds_the_truth(cells: int, seeds: int, apart: float) -> None:
    held = coverage.iqm_coverage(cells, seeds, (0.4, 0.4, 0.2), 750, apart=apart, contexts=60, seed=3)
    assert 0.925 <= held <= 0.975


def test_the_percentile_bootstrap_of_few_seeds_does_not() -> None:
    """This is why rliable's interval is not used."""
    assert coverage.iqm_coverage(1, 3, (1, 0, 0), 500, apart=0, contexts=20, plain=True) < 0.85


def test_the_stratified_bootstrap_draws_within_cells(rng: np.random.Generator) -> None:
    cells = [rng.random((4, 1)), 100 + rng.random((2, 1)), 1_000 + rng.random((3, 1))]
    value, low, high = statistics.stratified_bootstrap(cells, lambda x: x.max(axis=-2), resamples=500)
    assert value == cells[2].max() and low >= cells[2].min() and high == value
    value, low, high = statistics.stratified_bootstrap(cells, lambda x: x.mean(axis=-2), resamples=4_000)
    error = sum(len(c) * c.var() for c in cells) ** 0.5 / 9
    assert (high - low)[0] / (2 * 1.96 * error) == pytest.approx(1, abs=0.05)


def test_the_stratified_bootstrap_of_one_cell_is_scipys(rng: np.random.Generator) -> None:
    values = rng.exponential(size=(12, 1))
    _, low, high = statistics.stratified_bootstrap([values], lambda x: statistics.iqm(x, axis=-2), resamples=9_999)
    scipys = stats.bootstrap(
        (values[:, 0],), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile", rng=rng
    ).confidence_interval
    np.testing.assert_allclose([low[0], high[0]], [scipys.low, scipys.high], rtol=0.03)


def test_over_many_contexts_the_interval_is_scipys_bca(rng: np.random.Generator) -> None:
    values = rng.beta(0.5, 2, size=(1, 800, 1))
    found = statistics.mean_interval(Scores(values, np.arange(800), (0,)), resamples=9_999)
    bca = stats.bootstrap((values[0, :, 0],), np.mean, method="BCa", rng=rng).confidence_interval
    width = bca.high - bca.low
    np.testing.assert_allclose([found.low[0], found.high[0]], [bca.low, bca.high], atol=0.06 * width)


# Permutation tests.


@pytest.mark.parametrize("pairs", [5, 12])
def test_exact_sign_flips_are_scipys(rng: np.random.Generator, pairs: int) -> None:
    differences = rng.normal(0.4, 1, size=(pairs, 3))
    found = statistics.sign_flip_test(differences)
    scipys = stats.permutation_test(
        (differences,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=np.inf, axis=0
    )
    assert found.exact and found.arrangements == 2**pairs
    np.testing.assert_allclose(found.p, scipys.pvalue)


def test_drawn_sign_flips_are_near_scipys_and_never_zero(rng: np.random.Generator) -> None:
    differences = rng.normal(0.15, 1, size=(150, 2))
    found = statistics.sign_flip_test(differences)
    scipys = stats.permutation_test(
        (differences,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=4_999,
        axis=0,
        rng=rng,
    )
    assert not found.exact
    np.testing.assert_allclose(found.p, scipys.pvalue, atol=0.03)
    far = statistics.sign_flip_test(differences + 10, drawn=99)
    np.testing.assert_array_equal(far.p, 1 / 100)


@pytest.mark.parametrize("sizes", [(3, 3), (4, 6), (5, 5)])
def test_exact_labels_are_scipys(rng: np.random.Generator, sizes: tuple[int, int]) -> None:
    a, b = rng.normal(0.8, 1, size=(sizes[0], 3)), rng.normal(size=(sizes[1], 3))
    found = statistics.label_test(a, b)
    pooled = np.concatenate([a, b])
    observed = np.abs(a.mean(axis=0) - b.mean(axis=0))
    count, total = np.zeros(3), 0
    for chosen in itertools.combinations(range(len(pooled)), sizes[0]):
        rest = [i for i in range(len(pooled)) if i not in chosen]
        apart = np.abs(pooled[list(chosen)].mean(axis=0) - pooled[rest].mean(axis=0))
        count, total = count + (apart >= observed - 1e-12), total + 1
    assert found.exact and found.arrangements == total
    np.testing.assert_allclose(found.p, count / total)
    if sizes[0] == sizes[1]:  # scipy doubles the smaller tail, which is the same if both tails are equal
        scipys = stats.permutation_test((a, b), lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis), axis=0)
        np.testing.assert_allclose(found.p, scipys.pvalue)


def test_thousands_of_contexts_are_drawn_and_not_enumerated() -> None:
    """2 to the power of this number of contexts is more than a float can hold."""
    found = statistics.sign_flip_test(np.ones((1_100, 1)), drawn=99)
    assert not found.exact and found.p[0] == pytest.approx(1 / 100)


def test_the_smallest_p_is_reached(rng: np.random.Generator) -> None:
    for n in (2, 3, 5):
        a, b = rng.random((n, 1)) + 10, rng.random((n, 1))
        assert statistics.label_test(a, b).p[0] == pytest.approx(statistics.smallest_p(n, n))
        assert statistics.sign_flip_test(a - b).p[0] == pytest.approx(statistics.smallest_p(n))
    assert statistics.label_test(rng.random((2, 1)) + 10, rng.random((4, 1))).p[0] == pytest.approx(
        statistics.smallest_p(2, 4)
    )


def test_equal_models_and_equal_methods_are_told_apart_5_times_in_100() -> None:
    assert 0.035 <= coverage.flip_rate(40, 1_500, seed=4) <= 0.066
    assert 0.035 <= coverage.flip_rate(9, 1_500, seed=4) <= 0.066
    assert 0.03 <= coverage.label_rate((5, 5), 1_500, seed=4) <= 0.06
    assert coverage.label_rate((5, 5), 1_500, paired=0.5, seed=4) <= 0.03
    assert coverage.label_rate((3, 3), 500, seed=4) == 0


def test_a_test_of_models_is_none_of_methods() -> None:
    assert coverage.flips_as_if_methods(1, 100, coverage.MIXES["mostly seeds"], 500) > 0.2


def test_what_is_permuted_depends_on_the_seeds(rng: np.random.Generator) -> None:
    rows = rows_of(rng, (1, 1, 3, 4), (0, 0.5, 0.5, 0))
    kinds = {(a, b): statistics.permutation_test(rows[a], rows[b])[1] for a, b in itertools.combinations(rows, 2)}
    assert kinds["r0", "r1"] == "contexts"
    assert kinds["r0", "r2"] == kinds["r1", "r3"] == "seeds"
    assert kinds["r2", "r3"] == "labels"


def test_a_table_against_its_baseline(rng: np.random.Generator) -> None:
    rows = rows_of(rng, (5, 5, 5, 5), (0, 0, 30, 0))
    found = statistics.compare(rows, "r0", resamples=300)
    assert list(found) == ["r1", "r2", "r3"]
    for metric in range(2):
        p = np.array([one.estimate.p[metric] for one in found.values()])
        np.testing.assert_allclose([one.p_holm[metric] for one in found.values()], statistics.holm(p))
        p = np.array([one.permutation.p[metric] for one in found.values()])
        np.testing.assert_allclose([one.permutation_holm[metric] for one in found.values()], statistics.holm(p))
    assert (found["r2"].p_holm < 0.01).all()
    np.testing.assert_allclose(found["r2"].permutation_holm, 3 * statistics.smallest_p(5, 5))
    expected = statistics.paired_difference(rows["r2"], rows["r0"], resamples=300)
    np.testing.assert_array_equal(found["r2"].estimate.low, expected.low)
    assert statistics.compare({"r0": rows["r0"]}, "r0") == {}
    with pytest.raises(ValueError, match="baseline 'sft' is no row; the rows are r0"):
        statistics.compare(rows, "sft")


def test_holm_keeps_the_family_at_its_level() -> None:
    plain, corrected = coverage.family_rates(3, 4, 500)
    assert plain > 0.1 and corrected <= 0.075


# Probability of improvement and profiles.


def test_superiority_is_mann_whitneys_u(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 4, size=(6, 3)).astype(float), rng.integers(0, 4, size=(5, 3)).astype(float)
    u = stats.mannwhitneyu(a, b, axis=0).statistic
    np.testing.assert_allclose(statistics.superiority(a, b), u / 30)
    found = statistics.probability_of_improvement([a, b], [b, b], resamples=50)
    np.testing.assert_allclose(found.value, (u / 30 + 0.5) / 2)
    with pytest.raises(ValueError, match="same cells"):
        statistics.probability_of_improvement([a], [b, b])


def test_where_all_runs_are_better_the_bootstrap_is_sure_and_the_score_interval_is_not() -> None:
    a, b = np.array([[4.0], [5], [6]]), np.array([[1.0], [2], [3]])
    found = statistics.probability_of_improvement([a], [b])
    assert found.value == found.bootstrap_low == found.bootstrap_high == found.high == 1
    assert 0.5 < found.low[0] < 0.6
    turned = statistics.probability_of_improvement([b], [a])
    assert turned.value == turned.low == 0 and turned.high == pytest.approx(1 - found.low)


@pytest.mark.parametrize(("seeds", "cells", "truth"), [((5, 5), 1, 0.5), ((5, 5), 1, 0.9), ((3, 3), 4, 0.75)])
def test_the_interval_of_the_probability_holds_the_truth(seeds: tuple[int, int], cells: int, truth: float) -> None:
    assert 0.93 <= coverage.probability_coverage(seeds, cells, truth, 1_500, seed=5) <= 0.975


def test_the_area_under_a_profile_is_the_mean(rng: np.random.Generator) -> None:
    scores = Scores(rng.integers(0, 11, size=(3, 30, 2)) / 10, np.arange(30) // 2, (0, 1, 2))
    thresholds = np.arange(0.05, 1, 0.1)
    profile = statistics.performance_profile(scores, thresholds, 1, resamples=200)
    assert profile.mean.sum() / 10 == pytest.approx(scores.values[..., 1].mean())
    assert (np.diff(profile.mean) <= 0).all()
    assert (profile.low >= 0).all() and (profile.high <= 1).all()
    np.testing.assert_allclose(profile.mean[3], (scores.values[..., 1] > 0.35).mean())


def test_a_profiles_band_holds_the_truth(rng: np.random.Generator) -> None:
    thresholds, held = np.array([0.3, 0.5, 0.8]), []
    for _ in range(300):
        parts = 0.2 * rng.normal(size=(3, 1)) + 0.8 * rng.normal(size=60) + 0.32**0.5 * rng.normal(size=(3, 60))
        scores = Scores(stats.norm.cdf(parts)[..., None], np.arange(60), (0, 1, 2))
        band = statistics.performance_profile(scores, thresholds, resamples=200)
        held.append((band.low <= 1 - thresholds) & (1 - thresholds <= band.high))
    assert 0.92 <= np.mean(held) <= 0.98


# Power.


def test_components_are_those_simulated(rng: np.random.Generator) -> None:
    scores = coverage.simulate(rng, 8, 200, (0.6, 0.2, 0.2), trials=400)
    found = statistics.variance_components(scores)
    means = [part.mean() for part in (found.seed, found.context, found.own)]
    np.testing.assert_allclose(means, [0.6 * 8, 0.2 * 200, 0.2 * 1_600], rtol=0.1)
    np.testing.assert_allclose(found.variance(8, 200).mean(), 1, rtol=0.1)
    with pytest.raises(ValueError, match="two seeds"):
        statistics.variance_components(Scores(scores.values[:1], scores.contexts, (0,)))


def test_the_interval_has_the_variance_of_the_components(rng: np.random.Generator) -> None:
    scores = coverage.simulate(rng, 4, 100, (0.6, 0.3, 0.1), trials=5)
    found = statistics.variance_components(scores).variance(4, 100)
    np.testing.assert_allclose(statistics.mean_interval(scores, resamples=4_000).error ** 2, found, rtol=0.1)


def test_differences_by_seed(rng: np.random.Generator) -> None:
    rows = rows_of(rng, (3, 3, 1, 4, 5), (0, 1, 0, 0, 0))
    np.testing.assert_array_equal(
        statistics.difference(rows["r1"], rows["r0"]).values, rows["r1"].values - rows["r0"].values
    )
    against_one = statistics.difference(rows["r1"], rows["r2"])
    assert against_one.seeds == (0, 1, 2)
    common = statistics.difference(rows["r0"], rows["r3"])  # three of four seeds are common, which is enough
    np.testing.assert_array_equal(common.values, rows["r0"].values - rows["r3"].values[:3])
    with pytest.raises(ValueError, match="do not pair"):
        statistics.difference(rows["r0"], rows["r4"])


@pytest.mark.parametrize("mix", ["seeds only", "contexts only", "all alike"])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_detectable_difference_is_found_8_times_in_10(seeds: int, mix: str) -> None:
    assert 0.76 <= coverage.power_at_detectable(seeds, 60, coverage.MIXES[mix], 1_500, seed=6) <= 0.84


def test_the_range_of_a_detectable_difference_by_chi_squared() -> None:
    """With seeds only, the difference is proportional to their standard deviation, and so are the ends."""
    none = np.zeros(1)
    found, low, high = statistics.detectable_range(Components(np.ones(1), none, none), 5, 1_000)
    np.testing.assert_allclose(low, found * (4 / stats.chi2.ppf(0.9, 4)) ** 0.5, rtol=1e-4)
    np.testing.assert_allclose(high, found * (4 / stats.chi2.ppf(0.1, 4)) ** 0.5, rtol=1e-4)
    own = Components(none, none, np.ones(1))
    found, low, high = statistics.detectable_range(own, 5, 1_000)
    assert low == found < high


def test_a_stricter_level_detects_less() -> None:
    components = Components(*(np.array([part]) for part in (1e-4, 2e-2, 1e-2)))
    plain, strict = (statistics.minimum_detectable_difference(components, 5, 300, level=x)[0] for x in (0.95, 0.99))
    assert strict > 1.3 * plain
    assert coverage.power_at_detectable(5, 60, coverage.MIXES["all alike"], 1_000, seed=6, level=0.99) > 0.75


def test_the_detectable_difference_is_the_textbooks_where_that_is_exact() -> None:
    one, none = np.ones(1), np.zeros(1)
    found = statistics.minimum_detectable_difference(Components(one, none, none), 5, 1_000)
    exact = 5**-0.5 * _noncentral(4)
    np.testing.assert_allclose(found, exact, rtol=1e-3)
    many = statistics.minimum_detectable_difference(Components(none, 1_000 * one, none), 5, 1_000)
    np.testing.assert_allclose(many, stats.norm.ppf(0.975) + stats.norm.ppf(0.8), rtol=3e-3)
    assert statistics.minimum_detectable_difference(Components(none, none, none), 5, 1_000) == 0


def _noncentral(freedom: int) -> float:
    """Noncentrality at which a two-sided t test has power .8."""
    reach = stats.t.ppf(0.975, freedom)
    grid = np.linspace(2, 8, 6_001)
    power = stats.nct.sf(reach, freedom, grid) + stats.nct.cdf(-reach, freedom, grid)
    return float(np.interp(0.8, power, grid))


def test_more_seeds_and_contexts_detect_less() -> None:
    components = Components(*(np.array([part]) for part in (1e-4, 2e-2, 1e-2)))

    def detectable(seeds: int, contexts: int) -> float:
        return float(statistics.minimum_detectable_difference(components, seeds, contexts)[0])

    assert detectable(3, 300) > detectable(5, 300) > detectable(5, 2_050) > detectable(10, 2_050)
    with pytest.raises(ValueError, match="two seeds"):
        detectable(1, 300)


# By hand.


def test_the_interval_of_the_iqm_is_yuens_by_hand() -> None:
    """Runs differ and contexts do not: trimmed mean ± t(h - 1) · sqrt((n - 1) s_w² / (h (h - 1)))."""
    runs = np.array([0.05, 0.20, 0.21, 0.22, 0.24, 0.25, 0.26, 0.90])
    scores = Scores(np.repeat(runs[:, None, None], 40, axis=1), np.arange(40), tuple(range(8)))
    found = statistics.iqm_interval([scores], resamples=4_000)
    winsorised = np.array([0.21, 0.21, 0.21, 0.22, 0.24, 0.25, 0.25, 0.25])  # two at either end replaced by the next
    kept = np.array([0.21, 0.22, 0.24, 0.25])
    half = stats.t.ppf(0.975, 3) * (7 * winsorised.var(ddof=1) / (4 * 3)) ** 0.5
    assert found.mean[0] == pytest.approx(kept.mean())
    assert found.high[0] - kept.mean() == pytest.approx(half, rel=2e-3)
    assert kept.mean() - found.low[0] == pytest.approx(half, rel=2e-3)


def test_a_drawn_permutation_test_never_has_p_0() -> None:
    pairs = np.ones((20, 1))
    assert statistics.sign_flip_test(pairs, drawn=99).p[0] == 1 / 100
    a, b = np.ones((12, 1)) + 1e-3 * np.arange(12)[:, None], np.zeros((12, 1))
    assert statistics.label_test(a, b, drawn=99).p[0] == 1 / 100


def test_a_pair_of_rows_compared_on_common_seeds_is_permuted_on_them() -> None:
    rng = np.random.default_rng(2)
    contexts = np.arange(10)
    a = Scores(rng.random((5, 10, 1)), contexts, (0, 1, 2, 3, 4))
    b = Scores(rng.random((4, 10, 1)), contexts, (1, 2, 3, 4))
    test, permuted = statistics.permutation_test(a, b)
    assert permuted == "labels" and test.arrangements == 70  # 8 over 4


# Whole reports at small size: the statements of docs/statistics.md.


def test_a_report_of_equal_rows_claims_something_in_at_most_5_percent() -> None:
    against, best, any_claim = coverage.report_rates([range(3)] * 4, 0.15, 250, seed=3)
    assert max(against, best) <= any_claim <= 0.05 + 3 * (0.05 * 0.95 / 250) ** 0.5
    assert coverage.report_rates([range(2)] * 3 + [[0]], 0.4, 250) == (0.0, 0.0, 0.0)
    assert coverage.report_rates([[0]] * 4, 0.4, 250, fewest=1)[2] > 0.5, "why one seed gives no verdict"


def test_a_claim_against_one_checkpoint_is_about_that_checkpoint() -> None:
    fixed, method = (coverage.report_rates([range(5)], 0.4, 250, sft_varies=varies)[0] for varies in (False, True))
    assert fixed < 0.1 < 0.2 < method


def test_dialogues_are_resampled_whole() -> None:
    by_turn, by_dialogue = (
        coverage.cluster_coverage(4, 0.5, 3, 250, clustered=clustered) for clustered in (False, True)
    )
    assert by_turn < 0.88 and by_dialogue > 0.91


def test_common_seeds_find_more_where_seeds_matter_alike() -> None:
    rule, unpaired = (coverage.unequal_seeds_power(0.9, how, 250) for how in ("rule", "unpaired"))
    assert rule > 2 * unpaired


def test_p_of_an_ablation_holds_over_seeds_where_it_does_not_over_pairs() -> None:
    over_seeds, over_pairs = (coverage.ablation_rate(3, how, 250, by_seed=0.1) for how in ("seeds", "pairs"))
    assert over_seeds <= 0.1 and over_pairs > 0.15
    assert coverage.ablation_rate(1, "contexts", 250, by_seed=0.1) > 0.4
