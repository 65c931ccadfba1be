"""Check that W&B's files match the run directories."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.collection import find_runs
from analysis.collection.stored import is_collection
from analysis.command import say, terminal
from analysis.render.sheet import Shown, rich_table, sheet_of
from rlbench.base.errors import BadInput
from rlbench.base.records import PUT_BACK, is_whole
from rlbench.runs.record import MEASUREMENTS
from rlbench.tracking import curve_name
from rlbench.tracking.wandb_file import OfflineRun, read_run

SHOWN = 3
"""Maximum number of missing or differing points to name."""

Points = dict[tuple[str, int], float]


@dataclass(frozen=True)
class Checked:
    """Result of checking the W&B files of one run.

    Attributes:
        run: its directory, relative to the folder that was searched.
        attempts: number of W&B runs.
        points: number of points in metrics.jsonl.
        problems: one sentence per missing or differing item.
    """

    run: str
    attempts: int
    points: int
    problems: tuple[str, ...]


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    if is_collection(options.runs):
        raise BadInput(f"{options.runs} is a collection, which has no W&B files; give the folder of the runs")
    found = [(path, files) for path in find_runs(options.runs) if (files := sorted(path.glob("wandb/*run-*/*.wandb")))]
    if not found:
        raise BadInput(f"no run below {options.runs} has W&B files (tracker=offline or tracker=wandb writes them)")
    checked = [check(path, files, path.relative_to(options.runs).as_posix()) for path, files in found]
    verdicts = (Shown("all", colour="green"), Shown("not all", colour="red"))
    rows = [(one.run, str(one.attempts), str(one.points), verdicts[bool(one.problems)]) for one in checked]
    console = terminal()
    console.print(rich_table(sheet_of("", ("run", "attempts", "points", "W&B has"), rows, names=1)))
    for one in checked:
        for problem in one.problems:
            say(console, f"{one.run}: {problem}")
    return 1 if any(one.problems for one in checked) else 0


def check(directory: Path, files: Sequence[Path], name: str) -> Checked:
    """Compare one run's W&B files with its metrics.jsonl."""
    attempts, damaged = [], []
    for file in files:
        try:
            attempts.append((read_run(file), file))
        except ValueError as error:
            damaged.append(f"{file.parent.name} cannot be read: {error}")
    attempts.sort(key=lambda attempt: attempt[0].started)
    damaged += [
        f"{file.parent.name} is truncated: its process was killed, or its disk was full"
        for run, file in attempts
        if not run.whole
    ]
    tracked, local = joined([run for run, _ in attempts]), measured(directory / MEASUREMENTS.name)
    problems = _points("missing in W&B", [point for point in local if point not in tracked])
    problems += _points("not the same", [p for p in local if p in tracked and not _same(local[p], tracked[p])])
    if problems:  # otherwise a later attempt measured again what a killed one lost
        problems += damaged
    problems += [
        f"{file.parent.name} names the table {entry}, which is missing"
        for run, file in attempts
        for entry in tables(run)
        if not (file.parent / "files" / entry).is_file()
    ]
    return Checked(name, len(files), len(local), tuple(problems))


def joined(attempts: Sequence[OfflineRun]) -> Points:
    """(curve, update) to value over the attempts of a run, oldest first; later attempts override earlier ones."""
    points: Points = {}
    for run in attempts:
        for row in run.history:
            step: Any = row.get("update")
            if not is_whole(step):
                continue
            points |= {(name, step): value for name, value in row.items() if isinstance(value, int | float)}
    return points


def measured(file: Path) -> Points:
    """(curve, update) to value of a metrics.jsonl. The last line for a point counts.

    Raises:
        BadInput: if a line is no measurement.
    """
    rows = MEASUREMENTS.read(file.parent, PUT_BACK)
    return {(curve_name(f"{row['split']}/{row['metric']}"), row["step"]): row["value"] for row in rows}


def tables(run: OfflineRun) -> list[str]:
    """Table files of a run, relative to its folder `files`."""
    values = [value for row in run.history for value in row.values() if isinstance(value, dict)]
    return [str(value.get("path")) for value in values if value.get("_type") == "table-file"]


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _points(what: str, points: Sequence[tuple[str, int]]) -> list[str]:
    named = ", ".join(f"{name} at {step}" for name, step in points[:SHOWN])
    more = f" and {len(points) - SHOWN} more" if len(points) > SHOWN else ""
    return [f"{what}: {named}{more}"] if points else []
