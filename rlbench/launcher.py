"""The launcher behind `-m`: every cell in a process of its own, several at a time, a bar over all of them.

A failing cell never stops the others. All cells are checked before the first is started. What cells share (the SFT
stage) is made once, with all cores, before they start.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rlbench import plan
from rlbench.cli import config_dir, fail
from rlbench.config import Config, resolve
from rlbench.errors import BadInput
from rlbench.plugins import check_unchanged
from rlbench.runs import DONE, FAILED, SWEEP_FILE, Run, locate, write_json
from rlbench.validation import validate

RUN_PY = Path(__file__).resolve().parent.parent / "run.py"
POLL_SECONDS = 0.5
PLAIN_EVERY = 15.0  # seconds between progress lines where there is no terminal to draw on


@dataclass
class Cell:
    """One job of a sweep; `options` are the command's own, which every cell repeats."""

    options: list[str]
    overrides: list[str]
    config: Config
    run: Run

    def command(self, *more: str) -> list[str]:
        return [sys.executable, str(RUN_PY), *self.options, *self.overrides, "hydra.mode=RUN", *more]

    def progress(self) -> tuple[int, str]:
        """(updates done, what it is doing), from the file that the cell keeps."""
        try:
            state = json.loads((self.run.root / "progress.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 0, "starting"
        if "seed" in state["description"]:
            return state["done"], state["note"]
        return self.config.trainer.rl.updates, "test"


def note_cells(cells: Sequence[Cell]) -> None:
    """Add the cells to `SWEEP_FILE` of their experiments, where `analysis.status` finds what was never started."""
    by_folder: dict[Path, dict[str, Any]] = {}
    for cell in cells:
        folder = cell.config.group_dir.parent
        name = cell.run.root.relative_to(folder).as_posix()
        command = ["python", RUN_PY.name, *cell.options, *cell.overrides, "hydra.mode=RUN"]
        by_folder.setdefault(folder, {})[name] = {"command": command, "updates": cell.config.trainer.rl.updates}
    for folder, noted in by_folder.items():
        path = folder / SWEEP_FILE
        earlier = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else {}
        write_json(path, {"cells": earlier | noted})


def _nothing() -> JobReturn:
    """What Hydra wants of every cell."""
    finished = JobReturn(status=JobStatus.COMPLETED)
    finished.return_value = None
    return finished


class LocalLauncher(Launcher):
    """Runs the cells of a sweep on this machine.

    Args:
        jobs: how many cells run at once; CPU threads are shared between them.
    """

    def __init__(self, jobs: int):
        self.jobs = jobs
        self.console = Console(stderr=True, highlight=False)
        self.config: DictConfig | None = None
        self.context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        try:
            cells = self._cells(job_overrides)
        except BadInput as error:
            fail(error)
        if cells[0].config.runtime.dry_run:
            plan.show([cell.config for cell in cells], self.jobs, self.console)
            return [_nothing() for _ in job_overrides]
        note_cells(cells)
        todo = [cell for cell in cells if cell.run.status() != DONE]
        self.console.print(f"{len(cells)} cells, {len(cells) - len(todo)} done already, {len(todo)} to run")
        failed = self._shared_stages(todo)
        failed += self._run_all([cell for cell in todo if cell not in failed])
        if failed:
            self.console.print(
                f"[red]{len(failed)} of {len(cells)} cells failed[/red]; the same command tries them again:"
            )
            for cell in failed:
                self.console.print(f"  {' '.join(cell.overrides)}", soft_wrap=True, markup=False)
                self.console.print(f"    {_reason(cell)}\n    log: {_log_path(cell)}", soft_wrap=True, markup=False)
            raise SystemExit(1)
        return [_nothing() for _ in cells]

    def _cells(self, job_overrides: Sequence[Sequence[str]]) -> list[Cell]:
        from rlbench.objective.guards import caveats  # only here: it loads torch

        assert self.context is not None and self.config is not None
        cells, problems = [], []
        folder = config_dir(sys.argv[1:])
        options = ["--config-dir", str(folder)] if folder else []
        for overrides in job_overrides:
            composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            composed = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
            try:
                config = resolve(composed)
                problems += validate(config)
                run = locate(config, config.stage)
                problems += check_unchanged(run.root, config.plugins)
                cells.append(Cell(options, list(overrides), config, run))
            except BadInput as error:
                problems += error.problems
        if problems:
            raise BadInput(*dict.fromkeys(problems))
        for caveat in caveats([cell.config for cell in cells]):
            self.console.print(f"[yellow]note:[/yellow] {caveat}")
        unique = {cell.run.root: cell for cell in cells}  # two lines of a sweep may name the same cell
        return list(unique.values())

    def _shared_stages(self, cells: list[Cell]) -> list[Cell]:
        """Make each SFT stage that the cells need; return the cells whose stage failed."""
        failed: list[Cell] = []
        by_stage: dict[Path, list[Cell]] = {}
        for cell in cells:
            stage = locate(cell.config, "sft")
            if cell.config.stage != "zero_shot" and stage.status() != DONE:
                by_stage.setdefault(stage.root, []).append(cell)
        for root, waiting in by_stage.items():
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
        board = _Board(self.console, cells)
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


def _reason(cell: Cell) -> str:
    """Why a cell failed, in a line: what its STATUS says, or else the end of its log."""
    said = (cell.run.root / "STATUS").read_text(encoding="utf-8") if cell.run.status() == FAILED else ""
    log = _log_path(cell)
    lines = said.split("\n")[1:] or (log.read_text(encoding="utf-8", errors="replace").rstrip().split("\n")[-1:])
    return lines[0] if lines and lines[0] else "no reason given"


def _log_path(cell: Cell) -> Path:
    return cell.run.root / "log.txt"


def _start(cell: Cell, threads: int) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    cell.run.root.mkdir(parents=True, exist_ok=True)
    log = _log_path(cell).open("ab")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = cell.command("runtime.progress=false", f"runtime.threads={threads}")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment), log


class _Board:
    """The bars of a sweep: one over all updates, one for each running cell; plain lines where there is no terminal."""

    def __init__(self, console: Console, cells: list[Cell]):
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.done = {cell.run.root: 0 for cell in cells}
        self.total = sum(cell.config.trainer.rl.updates for cell in cells)
        self.all = self.bars.add_task(f"{len(cells)} cells", total=self.total, note="")
        self.of_cell: dict[Path, Any] = {}
        self.printed = time.monotonic()

    def __enter__(self) -> "_Board":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def update(self, running: list[Cell]) -> None:
        notes = []
        for cell in running:
            done, note = cell.progress()
            if cell.run.root not in self.of_cell:
                title = f"  {cell.run.label} seed {cell.run.seed}"
                self.of_cell[cell.run.root] = self.bars.add_task(title, total=cell.config.trainer.rl.updates, note="")
            self.bars.update(self.of_cell[cell.run.root], completed=done, note=note)
            self.done[cell.run.root] = done
            notes.append(f"{cell.run.label} seed {cell.run.seed} {done}/{cell.config.trainer.rl.updates} {note}")
        self.bars.update(self.all, completed=sum(self.done.values()))
        if not self.console.is_terminal and time.monotonic() - self.printed > PLAIN_EVERY:
            self.printed = time.monotonic()
            self.console.print(f"{sum(self.done.values())}/{self.total} updates | {' | '.join(notes)}", soft_wrap=True)

    def finish(self, cell: Cell, succeeded: bool) -> None:
        self.done[cell.run.root] = cell.config.trainer.rl.updates
        if cell.run.root in self.of_cell:
            self.bars.remove_task(self.of_cell.pop(cell.run.root))
        word = "[green]done[/green]" if succeeded else "[red]failed[/red]"
        self.console.print(f"{word} {cell.run.root}", soft_wrap=True)
