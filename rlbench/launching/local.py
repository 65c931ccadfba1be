"""Runs the cells of a sweep on this machine, each in its own process, several at a time.

Shared SFT stages run once before the cells: one after another with all cores, or side by side on several GPUs. On
Ctrl-C or SIGTERM running cells write a checkpoint and end.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NoReturn

from omegaconf import ListConfig
from rich.console import Console

from rlbench.base.errors import BadInput
from rlbench.base.preemption import children_deaf_to
from rlbench.config.bounds import MOST, Bound, number_problem
from rlbench.launching.base import Feed, SweepLauncher
from rlbench.launching.board import Board
from rlbench.launching.cells import Cell, missing_shared_stages
from rlbench.launching.placement import Places, choose_gpus, environment_of, list_gpus, visible
from rlbench.launching.stopping import tell
from rlbench.runs import attempts
from rlbench.runs.directory import DONE, FAILED, PRUNED, locate

POLL_SECONDS = 0.5
GRACE_SECONDS = 60.0
"""Seconds that stopped cells may take to reach an update at which they write a checkpoint."""


@dataclass
class _Process:
    """A running cell.

    Attributes:
        cell: the cell.
        process: the process of its command.
        log: the open file for its output.
        gpus: names of its GPUs.
        stop_at: when to kill it, on the monotonic clock; None while it may run.
        reason: why it is being stopped.
    """

    cell: Cell
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    gpus: tuple[str, ...]
    stop_at: float | None = None
    reason: str = ""

    def stop(self, reason: str) -> None:
        """Ask it to stop; later calls have no effect."""
        if self.stop_at is None:
            self.stop_at, self.reason = time.monotonic() + GRACE_SECONDS, reason
            self.tell()

    def tell(self) -> None:
        """Send the stop signal."""
        tell(self.process.pid, processes=self.cell.processes)

    def kill_if_late(self) -> None:
        """Kill it if its time to stop has run out."""
        if self.stop_at is not None and time.monotonic() > self.stop_at:
            self.process.kill()


class Queue:
    """The cells of a plain sweep in order. Cells without room are skipped until there is room."""

    def __init__(self, cells: Sequence[Cell]):
        self.waiting = list(cells)
        self.failed: list[Cell] = []

    def next_cell(self, has_room: Callable[[Cell], bool]) -> Cell | None:
        found = next((cell for cell in self.waiting if has_room(cell)), None)
        if found is not None:
            self.waiting.remove(found)
        return found

    def over(self) -> bool:
        return not self.waiting

    def watch(self, running: Sequence[Cell]) -> Mapping[Path, str]:
        return {}

    def ended(self, cell: Cell, succeeded: bool) -> None:
        if not succeeded:
            self.failed.append(cell)


class LocalLauncher(SweepLauncher):
    """Runs the cells of a sweep on this machine, assigns GPUs to them and divides the CPU threads.

    Args:
        jobs: number of cells at once, or auto for as many as fit on the GPUs (one without GPUs).
        processes: processes per cell. Each has its own GPU if there are any.
        gpus: auto, or the numbers of the GPUs to use.
        cells_per_gpu: number of cells that may share a GPU.
        gpu_share: share of a GPU's memory for each of these cells; None divides it equally.
    """

    def __init__(self, jobs: Any, processes: int, gpus: Any, cells_per_gpu: Any, gpu_share: Any):
        super().__init__(jobs, processes)
        self.wanted = list(gpus) if isinstance(gpus, ListConfig | list) else gpus
        self.cells_per_gpu, self.gpu_share = cells_per_gpu, gpu_share

    @cached_property
    def gpus(self) -> tuple[str, ...]:
        """Names of the GPUs available to cells."""
        allowed = visible(os.environ)
        return choose_gpus(self.wanted, allowed, list_gpus() if allowed is None and self.wanted == "auto" else ())

    def check(self, cells: Sequence[Cell]) -> None:
        problems = check_settings(self.jobs, self.wanted, self.cells_per_gpu, self.gpu_share)
        if problems:
            raise BadInput(*problems)
        most = max((self._gpus_of(cell) for cell in cells if cell.run.status() != DONE), default=0)
        if most > 1 and most > len(self.gpus):
            raise BadInput(f"a cell needs {most} GPUs, but only {len(self.gpus)} are available: {', '.join(self.gpus)}")

    def at_once(self, cells: Sequence[Cell]) -> int:
        each = max((self._gpus_of(cell) for cell in cells), default=0)
        room = Places(self.gpus, self.cells_per_gpu).at_once(each) if each else None
        if self.jobs == "auto":
            return room or 1
        return self.jobs if room is None else min(self.jobs, room)

    def _gpus_of(self, cell: Cell) -> int:
        return cell.gpus if self.gpus else 0

    def run_cells(self, cells: list[Cell]) -> list[Cell]:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        failed = self._shared_stages(cells)
        return failed + self._run_all([cell for cell in cells if cell not in failed])

    def _shared_stages(self, cells: list[Cell]) -> list[Cell]:
        """Run each SFT stage that the cells need. Return the cells whose stage failed."""
        missing = missing_shared_stages(cells)
        for root, waiting in missing.items():
            self.console.print(f"shared SFT stage for {len(waiting)} cells: {root}")
        stages = {root: _stage_of(waiting[0]) for root, waiting in missing.items()}
        if len(stages) > 1 and self.at_once(cells) > 1 and self.gpus:
            broken = [stage.run.root for stage in self._run_all(list(stages.values()))]
        else:
            broken = [root for root, stage in stages.items() if self._run_alone(stage)]
        return [cell for root in broken for cell in missing[root]]

    def _run_alone(self, stage: Cell) -> int:
        """Run a shared stage with all cores and its own bar. Return its exit code."""
        places = Places(self.gpus, 1)
        environment = os.environ | environment_of(places.take(self._gpus_of(stage)))
        with children_deaf_to(signal.SIGINT):
            process = subprocess.Popen(stage.command(), env=environment)
        try:
            return process.wait()
        except KeyboardInterrupt:
            tell(process.pid, processes=stage.processes)
            _wait([process], self.console)

    def _run_all(self, cells: list[Cell]) -> list[Cell]:
        queue = Queue(cells)
        if cells:
            updates = sum(cell.updates for cell in cells)
            self._run(queue, Board(self.console, len(cells), updates), min(self.at_once(cells), len(cells)))
        return queue.failed

    def run_feed(self, feed: Feed, first: Sequence[Cell], total: int) -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.check(first)
        self._shared_stages(list(first))  # a cell that still misses its stage computes it and reports errors
        updates = total * max(cell.updates for cell in first)
        self._run(feed, Board(self.console, total, updates), min(self.at_once(first), total))

    def _run(self, feed: Feed, board: Board, at_once: int) -> None:
        """Run the cells of a feed until it is over, with at most `at_once` at a time."""
        threads = max(cores() // at_once, 1)
        places = Places(self.gpus, self.cells_per_gpu)
        running: dict[Path, _Process] = {}

        def has_room(cell: Cell) -> bool:
            return cell.run.root not in running and places.has_room(self._gpus_of(cell))

        try:
            with board:
                while running or not feed.over():
                    while len(running) < at_once and (cell := feed.next_cell(has_room)) is not None:
                        chosen = places.take(self._gpus_of(cell))
                        running[cell.run.root] = _start(cell, threads, chosen, self._share(chosen))
                    for root, reason in feed.watch([held.cell for held in running.values()]).items():
                        running[root].stop(reason)
                    for root, held in list(running.items()):
                        if held.process.poll() is None:
                            held.kill_if_late()
                            continue
                        held.log.close()
                        places.give_back(held.gpus)
                        del running[root]
                        succeeded = held.process.returncode == 0
                        pruned = bool(held.reason) and held.cell.run.status() != DONE
                        if pruned:
                            held.cell.run.set_status(PRUNED, held.reason)
                        board.finish(held.cell, DONE if succeeded else PRUNED if pruned else FAILED)
                        feed.ended(held.cell, succeeded)
                    board.update([held.cell for held in running.values()])
                    time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            for held in running.values():
                held.tell()
            _wait([held.process for held in running.values()], self.console)

    def _share(self, chosen: Sequence[str]) -> float | None:
        """Return the share of GPU memory that a cell may use, or None for all of it."""
        if len(chosen) != 1 or (self.cells_per_gpu == 1 and self.gpu_share is None):
            return None
        return self.gpu_share if self.gpu_share is not None else 1 / self.cells_per_gpu


def check_settings(jobs: Any, gpus: Any, cells_per_gpu: Any, gpu_share: Any) -> list[str]:
    """Return one sentence per invalid setting in `hydra.launcher`."""

    def whole(value: Any, least: int) -> bool:
        return not number_problem(value, Bound(least, MOST))

    problems = []
    if jobs != "auto" and not whole(jobs, 1):
        problems.append(f"hydra.launcher.jobs = {jobs} must be a whole number from 1 to {MOST}, or auto")
    if gpus != "auto" and not (isinstance(gpus, list) and all(whole(gpu, 0) for gpu in gpus)):
        problems.append(f"hydra.launcher.gpus = {gpus} must be auto, or a list of numbers such as [0,1]")
    if not whole(cells_per_gpu, 1):
        return [*problems, f"hydra.launcher.cells_per_gpu = {cells_per_gpu} must be a positive whole number"]
    is_number = isinstance(gpu_share, int | float) and not isinstance(gpu_share, bool)
    if gpu_share is not None and not (is_number and 0 < gpu_share <= 1 / cells_per_gpu):
        problems.append(
            f"hydra.launcher.gpu_share = {gpu_share} must lie in (0, 1/{cells_per_gpu}], "
            f"because hydra.launcher.cells_per_gpu = {cells_per_gpu} cells share a GPU, or null for an equal share"
        )
    return problems


def cores() -> int:
    """Return the number of CPU threads that cells may share: those of this process, at most OMP_NUM_THREADS."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(own, int(limit)) if limit.isdecimal() and int(limit) > 0 else own


def threads_of(cell: Cell, share: int) -> int:
    """Return the CPU threads per process: the cell's share over its processes, at most `runtime.threads`."""
    part = max(share // cell.processes, 1)
    return min(part, cell.config.runtime.threads or part)


def _stage_of(cell: Cell) -> Cell:
    """Return the SFT stage of a cell as its own cell."""
    config = replace(cell.config, stage="sft")
    return Cell(cell.options, [*cell.overrides, "stage=sft"], config, locate(config, "sft"), cell.processes)


def _start(cell: Cell, threads: int, gpus: tuple[str, ...], share: float | None) -> _Process:
    log, reserved = attempts.started_for(cell.run.root)
    threads = threads_of(cell, threads)
    environment = os.environ | reserved | {"OMP_NUM_THREADS": str(threads)} | environment_of(gpus)
    own = ["runtime.progress=false", f"runtime.threads={threads}"]
    command = cell.command(*own, *([f"runtime.gpu_share={share}"] if share is not None else []))
    with children_deaf_to(signal.SIGINT):  # Ctrl-C reaches child processes too, but the launcher decides when they stop
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    return _Process(cell, process, log, gpus)


def _wait(processes: Sequence[subprocess.Popen[bytes]], console: Console) -> NoReturn:
    """Wait for stopped runs and exit with 130. Runs that take too long, or all runs on another Ctrl-C, are killed."""
    console.print(
        f"interrupted: running cells stop at their next checkpoint, within {GRACE_SECONDS:.0f} s (press Ctrl-C again "
        "to stop at once)"
    )
    deadline = time.monotonic() + GRACE_SECONDS
    with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
        for process in processes:
            process.wait(max(deadline - time.monotonic(), 0.0))
    for process in processes:
        process.kill()
        process.wait()
    console.print("run the same command again to continue from the last checkpoints")
    raise SystemExit(130)
