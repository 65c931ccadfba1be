"""Totals over runs: a stage that several experiments share is paid for once."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.collection import Collection, collect
from analysis.collection.costs import place_of, total_cost
from analysis.collection.stored import update
from analysis.html.budgets import cost_note
from analysis.report import main
from tests.helpers_analysis import GROUP, budget, edit_result, queries, write_run

COLUMNS = {f"{metric}@{k}": [0.5, 0.25] for metric in ("recall", "ndcg") for k in (5, 10)} | {"in_catalog": [1.0, 1.0]}
SECOND = GROUP.replace("mini/", "second/")


def written(runs: Path, label: str, seconds: float, group: str = GROUP, **more: object) -> Path:
    spent = budget(1, 1, 1, 1, seconds) | {"energy_joules": {"cpu": 10 * seconds, "gpu": None}} | more
    return write_run(runs, label, 0, queries(COLUMNS, ["a", "b"]), spent=spent, group=group)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two experiments; the second adopted the SFT stage of the first."""
    made = written(tmp_path / "runs", "sft", 100.0)
    place = made.relative_to(tmp_path / "runs").as_posix()
    for label, seconds in (("grpo-dcg", 20.0), ("gspo-dcg", 20.0)):
        written(tmp_path / "runs", label, seconds)
    written(tmp_path / "runs", "grpo-dcg", 3.0, SECOND)
    written(tmp_path / "runs", "sft", 100.0, SECOND, adopted_from=place)
    return tmp_path / "runs"


def seconds(folder: Path) -> float:
    return total_cost(collect(folder).runs, folder).seconds


def test_a_shared_stage_counts_once(runs: Path) -> None:
    found = collect(runs).runs
    assert found["seconds"].sum() == 243
    cost = total_cost(found, runs)
    assert (cost.seconds, cost.joules, cost.shared) == (143, 1430, ())
    assert total_cost(found[::-1], runs) == cost


def test_an_experiment_alone_counts_what_it_has_taken_and_says_so(runs: Path) -> None:
    cost = total_cost(collect(runs / "second").runs, runs / "second")
    assert (cost.seconds, cost.shared_seconds) == (103, 100)
    ((run, maker),) = cost.shared
    assert "/sft/seed0-" in run and maker.startswith(f"{GROUP}/sft/seed0-")
    note = cost_note(collect(runs / "second").runs, runs / "second")
    assert note == (
        "All runs together: 1 min 43 s, 0.286 Wh. Of that, 1 min 40 s was spent by other experiments, and counts "
        f"there too: sft/{Path(run).name} (from {maker})."
    )
    assert cost_note(collect(runs / "mini").runs, runs / "mini") == "All runs together: 2 min 20 s, 0.389 Wh."


def test_two_experiments_that_took_one_stage_pay_once_where_its_maker_is_gone(runs: Path) -> None:
    place = next((runs / GROUP / "sft").iterdir()).relative_to(runs).as_posix()
    written(runs, "sft", 100.0, "third/mini-tiny", adopted_from=place)
    assert seconds(runs) == 143
    shutil.rmtree(runs / "mini")
    assert seconds(runs) == 103


def test_two_runs_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for folder, time in (("a", 5.0), ("b", 6.0)):
        written(tmp_path / folder, "sft", time)
    frames = [collect(tmp_path / folder).runs.assign(run=lambda f, d=folder: f"{d}/" + f["run"]) for folder in "ab"]
    assert total_cost(pd.concat(frames, ignore_index=True), tmp_path).seconds == 11


def test_a_place_does_not_depend_on_the_folder_that_was_searched(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = next((runs / GROUP / "sft").iterdir())
    whole = run.relative_to(runs).as_posix()
    for folder in (runs, runs / "mini", run.parent):
        assert place_of(folder, run.relative_to(folder).as_posix()) == whole
    monkeypatch.chdir(runs / "mini")
    assert place_of(Path("."), run.relative_to(runs / "mini").as_posix()) == whole


def test_a_collection_tells_the_same(runs: Path, tmp_path: Path) -> None:
    update(runs, tmp_path / "collected")
    collection: Collection = collect(tmp_path / "collected")
    assert total_cost(collection.runs, collection.source.folder).seconds == 143
    table = pd.read_parquet(tmp_path / "collected/runs.parquet")
    assert table["adopted_from"].notna().sum() == 1


def test_a_report_gives_the_total_and_names_what_was_taken(runs: Path, tmp_path: Path) -> None:
    assert main([str(runs), "--out", str(tmp_path / "out"), "--resamples", "50"]) == 0
    index = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "All runs together: 2 min 23 s, 0.397 Wh. A stage shared by experiments counts once." in index
    page = (tmp_path / "out" / SECOND / "report.html").read_text(encoding="utf-8")
    assert "1 min 40 s was spent by other experiments" in page


def test_a_place_of_the_wrong_type_is_refused(runs: Path) -> None:
    path = next((runs / GROUP / "sft").iterdir())
    edit_result(path, budget=budget(1, 1, 1, 1, 100.0) | {"adopted_from": 3})
    (problem,) = (problem for problem in collect(runs).problems if problem.left_out)
    assert "budget.adopted_from" in problem.reason
