"""Parts of the SLURM launcher that need no cluster: settings, refusals, and a dry run."""

import sys
from pathlib import Path

import pytest

from rlbench.launching.cells import Cell
from rlbench.launching.slurm import SlurmSettings, last_traceback, missing_software
from rlbench.runs.directory import FAILED, locate
from tests.conftest import SMALL, composed
from tests.helpers_forked import Forked, run_py
from tests.helpers_preemption import RUN_PY

SETTINGS = SlurmSettings(
    partition="gpu",
    account=None,
    qos=None,
    minutes=60,
    gpus=2,
    cpus=8,
    memory_gb=1.5,
    signal_seconds=90,
    max_requeues=3,
    setup=["module load cuda"],
    sbatch={"constraint": "a100"},
    poll_seconds=5,
)


def changed(**values) -> SlurmSettings:
    return SlurmSettings(**(vars(SETTINGS) | values))


def test_settings_become_what_sbatch_is_asked_for():
    asked = SETTINGS.parameters(jobs=7)
    assert asked["partition"] == "gpu" and "account" not in asked and "qos" not in asked
    assert (asked["time"], asked["signal_delay_s"], asked["array_parallelism"]) == (60, 90, 7)
    assert (asked["gpus_per_node"], asked["cpus_per_task"], asked["mem"]) == (2, 8, "1536M")
    assert asked["srun_args"] == ["--cpus-per-task=8"]
    assert asked["setup"][-1] == "module load cuda" and str(RUN_PY.parent) in asked["setup"][0]
    assert asked["additional_parameters"] == {"requeue": True, "constraint": "a100"}
    assert "gpus_per_node" not in changed(gpus=0).parameters(1)


def test_good_settings_have_no_problem():
    assert SETTINGS.problems(jobs=1) == []


@pytest.mark.parametrize(
    ("values", "jobs", "said"),
    [
        ({"minutes": 0}, 1, "hydra.launcher.minutes = 0 must be a whole number of at least 1"),
        ({"cpus": 0}, 1, "cpus = 0"),
        ({"cpus": 1.5}, 1, "cpus = 1.5 must be a whole number of at least 1"),
        ({"cpus": True}, 1, "cpus = True must be a whole number"),
        ({"minutes": 2**40}, 1, "minutes = 1099511627776 must be at most 2147483647"),
        ({"poll_seconds": float("inf")}, 1, "poll_seconds = inf must be a finite number"),
        ({"poll_seconds": float("nan")}, 1, "poll_seconds = nan must be a finite number"),
        ({"memory_gb": "much"}, 1, "memory_gb = much must be positive"),
        ({"memory_gb": float("nan")}, 1, "memory_gb = nan must be positive"),
        ({"gpus": -1}, 1, "gpus = -1"),
        ({"gpus": "two"}, 1, "gpus = two must be a whole number"),
        ({"max_requeues": -1}, 1, "max_requeues = -1"),
        ({"poll_seconds": 0}, 1, "poll_seconds = 0"),
        ({"memory_gb": 0}, 1, "memory_gb = 0 must be positive"),
        ({}, 0, "jobs = 0"),
        (
            {"minutes": 2, "signal_seconds": 120},
            1,
            "signal_seconds = 120 leaves no time to compute, because hydra.launcher.minutes = 2",
        ),
        ({"sbatch": {"array": "0-3"}}, 1, "sbatch.array is set by the launcher"),
    ],
)
def test_settings_that_cannot_work_are_named(values, jobs, said):
    (problem,) = changed(**values).problems(jobs)
    assert said in problem


def test_what_is_missing_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "submitit", None)
    first, second = missing_software()
    assert "pip install -r requirements-slurm.txt -c constraints.txt" in first
    assert "sbatch, srun, squeue, scontrol" in second


def test_the_last_traceback_of_a_log(tmp_path):
    log = tmp_path / "log.txt"
    assert last_traceback(log) == ""
    head = "Traceback (most recent call last):\n"
    log.write_text(f"{head}  first\nValueError: 1\nagain\n{head}  second\nValueError: 2\n")
    assert last_traceback(log) == f"{head}  second\nValueError: 2"


def launch(tmp_path: Path, *more: str) -> Forked:
    folders = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    own = ["-m", "hydra/launcher=slurm", *SMALL, "+debug=smoke", *folders, *more]
    return run_py(tmp_path / "log.txt", *own, environment={"PATH": "/nowhere"})


def test_a_dry_run_needs_no_cluster_and_a_run_says_what_it_needs(tmp_path):
    shown = launch(tmp_path, "runtime.dry_run=true", "hydra.launcher.partition=a100")
    assert shown.wait() == 0 and "partition: a100" in shown.output() and "signal_delay_s: 120" in shown.output()
    assert not (tmp_path / "runs" / "smoke").exists()
    refused = launch(tmp_path)
    assert refused.wait() == 2 and "SLURM's commands, but these were not found" in refused.output()


def test_an_interrupted_cell_says_why(tmp_path):
    config = composed(*SMALL, f"runs_dir={tmp_path}")
    cell = Cell([], [], config, locate(config, "rl"))
    assert "without a message" in cell.reason()
    cell.run.set_status(FAILED, "ValueError: 1\nmore")
    assert cell.reason() == "ValueError: 1"
    cell.run.set_status("interrupted", "SIGTERM at update 4; run the same command again to continue from there")
    assert cell.reason() == "SIGTERM at update 4; run the same command again to continue from there"
