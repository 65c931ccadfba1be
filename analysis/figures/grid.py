"""Many small panels, one a row: how many fit beside each other, and what is written over them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

VARIANT = " @ "
"""Between the reward and the variant in a row's name."""

MOST_LINES = 3
"""Lines of a panel's title."""
LETTERS = {1: 90, 2: 50, 3: 34, 4: 24, 6: 18}
"""How many letters fit over a panel, by the number of panels beside each other."""

BAR = 0.1
"""Inches: how thick a colour bar is."""


def across_for(panels: int) -> int:
    """How many panels stand beside each other."""
    return next(across for across, most in ((panels, 3), (3, 9), (4, 16), (6, panels)) if panels <= most)


def title_size(across: int) -> float:
    """Points of a panel's title."""
    return 8.0 if across <= 2 else 7.0 if across <= 4 else 5.5


def short_names(names: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """A sentence on what all names of rows begin with, and the names without it; "" and the names where it is nothing.

    What is taken away ends with a space and leaves something of every name.
    """
    whole = list(names.values())
    common = os.path.commonprefix(whole).rpartition(" ")[0]
    if len(whole) < 2 or not common:
        return "", dict(names)
    short = {label: name.removeprefix(common).strip() for label, name in names.items()}
    return f" All rows: {common.rstrip(' @·')}.", short


def wrapped(name: str, across: int) -> str:
    """A title in lines that fit over a panel, broken after spaces, hyphens and commas; what is longer is cut.

    More lines would leave no room for the panel.
    """
    lines = [""]
    for word in name.replace("-", "-\0").replace(",", ",\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len(lines[-1] + word.rstrip()) > LETTERS[across]:
            lines.append("")
        lines[-1] += word
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1].rstrip()[: LETTERS[across] - 1]}…"]
    return "\n".join(line.rstrip() for line in lines)


def finish_grid(axes: Sequence[Axes], panels: int, across: int, label: str) -> None:
    """Take the empty axes at the end away, and label the x axes that have nothing below them."""
    for place, ax in enumerate(axes):
        if place >= panels:
            ax.remove()
        elif place + across >= panels:
            ax.set_xlabel(label)
            ax.tick_params(labelbottom=True)


def colour_bar(figure: Figure, scale: Any, label: str) -> None:
    """A colour bar to the right of all axes."""
    height = figure.get_size_inches()[1]
    with matplotlib.rc_context({"axes.grid": False}):
        bar = figure.colorbar(scale, ax=list(figure.axes), label=label, aspect=0.9 * height / BAR, pad=0.02)
    bar.outline.set_linewidth(0.6)  # type: ignore[operator]
