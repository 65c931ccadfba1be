"""Start `run.py` as a user does, on one or several processes, and compare the results."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from safetensors.torch import load_file

from rlbench.config.schema import Config
from rlbench.running.cli import CONF
from rlbench.runs.directory import Run, locate
from tests.conftest import SMALL, composed

RUN_PY = CONF.parent / "run.py"
HASHED_ROLLOUTS = Path(__file__).parent / "plugins" / "hashed_rollouts.py"

SHORT = [
    *SMALL,
    "+debug=smoke",
    "reward=dcg",
    f"plugins=[{HASHED_ROLLOUTS}]",
    "evaluation.validation_contexts=null",
    "evaluation.test_contexts=null",
    "evaluation.batch_size=2",  # several batches, to be distributed
    "dataset.demonstrations=20",  # an epoch has 8 + 8 + 4: its last step must be filled up
    "trainer.sft.updates=12",
    "trainer.sft.batch_size=8",
    "trainer.sft.micro_batch_size=8",  # 4 if two processes share them
    "trainer.sft.save_every=6",
    "trainer.rl.updates=4",
    "trainer.rl.completions_per_update=16",
    "trainer.rl.micro_batch_size=4",
    "trainer.rl.num_iterations=2",
    "trainer.rl.learning_rate=1e-3",
    "algorithm.kl.beta=0.05",
    "generation.max_new_tokens=48",
]
"""Overrides for a run of all stages in seconds."""

ALONE = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ACCELERATE = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes=2",
    "--main_process_port=0",
]


def folders(root: Path) -> list[str]:
    return [f"runs_dir={root / 'runs'}", f"cache_dir={root / 'cache'}"]


def stage(root: Path, name: str, *overrides: str) -> Run:
    return locate(cell(root, *overrides), name)


def cell(root: Path, *overrides: str) -> Config:
    return composed(*SHORT, *folders(root), *overrides)


def start(launcher: Sequence[str], root: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    options = {option.split("=")[0]: option for option in (*SHORT, *folders(root), *overrides)}  # the last one counts
    command = [*launcher, str(RUN_PY), *options.values()]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def finish(process: subprocess.Popen[str], limit: float = 300) -> str:
    """Wait for the end and return the output. A process that does not end is killed with all its children."""
    try:
        return process.communicate(timeout=limit)[1]
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.communicate()
        raise


def succeed(process: subprocess.Popen[str]) -> str:
    errors = finish(process)
    assert process.returncode == 0, errors
    return errors


def worker(process: subprocess.Popen[str], rank: int) -> psutil.Process:
    """The process with this number below a launcher."""
    found = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.environ().get("RANK") == str(rank)
    ]
    assert found
    return found[0]


def wait_for_update(process: subprocess.Popen[str], run: Run, update: int) -> None:
    """Wait until the run has measured the loss of an update."""
    while max((row["step"] for row in run.read_metrics() if row["metric"] == "loss"), default=0) < update:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def measured(run: Run) -> dict[tuple[int, str, str], float]:
    return {(row["step"], row["split"], row["metric"]): row["value"] for row in run.read_metrics()}


def predictions(run: Run) -> dict[str, pd.DataFrame]:
    return {path.name: pd.read_parquet(path) for path in sorted(run.root.glob("predictions-*.parquet"))}


def weights(run: Run) -> dict[str, torch.Tensor]:
    files = [run.final_model / name for name in ("adapter_model.safetensors", "model.safetensors")]
    return load_file(next(file for file in files if file.exists()))


def counts(run: Run) -> dict[str, int]:
    """Return the counts of a budget, without the number of attempts, which differs between killed and whole runs."""
    budget = json.loads((run.root / "budget.json").read_text())
    return {key: value for key, value in budget.items() if isinstance(value, int) and key != "attempts"}


def assert_identical(one: Run, other: Run) -> None:
    """Metrics, predictions, weights and counts of the budget are equal, bit for bit."""
    assert measured(one) == measured(other) and counts(one) == counts(other)
    for name, table in predictions(one).items():
        pd.testing.assert_frame_equal(table, predictions(other)[name], check_exact=True)
    there = weights(other)
    assert all(torch.equal(value, there[name]) for name, value in weights(one).items())


def assert_close(one: Run, other: Run, absolute: float, loose: dict[str, float]) -> None:
    """Metrics agree to `absolute`, those named in `loose` to a relative tolerance; counts of the budget are equal."""
    here, there = measured(one), measured(other)
    assert here.keys() == there.keys() and counts(one) == counts(other)
    for key, value in here.items():
        bound = absolute + loose.get(key[2], 0.0) * abs(value)
        assert np.isclose(value, there[key], rtol=0, atol=bound), (key, value, there[key])
