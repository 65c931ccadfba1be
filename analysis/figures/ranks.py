"""Heat maps of what each list rank learns: rank by update, one map per row, all on one colour scale."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from analysis.collection import Collection
from analysis.figures.captions import about
from analysis.figures.grid import (
    across_for,
    colour_bar,
    label_lowest,
    panel_grid,
    panel_height,
    short_names,
    title_size,
    wrapped,
)
from analysis.figures.labels import axis_label
from analysis.figures.series import RankMap, in_bins, measured, rank_maps, rl_rows, row_names
from analysis.figures.style import Captioned, axis_unit, legend_below, style_of, value_range
from analysis.render.numbers import many
from analysis.render.templates import PAGE, Paper
from analysis.statistics import Floats
from rlbench.lists.metric_catalogue import EVALUATION, METRICS, TRAINING

COLUMNS = 24
"""Maximum number of columns of a map. A column is the mean over its measurements."""

SCALE = "cividis"
"""Colour map: perceptually uniform, safe for colour-blind readers, and increasing in lightness for print."""

RANK_METRICS = tuple(metric.name for metric in (*TRAINING, *EVALUATION) if metric.k == "rank")
"""Metrics per rank, such as `reward@k`."""


def split_of(metric: str) -> str:
    """Split on which a metric of `RANK_METRICS` is measured."""
    return "train" if METRICS[metric] in TRAINING else "validation"


def rank_metrics(group: Collection) -> list[str]:
    """The metrics of `RANK_METRICS` that an RL run measured."""
    known = {split: measured(group, split) for split in ("train", "validation")}
    return [name for name in RANK_METRICS if f"{name[:-1]}1" in known[split_of(name)]]


def draw_ranks(group: Collection, metric: str, *, against: str = "updates", paper: Paper = PAGE) -> Captioned | None:
    """Draw a metric of `RANK_METRICS` as one map per row, rank 1 on top; None if no RL run measured it."""
    maps = rank_maps(group, split_of(metric), metric, against=against)
    if not maps:
        return None
    binned = {label: in_bins(one.values, COLUMNS) for label, one in maps.items()}
    across, style = across_for(len(maps), paper.width), style_of(paper)
    common, names = short_names(row_names(group, paper.names))
    divisor, axis = axis_unit(against, max(float(one.x[-1]) for one in maps.values()))
    everything = np.concatenate([values.ravel() for values, _ in binned.values()])
    norm = Normalize(*value_range(float(np.nanmin(everything)), float(np.nanmax(everything))))
    with matplotlib.rc_context(style | {"axes.titlesize": title_size(across, style, paper.width), "axes.grid": False}):
        height = 1.7 if across <= 3 else 1.35
        height = panel_height(height, across, paper.width, across_for(len(maps)))
        figure, axes = panel_grid(len(maps), across, height, beyond=0.35, same_scale=True, paper=paper)
        figure.caption = about(group, [(split_of(metric), metric)], against, None)
        for ax, (label, (values, parts)) in zip(axes, binned.items(), strict=True):
            edges = column_edges(maps[label].x, [(part[0], part[-1]) for part in parts])
            ranks = np.arange(len(values) + 1) + 0.5
            ax.pcolormesh(edges / divisor, ranks, values, norm=norm, cmap=SCALE, rasterized=True)
            ax.set_title(wrapped(names[label], across, paper.width), loc="left", linespacing=1.0)
        axes[0].invert_yaxis()  # the axes share one scale
        axes[0].yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes[0].xaxis.set_major_locator(MaxNLocator(4, integer=divisor == 1))
        label_lowest(axes, across, axis)
        figure.supylabel("Rank", fontsize=style["axes.labelsize"])
        colour_bar(figure, ScalarMappable(norm, SCALE), axis_label(group, (split_of(metric), metric)))
        note = _note(maps, {len(runs) for runs in rl_rows(group).values()}) + common
        legend_below(figure, {}, note, paper)
    return figure


def column_edges(x: Floats, parts: list[tuple[int, int]]) -> Floats:
    """(B + 1,) edges midway between the last measurement of a column and the first of the next.

    The outer edges are half a mean step beyond the first and last measurement.

    Args:
        x: (T,) ascending positions of measurements.
        parts: indices of the first and last measurement of each column.
    """
    between = [(x[last] + x[first]) / 2 for (_, last), (first, _) in zip(parts, parts[1:], strict=False)]
    step = float(np.diff(x).mean()) if len(x) > 1 else 1.0
    return np.array([x[0] - step / 2, *between, x[-1] + step / 2])


def _note(maps: Mapping[str, RankMap], seeds: set[int]) -> str:
    longest = max(len(one.x) for one in maps.values())
    parts = [] if seeds == {1} else [many(min(seeds), "seed") if len(seeds) == 1 else "seeds"]
    parts += [f"{-(-longest // COLUMNS)} measurements or fewer"] if longest > COLUMNS else []
    return (f"Columns: mean over {' and '.join(parts)}." if parts else "") + (" One seed each." if seeds == {1} else "")
