"""A search started by its command, with real cells: `pytest -m slow tests/integration/test_search.py`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analysis.collection import collect
from analysis.commands.status import survey
from rlbench.running.cli import CONF
from rlbench.runs.directory import PRUNED
from tests.conftest import SMALL

pytestmark = pytest.mark.slow

RUN_PY = CONF.parent / "run.py"
# Popular films are the truths, so a short SFT learns something that RL can destroy.
LENGTH = [
    "+debug=smoke",
    "dataset.genre_weight=0",
    "dataset.era_weight=0",
    "dataset.taste_weight=0",
    "dataset.popularity_weight=20",
    "dataset.demonstration_noise=0",
    "trainer.sft.updates=100",
    "trainer.sft.batch_size=8",
    "trainer.sft.micro_batch_size=8",
    "trainer.sft.save_every=100",
    "generation.max_new_tokens=100",
    "trainer.rl.updates=16",
    "trainer.rl.save_every=16",
    "evaluation.every=2",
    "evaluation.validation_contexts=null",
    "evaluation.metric=recall@10",
]
# At 5.0 the first update destroys the model, which then has no hits.
SEARCH = [
    "hydra/sweeper=optuna",
    "hydra.sweeper.sampler=grid",
    "hydra.sweeper.startup_trials=1",
    "trainer.rl.learning_rate=choice(1e-6,5.0)",
    "-m",
]


def start(folder: Path, *more: str) -> subprocess.Popen:
    own = [f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    command = [sys.executable, str(RUN_PY), *SMALL, *LENGTH, *own, *SEARCH, *more]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def states(experiment: Path) -> dict[str, str]:
    """State of each proposal's cell, by its learning rate."""
    if not experiment.is_dir() or not any(experiment.glob("*/*/*/STATUS")):
        return {}
    found = [state for state in survey(experiment, time.time()) if "learning_rate=" in state.run]
    return {state.run.split("learning_rate=")[1].split("/")[0]: state.state for state in found}


def test_a_search_that_is_killed_prunes_what_is_hopeless_and_ends_by_the_same_command(tmp_path):
    experiment = tmp_path / "runs" / "smoke"
    first = start(tmp_path)
    while "running" not in states(experiment).values():
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)  # the search, and the cell that it started
    first.communicate()
    assert list(states(experiment)) == ["1e-06"]
    again = start(tmp_path)
    _, said = again.communicate()
    assert again.returncode == 0, said
    assert "2 proposals, 0 already made, 2 to make" in said and "1 done, 1 pruned" in said
    assert "best: trainer.rl.learning_rate=1e-06" in said and "hydra.mode=RUN" in said
    assert states(experiment) == {"1e-06": "done", "5.0": PRUNED}
    pruned = next(experiment.glob("*/*learning_rate=5.0/*"))
    status = (pruned / "STATUS").read_text()
    assert "by the search: validation recall@10 0.0000" in status
    assert json.loads((pruned / "progress.json").read_text())["done"] < 16 and not (pruned / "result.json").exists()
    collection = collect(experiment)
    assert {problem.reason.split(" by")[0] for problem in collection.problems} == {
        status.split("\n")[1].split(" by")[0]
    }
    finished = start(tmp_path)
    _, said = finished.communicate()
    assert finished.returncode == 0 and "2 proposals, 2 already made, 0 to make" in said
