"""Runs the cells of a sweep as Ray tasks, on this machine or on a cluster: `hydra/launcher=ray`.

Ray places cells by the CPUs and GPUs they request. Shared SFT stages run first. A run that was told to stop or lost its
node is started again and resumes from its checkpoint.
"""

import importlib.util
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlbench.base.errors import BadInput
from rlbench.base.program import import_path, install
from rlbench.config.bounds import COUNT, COUNT_OR_NONE, NOT_NEGATIVE, number_problem
from rlbench.launching.base import SweepLauncher
from rlbench.launching.board import Board
from rlbench.launching.cells import Cell, missing_shared_stages
from rlbench.launching.stopping import tell, was_told
from rlbench.running.cli import fail
from rlbench.runs import attempts
from rlbench.runs.directory import DONE, FAILED

POLL_SECONDS = 1.0
GRACE_SECONDS = 60.0
"""Seconds that a stopped sweep waits for its runs to reach an update at which they write a checkpoint."""
Show = Callable[[Sequence[Path], Mapping[Path, bool]], None]


def run_command(
    command: Sequence[str], folder: Path, root: Path, environment: Mapping[str, str], processes: int
) -> int:
    """Run `run.py` in its own process, as a Ray task. If the task is cancelled, the run is told to stop.

    Args:
        command: the command with its arguments.
        folder: working directory.
        root: run directory; its attempt stores the output.
        environment: variables added to the worker's, in which Ray has set the GPUs.
        processes: number of processes of the run.

    Returns:
        The exit code.
    """
    file, reserved = attempts.started_for(root)
    with file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | environment | reserved,
            start_new_session=True,
        )
        try:
            while process.poll() is None:  # polled, since a cancellation does not interrupt wait()
                time.sleep(0.2)
        except KeyboardInterrupt:
            tell(process.pid, processes=processes)
            process.wait()
    return process.returncode


class RayLauncher(SweepLauncher):
    """Runs the cells of a sweep on Ray.

    Args:
        jobs: maximum number of cells at once, if resources suffice.
        processes: processes per cell.
        address: address of a Ray cluster ("auto", "HOST:PORT"); None starts Ray on this machine for the sweep.
        cpus: CPUs per cell, which are also its CPU threads.
        gpus: GPUs per cell; a fraction puts several cells on one GPU.
        max_requeues: how often a cell that was told to stop or lost its node is started again.
    """

    def __init__(self, jobs: int, processes: int, address: str | None, cpus: int, gpus: float, max_requeues: int):
        super().__init__(jobs, processes)
        self.address, self.cpus, self.gpus, self.max_requeues = address, cpus, gpus, max_requeues

    def problems(self) -> list[str]:
        """Return one sentence per invalid setting."""
        ranges = {
            "jobs": (self.jobs, COUNT, True),
            "cpus": (self.cpus, COUNT, True),
            "gpus": (self.gpus, NOT_NEGATIVE, False),
            "max_requeues": (self.max_requeues, COUNT_OR_NONE, True),
        }
        found = [
            f"hydra.launcher.{name} = {value} {wrong}"
            for name, (value, bound, is_whole) in ranges.items()
            if (wrong := number_problem(value, bound, is_whole=is_whole))
        ]
        if importlib.util.find_spec("ray") is None:
            found.append(f"hydra/launcher=ray needs ray, which is not installed; run {install('ray')}")
        return found

    def run_cells(self, cells: list[Cell]) -> list[Cell]:
        if problems := self.problems():
            fail(BadInput(*problems))
        import ray

        # Workers must import this module from here, whatever the working directory.
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([*import_path(), *_python_path()])}}
        alone = {"include_dashboard": False} if self.address is None else {}
        ray.init(self.address, runtime_env=environment, log_to_driver=False, **alone)
        try:
            lost = self._shared_stages(cells)
            return lost + self._run_all([cell for cell in cells if cell not in lost])
        except KeyboardInterrupt:
            self.console.print("run the same command again to continue from the last checkpoints")
            raise SystemExit(130) from None
        finally:
            ray.shutdown()

    def _shared_stages(self, cells: list[Cell]) -> list[Cell]:
        """Run the SFT stages that cells need, side by side. Return the cells whose stage failed."""
        waiting = missing_shared_stages(cells)
        for root, of_stage in waiting.items():
            self.console.print(f"shared SFT stage for {len(of_stage)} cells: {root}", soft_wrap=True)
        failed = self._run({root: self._command(of_stage[0], "stage=sft") for root, of_stage in waiting.items()})
        for root in failed:
            self.console.print(f"the SFT stage failed; log: {attempts.failure(root)[1]}", soft_wrap=True)
        return [cell for root in failed for cell in waiting[root]]

    def _run_all(self, cells: list[Cell]) -> list[Cell]:
        by_root = {cell.run.root: cell for cell in cells}
        with Board(self.console, len(cells), sum(cell.updates for cell in cells)) as board:

            def show(running: Sequence[Path], ended: Mapping[Path, bool]) -> None:
                for root, succeeded in ended.items():
                    board.finish(by_root[root], DONE if succeeded else FAILED)
                board.update([by_root[root] for root in running])

            failed = self._run({root: self._command(cell) for root, cell in by_root.items()}, show)
        return [by_root[root] for root in failed]

    def _command(self, cell: Cell, *more: str) -> list[str]:
        return cell.command("runtime.progress=false", f"runtime.threads={max(self.cpus // self.processes, 1)}", *more)

    def _run(self, commands: Mapping[Path, list[str]], show: Show | None = None) -> list[Path]:
        """Run commands, each for one run directory.

        Args:
            commands: commands by run directory.
            show: called regularly with the running runs, and with the ended ones and whether each succeeded.

        Returns:
            The directories of the failed runs.
        """
        import ray

        environment = {"OMP_NUM_THREADS": str(max(self.cpus // self.processes, 1))}
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=self.max_requeues)(run_command)
        queue, failed = list(commands), []
        running: dict[Any, Path] = {}
        again: Counter[Path] = Counter()
        try:
            while queue or running:
                while queue and len(running) < self.jobs:
                    root = queue.pop(0)
                    running[task.remote(commands[root], Path.cwd(), root.absolute(), environment, self.processes)] = (
                        root
                    )
                finished, _ = ray.wait(list(running), timeout=POLL_SECONDS)
                ended = {}
                for reference in finished:
                    root, code = running.pop(reference), _exit_code(reference)
                    if was_told(root, code) and again[root] < self.max_requeues:
                        again[root] += 1
                        queue.insert(0, root)
                        continue
                    ended[root] = code == 0
                    if code:
                        failed.append(root)
                if show is not None:
                    show(list(running.values()), ended)
        except KeyboardInterrupt:
            self.console.print(
                f"interrupted: running cells stop at their next checkpoint, within {GRACE_SECONDS:.0f} s"
            )
            for reference in running:
                ray.cancel(reference, force=False)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=GRACE_SECONDS)
            raise
        return failed


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _exit_code(reference: Any) -> int:
    """Return the exit code of a task's command, or 1 if Ray gave up because its node was lost too often."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError:
        return 1
