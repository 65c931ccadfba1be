"""Numbers of the analysis against formulas written out here, and against scipy."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import statistics
from analysis.collection import SPENDING, Collection, Queries, collect
from analysis.collection.measurements import Measurements
from analysis.collection.reading import FinishedRun, read_run
from analysis.collection.screening import screened
from analysis.figures.lines import draw_training, draw_validation
from analysis.figures.series import all_series, own_curves
from analysis.html.budgets import budgets
from analysis.html.curve_data import Axes, curve_data
from analysis.html.results import _against_leader, scale_of
from analysis.html.rows import Look, looks
from analysis.papers.runs import settings_of
from analysis.papers.table import TableEntry, _contrast
from analysis.render.numbers import Interval, chance
from analysis.statistics import Scores
from analysis.studies.convergence import area
from analysis.studies.factorial import Effect
from analysis.tables.build import build, build_table
from analysis.tables.cautions import _entropy, _lists, _seeds
from analysis.tables.compare import Family, Side, correct, find, find_lead, versus_of
from analysis.tables.headline import _power, low_power_note
from analysis.tables.model import UNEQUAL
from analysis.tables.scores import samples_digest
from analysis.tables.select import Folder
from analysis.tables.spec import parse_spec
from tests.helpers_analysis import budget, queries, write_run
from tests.helpers_curves import Frames, collection
from tests.helpers_report import rows_of, verdict


def one_context(values: list[float]) -> Scores:
    """Runs judged on one sample, so that only seeds vary."""
    return Scores(np.array(values)[:, None, None], np.zeros(1, dtype=np.int64), tuple(range(len(values))))


def test_the_p_of_drawn_labels_counts_the_observed_arrangement() -> None:
    """18 runs have 48,620 arrangements. Of 99 drawn ones, none is as extreme as rows that do not overlap."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 2)), rng.normal(size=(9, 2))
    far = statistics.label_test(a + 100, b, drawn=99)
    assert not far.exact and far.arrangements == 100
    np.testing.assert_array_equal(far.p, 1 / 100)
    assert (statistics.label_test(a, a, drawn=99).p == 1).all()


def test_p_of_drawn_labels_is_near_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.5, 1, size=(9, 2)), rng.normal(size=(9, 2))
    exact = stats.permutation_test(
        (a, b), lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis), n_resamples=9_999, axis=0, rng=rng
    )
    np.testing.assert_allclose(statistics.label_test(a, b).p, exact.pvalue, atol=0.02)


def test_yuens_interval_by_hand() -> None:
    """The mean keeps four of eight runs. SE² = (n - 1) s_w² / (h (h - 1)), with h - 1 degrees of freedom."""
    values = [0.9, 0.21, 0.25, 0.22, 0.02, 0.27, 0.24, 0.20]
    winsorised = np.clip(values, 0.21, 0.25)
    error = np.sqrt(7 * winsorised.var(ddof=1) / (4 * 3))
    mean = (0.21 + 0.22 + 0.24 + 0.25) / 4
    found = statistics.iqm_interval([one_context(values)])
    assert (found.mean[0], found.error[0], found.among[0]) == pytest.approx((mean, error, 3))
    half = stats.t.ppf(0.975, 3) * error
    assert (found.low[0], found.high[0]) == pytest.approx((mean - half, mean + half), rel=2e-3)


def test_a_profile_counts_scores_above_a_threshold_and_not_at_it() -> None:
    scores = Scores(np.array([[[0.0], [0.5], [1.0]]]), np.arange(3), (0,))
    found = statistics.performance_profile(scores, np.array([0.0, 0.5, 1.0]), resamples=50)
    np.testing.assert_allclose(found.mean, [2 / 3, 1 / 3, 0])


def test_the_largest_difference_is_none_of_the_others() -> None:
    """One row is near the leader, one far below: the far one is detected, so power is no reason for doubt."""
    rng = np.random.default_rng(0)

    def row(level: float) -> Scores:
        return Scores(level + 0.01 * rng.normal(size=(3, 40, 1)), np.arange(40), (0, 1, 2))

    near = verdict({"a": row(0.300), "b": row(0.2999), "c": row(0.2998)}, 200)
    assert near.detectable is not None
    assert near.low_power
    largest = max(abs(one.difference.mean) for one in near.over)
    assert f"The largest difference to the leading row in NDCG@10 is {statistics_text(largest)}" in low_power_note(near)
    detectable = near.detectable.mean
    far = verdict({"a": row(0.300), "b": row(0.300), "c": row(0.300), "d": row(0.300 - 1.8 * detectable)}, 200)
    assert far.detectable is not None and far.detectable.mean < 1.7 * detectable
    assert not far.low_power


def statistics_text(size: float) -> str:
    return f"{size:.3f}".removeprefix("0") if size >= 0.0005 else "less than .001"


ZIGZAG = {step: float(step % 2) for step in range(60)}


def test_validation_curves_are_never_smoothed() -> None:
    """Smoothing would turn a zigzag into its middle."""
    group = collection({"grpo-dcg": [ZIGZAG, ZIGZAG]})
    figure = draw_validation(group)
    assert figure is not None
    np.testing.assert_array_equal(figure.axes[0].get_lines()[0].get_ydata(), list(ZIGZAG.values()))
    train = collection({"grpo-dcg": [ZIGZAG, ZIGZAG]}, split="train", metric="reward")
    smooth = draw_training(train)
    assert smooth is not None
    assert np.ptp(np.asarray(smooth.axes[0].get_lines()[0].get_ydata(), float)[2:-2]) < 0.2


def test_an_area_is_divided_by_the_length_that_it_covers() -> None:
    """The area covers updates 20 to 60, not 0 to 60."""
    assert area((np.array([20.0, 40.0, 80.0]), np.array([1.0, 3.0, 7.0])), 60.0) == pytest.approx((2 + 4) / 2)


def test_an_effect_is_clear_by_its_corrected_p() -> None:
    assert Effect("ratio", "rank", "token", p=0.01, p_holm=0.04).clear
    assert not Effect("ratio", "rank", "token", p=0.01, p_holm=0.06).clear


def test_equal_pairs_are_not_above() -> None:
    assert Effect("ratio", "rank", "token", singles=(0.1, 0.0, -0.1, 0.2)).above == 2


def test_an_effect_of_unequal_budgets_is_never_clear() -> None:
    assert not Effect("ratio", "rank", "token", p=0.01, p_holm=0.01, marks=(UNEQUAL,)).clear


@pytest.mark.parametrize(
    ("p", "text"),
    [(None, "–"), (float("nan"), "–"), (0.0, "<.001"), (0.00049, "<.001"), (0.0006, ".001"), (1.0, "1.000")],
)
def test_how_a_p_reads(p: float | None, text: str) -> None:
    """A small p never reads .000."""
    assert chance(p) == text


def sides(rows: Mapping[str, Scores]) -> list[Side]:
    """RL rows of one group and one budget, judged by NDCG@10."""
    return [
        Side(
            i,
            "",
            name,
            name,
            "rl",
            one.seeds,
            frozenset([(1, 2, 3)]),
            (),
            ("ndcg@10",),
            partial(rows.__getitem__, name),
        )
        for i, (name, one) in enumerate(rows.items())
    ]


def test_a_difference_holds_by_its_corrected_p() -> None:
    rng = np.random.default_rng(0)
    a, b = (Scores(level + 0.01 * rng.normal(size=(3, 40, 1)), np.arange(40), (0, 1, 2)) for level in (0.3, 0.2))
    row, base = sides({"a": a, "b": b})
    found = find(row, base, "ndcg@10", "", resamples=100)
    assert found.estimate.p[0] < 0.05
    family = Family(1, 0, {}, {})
    assert versus_of(found, (0.04, 0.04), family).holds
    assert not versus_of(found, (0.06, 0.06), family).holds


def test_the_p_of_a_lead_is_the_largest_of_both_tests() -> None:
    """Of the 20 ways to divide two rows' runs, 6 are as far apart as a and b, and 2 as a and c."""
    rows = sides(
        {"a": one_context([0.30, 0.31, 0.32]), "b": one_context([0.31, 0.29, 0.28]), "c": one_context([0.1] * 3)}
    )
    lead = find_lead(rows, "ndcg@10", "ndcg@10", resamples=50)
    assert lead is not None
    assert [one.permutation.p[0] for one in lead.over] == pytest.approx([0.3, 0.1])
    assert correct([], [lead]).best[0] == pytest.approx((max(float(one.estimate.p[0]) for one in lead.over), 0.3))


def test_a_reported_difference_is_clear_by_the_errors_of_both_sides() -> None:
    """1.96 · sqrt(2) · .0035 = .0097."""

    def clear(difference: float) -> bool:
        rows = [TableEntry("big", name, {"recall@20": 0.1 + more}) for name, more in (("a", difference), ("b", 0.0))]
        return _contrast(rows[0], rows[1], "recall@20", "recall@20", "reddit_v2", 10).clear

    assert [clear(0.008), clear(0.0098)] == [False, True]


def test_rows_judged_by_other_numbers_of_relevant_films_are_other_samples(tmp_path: Path) -> None:
    scores = {name: [0.1, 0.2] for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "in_catalog")}
    for label, truth in (("grpo-dcg", 3), ("gspo-dcg", 2)):
        write_run(tmp_path / label, label, 0, queries(scores, ["a", "b"], n_truth=truth))
    digests = []
    for label in ("grpo-dcg", "gspo-dcg"):
        found = collect(tmp_path / label)
        digests.append(samples_digest(found.queries, found.runs["run"][0]))
    assert digests[0] != digests[1]


def test_runs_that_were_judged_on_other_samples_have_another_digest(tmp_path: Path) -> None:
    odd: list[dict[str, Any]] = [{}, {"contexts": ["a", "c"]}, {"n_truth": 2}, {"clusters": ["x", "x"]}]
    found = []
    for seed, changes in enumerate([*odd, {}]):
        scores = {name: [0.1 * seed, 0.2] for name in TWO_CONTEXTS}
        path = write_run(tmp_path, "grpo-dcg", seed, queries(scores, **({"contexts": ["a", "b"]} | changes)))
        found.append(read_run(path, "run")[0].queries)
    assert len(set(found)) == len(odd) and found[0] == found[-1]


def test_seeds_are_no_settings_of_a_row() -> None:
    identity = {"seed": 1, "sft": {"seed": 2, "updates": 3}, "rl": {"seed": 4}}
    assert settings_of(identity) == {"sft.updates": 3, "rl.seed": 4}


def test_a_row_of_mixed_settings_is_left_out_where_some_are_unknown() -> None:
    """If all settings were known, the row would be divided."""
    result = {"experiment": "e", "dataset": "mini", "model": "tiny", "stage": "rl", "label": "grpo-dcg"}
    result |= {"list_length": 10, "cutoffs": [5, 10]}

    def left_out(*rates: float | None) -> list[str]:
        settings = [None if rate is None else {"rl": {"learning_rate": rate}} for rate in rates]
        runs = [FinishedRun(f"run{i}", {**result, "seed": i}, one, (), 2, "q") for i, one in enumerate(settings)]
        return [problem.run for problem in screened(runs, ())[1] if problem.left_out]

    assert left_out(1e-4, 1e-4, None) == []
    assert left_out(1e-4, 3e-4, None) == ["run0", "run1", "run2"]


def test_a_table_of_validation_shows_validation(tmp_path: Path) -> None:
    scores = {name: [0.1, 0.2] for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "in_catalog")}
    for seed in (0, 1):
        write_run(tmp_path, "grpo-dcg", seed, queries(scores, ["a", "b"]), validation={"ndcg@10": 0.7})
    spec = {"title": "T", "rows": [{"where": {"stage": "rl"}}], "columns": ["ndcg@10"], "split": "validation"}
    table = build([Folder("", collect(tmp_path))], parse_spec(spec, "spec"), resamples=50)
    cell = table.rows[0].cells["ndcg@10"]
    assert isinstance(cell, Interval) and cell.mean == pytest.approx(0.7)


TWO_CONTEXTS = {name: [0.1, 0.2] for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "in_catalog")}


def test_each_row_of_a_report_has_its_own_budget(tmp_path: Path) -> None:
    """Each row shows means over its own runs, and their largest memory."""
    for label, per_seed in (("grpo-dcg", [100, 300]), ("gspo-dcg", [500, 700])):
        for seed, completions in enumerate(per_seed):
            spent = budget(10, 10, completions, 1_000, 60.0) | {"peak_memory_bytes": {"process": completions * 2**20}}
            write_run(tmp_path, label, seed, queries(TWO_CONTEXTS, ["a", "b"]), spent=spent)
    (group,) = collect(tmp_path).groups()
    shown = [(row[3], row[-1]) for row in rows_of(budgets(group, looks(group)), "budget-table")]
    assert shown == [("200", "0.29"), ("600", "0.68")]


def test_the_mark_of_drawn_intervals_is_sft(tmp_path: Path) -> None:
    for label, score in (("zero_shot", 0.1), ("sft", 0.3), ("grpo-dcg", 0.4)):
        scores = {name: [score, score] for name in TWO_CONTEXTS}
        write_run(tmp_path, label, 0, queries(scores, ["a", "b"]))
    (group,) = collect(tmp_path).groups()
    assert scale_of(build_table(group, resamples=50).rows, "ndcg@10").mark == pytest.approx(0.3)


def test_a_curve_is_of_its_own_split(tmp_path: Path) -> None:
    curves = [
        (step, split, "ndcg@10", level + step)
        for split, level in (("train", 10), ("validation", 20))
        for step in (0, 1)
    ]
    write_run(tmp_path, "grpo-dcg", 0, queries(TWO_CONTEXTS, ["a", "b"]), curves=curves)
    (group,) = collect(tmp_path).groups()
    for split, values in (("train", [10, 11]), ("validation", [20, 21])):
        ((_, own),) = own_curves(group, split, "ndcg@10")["grpo-dcg"]
        assert list(own) == list(all_series(group, split, "ndcg@10")["grpo-dcg"].mean) == values


def test_validation_beside_training_is_not_smoothed(tmp_path: Path) -> None:
    keys = [("train", "reward"), ("validation", "ndcg@10")]
    curves = [(step, *key, value) for key in keys for step, value in ZIGZAG.items()]
    write_run(tmp_path, "grpo-dcg", 0, queries(TWO_CONTEXTS, ["a", "b"]), curves=curves)
    (group,) = collect(tmp_path).groups()
    figure = draw_training(group, keys=keys)
    assert figure is not None
    train, validation = (np.asarray(axes.get_lines()[0].get_ydata(), float) for axes in figure.axes[:2])
    assert np.ptp(train[2:-2]) < 0.2
    np.testing.assert_array_equal(validation, list(ZIGZAG.values()))


def look(runs: Sequence[str]) -> Look:
    """A row of a page with these runs, and seeds 0, 1, ..."""
    return Look("grpo-dcg", "rl", "grpo · dcg", "#000000", (), tuple(runs), tuple(range(len(runs))))


def measured(values: Mapping[str, Sequence[float]], split: str, metric: str) -> pd.DataFrame:
    """Curves of runs, from update 0 on."""
    rows = [(run, step, split, metric, value) for run, own in values.items() for step, value in enumerate(own)]
    return pd.DataFrame(rows, columns=["run", "step", "split", "metric", "value"])


def test_a_page_smooths_training_and_not_validation() -> None:
    zigzag = list(ZIGZAG.values())
    parts = [measured({"a": zigzag}, split, "loss") for split in ("train", "validation")]
    source = Frames(pd.concat(parts), pd.DataFrame(columns=["run", "update", *SPENDING]))
    runs = pd.DataFrame({"run": ["a"], "stage": ["rl"], "reward": ["dcg"], "cutoffs": [(5, 10)]})
    series = curve_data(Collection(runs, Queries(source, {}), source), [look(["a"])])["series"]
    assert series["validation/loss"][0][2] == zigzag
    assert np.ptp(series["train/loss"][0][2][2:-2]) < 0.2


def test_a_page_puts_a_row_at_the_mean_of_what_its_seeds_spent() -> None:
    spending = pd.DataFrame([("a", 10, 100.0), ("b", 10, 300.0)], columns=["run", "update", "generated_tokens"])
    spending = spending.assign(**dict.fromkeys(set(SPENDING) - {"generated_tokens"}, 0.0))
    axes = Axes(dict(list(spending.groupby("run"))), [("a", "b")])
    assert axes.xs[axes.index(0, np.array([0.0, 5.0, 10.0]))]["generated_tokens"] == [0, 100, 200]


def test_entropy_that_rises_has_not_collapsed() -> None:
    falling = np.linspace(1, 0.01, 20)
    found = Measurements(measured({"a": list(falling), "b": list(falling[::-1])}, "train", "entropy"))
    assert _entropy(found, [look(["b"])]) == []
    (caution,) = _entropy(found, [look(["a", "b"])])
    ends = [falling[-2:].mean() / falling[:2].mean()]
    assert caution.told.endswith(f"grpo · dcg (1 of 2 runs, down to {100 * ends[0]:.0f}\u00a0%).")


def test_a_verdict_takes_three_seeds() -> None:
    assert [_seeds([look("abcde"[:n])])[0].title for n in range(1, 5)] == [
        "One seed", "Two seeds", "Few seeds", "Few seeds",
    ]  # fmt: skip
    assert _seeds([look("abcde")]) == []


def test_a_warning_of_lists_names_the_worst_run(tmp_path: Path) -> None:
    for seed, share in enumerate((0.8, 0.5, 0.95)):
        scores = TWO_CONTEXTS | {"in_catalog": [share, share]}
        write_run(tmp_path, "grpo-dcg", seed, queries(scores, ["a", "b"]))
    (group,) = collect(tmp_path).groups()
    (row,) = looks(group)
    assert row.seeds == (0, 1, 2) and row.runs == tuple(group.runs.sort_values("seed")["run"])
    (caution,) = _lists(group, [row])
    assert caution.told.endswith("(2 of 3 runs, 50\u00a0%).")


@pytest.mark.parametrize(("gap", "size"), [(0.001, "smaller"), (0.1, "no smaller")])
def test_a_lead_is_set_beside_what_the_design_finds(gap: float, size: str) -> None:
    rng = np.random.default_rng(0)
    rows = {
        name: Scores(level + 0.01 * rng.normal(size=(3, 40, 1)), np.arange(40), (0, 1, 2))
        for name, level in (("a", 0.3 + gap), ("b", 0.3))
    }
    found = verdict(rows, 200)
    assert found.lead is not None and found.detectable is not None
    assert 0.001 < found.detectable.mean < 0.1
    assert _power(found, found.lead).endswith(f"the lead seen here is {size}.")
    bold = rows_of(_against_leader(found.lead, {name: look("abc") for name in rows}), "against-leader", tags=True)
    assert ("<strong>" in bold[0][1]) == found.lead.holds == (size == "no smaller")
