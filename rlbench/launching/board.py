"""Progress bars of a sweep."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rlbench.launching.cells import Cell
from rlbench.runs.directory import DONE, FAILED, PRUNED

COLOURS = {DONE: "green", FAILED: "red", PRUNED: "yellow"}
PLAIN_EVERY = 15.0  # seconds between progress lines without a terminal


class Board:
    """Progress of a sweep: a bar over all updates and one per running cell, or plain lines without a terminal.

    Args:
        console: where to draw.
        cells: maximum number of cells.
        updates: total number of updates.
    """

    def __init__(self, console: Console, cells: int, updates: int):
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
        self.done: dict[Path, int] = {}
        self.total = updates
        self.all = self.bars.add_task(f"{cells} cells", total=self.total, note="")
        self.of_cell: dict[Path, Any] = {}
        self.printed = time.monotonic()

    def __enter__(self) -> "Board":
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
                self.of_cell[cell.run.root] = self.bars.add_task(title, total=cell.updates, note="")
            self.bars.update(self.of_cell[cell.run.root], completed=done, note=note)
            self.done[cell.run.root] = done
            notes.append(f"{cell.run.label} seed {cell.run.seed} {done}/{cell.updates} {note}")
        self.bars.update(self.all, completed=sum(self.done.values()))
        if not self.console.is_terminal and time.monotonic() - self.printed > PLAIN_EVERY:
            self.printed = time.monotonic()
            self.console.print(f"{sum(self.done.values())}/{self.total} updates | {' | '.join(notes)}", soft_wrap=True)

    def finish(self, cell: Cell, word: str) -> None:
        """Remove a cell's bar and print whether it is done, failed or pruned."""
        self.done[cell.run.root] = cell.updates
        if cell.run.root in self.of_cell:
            self.bars.remove_task(self.of_cell.pop(cell.run.root))
        self.console.print(f"[{COLOURS[word]}]{word}[/{COLOURS[word]}] {cell.run.root}", soft_wrap=True)
