"""The rule for verdicts against plain arithmetic and simulated truth, and the output without runs."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis import reproduce
from analysis.papers.page import number
from analysis.papers.reported import EXPERIMENTS, read_rows, standard_error
from analysis.papers.runs import gpu_hours, runs_of
from analysis.papers.table import Ours, TableEntry, _contrast, _contrasts, compare
from analysis.papers.table_sheets import by_chance
from analysis.papers.verdicts import (
    DIFFERS,
    FEW_SEEDS,
    NO_RUN,
    NOT_SHOWN,
    OPPOSITE,
    REPRODUCED,
    SAME_SIGN,
    TOO_FEW_SEEDS,
    UNDECIDED,
    interval_of_difference,
    judge,
    level,
    sign,
)
from analysis.statistics import Scores, holm, mean_interval
from benchmarks.reproduction import simulate
from rlbench.launching.recorded import recorded_cells
from rlbench.runs.directory import label_of
from tests.helpers_curves import collection


def scores(seeds: int, spread: float, contexts: int = 400) -> Scores:
    rng = np.random.default_rng(3)
    values = 0.1 + spread * rng.normal(size=(seeds, 1, 1)) + 0.05 * rng.normal(size=(1, contexts, 1))
    return Scores(np.repeat(values, 1, axis=0), np.arange(contexts), tuple(range(seeds)))


def test_the_interval_is_the_t_interval_where_only_trainings_vary() -> None:
    """For one more training of the same method it is the textbook prediction interval: mean ± t · s · sqrt(1 + 1/S)."""
    draws = np.array([0.101, 0.108, 0.097, 0.103])
    half = interval_of_difference(draws.mean()[None], draws.var(ddof=1)[None] / 4, 4, np.zeros(1), 99, 0.0)
    expected = stats.t.ppf(0.975, 3) * draws.std(ddof=1) * math.sqrt(1 + 1 / 4)
    assert half[0] == pytest.approx(expected, rel=1e-9)


def test_the_interval_counts_the_samples_of_both_sides() -> None:
    """Without training variance it adds our variance and the reported one, which is taken as at least ours."""
    one = np.zeros(1)
    wide = interval_of_difference(one, one, 1, np.array([0.003**2]), 1e9, 0.004)
    assert wide[0] == pytest.approx(1.959964 * math.hypot(0.003, 0.004), rel=1e-5)
    clustered = interval_of_difference(one, one, 1, np.array([0.005**2]), 1e9, 0.004)
    assert clustered[0] == pytest.approx(1.959964 * 0.005 * math.sqrt(2), rel=1e-5)


def test_an_estimate_goes_into_the_interval_with_its_parts() -> None:
    """The seeds' part is the variance of seed means over S, and the contexts' part is the rest."""
    found = scores(5, 0.01)
    estimate = mean_interval(found)
    means = found.values[:, :, 0].mean(axis=1)
    assert estimate.share[0] * estimate.error[0] ** 2 == pytest.approx(means.var(ddof=1) / 5, rel=1e-6)
    said = level(estimate, 0, 5, 0.1, 0.0025, trained=True)
    trainings = means.var(ddof=1) * (1 + 1 / 5)
    assert said.difference.high - said.difference.low > 2 * stats.t.ppf(0.975, 4) * math.sqrt(trainings)
    assert said.difference.mean == pytest.approx(means.mean() - 0.1)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.1, 0.1, REPRODUCED), (-0.2, 0.1, UNDECIDED), (-0.1, 0.3, UNDECIDED), (0.01, 0.1, DIFFERS), (-9, -1, DIFFERS)],
)
def test_the_verdict_on_an_interval(low: float, high: float, verdict: str) -> None:
    assert judge(low, high, 0.15) == verdict


def test_one_training_decides_nothing_and_no_training_may() -> None:
    estimate = mean_interval(scores(1, 0.0))
    assert level(estimate, 0, 1, 0.5, 0.0025, trained=True).verdict == FEW_SEEDS
    assert level(estimate, 0, 1, 0.5, 0.0025, trained=False).verdict == DIFFERS


@pytest.mark.parametrize(
    ("reported", "ours", "p", "verdict"),
    [(1.0, 2.0, 0.04, SAME_SIGN), (-1.0, 2.0, 0.04, OPPOSITE), (1.0, 2.0, 0.06, NOT_SHOWN), (1.0, 0.0, 1.0, NOT_SHOWN)],
)
def test_the_verdict_on_a_sign(reported: float, ours: float, p: float, verdict: str) -> None:
    assert sign(reported, ours, p) == verdict


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("shared", [0.0, 1.0])
@pytest.mark.parametrize("spread", [0.001, 0.004])
def test_equal_methods_are_told_apart_no_more_often_than_one_time_in_twenty(
    seeds: int, shared: float, spread: float
) -> None:
    assert simulate(seeds, spread, shared, 0.0, 4000).differs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def test_what_chance_predicts_is_said() -> None:
    told = by_chance([DIFFERS, DIFFERS, REPRODUCED, UNDECIDED, FEW_SEEDS, NO_RUN] + [REPRODUCED] * 36)
    assert "If all 40 were truly as reported, up to 2.0 would still be said to differ, on average; there are 2." in told
    assert by_chance([NO_RUN, FEW_SEEDS]) == ""


def ours(seeds: int, level: float, stream: int, trained: bool = True) -> Ours:
    values = level + 0.001 * np.random.default_rng(stream).normal(size=(seeds, 60, 2))
    found = Scores(values, np.arange(60), tuple(range(seeds)))
    return Ours(found, mean_interval(found), trained)


def test_signs_of_a_table_are_one_family_and_take_three_seeds() -> None:
    entries = [
        TableEntry("big", "sft", {"recall@20": 0.1, "ndcg@20": 0.1}, None, ours(1, 0.1, 0)),
        TableEntry("big", "grpo", {"recall@20": 0.2, "ndcg@20": 0.2}, None, ours(3, 0.2, 1)),
        TableEntry("big", "gspo", {"recall@20": 0.3, "ndcg@20": 0.3}, None, ours(2, 0.3, 2)),
        TableEntry("big", "dapo", {"recall@20": 0.4, "ndcg@20": 0.4}, None, ours(1, 0.4, 3)),
    ]
    found = {(one.better.method, one.worse.method, one.metric): one for one in _contrasts(entries, (), "redial", 100)}
    shown = [key for key, one in found.items() if one.verdict == SAME_SIGN]
    assert shown == [("grpo", "sft", "recall@20"), ("grpo", "sft", "ndcg@20")]
    assert {one.verdict for key, one in found.items() if key not in shown} == {TOO_FEW_SEEDS}
    names = ("recall@20", "ndcg@20")
    raw = [_contrast(entries[1], entries[0], name, name, "redial", 100).p for name in names]
    np.testing.assert_allclose([found[key].p for key in shown], holm(np.array(raw)))


def test_methods_that_differ_by_the_margin_are_rarely_called_reproduced_and_far_ones_differ() -> None:
    assert simulate(3, 0.002, 0.0, -0.15 * 0.1079, 4000).reproduced < 0.025 + 3 * math.sqrt(0.025 / 4000)
    assert simulate(3, 0.002, 0.5, -0.35 * 0.1079, 4000).differs > 0.95
    assert simulate(5, 0.001, 0.5, 0.0, 4000).reproduced > 0.8


def test_a_reported_number_has_the_error_that_is_stated_or_the_largest_there_can_be() -> None:
    assert (
        standard_error("reddit_v2", "ndcg@20", 0.1) == 0.0025 and standard_error("reddit_v2", "recall@5", 0.1) == 0.0035
    )
    rng = np.random.default_rng(0)
    hits = rng.random((2000, 2613)) < 0.3
    assert standard_error("redial", "recall@5", 0.3) == pytest.approx(hits.mean(axis=1).std(), rel=0.06)


def test_without_runs_there_are_the_reported_numbers_commands_and_hours(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert reproduce.main(["table1", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "CRAG (GPT-4o)" in said and ".1283" in said and "verl-GR" in said
    assert "python run.py +table1=sweep dataset.path=FOLDER model=llama3.2_3b +method=rank_grpo_exp_inf" in said
    assert "393" in said and "2,558" in said  # 15,800 updates · 89.6 GPU-seconds, and times 3.213 / .494
    written = (tmp_path / "out" / "table1.md").read_text()
    for row in read_rows(EXPERIMENTS / "table1" / "expected.csv"):
        assert all(number(value) in written for value in row.values.values())
    with (tmp_path / "out" / "table1.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["verdict"] for line in lines} == {"no run"} and {line["kind"] for line in lines} == {
        "level",
        "gain",
        "order",
    }
    assert r"\toprule" in (tmp_path / "out" / "table1.tex").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tabel1"], "Did you mean 'table1'?"),
        (["table1", "--runs", "nowhere"], "--runs nowhere: there is no such folder"),
    ],
)
def test_what_is_not_there_is_named(arguments: list[str], said: str, capsys) -> None:
    assert reproduce.main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_hours_are_those_of_the_port_eight_times() -> None:
    comparison = compare("table4")
    grpo = next(e for e in comparison.entries if e.method == "grpo" and e.backbone == "Qwen2.5-0.5B")
    assert grpo.cell is not None and gpu_hours(grpo.cell) == pytest.approx(15800 * 2 * 8 * 5.6 / 3600)
    zero_shot = compare("table1").entries[0]
    assert zero_shot.cell is not None and gpu_hours(zero_shot.cell) is None


def test_a_run_whose_settings_are_unknown_belongs_to_no_row() -> None:
    """It is unknown whether it was trained with the sweep's settings."""
    cell = next(cell for cell in recorded_cells("table1", "mini") if cell.config.stage == "rl")
    group = collection({label_of(cell.config, "rl"): [{0: 0.1}]})
    part, left_out, others = runs_of(cell, group)
    assert part.empty and not others
    assert [problem.reason for problem in left_out] == ["without identity.json its settings are not known"]
