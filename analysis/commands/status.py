"""Progress of every cell of an experiment, and the commands to complete it."""

import argparse
import fcntl
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from analysis.collection import find_runs
from analysis.collection.reading import check_files
from analysis.collection.stored import is_collection
from analysis.command import say, terminal
from analysis.problems import Unusable
from analysis.render.sheet import Shown, rich_table, sheet_of
from rlbench.base.durations import duration
from rlbench.base.errors import BadInput
from rlbench.base.progress import PROGRESS, ProgressState
from rlbench.runs.attempts import UNKNOWN, Attempt, attempts
from rlbench.runs.directory import DONE, FAILED, INTERRUPTED, PRUNED, RUNNING, foreign_links
from rlbench.runs.record import MANIFEST, SWEEP, SweepCell
from rlbench.runs.sweep_file import read_cells

WIDTH = 160
"""Line width when output goes to a file. Cell names are long."""
REMEDY = "restore the file from a backup, or move the folder away and run its command again"
REFUSED = f"{BadInput.__name__}:"
"""Start of the reason of a cell whose input was wrong. Its command alone would fail again."""
DAMAGED, MISSING = "damaged", "missing"
WORDS = {DONE: "green", RUNNING: "cyan", INTERRUPTED: "yellow", FAILED: "red", PRUNED: "blue"}
"""States that STATUS may name, and their colours."""
COLOURS = WORDS | {DAMAGED: "red", MISSING: "magenta"}
STATES = tuple(COLOURS)
ENDED = (DONE, PRUNED)
"""States of cells that need no further action."""


@dataclass(frozen=True)
class CellState:
    """Progress of one cell.

    Attributes:
        run: its directory, relative to the folder that was searched.
        state: one of STATES.
        doing: current activity, e.g. "seed 0".
        done: finished units of the activity; total: all units.
        remaining: seconds until the activity ends at the rate of this attempt; None if unknown.
        silent: seconds since it last wrote its progress; None if it wrote none.
        reason: one line on why it failed, was pruned or stopped early, or "".
        command: command that completes it; None if none is recorded.
        attempts: its attempts in order, each as text.
        log: log of its last attempt; None if there is none.
        clone_of: the update and the row that it continues, if it is a clone, or "".
    """

    run: str
    state: str
    doing: str = ""
    done: int = 0
    total: int = 0
    remaining: float | None = None
    silent: float | None = None
    reason: str = ""
    command: tuple[str, ...] | None = None
    attempts: tuple[str, ...] = ()
    log: Path | None = None
    clone_of: str = ""


def survey(folder: Path, now: float, known: Mapping[str, tuple[int, CellState]] | None = None) -> list[CellState]:
    """The state of every run below a folder and of every cell that a sweep planned there, sorted by name.

    Args:
        folder: an experiment's folder, or one above it.
        now: seconds since the epoch.
        known: states of cells that had ended, by directory, each with the time in ns at which its STATUS was written.
            Their files are not checked again.

    Raises:
        BadInput: if there is no such folder, or it has neither runs nor sweeps.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}")
    if is_collection(folder):
        raise BadInput(f"{folder} is a collection, which has no progress; give the folder of the runs")
    planned = _planned(folder)
    found = {path.relative_to(folder).as_posix(): path for path in find_runs(folder)}
    if not found and not planned:
        raise BadInput(f"no run below {folder}")
    commands = {name: tuple(cell["command"]) for name, cell in planned.items()}
    states = [
        known[name][1]
        if known and name in known and known[name][0] == (path / "STATUS").stat().st_mtime_ns
        else read_state(path, name, commands.get(name), now)
        for name, path in found.items()
    ]
    states += [
        CellState(name, MISSING, total=cell["updates"], command=commands[name])
        for name, cell in planned.items()
        if name not in found
    ]
    return sorted(states, key=lambda state: state.run)


def read_state(path: Path, name: str, command: tuple[str, ...] | None, now: float) -> CellState:
    """The state of one run directory.

    Args:
        name: name to show.
        command: command of the sweep; None to read it from the manifest.
        now: seconds since the epoch.
    """
    if links := foreign_links(path):
        raise BadInput(f"{links[0]} is a link to a place outside the run: replace it with the file itself")
    status, _, reason = (path / "STATUS").read_text(encoding="utf-8", errors="replace").partition("\n")
    if status not in WORDS:
        raise BadInput(f"{path / 'STATUS'} is {status[:40]!r}, but must be one of {', '.join(WORDS)}: {REMEDY}")
    if status == RUNNING and not _is_held(path / ".lock"):
        status = INTERRUPTED
    if status == DONE:
        try:
            check_files(path)
        except Unusable as error:
            status, reason = DAMAGED, str(error).removeprefix("damaged: ")
    progress = path / PROGRESS.name
    state: ProgressState = {}
    silent = None
    if progress.is_file():
        state = PROGRESS.read(path, "remove it; the run writes a new one")
        silent = max(now - progress.stat().st_mtime, 0.0)
    done, total = state.get("done", 0), state.get("total", 0)
    advanced = done - state.get("first", 0)
    rate = advanced / state["seconds"] if advanced > 0 and state.get("seconds") else None
    return CellState(
        run=name,
        state=status,
        doing=state.get("description", ""),
        done=done,
        total=total,
        remaining=(total - done) / rate if rate and status == RUNNING else None,
        silent=silent,
        reason=reason.strip().split("\n")[0],
        command=command or _recorded_command(path),
        clone_of=_ancestor(path),
        attempts=tuple(_attempt(attempt, status) for attempt in attempts(path)),
        log=next((file for a in attempts(path)[-1:] for file in (a.log_file, a.output_file) if file.is_file()), None),
    )


def _attempt(attempt: Attempt, status: str) -> str:
    """An attempt in a few words: its number, its outcome, and its first and last update."""
    facts = attempt.read()
    outcome = facts.get("outcome", "never began")
    if outcome == RUNNING and status != RUNNING:
        outcome = UNKNOWN
    first, last = facts.get("from_update"), facts.get("reached_update")
    between = "" if first is None else f" {first}-{'' if last is None else last}"
    return f"{attempt.number} {outcome}{between}"


def _planned(folder: Path) -> dict[str, SweepCell]:
    """The cells of all sweeps below a folder, by relative directory."""
    cells = {}
    for path in sorted(folder.rglob(SWEEP.name)):
        for name, cell in read_cells(path.parent).items():
            cells[(path.parent / name).relative_to(folder).as_posix()] = cell
    return cells


def _recorded_command(path: Path) -> tuple[str, ...] | None:
    if not (path / MANIFEST.name).is_file():
        return None
    command = MANIFEST.read(path, REMEDY, "command")["command"]
    return ("python", *command) if command[:1] and command[0].endswith(".py") else tuple(command)


def _ancestor(path: Path) -> str:
    if not (path / MANIFEST.name).is_file():
        return ""
    clone = MANIFEST.read(path, REMEDY).get("clone")
    return f"← step {clone['step']} of {clone['name']}" if clone else ""


def _is_held(lock: Path) -> bool:
    """Whether a process holds the run's lock."""
    if not lock.is_file():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def commands(states: Sequence[CellState]) -> list[str]:
    """Shell commands that complete the cells, without repetitions.

    A cell that has ended or is running needs no command. A damaged cell has none until the user repairs it or moves it
    away.
    """
    wanted = [state.command for state in states if state.state not in (*ENDED, RUNNING, DAMAGED) and state.command]
    return [shlex.join(command) for command in dict.fromkeys(wanted)]


def _show(states: Sequence[CellState], folder: Path, console: Console, every: bool) -> None:
    counts = Counter(state.state for state in states)
    summary = ", ".join(f"[{COLOURS[name]}]{counts[name]} {name}[/{COLOURS[name]}]" for name in STATES if counts[name])
    console.print(f"{folder}: {summary}")
    shown = [state for state in states if every or state.state != DONE or state.reason]
    if shown:
        header = ["cell", "state", "progress", "remaining", "note", *(["attempts"] if every else [])]
        rows = [
            [*_cells(state), ", ".join(state.attempts)] if every else _cells(state)
            for state in sorted(shown, key=lambda state: (STATES.index(state.state), state.run))
        ]
        console.print(rich_table(sheet_of("", header, rows, names=1, words=range(len(header) - 1))))
    lines = commands(states)
    if lines:
        refused = any(state.state == FAILED and state.reason.startswith(REFUSED) for state in states)
        first = ", after what the notes name as wrong is corrected" if refused else ""
        console.print(f"{'This completes it' if len(lines) == 1 else 'These complete them'}{first}:")
        for line in lines:
            say(console, f"  {line}")


def _cells(state: CellState) -> Sequence[str | Shown]:
    """The cells of a row: name, state, progress, remaining time, note."""
    progress = f"{state.doing} {state.done}/{state.total}".strip() if state.total else ""
    remaining = duration(state.remaining) if state.remaining is not None else ""
    return state.run, Shown(state.state, colour=COLOURS[state.state]), progress, remaining, _note(state)


def _note(state: CellState) -> str:
    if state.state == RUNNING and state.silent is not None and state.silent > 60:
        return f"silent for {duration(state.silent)}"
    log = f" (log: {state.log})" if state.state == FAILED and state.log is not None else ""
    return f"{state.clone_of} {state.reason}{log}".strip()


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    states = survey(options.runs, time.time())
    if options.commands:
        print("\n".join(commands(states)))
    else:
        _show(states, options.runs, terminal(WIDTH), options.all)
    return 0 if all(state.state in ENDED for state in states) else 1
