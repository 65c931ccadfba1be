"""The board of `status --watch`: its rows as text for a terminal of a given size."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.commands.status import COLOURS, ENDED, STATES, CellState
from rlbench.runs.directory import DONE, FAILED, INTERRUPTED, RUNNING

KEYS = "↑ ↓ select   s stop at the next checkpoint   r resume   q quit (cells go on)"
ORDER = (RUNNING, FAILED, INTERRUPTED, "missing", "damaged", "pruned", DONE)
"""Order of the rows by state: what is at work first, what has ended last."""
BLOCKS = "▁▂▃▄▅▆▇█"
BAR = 6
"""Characters of a progress bar."""
POINTS = 7
"""Characters of a sparkline."""
WIDE = 110
"""Columns from which the GPU memory of a process is shown too."""


@dataclass(frozen=True)
class Live:
    """What the board shows of a cell besides its state.

    Attributes:
        validation: values of the run's metric on validation, by update.
        memory, gpu: bytes of its process, resident and on GPUs; None if unknown.
        said: what a key has done last, in words, or "".
    """

    validation: tuple[float, ...] = ()
    memory: int | None = None
    gpu: int | None = None
    said: str = ""


def ordered(states: Sequence[CellState]) -> list[CellState]:
    """States in the order of the board."""
    return sorted(states, key=lambda state: (ORDER.index(state.state), state.run))


def board(
    title: str,
    rows: Sequence[tuple[CellState, Live]],
    selected: int,
    size: tuple[int, int],
    gpus: Sequence[str] = (),
    keys: str = KEYS,
) -> RenderableType:
    """The board.

    Args:
        title: the folder.
        rows: in the order of `ordered`.
        selected: index of the selected row; -1 for none.
        size: columns and lines of the terminal.
        gpus: lines on the GPUs of this machine.
        keys: the line on keys, or "".
    """
    width, height = size
    shown = _window(len(rows), selected, max(height - 8 - len(gpus), 3))
    drawn = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, width=width)
    drawn.add_column("", width=1)
    drawn.add_column("cell", ratio=1, no_wrap=True, overflow="ellipsis")
    for header, columns in (("state", 11), ("progress", BAR + 8), ("left", 6)):
        drawn.add_column(header, width=columns, no_wrap=True, overflow="ellipsis")
    drawn.add_column("validation", width=POINTS + 5, no_wrap=True)
    drawn.add_column("memory", width=6, justify="right", no_wrap=True)
    if width >= WIDE:
        drawn.add_column("GPU", width=7, justify="right", no_wrap=True)
    names = short_names([state.run for state, _ in rows])
    for place in shown:
        state, live = rows[place]
        cells = [
            Text("▶" if place == selected else ""),
            Text(names[place], style="bold" if place == selected else ""),
            Text(state.state, style=COLOURS[state.state]),
            Text(progress(state)),
            Text(time_left(state.remaining)),
            Text(sparkline(live.validation)),
            Text(gibibytes(live.memory)),
        ]
        drawn.add_row(*cells, *([Text(gibibytes(live.gpu))] if width >= WIDE else []))
    counts = Counter(state.state for state, _ in rows)
    summary = Text(f"{title}: ", no_wrap=True, overflow="ellipsis")
    for place, name in enumerate(name for name in STATES if counts[name]):
        summary.append(f"{', ' if place else ''}{counts[name]} {name}", style=COLOURS[name])
    parts: list[RenderableType] = [summary, *(Text(line, style="dim", no_wrap=True) for line in gpus), drawn]
    if len(shown) < len(rows):
        parts.append(Text(f"  {len(rows) - len(shown)} more cells", style="dim"))
    if 0 <= selected < len(rows):
        parts.append(Text(about(*rows[selected]), style="dim"))  # up to three lines
    if keys:
        parts.append(Text(keys, style="reverse", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _window(count: int, selected: int, room: int) -> range:
    """Indices of the rows that fit, around the selected one."""
    first = min(max(selected - room // 2, 0), max(count - room, 0))
    return range(first, min(first + room, count))


def short_names(runs: Sequence[str]) -> list[str]:
    """Row and seed of each run, with more of its directory where that would be ambiguous."""
    parts = [run.split("/") for run in runs]
    names = [" ".join([*own[-2:-1], own[-1].partition("-")[0].replace("seed", "s")]) for own in parts]
    return [name if names.count(name) == 1 else run for name, run in zip(names, runs, strict=True)]


def progress(state: CellState) -> str:
    """A bar with the units done, such as "███─── 30/60"; "" for a cell that has ended."""
    if not state.total or state.state in ENDED:
        return ""
    filled = round(BAR * min(state.done / state.total, 1.0))
    return f"{'█' * filled}{'─' * (BAR - filled)} {state.done}/{state.total}"


def time_left(seconds: float | None) -> str:
    """A duration in six characters, or "" if unknown."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole / 3600:.1f} h"


def sparkline(values: Sequence[float]) -> str:
    """The last values as blocks between their lowest and highest, then the last one as a number."""
    if not values:
        return ""
    shown = values[-POINTS:]
    low, span = min(shown), max(shown) - min(shown)
    blocks = "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1)) if span else 0] for value in shown)
    number = f"{values[-1]:.3f}"
    return f"{blocks} {number.removeprefix('0') if number.startswith('0.') else number[:4]}"


def gibibytes(number: int | None) -> str:
    """Bytes in GiB, or "" if unknown."""
    return "" if number is None else f"{number / 2**30:.2f}G"


def about(state: CellState, live: Live) -> str:
    """A line on the selected cell: what a key did, what it is doing, what it continues, why it ended."""
    ended = "" if state.state not in ENDED else "nothing is left to do"
    parts = [live.said, state.doing if state.state == RUNNING else "", state.clone_of, state.reason, ended]
    return f"  {'; '.join(part for part in parts if part) or state.run}"
