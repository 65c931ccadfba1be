"""Convergence: passages and areas against slow versions and known truth, and the sentences about them."""

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.convergence import main
from analysis.studies.convergence import Convergence, area, compare, passage_time, ratio_interval
from analysis.studies.convergence_text import convergence_sheet, notes, sentences, to_csv
from analysis.studies.thresholds import threshold_value
from benchmarks.convergence import LEARNERS, bias, coverage, first_passage
from rlbench.base.errors import BadInput
from tests.helpers_analysis import write_sweep
from tests.helpers_curves import collection, write_spending


def slow_isotonic(values: list[float]) -> list[float]:
    """The rising curve nearest to another, by the minimax formula."""
    n = len(values)
    mean = {(i, j): sum(values[i : j + 1]) / (j + 1 - i) for i in range(n) for j in range(i, n)}
    return [max(min(mean[i, j] for j in range(at, n)) for i in range(at + 1)) for at in range(n)]


def slow_passage(places: list[float], values: list[float], threshold: float, horizon: float) -> float:
    """The passage of the curve up to the horizon; later points are discarded first."""
    if horizon < places[-1] and horizon not in places:
        after = next(i for i, place in enumerate(places) if place > horizon)
        share = (horizon - places[after - 1]) / (places[after] - places[after - 1])
        at_horizon = values[after - 1] + share * (values[after] - values[after - 1])
        places, values = [*places[:after], horizon], [*values[:after], at_horizon]
    places, values = zip(*[(x, y) for x, y in zip(places, values, strict=True) if x <= horizon], strict=True)
    rising = slow_isotonic(values)
    if rising[0] >= threshold:
        return places[0]
    for (x, y), (next_x, next_y) in zip(
        zip(places, rising, strict=True), zip(places[1:], rising[1:], strict=True), strict=False
    ):
        if y < threshold <= next_y:
            return x + (threshold - y) / (next_y - y) * (next_x - x)
    return math.inf


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.integers(0, 8), min_size=1, max_size=8),
    threshold=st.integers(0, 16),
    horizon=st.integers(0, 40),
)
def test_a_passage_agrees_with_the_slow_version(values: list[int], threshold: int, horizon: int) -> None:
    places = [5.0 * i for i in range(len(values))]
    limit = threshold / 2 + math.pi / 100  # no mean of these values, since interpolation keeps them rational
    found = passage_time((np.array(places), np.array(values, float)), limit, horizon)
    assert found == pytest.approx(slow_passage(places, [float(v) for v in values], limit, horizon))


def test_the_passage_of_a_rising_curve_lies_between_two_evaluations() -> None:
    curve = np.array([0.0, 20, 40]), np.array([0.1, 0.2, 0.6])
    assert passage_time(curve, 0.3, 40) == pytest.approx(25)
    assert passage_time(curve, 0.05, 40) == 0
    assert passage_time(curve, 0.7, 40) == passage_time(curve, 0.3, 24) == math.inf


def test_one_lucky_evaluation_is_no_passage() -> None:
    x = np.arange(0, 60, 10.0)
    lucky = np.array([0.1, 0.3, 0.1, 0.15, 0.2, 0.3])
    assert first_passage((x, lucky), 0.25, 50) < 10
    assert passage_time((x, lucky), 0.25, 50) == pytest.approx(45)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.integers(0, 9), min_size=2, max_size=7), horizon=st.floats(1, 60))
def test_an_area_agrees_with_many_small_steps(values: list[int], horizon: float) -> None:
    x, y = np.arange(len(values)) * 10.0, np.array(values, float)
    horizon = min(horizon, x[-1])
    middles = (np.arange(20_000) + 0.5) * horizon / 20_000
    assert area((x, y), horizon) == pytest.approx(np.interp(middles, x, y).mean(), abs=2e-3)


def test_a_ratio_has_the_interval_of_the_linearised_logs() -> None:
    a, b = np.array([[20.0], [30], [25], [28]]), np.array([[50.0], [70], [55], [65]])
    paired = ratio_interval(a, b, range(4), range(4))
    parts = (a / a.mean() - b / b.mean())[:, 0]
    half = stats.t.ppf(0.975, 3) * parts.std(ddof=1) / 2
    centre = math.log(a.mean() / b.mean())
    assert paired.mean[0] == pytest.approx(centre)
    np.testing.assert_allclose([paired.low[0], paired.high[0]], [centre - half, centre + half], atol=2e-3)
    apart = ratio_interval(a, b, range(4), range(4, 8))
    welch = stats.ttest_ind(a[:, 0] / a.mean() + centre, b[:, 0] / b.mean(), equal_var=False)
    assert apart.p[0] == pytest.approx(welch.pvalue, rel=1e-6)
    assert apart.high[0] - apart.low[0] > paired.high[0] - paired.low[0]


@pytest.mark.parametrize("name", LEARNERS)
def test_isotonic_passages_have_little_bias_where_first_ones_have_much(name: str) -> None:
    learner = LEARNERS[name]
    isotonic, first = (bias(rule, learner, 51, 0.15, 400) for rule in (passage_time, first_passage))
    assert abs(isotonic) < 0.05
    assert first < isotonic - 0.04


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_hold_the_truth_with_censored_seeds(paired: bool) -> None:
    """Coverage is 92 to 94 % (docs/curves.md), within 2.5 points in 400 trials; normal quantiles give 84 %."""
    assert 0.3 < LEARNERS["slow"].truth()[1] < 0.4
    mean, ratio = coverage(LEARNERS["sure"], LEARNERS["slow"], 5, 21, 0.0, paired=paired, trials=400)
    assert 0.885 <= mean <= 0.97
    assert 0.9 <= ratio <= 0.975


def rising(slopes: list[float]) -> list[dict[int, float]]:
    """Curves from 0.1 that rise by `slope` in 100 updates, to at most 0.3."""
    return [{step: min(0.1 + slope * step / 100, 0.3) for step in range(0, 101, 10)} for slope in slopes]


def compared(**options: object) -> Convergence:
    rows = {"grpo-dcg": rising([0.08, 0.1, 0.12]), "rank_grpo-dcg": rising([0.16, 0.18, 0.2])}
    return compare(collection(rows), "ndcg@10", **({"baseline": "grpo-dcg"} | options))  # type: ignore[arg-type]


def test_times_areas_and_ratios_are_those_of_the_curves() -> None:
    found = compared(thresholds=["final", "50%", "0.14"])
    assert found.horizon == 100
    final, half, number = found.thresholds
    assert [one.value for one in found.thresholds] == pytest.approx([0.2, 0.15, 0.14])
    np.testing.assert_allclose(final.rows["rank_grpo-dcg"].times, [62.5, 50 / 0.9, 50])
    np.testing.assert_allclose(half.rows["grpo-dcg"].times, [62.5, 50, 50 / 1.2])
    np.testing.assert_allclose(number.rows["grpo-dcg"].times, [50, 40, 40 / 1.2])
    fast, slow = half.rows["rank_grpo-dcg"], half.rows["grpo-dcg"]
    assert slow.ratio is None and fast.ratio is not None
    assert fast.ratio.mean == pytest.approx(fast.times.mean() / slow.times.mean())
    assert fast.ratio.low < fast.ratio.mean < fast.ratio.high < 1
    mean, half = fast.times.mean(), stats.t.ppf(0.975, 2) * fast.times.std(ddof=1) / 3**0.5
    expected = mean * np.exp(half / mean * np.array([-1, 1]))
    np.testing.assert_allclose([fast.mean.low, fast.mean.high], expected, rtol=2e-3)
    difference = found.areas["rank_grpo-dcg"].difference
    assert difference is not None and difference.mean == pytest.approx(0.04)
    assert not difference.has_interval and difference.p is None, "paired seeds differ by the same"


def test_seeds_that_do_not_pass_count_as_the_whole_range_and_are_said() -> None:
    found = compared()
    (threshold,) = found.thresholds
    slow = threshold.rows["grpo-dcg"]
    assert slow.times[0] == math.inf and slow.reached == 2
    assert slow.mean.mean == pytest.approx((100 + 100 + 100 / 1.2) / 3)
    assert slow.mean.high == 100, "a restricted mean is within the range"
    said = sentences(found)
    assert said[0].startswith("grpo · dcg reaches its own final NDCG@10 (.200) in 2 of 3 seeds, after 94.4 [")
    assert said[0].endswith(", 100] of 100 updates on average with the others counted as all of it.")
    assert said[1].startswith("rank_grpo · dcg reaches grpo · dcg's final NDCG@10 (.200) after 56 [")
    assert said[1].endswith("] of 100 updates in 3 of 3 seeds.")


def test_where_nobody_arrives_there_is_no_interval_and_no_ratio() -> None:
    found = compared(thresholds=["0.4"])
    (threshold,) = found.thresholds
    for row in threshold.rows.values():
        assert row.reached == 0 and math.isnan(row.mean.low)
    ratio = threshold.rows["rank_grpo-dcg"].ratio
    assert ratio is not None and math.isnan(ratio.mean)
    assert sentences(found)[1] == (
        "rank_grpo · dcg does not reach NDCG@10 of .400 within 100 updates in any seed (0 of 3 seeds)."
    )
    line = convergence_sheet(found).lines[1]
    assert [cell.text for cell in line.cells[4:]] == ["> 100", "0/3", "", ""]
    assert "nan" not in to_csv(found)


def test_a_threshold_below_the_start_is_said_to_mean_nothing() -> None:
    falling = [{0: 0.1, 50: 0.08, 100: 0.06}, {0: 0.1, 50: 0.09, 100: 0.07}]
    found = compare(collection({"grpo-dcg": falling, "gspo-dcg": rising([0.1, 0.2])}), "ndcg@10", baseline="grpo-dcg")
    (said,) = sentences(found)
    assert said.startswith("The threshold final (.065) is not above where grpo · dcg starts (.100)")


def test_p_values_are_corrected_over_the_rows() -> None:
    rows = {
        "grpo-dcg": rising([0.08, 0.1, 0.13]),
        "a-dcg": rising([0.15, 0.2, 0.22]),
        "b-dcg": rising([0.1, 0.11, 0.15]),
    }
    alone = [
        compare(collection({label: rows[label] for label in ("grpo-dcg", other)}), "ndcg@10", baseline="grpo-dcg")
        for other in ("a-dcg", "b-dcg")
    ]
    both = compare(collection(rows), "ndcg@10", baseline="grpo-dcg")
    single = {label: one.areas[label].difference.p for one, label in zip(alone, ("a-dcg", "b-dcg"), strict=True)}
    smallest = min(single, key=lambda label: single[label])
    assert both.areas[smallest].difference.p == pytest.approx(2 * single[smallest])


@pytest.mark.parametrize("seeds", [2, 3])
def test_a_p_takes_three_seeds(seeds: int) -> None:
    rows = {"grpo-dcg": rising([0.08, 0.1, 0.13][:seeds]), "a-dcg": rising([0.15, 0.2, 0.22][:seeds])}
    found = compare(collection(rows), "ndcg@10", baseline="grpo-dcg")
    passage, area = found.thresholds[0].rows["a-dcg"].ratio, found.areas["a-dcg"].difference
    assert passage is not None and area is not None
    assert [one.p is None for one in (passage, area)] == [seeds < 3] * 2
    assert not math.isnan(passage.low) and not math.isnan(area.low)


def test_one_seed_has_no_interval() -> None:
    rows = {"grpo-dcg": rising([0.1]), "rank_grpo-dcg": rising([0.2])}
    found = compare(collection(rows), "ndcg@10", baseline="grpo-dcg")
    one = found.thresholds[0].rows["rank_grpo-dcg"]
    assert one.mean.mean == pytest.approx(50) and math.isnan(one.mean.low)
    assert one.ratio is not None and one.ratio.mean == pytest.approx(0.5) and one.ratio.p is None
    assert any("one seed has no interval" in note for note in notes(found))


def test_a_run_that_stopped_early_keeps_its_last_value() -> None:
    rows = {"grpo-dcg": rising([0.08, 0.12]), "gspo-dcg": [{0: 0.1, 20: 0.14, 40: 0.12}, {0: 0.1, 40: 0.3}]}
    group = collection(rows, stopped={("gspo-dcg", 0): 40, ("gspo-dcg", 1): 40})
    found = compare(group, "ndcg@10", baseline="grpo-dcg")
    assert found.horizon == 100 and found.stopped == ("gspo-dcg",)
    np.testing.assert_allclose(found.thresholds[0].rows["gspo-dcg"].times, [math.inf, 20])
    heights = 0.2 * 0.12 + 0.2 * 0.13 + 0.6 * 0.12, 0.4 * 0.2 + 0.6 * 0.3
    assert found.areas["gspo-dcg"].mean.mean == pytest.approx(np.mean(heights))
    assert any("stopped before the end" in note for note in notes(found))


def test_a_seed_that_falls_back_has_not_passed_and_is_named() -> None:
    collapse = {0: 0.1, 20: 0.3, 40: 0.3, 60: 0.1, 80: 0.05, 100: 0.05}
    found = compare(
        collection({"grpo-dcg": rising([0.1, 0.12]), "gspo-dcg": [collapse, collapse]}), "ndcg@10", baseline="grpo-dcg"
    )
    one = found.thresholds[0].rows["gspo-dcg"]
    assert one.reached == 0 and one.fell_back == 2
    assert any("then below it for good" in note and "gspo · dcg" in note for note in notes(found))


def test_over_tokens_the_horizon_is_what_all_runs_spent() -> None:
    rows = {"grpo-dcg": rising([0.1, 0.1]), "rank_grpo-dcg": rising([0.2, 0.2])}
    spent = {("grpo-dcg", 0): 1_000.0, ("grpo-dcg", 1): 2_000.0, ("rank_grpo-dcg", 0): 4_000.0}
    spent[("rank_grpo-dcg", 1)] = 8_000.0
    group = collection(rows, spending={key: {100: value} for key, value in spent.items()})
    found = compare(group, "ndcg@10", baseline="grpo-dcg", against="generated_tokens", thresholds=["0.12"])
    assert found.horizon == 1_000
    np.testing.assert_allclose(found.thresholds[0].rows["grpo-dcg"].times, [200, 400])
    np.testing.assert_allclose(found.thresholds[0].rows["rank_grpo-dcg"].times, [400, 800])
    assert found.areas["rank_grpo-dcg"].mean.mean == pytest.approx((0.125 + 0.1125) / 2)


def noisy(row: int, seed: int, end: int, every: int) -> dict[int, float]:
    """A noisy rising curve, whose values do not depend on where it ends."""
    rng = np.random.default_rng([row, seed])
    steps = range(0, 401, every)
    values = 0.1 + 0.0008 * np.arange(len(steps)) * every + rng.normal(0, 0.02, len(steps))
    return {step: float(value) for step, value in zip(steps, values, strict=True) if step <= end}


@pytest.mark.parametrize("continued", ["grpo-dcg", "rank_grpo-dcg"])
@pytest.mark.parametrize("every", [10, 30])
def test_a_run_that_continues_past_the_horizon_changes_no_number(continued: str, every: int) -> None:
    """The shortest row ends at 100, which for every=30 lies between two evaluations of the others."""

    def files(end: int) -> str:
        rows = {"grpo-dcg": 120, "rank_grpo-dcg": 120} | {continued: end}
        curves = {label: [noisy(i, s, last, every) for s in range(3)] for i, (label, last) in enumerate(rows.items())}
        shortest = [noisy(7, seed, 100, 10) for seed in range(3)]
        found = compare(
            collection({**curves, "gspo-dcg": shortest}),
            "ndcg@10",
            baseline="grpo-dcg",
            thresholds=["final", "50%", "0.15", "0.18"],
        )
        assert found.horizon == 100
        return to_csv(found) + "\n".join([*sentences(found), *notes(found)])

    assert files(120) == files(240) == files(400)


def test_a_fall_after_the_horizon_is_no_fall_and_a_rise_after_it_no_passage() -> None:
    """The isotonic fit of the whole curve would pool 60 with later points, and so pass later or not at all."""
    falls_later = [{0: 0.1, 30: 0.2, 60: 0.3, 90: 0.0, 120: 0.0}] * 2
    rises_later = [{0: 0.1, 30: 0.1, 60: 0.15, 90: 0.9, 120: 0.9}] * 2
    short = [{0: 0.1, 60: 0.2}, {0: 0.1, 60: 0.22}]
    rows = {"grpo-dcg": short, "gspo-dcg": falls_later, "dapo-dcg": rises_later}
    found = compare(collection(rows), "ndcg@10", baseline="grpo-dcg", thresholds=["0.25"])
    (threshold,) = found.thresholds
    np.testing.assert_allclose(threshold.rows["gspo-dcg"].times, [45, 45])
    assert threshold.rows["dapo-dcg"].reached == 0
    assert [row.fell_back for row in threshold.rows.values()] == [0, 0, 0]


def test_the_final_value_of_the_baseline_is_that_at_the_horizon() -> None:
    """At 50 the baseline's seeds are at .15 and .25; later they have other values."""
    longer = [{0: 0.1, 50: 0.15, 100: 0.9}, {0: 0.1, 40: 0.2, 60: 0.3, 100: 0.9}]
    found = compare(
        collection({"grpo-dcg": longer, "gspo-dcg": [{0: 0.1, 50: 0.3}] * 2}),
        "ndcg@10",
        baseline="grpo-dcg",
        thresholds=["final", "50%"],
    )
    assert [one.value for one in found.thresholds] == pytest.approx([0.2, 0.15])


def test_rows_without_a_common_range_are_refused() -> None:
    rows = {"grpo-dcg": [{0: 0.1, 20: 0.2}], "gspo-dcg": [{20: 0.1, 40: 0.2}]}
    with pytest.raises(BadInput, match="gspo-dcg has no evaluation before 20, where the shortest run ends"):
        compare(collection(rows), "ndcg@10", baseline="grpo-dcg")


def test_each_number_of_the_csv_stands_under_its_name() -> None:
    """Names stay correct even if intervals coincide: a mean time of 1 and a ratio of 1, area and difference of .1."""
    rows = {"grpo-dcg": [{0: 0.0, 1: 0.0, 2: 0.0}], "gspo-dcg": [{0: 0.1, 1: 0.1, 2: 0.1}]}
    even = {"grpo-dcg": [{0: 0.0, 1: 0.2, 2: 0.2}], "gspo-dcg": [{0: 0.0, 1: 0.2, 2: 0.2}]}
    for points, thresholds in ((rows, ["0.05"]), (even, ["0.2"]), (even, ["0.1", "0.2", "0.3"])):
        found = compare(collection(points), "ndcg@10", baseline="grpo-dcg", thresholds=thresholds)
        lines = list(csv.reader(io.StringIO(to_csv(found))))
        assert {len(line) for line in lines} == {len(lines[0])}
        read = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
        expected = [(threshold, label) for threshold in found.thresholds for label in threshold.rows]
        for line, (threshold, label) in zip(read, expected, strict=True):
            row, of_area = threshold.rows[label], found.areas[label]
            intervals = {"time": row.mean, "ratio": row.ratio, "area": of_area.mean, "difference": of_area.difference}
            for name, one in intervals.items():
                parts = (
                    [math.nan] * 4
                    if one is None
                    else [one.mean, one.low, one.high, math.nan if one.p is None else one.p]
                )
                columns = [name, f"{name}_lo", f"{name}_hi", f"{name}_p"]
                for column, value in list(zip(columns, parts, strict=True))[: 4 if f"{name}_p" in line else 3]:
                    assert line[column] == ("" if math.isnan(value) else f"{value:.10g}"), column
            assert line["label"] == label and line["threshold"] == threshold.asked
            assert line["which_seeds"] == "0" and float(line["horizon"]) == 2
            assert line["times"] == ("inf" if row.reached == 0 else f"{row.times[0]:g}")
            assert (line["reached"], line["seeds"]) == (str(row.reached), "1")


def test_a_threshold_that_is_none_is_refused() -> None:
    assert [threshold_value(asked, 0.1, 0.2) for asked in ("final", "50%", "0.13")] == pytest.approx([0.2, 0.15, 0.13])
    with pytest.raises(BadInput, match="--threshold half: give final"):
        threshold_value("half", 0.1, 0.2)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_sweep(
        tmp_path / "runs", {"grpo-dcg": 0.03, "rank_grpo-dcg": 0.09}, seeds=3, contexts=20, updates=40, every=10
    )
    return tmp_path / "runs"


def test_the_command_writes_the_same_bytes_twice(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in runs.glob("*/*/*-*/seed*"):
        write_spending(run, range(1, 41))
    for out in ("one", "two"):
        options = ["--threshold", "final", "60%", "--against", "seconds"]
        assert main([str(runs), "--out", str(tmp_path / out), *options]) == 0
    assert "rank_grpo · dcg reaches grpo · dcg's final NDCG@10" in capsys.readouterr().out
    for suffix in ("md", "csv", "tex"):
        first, second = (tmp_path / out / f"convergence.{suffix}" for out in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()
    assert len((tmp_path / "one/convergence.csv").read_text().splitlines()) == 1 + 2 * 2
    latex = (tmp_path / "one/convergence.tex").read_text()
    assert r"rank\_grpo $\cdot$ dcg" in latex and r"95 \% intervals" in latex


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--metric", "ndgc@10"], "--metric ndgc@10: no RL run measured it on validation. Did you mean 'ndcg@10'?"),
        (["--baseline", "grpo-dgc"], "--baseline grpo-dgc: no such row (rows: grpo-dcg, rank_grpo-dcg). Did you mean"),
        (["--against", "seconds"], "no row has budget.jsonl in all of its runs"),
        (["--threshold", "half"], "--threshold half: give final"),
    ],
)
def test_what_the_runs_cannot_serve_is_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    assert main([str(runs), "--out", str(tmp_path / "out"), *options]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
