"""Code shared by all launchers.

All cells are checked before the first one starts. Finished cells are skipped, and a failing cell does not stop the
others. The failed cells and their reasons are printed at the end.
"""

import os
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

from rlbench.base.errors import BadInput
from rlbench.base.program import analysis, import_path
from rlbench.launching.cells import Cell, make_cells, note_cells
from rlbench.launching.rows import NOTHING_SWEPT
from rlbench.running import plan
from rlbench.running.classical import missing_baselines
from rlbench.running.cli import fail
from rlbench.runs.directory import DONE
from rlbench.runs.processes import count


class Feed(Protocol):
    """Source of cells for a launcher, which reports their progress back to it."""

    def next_cell(self, has_room: Callable[[Cell], bool]) -> Cell | None:
        """Return a cell to start for which there is room, or None if there is none at the moment."""

    def over(self) -> bool:
        """Whether no more cells will come."""

    def watch(self, running: Sequence[Cell]) -> Mapping[Path, str]:
        """Check the running cells. Return the run directories of those to stop, with the reasons."""

    def ended(self, cell: Cell, succeeded: bool) -> None:
        """Record that a cell has ended."""


class SweepLauncher(Launcher):
    """Base class of launchers. Subclasses define in `run_cells` how cells run.

    Args:
        jobs: number of cells that run at once.
        processes: number of processes per cell.

    Attributes:
        of_sweep: what the sweep varies. The sweeper sets it before the launch.
    """

    def __init__(self, jobs: int, processes: int = 1):
        self.jobs, self.processes = jobs, processes
        self.console = Console(stderr=True, highlight=False)
        self.config: DictConfig | None = None
        self.context: HydraContext | None = None
        self.of_sweep = NOTHING_SWEPT

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    @abstractmethod
    def run_cells(self, cells: list[Cell]) -> list[Cell]:
        """Run unfinished cells and the shared stages that they need. Return the cells that failed."""

    def show_plan(self, cells: list[Cell]) -> None:
        """Print the launcher's part of a dry run."""

    def check(self, cells: Sequence[Cell]) -> None:
        """Check that this launcher can run these cells.

        Raises:
            BadInput: if it cannot.
        """

    def at_once(self, cells: Sequence[Cell]) -> int:
        """Return how many of these cells run at once."""
        return self.jobs

    def run_feed(self, feed: Feed, first: Sequence[Cell], total: int) -> None:
        """Run the cells that a search requests, until it is over.

        Args:
            feed: the search.
            first: its first cells.
            total: maximum number of cells.

        Raises:
            BadInput: if this launcher does not support searches.
        """
        raise BadInput(
            "hydra/sweeper=optuna observes cells while they run, which only the local launcher supports; "
            "use hydra/launcher=local"
        )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        assert self.context is not None and self.config is not None
        try:
            if count() > 1:
                raise BadInput(
                    "a sweep starts the processes of its cells itself; start it with plain python, and set the "
                    "processes per cell with hydra.launcher.processes=N"
                )
            cells = make_cells(self.context, self.config, job_overrides, self.console, self.of_sweep)
            self.check(cells)
            if cells[0].config.runtime.dry_run:
                plan.show([cell.config for cell in cells], self.at_once(cells), self.console)
                self.show_plan(cells)
                return [_nothing() for _ in job_overrides]
        except BadInput as error:
            fail(error)
        note_cells(cells)
        todo = [cell for cell in cells if cell.run.status() != DONE]
        self.console.print(f"{len(cells)} cells, {len(cells) - len(todo)} already done, {len(todo)} to run")
        failed = self.run_cells(todo) if todo else []
        self._name_stopped(cells)
        if failed:
            self.report(failed, len(cells))
            for folder in _experiments(cells):
                self.console.print(f"next: {plan.status_command(folder)}", markup=False, soft_wrap=True)
            raise SystemExit(1)
        _complete(cells)
        for folder in _experiments(cells):
            _show_table(folder, self.console)
            self.console.print(f"next: {plan.report_command(folder)}", markup=False, soft_wrap=True)
        return [_nothing() for _ in job_overrides]

    def _name_stopped(self, cells: Sequence[Cell]) -> None:
        """Print the finished cells that stopped early."""
        stopped = [cell for cell in cells if cell.run.status() == DONE and cell.run.reason()]
        if stopped:
            self.console.print(f"[yellow]{len(stopped)} of {len(cells)} cells stopped early[/yellow]:")
        for cell in stopped:
            self.console.print(f"  {' '.join(cell.overrides)}", soft_wrap=True, markup=False)
            self.console.print(f"    {cell.run.reason()}", soft_wrap=True, markup=False)

    def report(self, failed: Sequence[Cell], total: int) -> None:
        """Print which cells failed and why."""
        self.console.print(
            f"[red]{len(failed)} of {total} cells failed[/red]; run the same command again to retry them:"
        )
        for cell in failed:
            self.console.print(f"  {' '.join(cell.overrides)}", soft_wrap=True, markup=False)
            self.console.print(f"    {cell.reason()}\n    log: {cell.log_path}", soft_wrap=True, markup=False)


def _experiments(cells: Sequence[Cell]) -> list[Path]:
    """Return the folders of the cells' experiments, each once."""
    return list(dict.fromkeys(cell.config.group_dir.parent for cell in cells))


def _show_table(folder: Path, console: Console) -> None:
    """Print the short table of an experiment. A sweep is done even if its table cannot be made."""
    console.print()
    here = os.environ | {"PYTHONPATH": os.pathsep.join([*import_path(), os.environ.get("PYTHONPATH", "")])}
    words = [*analysis("report"), str(folder), "--short"]
    if subprocess.run(words, env=here, stdout=sys.stderr.fileno(), check=False).returncode:
        console.print(f"all cells are done, but the table of {folder} could not be made", markup=False, soft_wrap=True)


def _complete(cells: Sequence[Cell]) -> None:
    """Run the baselines that finished cells lack, for example because the cells are of an earlier version."""
    try:
        for config in missing_baselines([cell.config for cell in cells if cell.run.status() == DONE]):
            from rlbench.running.runner import run  # loads torch

            run(config)
    except BadInput as error:
        fail(error)


def _nothing() -> JobReturn:
    """Return the result that Hydra expects for every cell."""
    finished = JobReturn(status=JobStatus.COMPLETED)
    finished.return_value = None
    return finished
