"""`analysis.wandb_check`: which faults it finds in W&B's files, and what it accepts."""

import json
from pathlib import Path

import pytest
import wandb

from analysis.wandb_check import main
from rlbench.base.jsonl import keep_rows
from rlbench.runs.directory import Run
from rlbench.tracking import TrackerIdentity, make_tracker


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of two attempts. Both measured update 2, because the second went back to update 1."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_MODE")
    target = Run(tmp_path / "runs" / "seed0", "rl", "grpo-relevance", 0, "0" * 8, {})
    target.set_status("done")
    for attempt, updates in ((1, (1, 2)), (2, (2, 3))):
        identity = TrackerIdentity("mini", "group", "rl", "name", attempt=attempt)
        tracker = make_tracker(["offline"], directory=target.root, identity=identity, config={})
        keep_rows(target.metrics_file, lambda row, first=updates[0]: row["step"] < first)
        for update in updates:
            metrics = {"reward": update / 3 + attempt, "kl": float("nan"), "advantage_mean@2": 0.1}
            target.append_metrics(update, "train", metrics)
            tracker.log({f"train/{name}": value for name, value in metrics.items()}, update)
        tracker.log_table("completions/test", ["text"], [["Heat (1995)"]], 2)
        tracker.finish()
    wandb.teardown()  # waits until the files are complete
    return target


def files(run: Run) -> list[Path]:
    return sorted(run.root.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def test_two_attempts_hold_one_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run.root.parent)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split() == ["seed0", "2", "9", "all"] and len(shown) == 2


def test_what_a_full_disk_lost(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    last = files(run)[-1]
    content = last.read_bytes()
    last.write_bytes(content[: content.index(b"train/reward") + 20])
    assert main([str(run.root.parent)]) == 1
    shown = capsys.readouterr().out
    assert "not all" in shown and f"seed0: {last.parent.name} is truncated" in shown
    assert "seed0: missing in W&B: train/reward at 3, train/kl at 3, train_by_rank/advantage_mean@2 at 3" in shown


def test_what_a_later_attempt_has_measured_again_is_not_missed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A killed attempt's file may lack points that the next attempt measured again."""
    first = files(run)[0]
    first.write_bytes(first.read_bytes()[:-10])
    assert main([str(run.root.parent)]) == 0


def test_other_values_and_absent_tables(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run.read_metrics()
    rows[0]["value"] += 1e-12
    run.metrics_file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (table,) = files(run)[0].parent.glob("files/media/table/**/*.json")
    table.unlink()
    assert main([str(run.root.parent)]) == 1
    shown = capsys.readouterr().out
    assert (
        "seed0: not the same: train/reward at 1" in shown and "and" not in shown.split("not the same")[1].split("\n")[0]
    )
    assert "names the table media/table/completions/test" in shown and "which is missing" in shown


def test_a_damaged_file(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    first = files(run)[0]
    content = bytearray(first.read_bytes())
    content[50] ^= 1
    first.write_bytes(content)
    assert main([str(run.root.parent)]) == 1
    assert "cannot be read: the chunk" in capsys.readouterr().out


def test_a_folder_without_wandb_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "has W&B files (tracker=offline" in capsys.readouterr().err
