"""Cells of a sweep on this machine: every one in a process of its own, several at a time, a bar over all of them.

What cells share (the SFT stage) is made once, with all cores, before they start.
"""

import os
import subprocess
import time
from pathlib import Path
from typing import IO

from rlbench import attempts
from rlbench.launching.base import SweepLauncher
from rlbench.launching.board import Board
from rlbench.launching.cells import Cell, missing_shared_stages

POLL_SECONDS = 0.5


class LocalLauncher(SweepLauncher):
    """Runs the cells of a sweep on this machine; CPU threads are shared between those that run at once."""

    def run_cells(self, cells: list[Cell]) -> list[Cell]:
        failed = self._shared_stages(cells)
        return failed + self._run_all([cell for cell in cells if cell not in failed])

    def _shared_stages(self, cells: list[Cell]) -> list[Cell]:
        """Make each SFT stage that the cells need; return the cells whose stage failed."""
        failed: list[Cell] = []
        for root, waiting in missing_shared_stages(cells).items():
            self.console.print(f"shared SFT stage for {len(waiting)} cells: {root}")
            if subprocess.run(waiting[0].command("stage=sft")).returncode:
                failed += waiting
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
            for _, process, _ in running.values():
                process.terminate()
            self.console.print("interrupted; the same command goes on from the last checkpoints")
            raise SystemExit(130) from None
        return failed


def _start(cell: Cell, threads: int) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    attempt = attempts.reserve(cell.run.root)
    log = attempt.output_file.open("ab")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), attempts.RESERVED: str(attempt.folder.resolve())}
    command = cell.command("runtime.progress=false", f"runtime.threads={threads}")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment), log
