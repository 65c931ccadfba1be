"""Cells of a sweep on this machine: every one in a process of its own, several at a time, a bar over all of them.

What cells share (the SFT stage) is made once, with all cores, before they start. Ctrl-C, or SIGTERM, lets what runs end
with a checkpoint.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NoReturn

from rich.console import Console

from rlbench import attempts
from rlbench.launching.base import SweepLauncher
from rlbench.launching.board import Board
from rlbench.launching.cells import Cell, missing_shared_stages
from rlbench.preemption import children_deaf_to

POLL_SECONDS = 0.5
GRACE_SECONDS = 60.0
"""How long a stopped sweep waits for its runs to reach an update at which they write a checkpoint."""


class LocalLauncher(SweepLauncher):
    """Runs the cells of a sweep on this machine; CPU threads are shared between those that run at once."""

    def run_cells(self, cells: list[Cell]) -> list[Cell]:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        failed = self._shared_stages(cells)
        return failed + self._run_all([cell for cell in cells if cell not in failed])

    def _shared_stages(self, cells: list[Cell]) -> list[Cell]:
        """Make each SFT stage that the cells need; return the cells whose stage failed."""
        failed: list[Cell] = []
        for root, waiting in missing_shared_stages(cells).items():
            self.console.print(f"shared SFT stage for {len(waiting)} cells: {root}")
            with children_deaf_to(signal.SIGINT):
                process = subprocess.Popen(waiting[0].command("stage=sft"))
            try:
                if process.wait():
                    failed += waiting
            except KeyboardInterrupt:
                _stop([process], self.console)
        return failed

    def _run_all(self, cells: list[Cell]) -> list[Cell]:
        if not cells:
            return []
        threads = max((os.cpu_count() or 1) // min(self.jobs, len(cells)), 1)
        queue, failed = list(cells), []
        running: dict[Path, tuple[Cell, subprocess.Popen[bytes], IO[bytes]]] = {}
        board = Board(self.console, cells)
        try:
            with board:
                while queue or running:
                    while queue and len(running) < self.jobs:
                        cell = queue.pop(0)
                        running[cell.run.root] = (cell, *_start(cell, threads))
                    for root, (cell, process, log) in list(running.items()):
                        if process.poll() is None:
                            continue
                        log.close()
                        del running[root]
                        board.finish(cell, process.returncode == 0)
                        if process.returncode:
                            failed.append(cell)
                    board.update([cell for cell, _, _ in running.values()])
                    time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            _stop([process for _, process, _ in running.values()], self.console)
        return failed


def _start(cell: Cell, threads: int) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    attempt = attempts.reserve(cell.run.root)
    log = attempt.output_file.open("ab")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), attempts.RESERVED: str(attempt.folder.resolve())}
    command = cell.command("runtime.progress=false", f"runtime.threads={threads}")
    with children_deaf_to(signal.SIGINT):  # a terminal sends Ctrl-C to cells, too; the launcher says when they stop
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment), log


def _stop(processes: Sequence[subprocess.Popen[bytes]], console: Console) -> NoReturn:
    """Let runs end with a checkpoint, kill those that take too long, or all at another Ctrl-C; and end with 130."""
    for process in processes:
        process.terminate()
    console.print(
        f"interrupted: what runs stops at its next checkpoint, within {GRACE_SECONDS:.0f} s (Ctrl-C: at once)"
    )
    deadline = time.monotonic() + GRACE_SECONDS
    with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
        for process in processes:
            process.wait(max(deadline - time.monotonic(), 0.0))
    for process in processes:
        process.kill()
        process.wait()
    console.print("the same command goes on from the last checkpoints")
    raise SystemExit(130)
