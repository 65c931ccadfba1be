"""Runs in separate processes that are asked to stop, and comparisons of their results."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from rlbench.running.cli import CONF
from rlbench.runs.directory import Run
from tests.conftest import SMALL

RUN_PY = CONF.parent / "run.py"

LONG = [
    *SMALL,
    "+debug=smoke",
    "trainer.sft.updates=60",
    "trainer.sft.save_every=60",
    "trainer.rl.updates=16",
    "trainer.rl.num_iterations=2",
    "trainer.rl.save_every=16",
    "evaluation.every=8",
]
"""Overrides of a run that saves only at the end of a stage and is long enough to be stopped in the middle of one."""

STATEFUL = [
    "algorithm=humanline",
    "algorithm.baseline=effective_rank",
    "algorithm.credit=rank",
    "+algorithm.regularisers.siren=0.01",
    "+algorithm.regularisers.sft=0.1",
]
"""Every kind of state that a run keeps between updates: an anchor, running means, a reference that follows."""

PLUGIN = """
import os
import time

import torch

from rlbench.objective.inputs import Group
from rlbench.objective.pieces import baselines


@baselines.piece(shift="invariant", scale="equivariant")
def patient(group: Group) -> torch.Tensor:
    time.sleep(float(os.environ.get("PATIENCE", "0")))
    return group.returns - group.returns.mean(dim=1, keepdim=True)


@baselines.piece(shift="invariant", scale="equivariant")
def brittle(group: Group) -> torch.Tensor:
    raise RuntimeError("planted: the baseline is broken")
"""
"""Baselines that make the run's length and failure independent of the machine; `patient` changes no number."""


def folders(root: Path) -> list[str]:
    return [f"runs_dir={root / 'runs'}", f"cache_dir={root / 'cache'}"]


def start(overrides: Sequence[str], **options: Any) -> subprocess.Popen:
    """Start `run.py` and capture its output."""
    return subprocess.Popen(
        [sys.executable, str(RUN_PY), *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,
    )


def wait_for(what: Callable[[], bool], process: subprocess.Popen | None = None, seconds: float = 60.0) -> None:
    """Wait until a condition holds. Fails if the process ends first, or after a time limit."""
    deadline = time.monotonic() + seconds
    while not what():
        ended = process is not None and process.poll() is not None
        assert not ended, process.communicate()[0] if process else ""
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def updates_done(run: Run) -> int:
    """The last update recorded in the run directory."""
    return max((row["step"] for row in run.read_metrics() if row["split"] == "train"), default=0)


def assert_same(target: Run, whole: Run) -> None:
    """Metrics, weights and the counts of the budget of two finished runs are equal, bit for bit."""

    def rows(run: Run) -> list[dict[str, Any]]:
        return sorted(run.read_metrics(), key=lambda row: (row["step"], row["split"], row["metric"]))

    def counts(run: Run) -> dict[str, Any]:
        budget = json.loads((run.root / "budget.json").read_text())
        return {name: budget[name] for name in ("prompts", "completions", "generated_tokens", "updates")}

    assert rows(target) == rows(whole) and rows(whole)
    assert counts(target) == counts(whole)
    weights, other = (load_file(run.final_model / "model.safetensors") for run in (target, whole))
    assert weights.keys() == other.keys() and all((weights[name] == other[name]).all() for name in other)
