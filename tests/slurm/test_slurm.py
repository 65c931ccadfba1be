"""Sweeps on a real SLURM cluster: `make test-slurm`, or `tests/slurm/cluster.sh && pytest -m slurm tests/slurm`."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlbench.config.schema import Config
from rlbench.launching.slurm import last_state, noted_job, squeue
from rlbench.runs.directory import DONE, FAILED, INTERRUPTED, Run, locate
from tests.conftest import SMALL, composed
from tests.helpers_preemption import PLUGIN, assert_same, folders, start, updates_done, wait_for

pytestmark = pytest.mark.slurm

UPDATES = 120
SLURM = [
    "hydra/launcher=slurm",
    "hydra.launcher.gpus=0",
    "hydra.launcher.cpus=1",
    "hydra.launcher.partition=spare",
    "hydra.launcher.minutes=10",
    "hydra.launcher.signal_seconds=30",
    "hydra.launcher.poll_seconds=1",
]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "planted.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def options(plugin) -> list[str]:
    """Settings of all runs here: two seconds of SFT, and an RL stage that saves only at its end."""
    return [
        *SMALL,
        "+debug=smoke",
        f"plugins=[{plugin}]",
        "algorithm.baseline=patient",
        f"trainer.rl.updates={UPDATES}",
        "trainer.rl.num_iterations=2",
        f"trainer.rl.save_every={UPDATES}",
        f"evaluation.every={UPDATES // 2}",
    ]


@pytest.fixture(autouse=True)
def clean_queue() -> Iterator[None]:
    """A running cluster, with no jobs of an earlier test in its queue."""
    assert squeue() is not None, "no cluster: run tests/slurm/cluster.sh"
    yield
    subprocess.run(["scancel", "--me"], check=True)
    wait_for(lambda: not squeue(), seconds=60)


def sweep(arguments: list[str], patience: float = 0.0) -> subprocess.Popen:
    os.environ["PATIENCE"] = str(patience)
    return start([*SLURM, *arguments, "-m"], start_new_session=True)


def cell(options: list[str], root: Path, *overrides: str) -> Config:
    return composed(*options, *folders(root), *overrides)


def restarts(run: Run) -> int:
    """Number of times SLURM requeued the job of a run."""
    shown = subprocess.run(["scontrol", "show", "job", "-o", noted_job(run)], capture_output=True, text=True).stdout
    return int(re.search(r"Restarts=(\d+)", shown)[1])


def hurry(run: Run) -> None:
    """Let the requeued job of a run start in 5 s instead of SLURM's two minutes.

    The job's old credential expires in that time. The job would not start in the second in which it is revoked.
    """
    job = noted_job(run)
    wait_for(lambda: squeue().get(job, ("", ""))[1] == "PENDING", seconds=60)
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now+5"], check=True)


@pytest.fixture(scope="module")
def undisturbed(plugin, tmp_path_factory) -> dict[int, Run]:
    """Results of `whole`, by seed."""
    return {}


def whole(undisturbed: dict[int, Run], options: list[str], root: Path, seed: int) -> Run:
    """The same cell, run without SLURM or signals."""
    if seed not in undisturbed:
        os.environ["PATIENCE"] = "0"
        process = start([*options, *folders(root / "whole"), f"seed={seed}"])
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        undisturbed[seed] = locate(cell(options, root / "whole", f"seed={seed}"), "rl")
    return undisturbed[seed]


def test_a_preempted_cell_resumes_and_the_same_line_attaches(options, undisturbed, tmp_path):
    """Four cells run on two cores; an urgent job takes one core, and the launcher is killed meanwhile."""
    line = [*options, *folders(tmp_path), "seed=0,1,2,3"]
    runs = [locate(cell(options, tmp_path, f"seed={seed}"), "rl") for seed in range(4)]
    launcher = sweep(line, patience=0.2)
    wait_for(lambda: sum(updates_done(run) > 4 for run in runs) == 2, launcher, seconds=120)
    urgent = subprocess.run(
        ["sbatch", "--parsable", "-p", "urgent", "-c", "1", "-o", "/dev/null", "--wrap", "sleep 3"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    wait_for(lambda: any(run.status() == INTERRUPTED for run in runs), launcher, seconds=60)
    (preempted,) = [run for run in runs if run.status() == INTERRUPTED]
    said = (preempted.root / "STATUS").read_text()
    update = int(
        re.fullmatch(
            rf"{INTERRUPTED}\nSIGTERM at update (\d+); run the same command again to continue from there\n", said
        )[1]
    )
    assert 4 < update < UPDATES and update % 2 == 0
    assert [path.name for path in preempted.checkpoints.glob("checkpoint-*")] == [f"checkpoint-{update}"]
    os.killpg(launcher.pid, signal.SIGKILL)
    launcher.communicate()
    hurry(preempted)

    jobs = [noted_job(run) for run in runs]
    submitted = sorted((tmp_path / "runs" / ".slurm").glob("*_submission.sh"))
    assert len(submitted) == 2  # the shared stage, and one array
    assert len({job.split("_")[0] for job in jobs}) == 1
    again = sweep(line, patience=0.2)
    output, _ = again.communicate(timeout=400)
    assert again.returncode == 0, output
    assert "are already in the queue" in output
    assert last_state(urgent) == "COMPLETED"
    assert [run.status() for run in runs] == [DONE] * 4
    assert [noted_job(run) for run in runs] == jobs and sorted(submitted[0].parent.glob("*_submission.sh")) == submitted
    assert [restarts(run) for run in runs] == [int(run == preempted) for run in runs]
    assert_same(preempted, whole(undisturbed, options, tmp_path, preempted.seed))


def test_a_failing_cell_is_reported_and_stops_no_other(options, tmp_path):
    short = [*options, "trainer.rl.updates=4", "trainer.rl.save_every=4", "evaluation.every=4"]
    launcher = sweep([*short, *folders(tmp_path), "algorithm.baseline=brittle,patient", "seed=0,1"])
    output, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 1, output
    assert "2 of 4 cells failed" in output
    assert "Traceback (most recent call last)" in output and "RuntimeError: planted: the baseline is broken" in output
    for baseline, status in (("brittle", FAILED), ("patient", DONE)):
        for seed in (0, 1):
            run = locate(cell(short, tmp_path, f"algorithm.baseline={baseline}", f"seed={seed}"), "rl")
            assert run.status() == status
            assert last_state(noted_job(run)) == ("FAILED" if status == FAILED else "COMPLETED")


def test_a_cell_that_needs_longer_than_its_time_limit_goes_on_after_it(options, undisturbed, tmp_path):
    """The limit is two minutes, SLURM warns after 60 to 90 s, and the run alone sleeps for two minutes."""
    limit = ["hydra.launcher.minutes=2", "hydra.launcher.signal_seconds=30"]
    launcher = sweep([*options, *folders(tmp_path), "seed=0", *limit], patience=2.0)
    run = locate(cell(options, tmp_path, "seed=0"), "rl")
    wait_for(lambda: run.status() == INTERRUPTED, launcher, seconds=200)
    assert "SIGUSR2 at update" in (run.root / "STATUS").read_text()
    while launcher.poll() is None:  # on a busy machine it is requeued more than once
        if squeue().get(noted_job(run), ("", ""))[1] == "PENDING":
            hurry(run)
        time.sleep(15)
    output, _ = launcher.communicate()
    assert launcher.returncode == 0, output
    assert run.status() == DONE and restarts(run) >= 1
    assert_same(run, whole(undisturbed, options, tmp_path, 0))


def test_a_stage_is_preempted_and_a_cancelled_cell_stays_cancelled(options, tmp_path):
    """The cells wait for their stage through its preemption; Ctrl-C leaves the jobs; scancel is not undone."""
    slow_stage = [*options, "trainer.sft.updates=600", "trainer.sft.save_every=600"]
    line = [*slow_stage, *folders(tmp_path), "seed=0,1"]
    runs = [locate(cell(slow_stage, tmp_path, f"seed={seed}"), "rl") for seed in (0, 1)]
    stage = locate(cell(slow_stage, tmp_path), "sft")
    launcher = sweep(line, patience=0.2)
    wait_for(lambda: updates_done(stage) > 10, launcher, seconds=120)
    subprocess.run(["scancel", "--signal=USR1", noted_job(stage)], check=True)
    wait_for(lambda: stage.status() == INTERRUPTED, launcher, seconds=60)
    hurry(stage)
    os.kill(launcher.pid, signal.SIGINT)
    output, _ = launcher.communicate(timeout=30)
    array = noted_job(runs[0]).split("_")[0]
    assert launcher.returncode == 130 and f"scancel {array}" in output, output
    wait_for(lambda: stage.status() == DONE, seconds=240)
    assert restarts(stage) == 1
    again = sweep(line, patience=0.2)
    wait_for(lambda: updates_done(runs[0]) > 4, again, seconds=120)
    subprocess.run(["scancel", noted_job(runs[0])], check=True)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 1 and "CANCELLED" in output, output
    assert [run.status() for run in runs] == [FAILED, DONE]
    assert restarts(runs[0]) == 0 and noted_job(runs[0]) not in squeue()
    once_more = sweep(line)
    output, _ = once_more.communicate(timeout=200)
    assert once_more.returncode == 0 and [run.status() for run in runs] == [DONE, DONE], output
