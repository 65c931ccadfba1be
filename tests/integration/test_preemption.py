"""Real runs are stopped by real signals and continued by the same command."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from analysis.commands.status import survey
from rlbench.config.schema import Config
from rlbench.running.runner import run
from rlbench.runs.directory import DONE, INTERRUPTED, PREEMPTED, Run, locate
from tests.conftest import composed
from tests.helpers_forked import run_py
from tests.helpers_preemption import LONG, STATEFUL, assert_same, folders, updates_done, wait_for
from tests.helpers_wandb import find_runs


def cell(root: Path, *overrides: str) -> Config:
    return composed(*LONG, *folders(root), *overrides)


def said(run: Run) -> str:
    return (run.root / "STATUS").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Run]:
    """SFT and RL of an uninterrupted run."""
    config = cell(tmp_path_factory.mktemp("whole"), *STATEFUL)
    run(config)
    return {stage: locate(config, stage) for stage in ("sft", "rl")}


@pytest.mark.slow
def test_a_run_that_is_stopped_twice_is_bit_for_bit_one_never_stopped(whole, tmp_path):
    command, config = [*LONG, *STATEFUL, *folders(tmp_path)], cell(tmp_path, *STATEFUL)
    sft, rl = locate(config, "sft"), locate(config, "rl")

    process = run_py(tmp_path / "log.txt", *command)
    wait_for(lambda: updates_done(sft) > 2, process)
    process.send_signal(signal.SIGUSR1)
    output = process.output(60)
    assert process.returncode == PREEMPTED, output
    (checkpoint,) = sft.checkpoints.glob("checkpoint-*")
    update = int(checkpoint.name.split("-")[1])
    assert 2 < update < 60 and update % 10 == 0  # between two lines of the log, which are means over ten updates
    assert said(sft) == (
        f"{INTERRUPTED}\nSIGUSR1 at update {update}; run the same command again to continue from there\n"
    )
    assert not sft.final_model.exists() and not (sft.root / "result.json").exists()
    assert not rl.root.exists()

    process = run_py(tmp_path / "log.txt", *command, "tracker=offline")
    wait_for(lambda: updates_done(rl) > 2, process)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2):  # a second request does not break the checkpoint
        process.send_signal(number)
        time.sleep(0.05)
    output = process.output(60)
    assert process.returncode == PREEMPTED, output
    assert "interrupted: SIGTERM at update" in output and "Traceback" not in output
    (checkpoint,) = rl.checkpoints.glob("checkpoint-*")
    update = int(checkpoint.name.split("-")[1])
    assert 2 < update < 16 and update % 2 == 0  # a boundary between generations
    assert said(rl) == f"{INTERRUPTED}\nSIGTERM at update {update}; run the same command again to continue from there\n"
    assert not rl.final_model.exists() and not list(rl.root.glob("predictions-*"))
    (tracked,) = find_runs(rl.root)
    assert tracked.exit_code == 0 and [step for step, _ in tracked.curve("train/loss")] == list(range(1, update + 1))
    (state,) = [state for state in survey(tmp_path / "runs", time.time()) if "humanline" in state.run]
    assert state.state == INTERRUPTED and f"at update {update}" in state.reason

    run(config)
    for stage, target in (("sft", sft), ("rl", rl)):
        assert target.status() == DONE
        assert_same(target, whole[stage])


@pytest.mark.slow
def test_a_run_held_to_the_catalogue_goes_on_bit_for_bit(tmp_path):
    """The constraint holds no state between updates, and sampling under it depends on the step only."""
    held = ["generation.constraint=catalogue", "generation.exclude=[repeats,seen]", "evaluation.samples=2",
            "evaluation.pass_at=[1,2]", "trainer.sft.updates=20", "trainer.sft.save_every=20"]  # fmt: skip
    never = cell(tmp_path / "never", *held)
    assert never.evaluation.constraint == "catalogue"
    run(never)
    command, config = [*LONG, *held, *folders(tmp_path)], cell(tmp_path, *held)
    target = locate(config, "rl")
    process = run_py(tmp_path / "log.txt", *command)
    wait_for(lambda: updates_done(target) > 2, process, seconds=180)
    process.send_signal(signal.SIGTERM)
    output = process.output(120)
    assert process.returncode == PREEMPTED, output
    (checkpoint,) = target.checkpoints.glob("checkpoint-*")
    assert 2 < int(checkpoint.name.split("-")[1]) < 16
    run(config)
    assert_same(target, locate(never, "rl"))
    texts = [pd.read_parquet(one.root / "predictions-test-16.parquet")["text"] for one in (target, locate(never, "rl"))]
    assert texts[0].tolist() == texts[1].tolist()


@pytest.mark.slow
def test_ctrl_c_on_one_run_says_interrupted_and_the_run_goes_on(whole, tmp_path):
    often = ["trainer.sft.save_every=2"]
    command, config = [*LONG, *STATEFUL, *often, *folders(tmp_path)], cell(tmp_path, *STATEFUL, *often)
    sft = locate(config, "sft")
    process = run_py(tmp_path / "log.txt", *command)
    wait_for(lambda: updates_done(sft) > 2, process, seconds=180)
    process.send_signal(signal.SIGINT)
    output = process.output(60)
    assert process.returncode == 130 and "Traceback" not in output, output
    assert said(sft) == f"{INTERRUPTED}\nCtrl-C; run the same command again to continue from the last checkpoint\n"
    (state,) = [state for state in survey(tmp_path / "runs", time.time()) if "sft" in state.run]
    assert state.state == INTERRUPTED and "Ctrl-C" in state.reason

    run(config)
    for stage, target in (("sft", sft), ("rl", locate(config, "rl"))):
        assert target.status() == DONE
        assert_same(target, whole[stage])


@pytest.mark.slow  # half a minute, and more than a minute to end on a busy machine
def test_ctrl_c_lets_a_cell_of_a_sweep_end_with_a_checkpoint(tmp_path):
    """As at Ctrl-C in a terminal, the launcher and all its children receive SIGINT at once."""
    forever = [
        "trainer.sft.updates=2",
        "trainer.rl.updates=5000",
        "trainer.rl.save_every=5000",
        "evaluation.every=5000",
    ]
    command = [*LONG, *forever, *folders(tmp_path), "-m"]
    run(cell(tmp_path, *forever, "stage=sft"))  # otherwise the sweep starts a process for it
    target = locate(cell(tmp_path, *forever), "rl")
    process = run_py(tmp_path / "log.txt", *command, new_session=True)
    try:
        wait_for(lambda: updates_done(target) > 0, process, seconds=120)
        os.killpg(process.pid, signal.SIGINT)
        output = process.output(180)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended as it should
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, output
    assert "run the same command again to continue from the last checkpoints" in output and "Traceback" not in output
    assert target.status() == INTERRUPTED and "SIGTERM at update" in said(target)
    (checkpoint,) = target.checkpoints.glob("checkpoint-*")
    assert (checkpoint / "rlbench.json").exists()
