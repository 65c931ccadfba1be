"""Default output folders: two commands never write different content to the same file."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis import ablation, collect, convergence, curves, report, reported, reproduce, select
from analysis.command import default_folder
from analysis.commands.rescore import default_out
from analysis.outputs import WRITTEN
from analysis.tables.__main__ import main as tables
from tests.helpers_analysis import edit_result
from tests.helpers_report import write_full_sweep


@pytest.mark.parametrize(
    ("runs", "folder"),
    [
        ("runs/mini", "reports/mini"),
        ("runs/mini-rescored/strict", "reports/mini-rescored/strict"),
        ("runs/other-rescored/strict", "reports/other-rescored/strict"),
        ("runs", "reports/runs"),
        ("somewhere/mini", "reports/somewhere/mini"),
        ("reports/mini/collected", "reports/mini"),
        ("collected", "reports/collected"),
        (".", None),
        ("/elsewhere/mini", "reports/mini"),
    ],
)
def test_the_folder_follows_the_runs(
    runs: str, folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_folder(Path(runs)) == Path(folder or f"reports/{tmp_path.name}")


def test_a_curve_of_one_point_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_full_sweep(Path("runs/mini"), {"grpo-relevance": 0.02}, seeds=1, contexts=8, updates=6)
    assert convergence.main(["runs/mini"]) == 2
    assert "ndcg@10 was measured on validation only once in a run of grpo-relevance" in capsys.readouterr().err


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != WRITTEN)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_no_two_commands_write_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_full_sweep(
        Path("runs/mini"), {"grpo-relevance": 0.02, "rank_grpo-relevance": 0.05}, seeds=2, contexts=8, updates=50
    )
    collection = "reports/mini/collected"
    few = ["--resamples", "20"]
    commands: dict[str, Callable[[], int]] = {
        "report": lambda: report.main(["runs/mini", *few]),
        "tables": lambda: tables(["runs/mini", *few]),
        "tables, another spec": lambda: tables(["runs/mini", "--spec", "mine.yaml", *few]),
        "convergence": lambda: convergence.main(["runs/mini"]),
        "ablation": lambda: ablation.main(["runs/mini", *few]),
        "curves": lambda: curves.main(["runs/mini", "--metrics", "ndcg@10"]),
        "reported": lambda: reported.main(["--backbone", "Qwen2.5-0.5B"]),
        "collect": lambda: collect.main(["runs/mini"]),
        "reproduce": lambda: reproduce.main(["table1", *few]),
        "reproduce, the twin": lambda: reproduce.main(["table1", "--twin", "mini", *few]),
        "tables of the collection": lambda: tables([collection, "--spec", "comparison", *few]),
    }
    Path("mine.yaml").write_text("title: Mine\nrows:\n  - where: {stage: rl}\ncolumns:\n  - metric: recall@5\n")
    before = digests(tmp_path)
    for name, command in commands.items():
        assert command() == 0, name
        after = digests(tmp_path)
        changed = {file for file, digest in before.items() if after.get(file) != digest}
        assert not changed, f"{name} changed {changed}"
        assert name == "tables of the collection" or after.keys() > before.keys(), name
        before = after
    assert {"reports/mini/table.csv", "reports/mini/tables/comparison/table.csv"} <= before.keys()


def test_rescored_runs_lie_beside_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_out(Path("runs/mini")) == tmp_path / "runs/mini-rescored"
    assert default_out(Path("runs/other")) == tmp_path / "runs/other-rescored"
    assert default_out(Path(".")) == tmp_path.with_name(f"{tmp_path.name}-rescored")


def test_select_writes_nothing_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lr = {f"grpo-relevance-lr{rate}": 0.02 for rate in (1, 2)}
    write_full_sweep(Path("runs/mini"), lr, seeds=1, contexts=8, updates=6)
    for path in sorted(Path("runs/mini").rglob("result.json")):
        label = json.loads(path.read_text())["label"]
        if "lr" in label:
            edit_result(path.parent, reward="relevance", variant=label.rpartition("-")[2])
    before = digests(tmp_path)
    monkeypatch.setattr("sys.argv", ["select", "runs/mini"])
    assert select.main() == 0
    assert digests(tmp_path) == before
