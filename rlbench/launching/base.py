"""What every launcher does around the running of cells.

A failing cell never stops the others. All cells are checked before the first is started, and what is done already is
left alone. Which cells have failed and why is said at the end.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

from rlbench import plan
from rlbench.cli import fail
from rlbench.errors import BadInput
from rlbench.launching.cells import Cell, make_cells, note_cells
from rlbench.launching.rows import NOTHING_SWEPT
from rlbench.processes import count
from rlbench.runs import DONE


class Feed(Protocol):
    """Where a launcher takes cells from, one after another, and whom it tells how they are."""

    def next_cell(self, has_room: Callable[[Cell], bool]) -> Cell | None:
        """A cell to start for which there is room; None where there is none at present."""

    def over(self) -> bool:
        """Whether no cell will come any more."""

    def watch(self, running: Sequence[Cell]) -> Mapping[Path, str]:
        """Look at the cells that run; those that are to be stopped, by run directory, with the reason."""

    def ended(self, cell: Cell, succeeded: bool) -> None:
        """Hear that a cell has ended."""


class SweepLauncher(Launcher):
    """A launcher of cells; a subclass says in `run_cells` how they run.

    Args:
        jobs: how many cells run at once.
        processes: on how many processes each runs.

    Attributes:
        of_sweep: what the sweep varies; its sweeper sets it before the launch.
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
        """Run cells that are not done, and the shared stages that they need; return those that failed."""

    def show_plan(self, cells: list[Cell]) -> None:
        """Print what a dry run should say of the launcher itself."""

    def check(self, cells: Sequence[Cell]) -> None:
        """Whether this launcher can run these cells.

        Raises:
            BadInput: what stands in the way.
        """

    def at_once(self, cells: Sequence[Cell]) -> int:
        """How many of these cells run at once."""
        return self.jobs

    def run_feed(self, feed: Feed, first: Sequence[Cell], total: int) -> None:
        """Run what a search asks for, until it is over.

        Args:
            feed: the search.
            first: the cells that it begins with.
            total: how many cells there are at most.

        Raises:
            BadInput: where this launcher cannot.
        """
        raise BadInput("hydra/sweeper=optuna looks at its cells while they run: use hydra/launcher=local")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        assert self.context is not None and self.config is not None
        try:
            if count() > 1:
                raise BadInput(
                    "a sweep starts its cells itself: start it with python, and say with hydra.launcher.processes=N on "
                    "how many processes each cell runs"
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
        self.console.print(f"{len(cells)} cells, {len(cells) - len(todo)} done already, {len(todo)} to run")
        failed = self.run_cells(todo) if todo else []
        self._name_stopped(cells)
        if failed:
            self.report(failed, len(cells))
            raise SystemExit(1)
        return [_nothing() for _ in job_overrides]

    def _name_stopped(self, cells: Sequence[Cell]) -> None:
        """Say which cells are done and have stopped early."""
        stopped = [cell for cell in cells if cell.run.status() == DONE and cell.run.reason()]
        if stopped:
            self.console.print(f"[yellow]{len(stopped)} of {len(cells)} cells stopped early[/yellow]:")
        for cell in stopped:
            self.console.print(f"  {' '.join(cell.overrides)}", soft_wrap=True, markup=False)
            self.console.print(f"    {cell.run.reason()}", soft_wrap=True, markup=False)

    def report(self, failed: Sequence[Cell], total: int) -> None:
        """Say which cells failed and why."""
        self.console.print(f"[red]{len(failed)} of {total} cells failed[/red]; the same command tries them again:")
        for cell in failed:
            self.console.print(f"  {' '.join(cell.overrides)}", soft_wrap=True, markup=False)
            self.console.print(f"    {cell.reason()}\n    log: {cell.log_path}", soft_wrap=True, markup=False)


def _nothing() -> JobReturn:
    """What Hydra wants of every cell."""
    finished = JobReturn(status=JobStatus.COMPLETED)
    finished.return_value = None
    return finished
