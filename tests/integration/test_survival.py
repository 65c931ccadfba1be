"""Runs and sweeps killed many times: `pytest -m slow tests/integration/test_survival.py` takes minutes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from analysis.commands.status import survey
from rlbench.base.files import PARTIAL
from rlbench.config.schema import Config
from rlbench.running.cli import CONF
from rlbench.runs.attempts import attempts
from rlbench.runs.directory import DONE, Run, locate
from tests.conftest import SMALL, composed

pytestmark = pytest.mark.slow

RUN_PY = CONF.parent / "run.py"
KILLS = 20
SHORT = [
    *SMALL,
    "+debug=smoke",
    "trainer.sft.updates=4",
    "trainer.sft.save_every=1",
    "trainer.rl.updates=8",
    "trainer.rl.num_iterations=2",
    "trainer.rl.save_every=2",
    "evaluation.every=2",
]
# Every kind of state that a run keeps between updates: an anchor, running means, a reference that follows.
STATEFUL = [
    "algorithm=humanline",
    "algorithm.baseline=effective_rank",
    "algorithm.credit=rank",
    "+algorithm.regularisers.siren=0.01",
    "+algorithm.regularisers.sft=0.1",
]


def folders(root: Path) -> list[str]:
    return [f"runs_dir={root / 'runs'}", f"cache_dir={root / 'cache'}"]


def cell(root: Path, *overrides: str) -> Config:
    return composed(*SHORT, *folders(root), *overrides)


def start(root: Path, *arguments: str, **options) -> subprocess.Popen:
    last = {word.split("=")[0]: word for word in (*SHORT, *folders(root), *arguments)}
    command = [sys.executable, str(RUN_PY), *last.values()]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)


def record(target: Run) -> tuple[list[dict], dict, dict]:
    """Results that must not depend on kills: metrics, weights, and the counts of the budget."""
    rows = sorted(target.read_metrics(), key=lambda row: (row["step"], row["split"], row["metric"]))
    weights = load_file(target.final_model / "model.safetensors")
    budget = json.loads((target.root / "budget.json").read_text())
    measured = ("seconds", "peak_memory_bytes", "energy_joules", "attempts", "tokens_per_second", "mfu", "peak")
    return rows, weights, {key: value for key, value in budget.items() if key not in measured}


def assert_equal(target: Run, whole: Run) -> None:
    (rows, weights, budget), (other_rows, other_weights, other_budget) = record(target), record(whole)
    assert rows == other_rows and budget == other_budget
    assert all((weights[name] == other_weights[name]).all() for name in other_weights)


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory) -> tuple[dict[str, Run], float]:
    """SFT and RL of an uninterrupted run, and its total seconds."""
    root = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    process = start(root, *STATEFUL)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    config = cell(root, *STATEFUL)
    return {stage: locate(config, stage) for stage in ("sft", "rl")}, time.monotonic() - started


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_at_a_random_moment(number, never_killed, tmp_path):
    """After kill -9 at any moment of any stage, the same command gives an uninterrupted run's results, bit for bit."""
    whole, seconds = never_killed
    moment = random.Random(number).uniform(0.0, seconds)
    process = start(tmp_path, *STATEFUL)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()
    again = start(tmp_path, *STATEFUL)
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    config = cell(tmp_path, *STATEFUL)
    for stage, run in whole.items():
        target = locate(config, stage)
        assert target.status() == DONE
        assert_equal(target, run)
        outcomes = [attempt.read()["outcome"] for attempt in attempts(target.root)]
        assert outcomes in ([DONE], ["unknown", DONE])
        assert not [path for path in target.root.rglob("*") if path.name.endswith(PARTIAL)]
        best = next(iter(run.checkpoints.glob("best-*")), None)
        assert (
            best is None
            or (target.checkpoints / best.name / "model.safetensors").read_bytes()
            == (best / "model.safetensors").read_bytes()
        )


SAMPLED = {
    "replay": ["sampler=dots_replay", "sampler.capacity=20"],
    "rapo": ["sampler=rapo", "sampler.successes=20"],
    "attention": ["sampler=dots_attention", "sampler.capacity=20", "sampler.options.attention.references=4"],
    "clpo": ["sampler=clpo", "algorithm=clpo_kl", "rollout=modes"],
    "tree": ["sampler=entropy_tiers", "rollout=tree", "rollout.options.tree.every=2", "schedule=siri_stair"],
}


@pytest.mark.parametrize("choice", SAMPLED)
def test_what_samplers_remember_survives(choice, tmp_path):
    """After kill -9 in RL, the same command gives an uninterrupted run's results, bit for bit."""
    words = [*SAMPLED[choice], "reward.success={rule:total_at_least,threshold:0.0}", "trainer.rl.updates=16"]
    process = start(tmp_path / "whole", *words)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    whole = locate(cell(tmp_path / "whole", *words), "rl")
    target = locate(cell(tmp_path / "killed", *words), "rl")
    process = start(tmp_path / "killed", *words)
    while process.poll() is None and not (target.checkpoints / "checkpoint-6").exists():
        time.sleep(0.02)
    process.kill()
    process.communicate()
    again = start(tmp_path / "killed", *words)
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    assert [attempt.read()["outcome"] for attempt in attempts(target.root)] == ["unknown", DONE]
    assert_equal(target, whole)


PLUGIN = """
from pathlib import Path

import torch

from rlbench.objective.inputs import Group
from rlbench.objective.pieces import baselines


@baselines.piece(shift="invariant", scale="equivariant")
def brittle(group: Group) -> torch.Tensor:
    if Path(__file__).with_name("broken").exists():
        raise RuntimeError("planted: the baseline is broken")
    return group.returns - group.returns.mean(dim=1, keepdim=True)
"""


def test_a_sweep_of_24_cells_with_failures_and_a_killed_launcher(tmp_path):
    plugin, broken = tmp_path / "brittle.py", tmp_path / "broken"
    plugin.write_text(PLUGIN)
    broken.touch()
    # 22 cells in one command, and 2 that fail in another.
    plain = ["algorithm=grpo,rank_grpo", "seed=range(0,11)", "hydra.launcher.jobs=2", "-m"]
    brittle = ["algorithm=grpo", "algorithm.baseline=brittle", "variant=brittle"]
    planted = [f"plugins=[{plugin}]", *brittle, "seed=3,7", "-m"]
    killed = start(tmp_path, *plain, start_new_session=True)
    experiment = tmp_path / "runs" / "smoke"
    while sum(state.state == "done" and "rank" not in state.run for state in states(experiment)) < 5:
        assert killed.poll() is None
        time.sleep(0.5)
    os.killpg(killed.pid, signal.SIGKILL)  # the launcher and the cells that it started
    killed.communicate()
    seen = [state.state for state in states(experiment) if "grpo" in state.run]
    assert len(seen) == 22 and "missing" in seen and "running" not in seen
    failing = start(tmp_path, *planted)
    _, errors = failing.communicate()
    assert failing.returncode == 1 and "2 of 2 cells failed" in errors and "planted: the baseline is broken" in errors
    lost = [state for state in states(experiment) if state.state == "failed"]
    assert len(lost) == 2 and all("planted" in state.reason for state in lost)
    (attempt,) = attempts(experiment / lost[0].run)
    assert attempt.read()["outcome"] == "failed" and "planted: the baseline is broken" in attempt.read()["reason"]
    for file in (attempt.log_file, attempt.output_file):
        assert "Traceback" in file.read_text() and "planted: the baseline is broken" in file.read_text()
    assert str(attempt.log_file) in errors
    finished = {state.run for state in states(experiment) if state.state == "done"}
    before = {name: (experiment / name / "metrics.jsonl").stat().st_mtime_ns for name in finished}
    broken.unlink()
    for line in (plain, planted):
        again = start(tmp_path, *line)
        _, errors = again.communicate()
        assert again.returncode == 0, errors
    found = [state for state in states(experiment) if "grpo" in state.run]
    assert len(found) == 24 and {state.state for state in found} == {"done"}
    assert all((experiment / name / "metrics.jsonl").stat().st_mtime_ns == written for name, written in before.items())
    nothing = start(tmp_path, *plain)
    _, errors = nothing.communicate()
    assert nothing.returncode == 0 and "22 already done, 0 to run" in errors


def states(experiment: Path) -> list:
    return survey(experiment, time.time()) if (experiment / "sweep.json").exists() else []
