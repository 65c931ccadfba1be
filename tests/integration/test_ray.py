"""Sweeps on a local Ray: `pytest -m slow tests/integration/test_ray.py`, if Ray is installed."""

import os
import signal

import psutil
import pytest

from rlbench.runs.attempts import attempts
from rlbench.runs.directory import DONE, FAILED, INTERRUPTED, Run, locate
from tests.conftest import SMALL, composed
from tests.helpers_preemption import PLUGIN, folders, start, updates_done, wait_for

pytestmark = pytest.mark.slow
pytest.importorskip("ray")


@pytest.fixture
def options(tmp_path) -> list[str]:
    (tmp_path / "planted.py").write_text(PLUGIN)
    save = ["trainer.rl.updates=60", "trainer.rl.save_every=60", "evaluation.every=60"]
    return [*SMALL, "+debug=smoke", f"plugins=[{tmp_path / 'planted.py'}]", *save, *folders(tmp_path)]


def cell(options: list[str], *overrides: str) -> Run:
    return locate(composed(*options, *overrides), "rl")


def process_of(options: list[str], *overrides: str) -> psutil.Process:
    """The process of a cell."""
    wanted = {*options, *overrides, "hydra.mode=RUN"}
    (found,) = [process for process in psutil.process_iter() if wanted <= set(_command(process))]
    return found


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def test_a_stopped_cell_is_run_again_and_a_failing_one_reported(options):
    os.environ["PATIENCE"] = "0.3"
    launcher = start([*options, "hydra/launcher=ray", "algorithm.baseline=patient,brittle", "-m"])
    good, bad = (cell(options, f"algorithm.baseline={name}") for name in ("patient", "brittle"))
    wait_for(lambda: updates_done(good) > 2, launcher, seconds=200)
    process_of(options, "algorithm.baseline=patient").send_signal(signal.SIGTERM)
    output, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 1 and "1 of 2 cells failed" in output, output
    assert "planted: the baseline is broken" in output
    assert (good.status(), bad.status()) == (DONE, FAILED)
    assert "interrupted: SIGTERM at update" in attempts(good.root)[0].output_file.read_text()


def test_ctrl_c_lets_cells_end_with_a_checkpoint(options):
    os.environ["PATIENCE"] = "1"
    launcher = start([*options, "hydra/launcher=ray", "algorithm.baseline=patient", "-m"])
    run = cell(options, "algorithm.baseline=patient")
    wait_for(lambda: updates_done(run) > 2, launcher, seconds=200)
    launcher.send_signal(signal.SIGINT)
    output, _ = launcher.communicate(timeout=100)
    assert launcher.returncode == 130, output
    assert "run the same command again to continue from the last checkpoints" in output
    assert run.status() == INTERRUPTED and "SIGTERM at update" in (run.root / "STATUS").read_text()
    assert len(list(run.checkpoints.glob("checkpoint-*/rlbench.json"))) == 1
