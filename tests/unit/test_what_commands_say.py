"""What commands say to a folder that they cannot use, at their end, and into a pipe."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from analysis import collect, report, status, wandb_check
from rlbench.running import plan
from tests.conftest import composed
from tests.helpers_analysis import queries, write_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    scores = {"recall@10": [0.1, 0.2], "ndcg@10": [0.1, 0.3], "in_catalog": [1.0, 1.0]}
    write_run(tmp_path / "runs", "sft", 0, queries(scores, ["a", "b"]), cutoffs=[10])
    return tmp_path / "runs"


@pytest.mark.parametrize(("name", "main"), [("status", status.main), ("wandb_check", wandb_check.main)])
def test_a_missing_folder_and_a_collection_are_each_one_error(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, main
) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"analysis.{name}: there is no folder {tmp_path / 'none'}\n"
    stored = tmp_path / "collected"
    assert collect.main([str(runs), "--out", str(stored)]) == 0
    capsys.readouterr()
    assert main([str(stored)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"analysis.{name}: {stored} is a collection, which has no ")
    assert line.endswith("; give the folder of the runs")


def test_one_resample_is_refused_with_the_reason(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        report.main([str(runs), "--resamples", "1"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "--resamples: 1 is too few: a 95 % interval ends at the 2.5 % and 97.5 % quantiles" in said
    assert "use at least 20, or 2000 for numbers to report" in said


def test_a_plan_in_a_pipe_breaks_no_path() -> None:
    place = f"runs/{'long_name_of_an_experiment/' * 8}seed0"
    table = Table("stage", "status", box=None)
    table.add_row("sft", f"taken from {place}")
    piped = io.StringIO()
    plan._print(table, Console(file=piped, width=80))
    assert any(line.endswith(f"taken from {place}") for line in map(str.rstrip, piped.getvalue().splitlines()))
    assert max(map(len, piped.getvalue().splitlines())) < 300
    shown = io.StringIO()
    plan._print(table, Console(file=shown, width=80, force_terminal=True, color_system=None))
    assert max(map(len, shown.getvalue().splitlines())) <= 80


def test_the_next_command_names_the_experiment() -> None:
    mine = composed("experiment_name=mine").group_dir.parent
    assert plan.report_command(mine) == "python -m analysis.report runs/mine"
    assert (
        plan.report_command(composed("runs_dir='/a b'").group_dir.parent) == "python -m analysis.report '/a b/default'"
    )
    assert plan.status_command(mine) == "python -m analysis.status runs/mine"
