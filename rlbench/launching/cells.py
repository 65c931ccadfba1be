"""Composes and checks the cells of a sweep before any of them starts."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.types import HydraContext
from omegaconf import DictConfig
from rich.console import Console

from rlbench.base import program
from rlbench.base.errors import BadInput
from rlbench.base.files import held
from rlbench.base.progress import PROGRESS
from rlbench.base.records import Damaged
from rlbench.config.bounds import COUNT, number_problem
from rlbench.config.places import check_places
from rlbench.config.resolving import resolve
from rlbench.config.schema import Config
from rlbench.launching.composing import compose_cells
from rlbench.launching.rows import NOTHING_SWEPT, Planned, Swept, named, naming_keys, one_each, override_of
from rlbench.running.checks import check_config, check_values
from rlbench.running.cli import config_dir
from rlbench.running.words import last_of_each
from rlbench.runs import attempts, inputs, versions
from rlbench.runs.directory import (
    DONE,
    FAILED,
    INTERRUPTED,
    Run,
    locate,
    locate_all,
)
from rlbench.runs.existing import (
    check_curve,
    check_plugins,
    check_recorded,
    check_row,
    check_start,
    superseded,
)
from rlbench.runs.record import SWEEP, SweepCell
from rlbench.runs.sweep_file import read_cells, write_cells


@dataclass
class Cell:
    """One job of a sweep. `options` are the command's options, repeated by every cell; `processes` is per cell."""

    options: list[str]
    overrides: list[str]
    config: Config
    run: Run
    processes: int = 1

    def command(self, *more: str) -> list[str]:
        """What a launcher starts."""
        return [*program.started(self.processes), *self._arguments(*more)]

    def written(self) -> list[str]:
        """The same as a user writes it."""
        return [*program.written(self.processes), *self._arguments()]

    def _arguments(self, *more: str) -> list[str]:
        return last_of_each([*self.options, *self.overrides, "hydra.mode=RUN", *more])

    @property
    def gpus(self) -> int:
        """Number of GPUs that it needs if there are any."""
        return 0 if self.config.runtime.device == "cpu" else self.processes

    @property
    def updates(self) -> int:
        """Number of updates of its last stage, which is not shared."""
        updates = {"rl": self.config.trainer.rl.updates, "sft": self.config.trainer.sft.updates}
        return updates.get(self.config.stage, 0)

    def progress(self) -> tuple[int, str]:
        """Return (updates done, current activity) from the cell's progress file."""
        try:
            state = PROGRESS.load(self.run.root, "done", "description", "note")
        except (FileNotFoundError, Damaged):
            return 0, "starting"  # the next update rewrites it
        done, doing, note = int(state["done"]), state["description"], state["note"]
        if doing.endswith((f"seed {self.run.seed}", "training")):
            return done, note
        return self.updates, "test"

    @property
    def log_path(self) -> Path:
        """The file with the traceback of its failure, or else with the output of its process."""
        return self._failure()[1] or self.run.root

    def reason(self) -> str:
        """Return one line on why it failed or stopped."""
        said = self.run.reason().split("\n")[0] if self.run.status() in (FAILED, INTERRUPTED) else ""
        return (
            said
            or self._failure()[0]
            or ("it ended without a message; it may have been killed for using too much memory")
        )

    def _failure(self) -> tuple[str, Path | None]:
        sft = locate(self.config, "sft")
        of_stage = "sft" in self.config.stages and sft.status() == FAILED
        return attempts.failure(sft.root if of_stage else self.run.root)


def make_cells(
    context: HydraContext,
    composed: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    console: Console,
    of_sweep: Swept = NOTHING_SWEPT,
) -> list[Cell]:
    """Compose every cell of a sweep, name its row, and check unfinished cells.

    Args:
        context: Hydra's context with the config locations.
        composed: config of the whole sweep.
        job_overrides: overrides of each cell.
        console: where to print caveats.
        of_sweep: what the sweep varies; determines row names.

    Raises:
        BadInput: all problems of all cells, and of the sweep (`rows.one_each`).
    """
    options = _options(sys.argv[1:])
    processes = composed.hydra.launcher.get("processes", 1)
    if wrong := number_problem(processes, COUNT):
        raise BadInput(f"hydra.launcher.processes = {processes} {wrong}")
    planned = plan_cells(context.config_loader, composed, job_overrides, of_sweep, processes)
    naming = naming_keys(planned) if of_sweep.naming is None else of_sweep.naming
    cells: list[Cell] = []
    problems: list[str] = []
    for place, (overrides, cell) in enumerate(zip(job_overrides, planned, strict=True)):
        own, config, run = list(overrides), cell.config, cell.run
        if (name := named(cell, naming)) != config.variant:
            config = replace(config, variant=name)
            run = locate(config, config.stage)
            own.append(override_of(name))
            planned[place] = replace(cell, config=config, run=run)
        try:
            if run.status() != DONE:
                problems += check_places(config, to_write=True) + check_start(config)
            if run.status() != DONE or run.stage == "sft":
                problems += check_curve(config)
            problems += [said for of_stage in locate_all(config) for said in check_recorded(of_stage)]
            problems += check_plugins(config) + check_row(config)
            cells.append(Cell(options, own, config, run, processes))
        except BadInput as error:
            problems += [*check_config(config, processes), *error.problems]
    inputs.release()
    if problems:
        raise BadInput(*dict.fromkeys(problems))
    kept, told = one_each(planned)
    for sentence in told:
        console.print(f"note: {sentence}", style="yellow", markup=False, soft_wrap=True)
    cells = [cells[place] for place in kept]
    todo = [cell.config for cell in cells if cell.run.status() != DONE]
    problems = [problem for config in todo for problem in check_config(config, processes)]  # loads torch, in seconds
    if problems:
        raise BadInput(*dict.fromkeys(problems))
    if todo:
        from rlbench.objective.guards import caveats  # loads torch

        for caveat in caveats([cell.config for cell in cells]):
            console.print(f"[yellow]note:[/yellow] {caveat}")
    _print_notices(cells, console)
    return cells


def _print_notices(cells: Sequence[Cell], console: Console) -> None:
    """Print notes about runs that exist already."""
    for notice in dict.fromkeys(notice for cell in cells for notice in superseded(cell.run)):
        console.print(f"note: {notice}", markup=False, soft_wrap=True)
    if said := versions.notice(cell.run.root for cell in cells if cell.run.status() == DONE):
        console.print(f"note: {said}", style="yellow", markup=False, soft_wrap=True)


def plan_cells(
    loader: ConfigLoader,
    composed: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    of_sweep: Swept,
    processes: int = 1,
) -> list[Planned]:
    """Return the cells of a sweep as given by their overrides, before their rows are named.

    Raises:
        BadInput: all problems of the values, or else of the data and the model's files, for all cells.
    """
    configs: list[Config] = []
    problems: list[str] = []
    for of_cell in compose_cells(loader, composed, job_overrides):
        try:
            configs.append(resolve(of_cell))
            problems += check_values(configs[-1], processes) + check_places(configs[-1], to_write=False)
        except BadInput as error:
            problems += error.problems
    if problems:  # report before data and model are read and torch is loaded
        raise BadInput(*dict.fromkeys(problems))
    planned: list[Planned] = []
    for overrides, config in zip(job_overrides, configs, strict=True):
        try:
            planned.append(Planned(config, locate(config, config.stage), of_sweep.of(overrides)))
        except BadInput as error:
            problems += [*check_config(config, processes), *error.problems]
    if problems:
        inputs.release()
        raise BadInput(*dict.fromkeys(problems))
    return planned


def _options(arguments: Sequence[str]) -> list[str]:
    """Return the options of a command that every cell repeats."""
    folder = config_dir(arguments)
    return ["--config-dir", str(folder)] if folder else []


def command_line(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The command of overrides, beside the options of another command's arguments, as a user writes it."""
    return [*program.run_words(), *_options(arguments), *overrides]


def note_cells(cells: Sequence[Cell]) -> None:
    """Add the cells to sweep.json of their experiments, so that `analysis.status` finds cells that never started."""
    by_folder: dict[Path, dict[str, SweepCell]] = {}
    for cell in cells:
        folder = cell.config.group_dir.parent
        name = cell.run.root.relative_to(folder).as_posix()
        by_folder.setdefault(folder, {})[name] = {"command": cell.written(), "updates": cell.updates}
    for folder, noted in by_folder.items():
        with held(folder / f".{SWEEP.name}.lock"):  # another launcher may write at the same time
            earlier = read_cells(folder) if (folder / SWEEP.name).exists() else {}
            write_cells(folder, earlier | noted)


def missing_shared_stages(cells: Sequence[Cell]) -> dict[Path, list[Cell]]:
    """Return the missing SFT stages, each with the cells that wait for it."""
    waiting: dict[Path, list[Cell]] = {}
    for cell in cells:
        stage = locate(cell.config, "sft")
        if "sft" in cell.config.stages and stage.status() != DONE:
            waiting.setdefault(stage.root, []).append(cell)
    return waiting
