"""Performance profiles as a figure: the share of runs and samples that score above each threshold, with bands.

There is one row of panels per metric and one panel per group of the table. Curves and bands come from
`statistics.performance_profile`; the area under a curve is the row's mean score. Colours, markers and dashes are those
of the other curves. The same runs give byte-identical files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import statistics
from analysis.figures.lines import REFERENCE
from analysis.figures.style import GREY, STYLE, styles
from analysis.outputs import output_file
from analysis.render.templates import PAGE_WIDTH
from analysis.statistics import Floats
from analysis.tables.profiles import Profile
from rlbench.lists.metric_catalogue import metric_title

THRESHOLDS: Floats = np.linspace(0, 1, 101)
ACROSS = 3
"""Number of panels per grid row."""
NOTHING = 0.005
"""A profile below this is invisible on paper."""
MARKED = 12
"""Number of thresholds from one marker to the next."""
FORMATS: dict[str, Any] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None},
}
"""Suffix to the metadata to drop, because it would differ between calls."""


def draw_profiles(profiles: Mapping[str, Sequence[Profile]], *, resamples: int = statistics.RESAMPLES) -> Figure | None:
    """Draw one panel per metric and group; None if no row was trained.

    Args:
        profiles: metric to the rows of the table, ordered by group (`tables.profile_scores`).
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
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    with matplotlib.rc_context(STYLE):
        width = PAGE_WIDTH if across > 1 else PAGE_WIDTH * 0.65
        figure = Figure(figsize=(width, 2.3 * down), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).ravel()
        ends: dict[str, float] = {}
        for ax, (metric, group, of_panel) in zip(axes, panels, strict=False):
            ends[metric] = max(
                ends.get(metric, 0.0), *(_draw(ax, row, looks[row.label], resamples) for row in of_panel)
            )
            title = metric_title(metric)
            ax.set(xlabel=f"τ ({title})", ylabel=f"Share with {title} > τ", ylim=(0, 1.03))
            if group:
                ax.set_title(group)
        for ax, (metric, _, _) in zip(axes, panels, strict=False):
            ax.set_xlim(0, ends[metric])
        for ax in axes[len(panels) :]:
            ax.remove()
        one_seed = any(len(row.scores.seeds) == 1 for row in rows)
        _legend(figure, list(axes[: len(panels)]), names, one_seed=one_seed)
    return figure


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


def _legend(figure: Figure, axes: Sequence[Axes], names: Sequence[str], *, one_seed: bool) -> None:
    """Put a legend and a note below the axes. The figure grows to make room."""
    handles: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    width, height = figure.get_size_inches()
    entry = max(map(len, names)) * STYLE["legend.fontsize"] * 0.52 + 42  # points: letters, then handle and gaps
    lines = -(-len(names) // max(1, int(width * 72 / entry)))
    figure.set_size_inches(width, height + 0.27 + 0.17 * lines)
    over = "contexts and seeds" + (" (one seed: contexts)" if one_seed else "")
    between = "\n" if width < PAGE_WIDTH else " "
    figure.legend(
        [handles[name] for name in names],
        list(names),
        loc="outside lower center",
        ncols=-(-len(names) // lines),
        frameon=False,
        handlelength=3.2,
        title=f"Share of runs × samples above τ.{between}Bands: pointwise 95 % interval over {over}.",
        title_fontsize=7,
    )


def save_profiles(figure: Figure, path: Path) -> list[Path]:
    """Write <path>.png (200 dpi), .svg and .pdf without dates. Returns the files written."""
    with matplotlib.rc_context(STYLE):
        files = []
        for suffix, metadata in FORMATS.items():
            files.append(path.with_suffix(f".{suffix}"))
            with output_file(files[-1]) as beside:
                figure.savefig(beside, format=suffix, dpi=200, metadata=metadata)
    return files
