"""Performance profiles as a figure: the share of runs and samples that score above each threshold, with bands.

There is one row of panels per metric and one panel per group of the table. Curves and bands come from
`statistics.performance_profile`; the area under a curve is the row's mean score. Colours, markers and dashes are those
of the other curves. The same runs give byte-identical files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from analysis import statistics
from analysis.figures.grid import fitting, panel_grid, panel_height
from analysis.figures.lines import REFERENCE
from analysis.figures.style import GREY, Captioned, legend_below, style_of, styles
from analysis.render.numbers import words
from analysis.render.templates import PAGE, Paper
from analysis.statistics import Floats
from analysis.tables.profiles import Profile
from rlbench.lists.metric_catalogue import metric_title

THRESHOLDS: Floats = np.linspace(0, 1, 101)
ACROSS = 3
"""Number of panels per grid row."""
ALONE = 0.65
"""Share of a page's width that one panel takes."""
NOTHING = 0.005
"""A profile below this is invisible on paper."""
MARKED = 12
"""Number of thresholds from one marker to the next."""


def draw_profiles(
    profiles: Mapping[str, Sequence[Profile]], *, resamples: int = statistics.RESAMPLES, paper: Paper = PAGE
) -> Captioned | None:
    """Draw one panel per metric and group; None if no row was trained.

    Args:
        profiles: metric to the rows of the table, ordered by group (`tables.profile_scores`).
        paper: where the figure is to stand.
    """
    panels = [
        (metric, group, [row for row in rows if row.group == group])
        for metric, rows in profiles.items()
        for group in dict.fromkeys(row.group for row in rows)
    ]
    if not panels:
        return None
    rows = [row for _, _, of_panel in panels for row in of_panel]
    looks = _looks(rows)
    names = list(dict.fromkeys(row.name for row in rows))
    across = fitting(min(ACROSS, len(panels)), paper.width)
    with matplotlib.rc_context(style_of(paper)):
        height = panel_height(2.3, across, paper.width, ACROSS)
        single = replace(paper, width=paper.width * ALONE) if across == 1 and paper.template is None else paper
        figure, axes = panel_grid(len(panels), across, height, paper=single)
        ends: dict[str, float] = {}
        for ax, (metric, group, of_panel) in zip(axes, panels, strict=True):
            ends[metric] = max(
                ends.get(metric, 0.0), *(_draw(ax, row, looks[row.label], resamples) for row in of_panel)
            )
            title = metric_title(metric)
            ax.set(xlabel=f"τ ({title})", ylabel=f"Share with {title} > τ", ylim=(0, 1.03))
            if group:
                ax.set_title(group)
        for ax, (metric, _, _) in zip(axes, panels, strict=True):
            ax.set_xlim(0, ends[metric])
        handles: dict[str, Artist] = {}
        for ax in axes:
            handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        titles = words([metric_title(metric) for metric in profiles])
        figure.caption = f"Performance profiles of {titles} on test."
        one_seed = any(len(row.scores.seeds) == 1 for row in rows)
        legend_below(figure, {name: handles[name] for name in names}, _note(one_seed=one_seed), single)
    return figure


def _note(*, one_seed: bool) -> str:
    over = "contexts and seeds" + (" (one seed: contexts)" if one_seed else "")
    return f"Share of runs × samples above τ. Bands: pointwise 95 % interval over {over}."


def _looks(rows: Sequence[Profile]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes by label, as in the curves; grey for SFT."""
    columns = ("stage", "label", "algorithm", "reward")
    frame = pd.DataFrame([[getattr(row, column) for column in columns] for row in rows], columns=list(columns))
    grey = {"color": GREY, "linestyle": REFERENCE["sft"]}
    return {row.label: grey for row in rows if row.stage != "rl"} | styles(frame)


def _draw(ax: Axes, row: Profile, look: Mapping[str, Any], resamples: int) -> float:
    """Draw a row. Returns the threshold beyond which its profile is practically 0, rounded up to a tenth."""
    found = statistics.performance_profile(row.scores, THRESHOLDS, resamples=resamples)
    ax.fill_between(THRESHOLDS, found.low, found.high, color=look["color"], alpha=0.12, linewidth=0, step="post")
    marked = (MARKED // 2, MARKED)
    ax.plot(THRESHOLDS, found.mean, label=row.name, drawstyle="steps-post", markevery=marked, **look)
    reached = np.flatnonzero(found.mean > NOTHING)
    return min(float(np.ceil(10 * THRESHOLDS[reached[-1]] + 0.5) / 10), 1.0) if len(reached) else 0.1
