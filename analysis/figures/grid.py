"""Grids of small panels, one per table row: number of panels per grid row, and panel titles."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import WIDTH

MOST_LINES = 3
"""Maximum lines of a panel title."""
LETTERS = {1: 90, 2: 50, 3: 34, 4: 24, 6: 18}
"""Characters per line of a panel title, by the number of panels per grid row."""

BAR = 0.1
"""Thickness of a colour bar, in inches."""


def across_for(panels: int) -> int:
    """Number of panels per grid row."""
    return next(across for across, most in ((panels, 3), (3, 9), (4, 16), (6, panels)) if panels <= most)


def title_size(across: int) -> float:
    """Font size of a panel title, in points."""
    return 8.0 if across <= 2 else 7.0 if across <= 4 else 5.5


def short_names(names: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """A sentence with the common prefix of all row names, and the names without it.

    Without a common prefix: "" and the unchanged names. The prefix ends with a space and is never a whole name.
    """
    whole = list(names.values())
    common = os.path.commonprefix(whole).rpartition(" ")[0]
    if len(whole) < 2 or not common:
        return "", dict(names)
    short = {label: name.removeprefix(common).strip() for label, name in names.items()}
    return f" All rows: {common.rstrip(' @·')}.", short


def wrapped(name: str, across: int) -> str:
    """A title wrapped to the panel width, broken after spaces, hyphens and commas.

    It is cut after `MOST_LINES` lines, to leave room for the panel.
    """
    lines = [""]
    for word in name.replace("-", "-\0").replace(",", ",\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len(lines[-1] + word.rstrip()) > LETTERS[across]:
            lines.append("")
        lines[-1] += word
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1].rstrip()[: LETTERS[across] - 1]}…"]
    return "\n".join(line.rstrip() for line in lines)


def panel_grid(
    panels: int, across: int, height: float, beyond: float = 0.0, *, same_scale: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of page width with axes for `panels` panels, of which `across` are side by side.

    Args:
        height: height of one row of panels, in inches.
        beyond: height of the figure beyond its panels, in inches.
        same_scale: whether all panels share their axes.
    """
    down = -(-panels // across)
    figure = Figure(figsize=(WIDTH, height * down + beyond), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharex=same_scale, sharey=same_scale).ravel()
    for ax in axes[panels:]:
        ax.remove()
    return figure, list(axes[:panels])


def label_lowest(axes: Sequence[Axes], across: int, label: str) -> None:
    """Label the x axes of the panels with no panel below."""
    for ax in axes[-across:]:
        ax.set_xlabel(label)
        ax.tick_params(labelbottom=True)


def colour_bar(figure: Figure, scale: Any, label: str) -> None:
    """Add a colour bar to the right of all axes."""
    height = figure.get_size_inches()[1]
    with matplotlib.rc_context({"axes.grid": False}):
        bar = figure.colorbar(scale, ax=list(figure.axes), label=label, aspect=0.9 * height / BAR, pad=0.02)
    bar.outline.set_linewidth(0.6)  # type: ignore[operator]
