"""Prints what a command would do: cells, shared stages, finished work, and the expected cost of the rest."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from rlbench.base.durations import duration
from rlbench.base.program import as_started
from rlbench.base.records import Damaged
from rlbench.config.schedules import Schedules
from rlbench.config.schema import Config
from rlbench.models.sources import folder_digests
from rlbench.running.classical import baseline_runs
from rlbench.runs import inputs
from rlbench.runs.directory import (
    DONE,
    Run,
    locate,
    status_of,
)
from rlbench.runs.identity import INPUTS
from rlbench.runs.record import BUDGET, IDENTITY
from rlbench.runs.sharing import find_finished
from rlbench.training.made import cut_by_budget

LONGEST_LINE = 10_000
"""Maximum number of characters in a line of output that goes to a file or pipe."""

ORACLE = "oracle"
"""Part of a dataset's digests for its best lists. Without it there is no oracle stage."""


@dataclass(frozen=True)
class Step:
    """A stage of a cell, in execution order.

    Attributes:
        run: its directory.
        status: done, running, interrupted, failed, or None before the first start.
        source: directory of the same finished stage in another experiment that would be reused, or None.
        seconds: expected duration from finished runs of the same kind, or None.
    """

    run: Run
    status: str | None
    source: Path | None
    seconds: float | None

    @property
    def to_run(self) -> bool:
        return self.status != DONE and self.source is None


def steps(configs: Sequence[Config]) -> list[Step]:
    """Return every stage that the configs need, each once, in the order of execution.

    Raises:
        BadInput: if a reusable stage of another experiment is damaged.
    """
    wanted: dict[Path, tuple[Run, Config]] = {}
    for stage in ("oracle", "zero_shot", "sft", "rl"):
        for config in configs:
            run = locate(config, stage)
            if stage in config.stages or stage == "oracle" and ORACLE in run.identity[INPUTS]["data"]:
                wanted.setdefault(run.root, (run, config))
    for config in configs:
        for run in baseline_runs(config):
            wanted.setdefault(run.root, (run, config))
    rates = {folder: _rates(folder) for folder in {config.group_dir for _, config in wanted.values()}}
    return [_step(run, config, rates[config.group_dir]) for run, config in wanted.values()]


def _step(run: Run, config: Config, rates: Mapping[str, float]) -> Step:
    status = run.status()
    source = None if status == DONE else find_finished(run, config, lambda: _model_files(config))
    return Step(run, status, source, _expected(run, config, rates))


def _model_files(config: Config) -> dict[str, str]:
    """Return the sha256 of each file of the model that a config's runs load."""
    from rlbench.models.loading import locate_model  # loads torch

    folder = locate_model(config.model, inputs.load(config), Path(config.cache_dir))
    return folder_digests(Path(folder), folder)


def _rates(folder: Path) -> dict[str, float]:
    """Return the mean seconds per update of a folder's finished runs, by stage; without updates, per run."""
    found: dict[str, list[float]] = {}
    for root in (path.parent for path in folder.glob(f"*/*/{BUDGET.name}")):
        if status_of(root) == DONE:
            with suppress(FileNotFoundError, Damaged, KeyError):  # skip damaged runs
                stage, budget = IDENTITY.load(root)["stage"], BUDGET.load(root, "seconds", "updates")
                found.setdefault(stage, []).append(budget["seconds"]["total"] / max(budget["updates"], 1))
    return {stage: sum(seconds) / len(seconds) for stage, seconds in found.items()}


def _expected(run: Run, config: Config, rates: Mapping[str, float]) -> float | None:
    """Return expected seconds, proportional to updates, or None if no run of the stage has finished."""
    if run.stage not in rates:
        return None
    updates = {"rl": config.trainer.rl.updates, "sft": config.trainer.sft.updates}.get(run.stage, 1)
    return updates * rates[run.stage]


def show(configs: Sequence[Config], jobs: int, console: Console) -> None:
    """Print the plan.

    Args:
        configs: the cells.
        jobs: number of cells side by side.
        console: where to print.

    Raises:
        BadInput: as in `steps`.
    """
    table = Table(
        "stage",
        Column("row", overflow="fold"),
        "seed",
        "hash",
        Column("status", overflow="fold"),
        "expected",
        box=None,
        pad_edge=False,
    )
    found = steps(configs)
    for step in found:
        row = (step.run.stage, step.run.label, str(step.run.seed), step.run.hash)
        status = f"taken from {_place(step.source, configs[0])}" if step.source else step.status or "to run"
        table.add_row(*row, Text(status), _expectation(step.seconds) if step.to_run else "")
    _print(table, console)
    for line in [*learning_rates(configs), *schedules(configs), *budgets(configs)]:
        console.print(line, soft_wrap=True, markup=False)
    todo = [step for step in found if step.to_run]
    known = [step.seconds for step in todo if step.seconds is not None]
    done = sum(step.status == DONE for step in found)
    taken = len(found) - done - len(todo)
    console.print(
        f"{len(found)} stages of {len(configs)} cells, {done} done, "
        f"{f'{taken} taken from other experiments, ' if taken else ''}{len(todo)} to run"
    )
    if todo and len(known) == len(todo):
        shared = sum(s.seconds or 0.0 for s in todo if s.run.stage != "rl")
        own = sum(s.seconds or 0.0 for s in todo if s.run.stage == "rl")
        console.print(
            f"expected: about {duration(shared + own / jobs)} with {jobs} at once, judging by finished runs of the "
            "same experiment"
        )
    elif todo:
        console.print("expected: unknown, because no run of some stages has finished here yet")
    if todo:
        from rlbench.running import shortage  # loads torch

        shortage.show(configs, jobs, console)
    console.print("dry run: nothing was run (use runtime.dry_run=false to run it)")


def _print(table: Table, console: Console) -> None:
    """Print a table. A terminal folds long cells. In a file or pipe every row is one line, so that paths stay whole."""
    if console.is_terminal:
        console.print(table)
    else:
        usual, console.width = console.width, LONGEST_LINE
        console.width = Measurement.get(console, console.options, table).maximum
        console.print(table)
        console.width = usual


def report_command(folder: Path) -> str:
    """The command that makes the report of an experiment's folder, as a user writes it."""
    return f"{as_started('python -m analysis.report')} {shlex.quote(str(folder))}"


def status_command(folder: Path) -> str:
    """The command that shows which cells of an experiment's folder are not done, as a user writes it."""
    return f"{as_started('python -m analysis.status')} {shlex.quote(str(folder))}"


def learning_rates(configs: Sequence[Config]) -> list[str]:
    """Return which learning rates the RL stages have and where they are from: a line per choice, with its rows."""
    rows: dict[tuple[float, str], dict[str, None]] = {}
    for config in configs:
        if "rl" in config.stages:
            rl = config.trainer.rl
            rows.setdefault((rl.learning_rate, rl.learning_rate_source), {})[config.label] = None
    return [
        f"learning rate {rate:g}{' of ' + ', '.join(labels) if len(rows) > 1 else ''}: "
        f"{f'from {source}' if source else 'as given'}"
        for (rate, source), labels in rows.items()
    ]


def budgets(configs: Sequence[Config]) -> list[str]:
    """Return what budgets of tokens may cut short: a line per case, with its rows if there are others."""
    rows: dict[str, dict[str, None]] = {}
    for config in configs:
        if said := cut_by_budget(config):
            rows.setdefault(said, {})[config.label] = None
    return [f"note: {'' if len(rows) == 1 else ', '.join(labels) + ': '}{said}" for said, labels in rows.items()]


BARS = "▁▂▃▄▅▆▇█"
MOST_BARS = 60


def schedules(configs: Sequence[Config]) -> list[str]:
    """Return a drawing of each number that changes during training: a line per key and course, with its rows."""
    rows: dict[str, dict[str, None]] = {}
    for config in configs:
        if "rl" in config.stages:
            for key, values in Schedules(config).drawn().items():
                rows.setdefault(f"{key} {_drawing(values)}", {})[config.label] = None
    return [f"schedule of {', '.join(labels)}: {course}" for course, labels in rows.items()]


def _drawing(values: Sequence[float]) -> str:
    """Return a bar chart of one line, with the ends of its range."""
    low, high = min(values), max(values)
    shown = [values[at * len(values) // MOST_BARS] for at in range(MOST_BARS)] if len(values) > MOST_BARS else values
    step = (high - low) / (len(BARS) - 1) or 1.0
    return f"{''.join(BARS[round((value - low) / step)] for value in shown)} {low:g} to {high:g}"


def _place(root: Path, config: Config) -> str:
    """Return a run directory relative to `runs_dir`."""
    return root.relative_to(config.runs_dir).as_posix()


def _expectation(seconds: float | None) -> str:
    return "?" if seconds is None else duration(seconds)
