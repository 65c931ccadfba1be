"""Appearance and files of figures.

Colours are Okabe & Ito's, which colour-blind readers can tell apart. Markers and dashes carry the same information.
The same figure gives byte-identical files.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.series import AXES
from rlbench.base.files import whole_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (9, 2)))
GREY = "0.35"
FAINT = "0.82"

STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.hashsalt": "rlbench",
    "pdf.fonttype": 42,
}

WIDTH = 6.9
"""Text width of a two-column page, in inches."""

FORMATS = ("png", "svg", "pdf")

THOUSANDS, MILLIONS = 20_000, 2_000_000
"""Smallest maximum of an axis in thousands, and of one in millions."""
MINUTES, HOURS = 300, 10_800
"""Smallest maximum, in seconds, of an axis in minutes, and of one in hours."""


SAME = 1e-9
"""Values within this relative difference count as equal: they differ by rounding errors of sums."""


def value_range(low: float, high: float) -> tuple[float, float]:
    """Ends of a value scale. Constant values get a useful range.

    A constant gets a range of ±10 % of its size. A constant 0 gets the range 0 to 1, to avoid negative values
    on the scale of a metric that cannot be negative.
    """
    if high - low > SAME * max(abs(low), abs(high), 1e-3):
        return low, high
    size = max(abs(low), abs(high))
    return (0.0, 1.0) if size < SAME else (low - size / 10, high + size / 10)


def show_constant(ax: Axes) -> None:
    """Give axes with constant data a useful range. Leave other axes unchanged."""
    (x0, y0), (x1, y1) = ax.dataLim.min, ax.dataLim.max
    if np.isfinite([y0, y1]).all() and value_range(y0, y1) != (y0, y1):
        low, high = value_range(y0, y1)
        ax.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    if np.isfinite([x0, x1]).all() and x0 == x1:
        ax.set_xlim(x0 - 1, x0 + 1)


def styles(runs: pd.DataFrame, by: str | None = None) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of each RL row.

    Colour and marker show the algorithm, dashes the reward. With one reward, dashes also show the algorithm. With one
    algorithm, or one panel per algorithm, colour and marker show the reward. With one panel per reward, dashes show the
    algorithm.
    """
    rl = runs[runs["stage"] == "rl"]
    rows = rl[["label", "algorithm", "reward"]].drop_duplicates().sort_values(["algorithm", "reward"])
    algorithms = sorted(rows["algorithm"].unique())
    rewards = sorted(rows["reward"].unique())
    several = len(rewards) > 1
    of_reward, of_algorithm = ("reward", rewards), ("algorithm", algorithms)
    coloured = of_reward if several and (by == "algorithm" or len(algorithms) == 1) else of_algorithm
    dashed = of_reward if several and by != "reward" else of_algorithm
    colours, markers = (dict(zip(coloured[1], cycle(looks))) for looks in (COLOURS, MARKERS))
    dashes = dict(zip(dashed[1], cycle(DASHES)))
    return {
        str(row.label): {
            "color": colours[getattr(row, coloured[0])],
            "marker": markers[getattr(row, coloured[0])],
            "linestyle": dashes[getattr(row, dashed[0])],
        }
        for row in rows.itertuples()
    }


def axis_unit(against: str, largest: float) -> tuple[float, str]:
    """Divisor for the values of an axis of `AXES`, and the axis label with its unit."""
    name = AXES[against]
    if against == "seconds":
        for start, size, unit in ((HOURS, 3_600.0, "h"), (MINUTES, 60.0, "min")):
            if largest >= start:
                return size, f"{name} ({unit})"
        return 1.0, f"{name} (s)"
    for start, size, unit in ((MILLIONS, 1e6, "millions"), (THOUSANDS, 1e3, "thousands")):
        if largest >= start:
            return size, f"{name} ({unit})"
    return 1.0, name


def legend_columns(labels: Sequence[str]) -> int:
    """Number of legend columns that fit below the axes, with rows filled as evenly as possible."""
    entry = max(map(len, labels)) * STYLE["legend.fontsize"] * 0.52 + 42  # points: letters, then handle and gaps
    fit = max(1, int(WIDTH * 72 / entry))
    rows = -(-len(labels) // fit)
    return -(-len(labels) // rows)


def legend_below(figure: Figure, entries: Mapping[str, Any], note: str) -> None:
    """Put a note and a legend below the axes. The figure grows to make room.

    Args:
        entries: label to legend handle; may be empty.
        note: sentences above the legend.
    """
    across = legend_columns(list(entries)) if entries else 1
    lines = -(-len(entries) // across) + 1 + note.count("\n")
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.1 + 0.17 * lines)
    legend = figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=across,
        frameon=False,
        handlelength=3.2,
        title=note,
        title_fontsize=7,
    )
    legend.get_title().set_multialignment("center")


def save(figure: Figure, path: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write <path>.<format> for each requested format, without dates. Returns the files written.

    PNG has 200 dots per inch; PDF embeds TrueType fonts.
    """
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    written = []
    with matplotlib.rc_context(STYLE):
        for kind in formats:
            file = path.with_name(f"{path.name}.{kind}")
            with whole_file(file) as beside:
                figure.savefig(beside, format=kind, dpi=200, metadata=metadata[kind])
            written.append(file)
    return written
