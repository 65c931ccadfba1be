"""Preference optimisation as a user starts it: a killed run, two processes, sharded weights.

`pytest tests/integration/test_preference.py -m "slow or not slow"` runs everything, in a few minutes.
"""

import os
import shutil
import signal
import subprocess

import pytest

from rlbench.config.schema import Config
from rlbench.running.runner import run as run_cell
from rlbench.runs.directory import DONE, Run, locate
from tests.conftest import SMALL, composed
from tests.helpers_commands import (
    ALONE,
    RUN_PY,
    TORCHRUN,
    assert_close,
    assert_identical,
    finish,
    folders,
    succeed,
    wait_for_update,
    worker,
)
from tests.helpers_forked import run_py

SHORT = [
    *SMALL,
    "+debug=smoke",
    "algorithm=sprec",
    "algorithm.rounds=2",
    "algorithm.sft_share=0.25",
    "+reward.terms.tokens={weight:1.0,normaliser:24.0}",
    "trainer.rl.updates=8",
    "trainer.rl.completions_per_update=16",
    "trainer.rl.micro_batch_size=4",
    "trainer.rl.learning_rate=1e-3",
    "trainer.rl.save_every=2",
    "trainer.sft.max_length=400",
    "generation.max_new_tokens=24",
]


def words(root, *overrides) -> list[str]:
    """SHORT and the folders, in which overrides replace equal keys."""
    return list({word.partition("=")[0]: word for word in (*SHORT, *folders(root), *overrides)}.values())


def start(launcher, root, *overrides):
    if launcher == ALONE:
        return run_py(root / "log.txt", *words(root, *overrides))
    command = [*launcher, str(RUN_PY), *words(root, *overrides)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def config_of(root, *overrides) -> Config:
    return composed(*words(root, *overrides))


def rl(root, *overrides) -> Run:
    return locate(config_of(root, *overrides), "rl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an undisturbed run."""
    root = tmp_path_factory.mktemp("whole")
    run_cell(config_of(root))
    return root


def killed_at(update: int, launcher, root, *overrides, by=None) -> Run:
    process, run = start(launcher, root, *overrides), rl(root, *overrides)
    wait_for_update(process, run, update)
    by(process)
    finish(process, 120)
    assert process.returncode != 0 and run.status() != DONE
    return run


@pytest.mark.slow
def test_killed_and_resumed_is_never_killed(whole, tmp_path):
    """kill -9 in the second round, whose lists come from the policy after the first round."""
    shutil.copytree(whole / "cache", tmp_path / "cache")
    run = killed_at(5, ALONE, tmp_path, by=lambda process: process.kill())
    run_cell(config_of(tmp_path))
    assert_killed_is_whole(run, rl(whole))


def assert_killed_is_whole(run: Run, other: Run) -> None:
    assert run.status() == DONE and run.attempts() == 2
    budget = run.root / "budget.json"
    budget.write_text(budget.read_text().replace('"attempts": 2', '"attempts": 1'))
    assert_identical(run, other)


@pytest.mark.slow
def test_told_to_stop_and_resumed(whole, tmp_path):
    """As under a scheduler, the run stops at an update with the exit code for preemption, and resumes there."""
    shutil.copytree(whole / "cache", tmp_path / "cache")
    run = killed_at(2, ALONE, tmp_path, by=lambda process: process.send_signal(signal.SIGTERM))
    assert run.status() == "interrupted"
    run_cell(config_of(tmp_path))
    assert_killed_is_whole(run, rl(whole))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "algorithm"),
    [("ddp", "dpo"), ("fsdp2", "dpo"), ("ddp", "rpo"), ("ddp", "meta_apo"), ("ddp", "mnpo"), ("ddp", "orth_align")],
)
def test_two_processes_make_the_updates_of_one(strategy, algorithm, whole, tmp_path):
    """Both start from the same lists of one round; two processes would draw from separate streams."""
    overrides = [f"algorithm={algorithm}", "algorithm.rounds=1", "algorithm.sft_share=0"]
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(whole, one)
    succeed(start(ALONE, one, *overrides))
    shutil.copytree(one, two)
    run = rl(two, *overrides)
    for path in run.root.iterdir():
        if path.is_dir() and path.name != "preferences":
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
    for path in run.root.rglob("reference-*"):
        path.unlink()
    succeed(start(TORCHRUN, two, f"trainer={strategy}", *overrides))
    loose = {"entropy": 0.01, "kl": 0.1, "implicit_reward_margin": 0.01}
    assert_close(run, rl(one, *overrides), 1e-4, loose)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "rank"), [("ddp", 1), ("fsdp2", 0)])
def test_two_processes_are_killed_and_resumed(strategy, rank, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    succeed(start(TORCHRUN, undisturbed, f"trainer={strategy}"))
    run = killed_at(5, TORCHRUN, killed, f"trainer={strategy}", by=lambda process: worker(process, rank).kill())
    succeed(start(TORCHRUN, killed, f"trainer={strategy}"))
    assert_killed_is_whole(run, rl(undisturbed))
