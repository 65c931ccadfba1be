"""The report command, called as a user calls it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.report import main
from rlbench.runs.directory import seal
from tests.helpers_analysis import budget, queries, write_run, write_sweep

ROOT = Path(__file__).parents[2]
PAGE = ["report.html"]
TABLES = ["table.csv", "table.md", "table.tex"]
FILES = ["curves.png", "curves.svg", *PAGE, *TABLES, "training.png", "training.svg"]
SCORES = {"recall@10": [0.1, 0.2], "ndcg@10": [0.1, 0.3], "in_catalog": [1.0, 1.0]}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    write_sweep(
        folder, {"rank_grpo-relevance": 0.08, "grpo-relevance": 0.03}, seeds=2, contexts=30, updates=30, every=10
    )
    return folder


def report(runs: Path, out: Path, *options: str) -> int:
    return main([str(runs), "--out", str(out), "--resamples", "200", *options])


def test_it_writes_table_and_curves_and_says_where(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "reports/mini"
    assert report(runs, out) == 0
    assert sorted(file.name for file in out.glob("[!.]*")) == FILES
    shown = capsys.readouterr().out
    assert "rank_grpo · relevance" in shown and "Δ NDCG@10 to SFT" in shown
    last = shown.rstrip().splitlines()[-9:]
    assert last[0] == "Wrote"
    assert sorted(line.strip() for line in last[1:]) == [str(out / name) for name in FILES]
    assert "Left out" not in shown


def test_two_calls_write_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert report(runs, one) == report(runs, two) == 0
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_unfinished_runs_are_named_and_the_report_is_made_without_them(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next((runs / "mini/mini-tiny/grpo-relevance").glob("seed1-*"))
    (path / "STATUS").write_text("running\n")
    assert report(runs, tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert f"Left out (paths below {runs}):" in shown.replace("\n", "")
    assert f"{path.relative_to(runs)}: not finished (running or interrupted)" in shown
    table = (tmp_path / "out/table.csv").read_text()
    assert path.name not in table and "grpo-relevance,rl,grpo,relevance,1," in table


def test_problems_that_leave_nothing_out_are_told_apart(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next((runs / "mini/mini-tiny/grpo-relevance").glob("seed1-*"))
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "split": "train", "metric": "grad_norm", "value": NaN}\n')
    seal(path)
    assert report(runs, tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "Used, but note" in shown and "Left out" not in shown
    assert "train grad_norm is NaN or infinite at 1 of 30 points, first at update 30" in shown


@pytest.mark.parametrize("stage", ["oracle", "sft"])
def test_a_single_finished_stage_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str) -> None:
    write_run(tmp_path / "runs", stage, 0, queries(SCORES, ["a", "b"]), cutoffs=[10], spent=budget(5))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/curves.svg").write_text("of an earlier report")
    assert report(tmp_path / "runs", tmp_path / "out") == 0
    assert sorted(file.name for file in (tmp_path / "out").glob("[!.]*")) == ["older", *PAGE, *TABLES]
    assert "No curves.png: no RL run has validation metrics." in capsys.readouterr().out


def test_several_experiments_have_a_folder_each(runs: Path, tmp_path: Path) -> None:
    write_run(runs, "sft", 0, queries(SCORES, ["a", "b"]), cutoffs=[10], group="other/redial-tiny")
    assert report(runs, tmp_path / "out") == 0
    assert (tmp_path / "out/mini/mini-tiny/curves.svg").exists()
    assert (tmp_path / "out/other/redial-tiny/table.md").exists()


def test_the_short_form_prints_the_result_and_writes_nothing(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main([str(runs), "--short", "--resamples", "20"]) == 0
    said = capsys.readouterr().out
    assert "Δ NDCG@" in said and "Updates" not in said and "highest NDCG@" in said and "Wrote" not in said
    assert sorted(tmp_path.rglob("*")) == before
    assert main([str(runs), "--short", "--out", "x"]) == 2
    assert "--short writes nothing" in capsys.readouterr().err


def test_a_missing_folder_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(tmp_path / "nowhere", tmp_path / "out") == 2
    assert capsys.readouterr().err == f"analysis.report: there is no folder {tmp_path / 'nowhere'}\n"
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_finished_run_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", "sft", 0, queries(SCORES, ["a", "b"]), cutoffs=[10], status="failed\nOops: no\n")
    assert report(tmp_path / "runs", tmp_path / "out") == 2
    told = capsys.readouterr()
    assert told.err == (f"analysis.report: no finished run below {tmp_path / 'runs'}, so there is nothing to report\n")
    assert "failed (Oops: no)" in told.out
    assert not (tmp_path / "out").exists()


def test_the_folder_of_the_report_is_named_after_that_of_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "runs", "sft", 0, queries(SCORES, ["a", "b"]), cutoffs=[10])
    monkeypatch.chdir(tmp_path)
    assert main(["runs/mini"]) == 0
    assert (tmp_path / "reports/mini/table.md").exists()


def test_as_a_command() -> None:
    command = [sys.executable, "-m", "analysis.report"]
    told = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0
    for word in ("RUNS", "--out FOLDER", "--resamples N", "table.md", "curves.png", "training.svg", "exit code"):
        assert word in told.stdout
    wrong = subprocess.run([*command, "runs", "--resamples", "0"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "0 must be at least 1" in wrong.stderr


@pytest.mark.slow
def test_nothing_of_an_earlier_report_looks_like_this_one(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One group, then two, then one again. Files that the command did not write stay."""
    out = tmp_path / "out"
    assert report(runs, out) == 0
    (out / "notes.md").write_text("mine")
    other = write_run(runs, "sft", 0, queries(SCORES, ["a", "b"]), cutoffs=[10], group="other/redial-tiny")
    assert report(runs, out) == 0
    assert sorted(file.name for file in out.glob("[!.]*")) == ["mini", "notes.md", "older", "other", *PAGE]
    assert "Not written now" not in capsys.readouterr().out
    shutil.rmtree(other)
    assert report(runs, out) == 0
    shown = capsys.readouterr().out
    assert "Not written now (of an earlier call?), below" in shown
    assert "  mini/mini-tiny/report.html\n  other/redial-tiny/report.html\n" in shown


def test_a_table_that_the_user_put_beside_reports_of_several_experiments_stays(runs: Path, tmp_path: Path) -> None:
    write_run(runs, "sft", 0, queries(SCORES, ["a", "b"]), cutoffs=[10], group="other/redial-tiny")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/table.md").write_text("mine")
    assert report(runs, tmp_path / "out") == 0
    assert (tmp_path / "out/table.md").read_text() == "mine"
