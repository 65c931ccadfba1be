"""Runs the cells of a sweep as SLURM jobs, submitted through submitit: `hydra/launcher=slurm`.

Cells become job arrays. A shared SFT stage is its own job, and the array of its cells depends on it, so no GPU waits.
The launcher only submits and watches. Each run directory records its job (`slurm.json`). If the launcher stops or is
killed, the same command attaches to live jobs and submits the rest. The state of a job is read from the run directory
first, then from squeue and scontrol. sacct is not used, because it needs accounting, which some clusters lack.
"""

import contextlib
import fcntl
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from rlbench.base.errors import BadInput
from rlbench.base.program import import_path, install
from rlbench.config.bounds import COUNT, COUNT_OR_NONE, POSITIVE, Bound, number_problem
from rlbench.launching.base import SweepLauncher
from rlbench.launching.board import Board
from rlbench.launching.cells import Cell, missing_shared_stages
from rlbench.running.cli import fail
from rlbench.runs import attempts
from rlbench.runs.directory import (
    DONE,
    FAILED,
    Run,
    locate,
)
from rlbench.runs.record import JOB

"""File in a run directory with the run's last job: {"job": id}."""
FOLDER = ".slurm"
"""Folder below runs_dir for submitit's files and the submission lock."""
LOST = ("TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "")
"""Final job states after which a run is resubmitted, because they are not its fault. "" means SLURM forgot the job."""


@dataclass(frozen=True)
class SlurmSettings:
    """What a job requests from SLURM. Not part of a run's identity.

    Attributes:
        partition, account, qos: sbatch options; None for the cluster's default.
        minutes: time limit of a job. A longer run is requeued and continues in the same job.
        gpus, cpus: per cell. cpus is also the number of CPU threads.
        memory_gb: per cell; None for the cluster's default.
        signal_seconds: how long before the time limit a run is told to stop.
        max_requeues: how often a run is requeued because of the time limit, and how often it is submitted again after
            SLURM ended its job without a checkpoint.
        setup: shell lines before a run starts (modules, environments).
        sbatch: further sbatch options, without dashes.
        poll_seconds: seconds between checks of the queue.
    """

    partition: str | None
    account: str | None
    qos: str | None
    minutes: int
    gpus: int
    cpus: int
    memory_gb: float | None
    signal_seconds: int
    max_requeues: int
    setup: list[str]
    sbatch: dict[str, Any]
    poll_seconds: float

    def problems(self, jobs: int) -> list[str]:
        """Return one sentence per invalid setting."""
        ranges: dict[str, tuple[Any, Bound, bool]] = {
            "jobs": (jobs, COUNT, True),
            "minutes": (self.minutes, COUNT, True),
            "gpus": (self.gpus, COUNT_OR_NONE, True),
            "cpus": (self.cpus, COUNT, True),
            "signal_seconds": (self.signal_seconds, COUNT, True),
            "max_requeues": (self.max_requeues, COUNT_OR_NONE, True),
            "poll_seconds": (self.poll_seconds, Bound(0.1, 86400), False),
        }
        found = [
            f"hydra.launcher.{name} = {value} {wrong}"
            for name, (value, bound, is_whole) in ranges.items()
            if (wrong := number_problem(value, bound, is_whole=is_whole))
        ]
        if self.memory_gb is not None and number_problem(self.memory_gb, POSITIVE, is_whole=False):
            found.append(
                f"hydra.launcher.memory_gb = {self.memory_gb} must be positive, or null for the cluster's default"
            )
        if not found and self.signal_seconds >= self.minutes * 60:
            found.append(
                f"hydra.launcher.signal_seconds = {self.signal_seconds} leaves no time to compute, because "
                f"hydra.launcher.minutes = {self.minutes}; raise minutes or lower signal_seconds"
            )
        own = {"array", "dependency", "signal", "output", "error", "requeue", "job-name"}
        found += [
            f"hydra.launcher.sbatch.{name} is set by the launcher; remove it" for name in self.sbatch if name in own
        ]
        return found

    def parameters(self, jobs: int) -> dict[str, Any]:
        """Return the parameters of submitit's SlurmExecutor."""
        asked = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.minutes,
            "nodes": 1,
            "ntasks_per_node": 1,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus or None,
            "mem": None if self.memory_gb is None else f"{round(self.memory_gb * 1024)}M",
            "signal_delay_s": self.signal_seconds,
            "array_parallelism": jobs,
            # The job must import rlbench from here, whatever the working directory.
            "setup": [
                *(f'export PYTHONPATH={shlex.quote(path)}"${{PYTHONPATH:+:$PYTHONPATH}}"' for path in import_path()),
                *self.setup,
            ],
            # Since SLURM 22.05 srun does not inherit it from sbatch.
            "srun_args": [f"--cpus-per-task={self.cpus}"],
            "additional_parameters": {"requeue": True, **self.sbatch},
        }
        return {name: value for name, value in asked.items() if value is not None}


def squeue() -> dict[str, tuple[str, str]] | None:
    """Return (name, state) of this user's unfinished jobs by id, or None if SLURM does not answer."""
    command = ["squeue", "--noheader", "--array", "--me", "--format=%i|%T|%j"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        return None
    lines = (line.split("|", 2) for line in answer.stdout.splitlines())
    return {job: (name, state) for job, state, name in lines}


def last_state(job: str) -> str:
    """Return the state of a job that left the queue, e.g. TIMEOUT, or "" if SLURM forgot it (MinJobAge)."""
    answer = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True)
    found = re.search(r"\bJobState=(\w+)", answer.stdout)
    return found[1] if found else ""


def noted_job(run: Run) -> str | None:
    """Return the last job that a run was submitted as, or None.

    Raises:
        BadInput: if the file with the job is damaged.
    """
    if not (run.root / JOB.name).exists():
        return None
    remedy = "cancel any jobs of this run (scancel), move the file away, and run the same command again"
    return JOB.read(run.root, remedy)["job"]


def last_traceback(log: Path) -> str:
    """Return the last traceback in a log, or ""."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    start = text.rfind("Traceback (most recent call last)")
    return text[start:].rstrip() if start >= 0 else ""


class SlurmLauncher(SweepLauncher):
    """Runs the cells of a sweep on a SLURM cluster.

    Args:
        jobs: number of cells of an array that run at once.
        processes: processes per cell.
        settings: the fields of `SlurmSettings`.
    """

    def __init__(self, jobs: int, processes: int, **settings: Any):
        super().__init__(jobs, processes)
        plain: dict[str, Any] = {
            k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in settings.items()
        }
        self.settings = SlurmSettings(**plain)
        self.name = ""
        self.folder = Path()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if problems := self.settings.problems(self.jobs):
            fail(BadInput(*problems))
        return super().launch(job_overrides, initial_job_idx)

    def show_plan(self, cells: list[Cell]) -> None:
        self.console.print("each cell is one job with:")
        for name, value in self.settings.parameters(self.jobs).items():
            self.console.print(f"  {name}: {value}", markup=False, soft_wrap=True)

    def run_cells(self, cells: list[Cell]) -> list[Cell]:
        if problems := missing_software():
            fail(BadInput(*problems))
        self.name = f"rlbench-{cells[0].config.experiment_name}"
        self.folder = (Path(cells[0].config.runs_dir) / FOLDER).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs: dict[Path, str] = {}
        try:
            self._submit(cells, jobs)
            return self._watch(cells, jobs)
        except BadInput as error:
            fail(error)
        except KeyboardInterrupt:
            ids = sorted({jobs[cell.run.root].split("_")[0] for cell in cells if cell.run.root in jobs}, key=int)
            self.console.print(
                "detached: the jobs continue. Run the same command again to attach to them. To cancel them: "
                f"scancel {' '.join(ids)}",
                soft_wrap=True,
            )
            raise SystemExit(130) from None

    def _submit(self, cells: Sequence[Cell], jobs: dict[Path, str]) -> None:
        """Submit cells without a live job, after the shared stages that they need. Record all jobs in `jobs`."""
        with self._alone():
            queue = squeue()
            if queue is None:
                raise BadInput("squeue does not respond; run this on a machine of a SLURM cluster that is up")
            living = {job for job, (name, _) in queue.items() if name == self.name}
            waiting = missing_shared_stages(cells)
            stage_of = {cell.run.root: stage for stage, of_stage in waiting.items() for cell in of_stage}
            arrays: dict[Path | None, list[Cell]] = {}
            for cell in cells:
                job = noted_job(cell.run)
                if job in living:
                    jobs[cell.run.root] = job
                else:
                    arrays.setdefault(stage_of.get(cell.run.root), []).append(cell)
            attached = sum(cell.run.root in jobs for cell in cells)
            if attached:
                self.console.print(f"{attached} cells are already in the queue; watching their jobs")
            for stage, of_stage in arrays.items():
                first = None
                if stage is not None:
                    run = locate(of_stage[0].config, "sft")
                    first = noted_job(run)
                    if first not in living:
                        (first,) = self._sbatch([(run, of_stage[0].command(*self._more(), "stage=sft"))], None)
                        self.console.print(
                            f"job {first}: SFT stage shared by {len(of_stage)} cells: {stage}", soft_wrap=True
                        )
                work = [(cell.run, cell.command(*self._more())) for cell in of_stage]
                ids = self._sbatch(work, first)
                jobs |= {cell.run.root: job for cell, job in zip(of_stage, ids, strict=True)}
                after = f", after job {first}" if first else ""
                self.console.print(f"job {ids[0].split('_')[0]}: {len(ids)} cells{after}")

    def _more(self) -> list[str]:
        return ["runtime.progress=false", f"runtime.threads={self._threads}"]

    @property
    def _threads(self) -> int:
        """CPU threads per process."""
        return max(self.settings.cpus // self.processes, 1)

    def _sbatch(self, work: Sequence[tuple[Run, list[str]]], after: str | None) -> list[str]:
        """Submit runs as one array, record the jobs in their directories, and return the job ids."""
        import submitit

        from rlbench.launching.slurm_job import RunJob

        executor = submitit.SlurmExecutor(self.folder, max_num_timeout=self.settings.max_requeues)
        parameters = self.settings.parameters(self.jobs) | {"job_name": self.name}
        if after is not None:
            parameters["dependency"] = f"afterok:{after}"
            parameters["additional_parameters"] |= {"kill-on-invalid-dep": "yes"}
        executor.update_parameters(**parameters)
        jobs: list[submitit.Job] = []
        # A launcher inside a job must not pass on that job's SLURM variables.
        outside = submitit.helpers.clean_env() if "SLURM_JOB_ID" in os.environ else contextlib.nullcontext()
        try:
            with outside, executor.batch():
                for run, command in work:
                    jobs.append(executor.submit(RunJob(command, run.root.absolute(), self._threads, self.processes)))
        except submitit.core.utils.FailedJobError as error:
            raise BadInput(f"sbatch rejected the job: {str(error).strip()}") from None
        for (run, _), job in zip(work, jobs, strict=True):
            JOB.write(run.root, {"job": job.job_id})
        return [job.job_id for job in jobs]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Prevent two launchers from submitting the same cell."""
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _watch(self, cells: Sequence[Cell], jobs: dict[Path, str]) -> list[Cell]:
        """Wait until every cell is done or has failed. Return the failed cells."""
        left, failed = {cell.run.root: cell for cell in cells}, []
        gone: set[Path] = set()
        again: Counter[Path] = Counter()
        with Board(self.console, len(cells), sum(cell.updates for cell in cells)) as board:
            while left:
                queue = squeue()  # read before the run directories, which may be done by then
                if queue is None:
                    time.sleep(self.settings.poll_seconds)
                    continue
                running, lost = [], []
                for root, cell in list(left.items()):
                    if cell.run.status() == DONE:
                        del left[root]
                        board.finish(cell, DONE)
                    elif jobs[root] in queue:
                        gone.discard(root)
                        if queue[jobs[root]][1] == "RUNNING":
                            running.append(cell)
                    elif root not in gone:
                        gone.add(root)  # check again: a shared file system may show a job's files late
                    elif (reason := self._why_lost(cell, jobs[root])) is None and (
                        again[root] < self.settings.max_requeues
                    ):
                        again[root] += 1
                        gone.discard(root)
                        lost.append(cell)
                    else:
                        del left[root]
                        failed.append(cell)
                        board.finish(cell, FAILED)
                        if cell.run.status() == FAILED:
                            self.console.print(last_traceback(cell.log_path), soft_wrap=True, markup=False)
                        else:
                            cell.run.set_status(FAILED, reason or f"SLURM ended its jobs {again[root] + 1} times")
                if lost:
                    self.console.print(f"{len(lost)} cells lost their job and were submitted again")
                    self._submit(lost, jobs)
                board.update(running)
                if left:
                    time.sleep(self.settings.poll_seconds)
        return failed

    def _why_lost(self, cell: Cell, job: str) -> str | None:
        """Return why a cell whose job ended cannot finish, or None if it should be submitted again."""
        if cell.run.status() == FAILED:
            return "it failed"
        stage = locate(cell.config, "sft")
        if stage.root in missing_shared_stages([cell]):
            first = noted_job(stage)
            ended = last_state(first) if first else ""
            if stage.status() == FAILED:
                return f"its SFT stage failed; log: {attempts.failure(stage.root)[1]}"
            job = first or job
        else:
            ended = last_state(job)
        return None if ended in LOST else f"SLURM ended job {job}: {ended}"


def missing_software() -> list[str]:
    """Return one sentence per program or package that this machine lacks to submit jobs."""
    problems = []
    if importlib.util.find_spec("submitit") is None:
        problems.append(f"hydra/launcher=slurm needs submitit, which is not installed; run {install('slurm')}")
    absent = [name for name in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(name) is None]
    if absent:
        problems.append(f"hydra/launcher=slurm needs SLURM's commands, but these were not found: {', '.join(absent)}")
    return problems
