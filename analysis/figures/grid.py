"""Grids of small panels, one per table row: number of panels per grid row, and panel titles."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import STYLE, Captioned, style_of
from analysis.render.templates import PAGE, PAGE_WIDTH, Paper

MOST_LINES = 3
"""Maximum lines of a panel title."""
LETTERS = {1: 90, 2: 50, 3: 34, 4: 24, 6: 18}
"""Characters per line of a panel title, by the number of panels per grid row."""

LINE_SPACING = 0.95
"""Distance of the lines of an axis label: the letters of templates have much space above and below."""

BAR = 0.1
"""Thickness of a colour bar, in inches."""


def across_for(panels: int, width: float = PAGE_WIDTH) -> int:
    """Number of panels per grid row, in a figure of a width in inches."""
    return fitting(
        next(across for across, most in ((panels, 3), (3, 9), (4, 16), (6, panels)) if panels <= most), width
    )


def fitting(across: int, width: float) -> int:
    """Number of panels that fit side by side, where `across` fit on a page. Two fit in a column."""
    return min(across, max(2, math.ceil(across * width / PAGE_WIDTH - 0.1)))


def panel_height(height: float, across: int, width: float, usual: int) -> float:
    """Height of a panel in inches: `height` where `usual` panels share a page, less where a panel is narrower."""
    return height * min(1.0, max(0.62, width / across * usual / PAGE_WIDTH))


def title_size(across: int, style: Mapping[str, Any] = STYLE, width: float = PAGE_WIDTH) -> float:
    """Font size of a panel title, in points, in a figure of a width in inches."""
    large, small = float(style["axes.titlesize"]), float(style["xtick.labelsize"])
    panel = width / across
    return large if panel > 2.5 else small if panel > 1.5 else small - 1.5


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


def wrapped(name: str, across: int, width: float = PAGE_WIDTH) -> str:
    """A title wrapped to the width of a panel, broken after spaces, hyphens and commas.

    `width` is that of the figure in inches. The title is cut after `MOST_LINES` lines, to leave room for the panel.
    """
    letters = int(LETTERS.get(across, 21) * width / PAGE_WIDTH)
    lines = [""]
    for word in name.replace("-", "-\0").replace(",", ",\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len(lines[-1] + word.rstrip()) > letters:
            lines.append("")
        lines[-1] += word
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1].rstrip()[: letters - 1]}…"]
    return "\n".join(line.rstrip() for line in lines)


def panel_grid(
    panels: int,
    across: int,
    height: float,
    beyond: float = 0.0,
    *,
    same_scale: bool = False,
    paper: Paper = PAGE,
) -> tuple[Captioned, list[Axes]]:
    """A figure of the paper's width with axes for `panels` panels, of which `across` are side by side.

    Args:
        height: height of one row of panels, in inches.
        beyond: height of the figure beyond its panels, in inches.
        same_scale: whether all panels share their axes.
    """
    down = -(-panels // across)
    figure = Captioned(figsize=(paper.width, height * down + beyond), layout="constrained")
    figure.style = style_of(paper)
    axes = figure.subplots(down, across, squeeze=False, sharex=same_scale, sharey=same_scale).ravel()
    for ax in axes[panels:]:
        ax.remove()
    for ax in axes[:panels]:
        ax.yaxis.label.set_linespacing(LINE_SPACING)
    return figure, list(axes[:panels])


def label_lowest(axes: Sequence[Axes], across: int, label: str) -> None:
    """Label the x axes of the panels with no panel below. A label that is too wide is wrapped, in a title's letters."""
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    text = wrapped(label, across, figure.get_size_inches()[0])
    size = matplotlib.rcParams["axes.labelsize" if text == label else "axes.titlesize"]
    for ax in axes[-across:]:
        ax.set_xlabel(text, fontsize=size)
        ax.tick_params(labelbottom=True)


def colour_bar(figure: Figure, scale: Any, label: str) -> None:
    """Add a colour bar to the right of all axes."""
    height = figure.get_size_inches()[1]
    with matplotlib.rc_context({"axes.grid": False}):
        bar = figure.colorbar(scale, ax=list(figure.axes), label=label, aspect=0.9 * height / BAR, pad=0.02)
    bar.ax.yaxis.label.set_linespacing(LINE_SPACING)
    bar.outline.set_linewidth(0.6)  # type: ignore[operator]
