"""`analysis.status` on run directories in every state."""

import fcntl
import json
import shlex

import pytest

from analysis.commands.status import commands, survey
from analysis.status import main
from rlbench.base.errors import BadInput
from rlbench.runs.directory import seal
from rlbench.runs.sweep_file import write_cells

SWEEP = {
    "cells": {
        f"mini-tiny/{name}-relevance/seed0-{number:08d}": {
            "command": ["python", "run.py", f"algorithm={name}"],
            "updates": 40,
        }
        for number, name in enumerate(["grpo", "gspo", "dapo", "rloo", "canon"])
    }
}


def make(folder, name, status, **progress):
    run = folder / "mini-tiny" / f"{name}-relevance"
    run = run / next(path.split("/")[-1] for path in SWEEP["cells"] if f"/{name}-" in path)
    run.mkdir(parents=True)
    (run / "STATUS").write_text(status)
    (run / ".lock").touch()
    if progress:
        (run / "progress.json").write_text(json.dumps(progress))
    if status.startswith("done"):
        seal(run)
    return run


def finish(run, reason=""):
    (run / "STATUS").write_text(f"done\n{reason}")
    seal(run)


@pytest.fixture
def experiment(tmp_path):
    """Runs that are done, running, interrupted and failed, and one that was never started."""
    write_cells(tmp_path, SWEEP["cells"])
    make(tmp_path, "grpo", "done\n", description="test", done=500, total=500, first=0, seconds=9.0)
    running = make(tmp_path, "gspo", "running\n", description="seed 0", done=20, total=40, first=10, seconds=30.0)
    make(tmp_path, "dapo", "running\n", description="seed 0", done=5, total=40, first=0, seconds=10.0)
    make(tmp_path, "rloo", "failed\nRuntimeError: planted\nmore\n")
    with (running / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield tmp_path


def states(folder):
    return {state.run.split("/")[1].split("-")[0]: state for state in survey(folder, now=2e9)}


def test_every_state_is_told_from_the_others(experiment):
    found = states(experiment)
    assert {name: state.state for name, state in found.items()} == {
        "grpo": "done",
        "gspo": "running",
        "dapo": "interrupted",
        "rloo": "failed",
        "canon": "missing",
    }
    assert found["rloo"].reason == "RuntimeError: planted"
    assert found["canon"].total == 40


def test_what_remains_is_at_the_rate_of_this_attempt(experiment):
    found = states(experiment)
    assert found["gspo"].remaining == pytest.approx(20 / (10 / 30))
    assert found["dapo"].remaining is None


def test_commands_complete_what_is_neither_done_nor_running(experiment):
    lines = commands(survey(experiment, now=2e9))
    assert sorted(shlex.split(line)[-1] for line in lines) == ["algorithm=canon", "algorithm=dapo", "algorithm=rloo"]


def test_a_cell_whose_input_was_wrong_is_not_offered_as_it_is(experiment, capsys):
    said = ", after what the notes name as wrong is corrected:"
    main([str(experiment)])
    assert said not in capsys.readouterr().out
    (failed,) = [path for path in experiment.rglob("STATUS") if path.read_text().startswith("failed")]
    failed.write_text("failed\nBadInput: the weights lack a\n")
    main([str(experiment)])
    assert f"These complete them{said}\n" in capsys.readouterr().out


def test_a_run_outside_of_a_sweep_has_the_command_of_its_manifest(tmp_path):
    run = make(tmp_path, "grpo", "failed\nOSError: disk full\n")
    (run / "manifest.json").write_text(json.dumps({"command": ["run.py", "algorithm=grpo", "reward.terms={a: 1}"]}))
    assert commands(survey(tmp_path, now=2e9)) == ["python run.py algorithm=grpo 'reward.terms={a: 1}'"]


def test_the_command_says_it_all_and_its_exit_code_whether_there_is_more_to_do(experiment, capsys):
    assert main([str(experiment)]) == 1
    shown = capsys.readouterr().out
    for word in ("1 done", "1 running", "1 interrupted", "1 failed", "1 missing", "RuntimeError: planted", "20/40"):
        assert word in shown
    assert main([str(experiment), "--commands"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 3
    for run in experiment.glob("mini-tiny/*/*"):
        finish(run)
    (experiment / "sweep.json").unlink()
    assert main([str(experiment)]) == 0


def test_a_pruned_cell_has_ended(experiment, capsys):
    """A pruned cell is listed with its reason and needs no command."""
    run = next(experiment.glob("mini-tiny/rloo*/*"))
    (run / "STATUS").write_text("pruned\npruned at update 40 by the search: validation ndcg@10 0.0100\n")
    found = states(experiment)["rloo"]
    assert found.state == "pruned" and found.reason.startswith("pruned at update 40")
    assert not any("rloo" in line for line in commands(survey(experiment, now=2e9)))
    main([str(experiment)])
    assert "1 pruned" in capsys.readouterr().out
    for other in experiment.glob("mini-tiny/*/*"):
        if other != run:
            finish(other)
    (experiment / "sweep.json").unlink()
    assert main([str(experiment)]) == 0


def test_a_folder_without_runs_is_an_error(tmp_path, capsys):
    with pytest.raises(BadInput, match="no run below"):
        survey(tmp_path, now=0.0)
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_a_done_cell_that_stopped_early_is_named(experiment, capsys):
    path = next((experiment / "mini-tiny" / "grpo-relevance").iterdir())
    finish(path, "stopped early at update 37: entropy 0.01\n")
    assert states(experiment)["grpo"].reason == "stopped early at update 37: entropy 0.01"
    main([str(experiment)])
    shown = capsys.readouterr().out
    assert "stopped early at update 37" in shown and "algorithm=grpo" not in shown


def test_a_damaged_cell_is_not_done(experiment, capsys):
    """Its damage is reported, and no command completes it until it is repaired or moved away."""
    run = next((experiment / "mini-tiny" / "grpo-relevance").iterdir())
    (run / "result.json").write_text("{}")
    finish(run)
    assert states(experiment)["grpo"].state == "done"
    (run / "result.json").write_text("[]")
    found = states(experiment)["grpo"]
    assert found.state == "damaged" and found.reason.startswith("result.json has changed since it was written. Restore")
    assert main([str(experiment)]) == 1
    shown = capsys.readouterr().out
    assert "1 damaged" in shown and "algorithm=grpo" not in shown


def test_a_status_that_no_run_writes_is_refused(experiment):
    run = next((experiment / "mini-tiny" / "grpo-relevance").iterdir())
    (run / "STATUS").write_text("missing\n")
    with pytest.raises(BadInput, match="is 'missing', but must be one of done, running, interrupted, failed, pruned:"):
        survey(experiment, now=2e9)
