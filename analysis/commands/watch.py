"""The live board of `status --watch`: refresh it, read keys, stop and resume cells."""

import contextlib
import os
import select
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live as Screen

from analysis.command import say, terminal
from analysis.commands.board import KEYS, Live, board, ordered
from analysis.commands.cell_processes import gpu_bytes, gpu_lines, process_of, resident_bytes, resume, stop
from analysis.commands.status import ENDED, CellState, survey
from rlbench.base.records import Damaged
from rlbench.runs.directory import FAILED, INTERRUPTED, RUNNING
from rlbench.runs.record import MEASUREMENTS

GPU_EVERY = 5.0
"""Seconds between two questions to nvidia-smi."""
UP, DOWN = ("\x1b[A", "\x1bOA", "k"), ("\x1b[B", "\x1bOB", "j")
QUIT = ("q", "\x03", "\x04")
RESUMED = (INTERRUPTED, FAILED, "missing")
"""States of cells that a command continues."""


@dataclass
class Watch:
    """A board and what it remembers between two refreshes.

    Attributes:
        folder: the folder of the cells.
        cells: the cells in the order of the board, with what is shown of each.
        selected: directory of the selected cell; it keeps the selection when the order changes.
        said: what keys have done, by cell.
        started: processes that were started from here, by cell.
    """

    folder: Path
    cells: list[tuple[CellState, Live]] = field(default_factory=list)
    selected: str = ""
    said: dict[str, str] = field(default_factory=dict)
    started: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    gpus: list[str] = field(default_factory=list)
    _of_gpu: dict[int, int] = field(default_factory=dict)
    _asked: float = 0.0
    _ended: dict[str, tuple[int, CellState]] = field(default_factory=dict)
    _curves: dict[str, tuple[int, tuple[float, ...]]] = field(default_factory=dict)

    def refresh(self) -> None:
        """Read all cells again. Cells that have ended are checked only once."""
        now = time.monotonic()
        if not self._asked or now - self._asked > GPU_EVERY:
            self._asked, self.gpus, self._of_gpu = now, gpu_lines(), gpu_bytes()
        states = survey(self.folder, time.time(), self._ended)
        self._ended = {state.run: (self._changed(state), state) for state in states if state.state in ENDED}
        self._note_started()
        self.cells = [(state, self._live(state)) for state in ordered(states)]
        if self.place < 0:
            self.selected = self.cells[0][0].run

    @property
    def place(self) -> int:
        """Index of the selected cell."""
        return next((i for i, (state, _) in enumerate(self.cells) if state.run == self.selected), -1)

    def _changed(self, state: CellState) -> int:
        return (self.folder / state.run / "STATUS").stat().st_mtime_ns

    def _note_started(self) -> None:
        for run, process in list(self.started.items()):
            if (code := process.poll()) is not None:
                del self.started[run]
                self.said[run] = "" if code == 0 else f"the resumed command ended with exit code {code}"

    def _live(self, state: CellState) -> Live:
        root = self.folder / state.run
        live = Live(self._validation(state.run, root), said=self.said.get(state.run, ""))
        process = process_of(root) if state.state == RUNNING else None
        if process is None:
            return live
        return replace(live, memory=resident_bytes(process), gpu=self._of_gpu.get(process.pid))

    def _validation(self, run: str, root: Path) -> tuple[float, ...]:
        """NDCG at the largest cut-off on validation, by update."""
        path = root / MEASUREMENTS.name
        size = path.stat().st_size if path.is_file() else 0
        if self._curves.get(run, (-1, ()))[0] != size:
            self._curves[run] = (size, validation_curve(root) if size else ())
        return self._curves[run][1]

    def move(self, by: int) -> None:
        """Move the selection."""
        self.selected = self.cells[min(max(self.place + by, 0), len(self.cells) - 1)][0].run

    def stop(self) -> None:
        """Tell the selected cell to stop."""
        state = self.cells[self.place][0]
        running = state.state == RUNNING
        self._say(stop(self.folder / state.run) if running else f"is {state.state}, so there is nothing to stop")

    def resume(self) -> None:
        """Start the command of the selected cell in the background."""
        state = self.cells[self.place][0]
        if state.run in self.started:
            self._say("has been resumed and is starting")
        elif state.state not in RESUMED:
            self._say(f"is {state.state}, so there is nothing to resume")
        elif state.command is None:
            self._say("no command is recorded, so it cannot be resumed from here")
        else:
            self.started[state.run] = resume(self.folder / state.run, state.command)
            self._say("resumed in the background; it goes on when you quit")

    def _say(self, words: str) -> None:
        self.said[self.selected] = words
        self.cells = [
            (state, replace(live, said=words) if state.run == self.selected else live) for state, live in self.cells
        ]


def validation_curve(root: Path) -> tuple[float, ...]:
    """NDCG at the largest cut-off on validation, by update; empty if the file is damaged or has none."""
    try:
        rows = [row for row in MEASUREMENTS.load(root) if row["split"] == "validation"]
    except (Damaged, FileNotFoundError):
        return ()  # the status says what is damaged
    names = {row["metric"] for row in rows if row["metric"].startswith("ndcg@")}
    wanted = max(names, key=lambda name: int(name.partition("@")[2]), default="")
    by_step = {row["step"]: row["value"] for row in rows if row["metric"] == wanted}
    return tuple(by_step[step] for step in sorted(by_step))


def watch(folder: Path, every: float) -> int:
    """Show the board until q is pressed, and return the exit code of `status`. Without a terminal it is printed once.

    Args:
        folder: an experiment's folder, or one above it.
        every: seconds between two refreshes.
    """
    console, shown = terminal(), Watch(folder)
    shown.refresh()
    if not (sys.stdin.isatty() and console.is_terminal):
        console.print(board(str(folder), shown.cells, -1, (console.width, 10_000), shown.gpus, ""))
        say(console, "--watch needs a terminal for keys and refreshing, so the board was printed once")
        return _code(shown)
    with _single_keys(), Screen(console=console, screen=True, auto_refresh=False) as screen:
        _loop(shown, every, lambda: screen.update(_drawn(shown, console), refresh=True))
    console.print(board(str(folder), shown.cells, -1, (console.width, 10_000), shown.gpus, ""))
    return _code(shown)


def _drawn(shown: Watch, console: Console) -> RenderableType:
    return board(str(shown.folder), shown.cells, shown.place, (console.width, console.height), shown.gpus, KEYS)


def _loop(shown: Watch, every: float, draw: Callable[[], object]) -> None:
    due = time.monotonic() + every
    draw()
    while True:
        key = read_key(max(due - time.monotonic(), 0.0))
        if key in QUIT:
            return
        if key in UP or key in DOWN:
            shown.move(-1 if key in UP else 1)
        elif key == "s":
            shown.stop()
        elif key == "r":
            shown.resume()
        if time.monotonic() >= due:
            shown.refresh()
            due = time.monotonic() + every
        draw()


def read_key(timeout: float) -> str:
    """The next key, with the whole sequence of an arrow; "" if none is pressed in time, "q" if the input has ended."""
    descriptor = sys.stdin.fileno()
    if not select.select([descriptor], [], [], timeout)[0]:
        return ""
    text = os.read(descriptor, 1)
    if text == b"\x1b" and select.select([descriptor], [], [], 0.05)[0]:
        text += os.read(descriptor, 2)
    return text.decode(errors="replace") or "q"


@contextlib.contextmanager
def _single_keys() -> Iterator[None]:
    """Deliver keys at once and without echo."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _code(shown: Watch) -> int:
    return 0 if all(state.state in ENDED for state, _ in shown.cells) else 1
