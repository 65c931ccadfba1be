"""Curves over training: validation quality and training metrics.

A line is the mean over the seeds of a row, at the points that all seeds measured. A band shows the spread of the seeds;
the figure states its kind. Up to `MANY` rows share a panel, since more cannot be told apart. With more rows, each row
gets its own validation panel with the others in grey, and training curves are coloured by the row's final quality.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.collection import Collection
from analysis.collection.stages import BETWEEN, SHARED_STAGES
from analysis.figures.captions import about, reference_words
from analysis.figures.choices import MANY, TRAINING
from analysis.figures.grid import (
    across_for,
    colour_bar,
    fitting,
    label_lowest,
    panel_grid,
    panel_height,
    short_names,
    title_size,
    wrapped,
)
from analysis.figures.labels import Key, axis_label, letters_beside
from analysis.figures.reported import Reported, draw_beside
from analysis.figures.series import (
    INTERVAL_SEEDS,
    SMOOTHING,
    Series,
    all_series,
    rl_rows,
    row_names,
    smoothing_points,
    window_of,
)
from analysis.figures.style import (
    FAINT,
    GREY,
    SAME,
    Captioned,
    axis_unit,
    legend_below,
    show_constant,
    style_of,
    styles,
    value_range,
)
from analysis.render.numbers import many, share
from analysis.render.templates import PAGE, Paper
from rlbench.lists.metric_catalogue import metric_of

REFERENCE = {"sft": (0, (4, 3)), "oracle": (0, (1.5, 2))}
"""Dash patterns of the horizontal reference lines."""

OFF_SCALE = 1.25
"""An oracle value above this multiple of the highest curve is named above the axes instead of drawn, unless the axes
reach it."""

FEW_POINTS = 25
"""Curves with more points than this get markers on some points only."""


@dataclass(frozen=True)
class Layout:
    """Panels per grid row and the height of a panel in inches, where the figure has the width of a page; its paper."""

    across: int
    height: float
    paper: Paper


@dataclass(frozen=True)
class Panel:
    """One pair of axes: a metric on a split, with the curves of rows, by label."""

    key: Key
    lines: Mapping[str, Series]
    title: str = ""


def draw_validation(
    group: Collection,
    *,
    metrics: Sequence[str] | None = None,
    against: str = "updates",
    by: str | None = None,
    reported: Sequence[Reported] = (),
    paper: Paper = PAGE,
) -> Captioned | None:
    """Draw validation metrics; None if no RL run has a curve for any of them.

    Args:
        metrics: validation metrics; None for Recall and NDCG at the largest cut-off. With more than `MANY` rows and no
            `by`, only the last metric that was measured is drawn, one panel per row.
        against: x axis, one of `series.AXES`.
        by: one panel per value of an algorithm, reward or setting (`rows_by`); None for all rows together.
        reported: curves of the Rank-GRPO paper to add, over updates.
        paper: where the figure is to stand.
    """
    top = max(group.runs.iloc[0]["cutoffs"])
    names = list(metrics) if metrics is not None else [f"recall@{top}", f"ndcg@{top}"]
    drawn = {("validation", name): all_series(group, "validation", name, against=against) for name in names}
    drawn = {key: lines for key, lines in drawn.items() if lines}
    if not drawn:
        return None
    if by is None and max(map(len, drawn.values())) > MANY:
        return _draw_each(group, *list(drawn.items())[-1], against, paper)
    layout = Layout(2, 2.5, paper)
    return _draw_together(group, drawn, layout, against=against, by=by, reported=reported)


def draw_training(
    group: Collection,
    *,
    keys: Sequence[Key] | None = None,
    against: str = "updates",
    by: str | None = None,
    paper: Paper = PAGE,
) -> Captioned | None:
    """Draw smoothed training metrics, one panel each; None if no RL run logged any.

    Args:
        keys: split and metric of each panel; None for `TRAINING`.
        against, by, paper: as in `draw_validation`.
    """
    drawn = {}
    for split, name in TRAINING if keys is None else keys:
        if lines := all_series(group, split, name, against=against, window=window_of(split)):
            drawn[split, name] = lines
    lengths = [len(one.x) for (split, _), lines in drawn.items() if split == "train" for one in lines.values()]
    if not lengths:
        return None
    points = smoothing_points(max(lengths), SMOOTHING)
    note = f"Smoothed: moving mean of {points} points. " if points > 1 else ""
    layout = Layout(3, 1.6 if by else 1.85, paper)
    return _draw_together(group, drawn, layout, against=against, by=by, note=note)


def rows_by(group: Collection, by: str | None) -> dict[str, list[str]]:
    """Labels of the RL rows for each value of a column of `Collection.runs` (algorithm, reward, model, ...) or of a
    setting given by its dotted key. If `by` is None, all rows under "".

    Raises:
        KeyError: if `by` is neither a column nor a setting of every row.
    """
    if by is None:
        return {"": list(rl_rows(group))}
    values: dict[str, list[str]] = {}
    for label, runs in rl_rows(group).items():
        first = runs.iloc[0]
        value = first[by] if by in runs.columns else group.settings[first["run"]][by]
        values.setdefault(str(value), []).append(label)
    return dict(sorted(values.items()))


def _panels(group: Collection, key: Key, lines: Mapping[str, Series], by: str | None) -> list[Panel]:
    """One panel of a metric, or one for each value of `by`."""
    panels = []
    for value, labels in rows_by(group, by).items():
        own = {label: lines[label] for label in labels if label in lines}
        panels.append(Panel(key, own, f"{by.rpartition('.')[2]}: {value}" if by else ""))
    return panels


def _draw_together(
    group: Collection,
    drawn: Mapping[Key, Mapping[str, Series]],
    layout: Layout,
    *,
    against: str,
    by: str | None,
    reported: Sequence[Reported] = (),
    note: str = "",
) -> Captioned:
    """Draw panels that each hold the curves of several rows.

    With `by`, each metric has its own row of panels, which share a scale.
    """
    of_metrics = [_panels(group, key, lines, by) for key, lines in drawn.items()]
    panels = list(chain(*of_metrics))
    paper, style = layout.paper, style_of(layout.paper)
    usual = min(4, len(of_metrics[0])) if by else min(layout.across, len(panels))
    across = fitting(usual, paper.width)
    height = panel_height(layout.height, across, paper.width, layout.across)
    shown: list[Panel | None] = []
    for together in of_metrics if by else [panels]:
        shown += [*together, *[None] * (-len(together) % across)]
    curves = [one for panel in panels for one in panel.lines.values()]
    crowded = max(len(panel.lines) for panel in panels) > MANY
    looks = styles(group.runs, by)
    references: set[str] = set()
    ceiling = "" if by else "oracle {} ↑" if paper.template else "oracle {}, above this scale ↑"
    coloured = _by_quality(group, [label for panel in panels for label in panel.lines]) if crowded else None
    divisor, axis = axis_unit(against, max(float(one.x[-1]) for one in curves))
    names, letters = _names(group, by, paper.names), letters_beside(height, style)
    with matplotlib.rc_context(style):
        figure, axes = panel_grid(len(shown), across, height, paper=paper)
        figure.caption = about(group, list(drawn), against, by)
        if by:
            _share_scales(axes, shown, across)
        for place, (ax, panel) in enumerate(zip(axes, shown, strict=True)):
            if panel is None:
                ax.remove()
                continue
            if coloured is not None:
                _draw_crowd(ax, panel, coloured, divisor)
            else:
                _draw(ax, panel.lines, names, looks, divisor)
            ax.set_title(panel.title, loc="left")
            below = (by or paper.template) and place + across < len(shown) and shown[place + across] is not None
            beside = by and place % across
            ax.set(xlabel="" if below else axis, ylabel="" if beside else axis_label(group, panel.key, letters))
        tops = {ax: _top(ax) for ax, panel in zip(axes, shown, strict=True) if panel is not None}
        for ax, panel in zip(axes, shown, strict=True):
            if panel is not None and panel.key[0] == "validation" and panel.key not in TRAINING:
                references |= _references(ax, group.runs, panel.key[1], ceiling, tops[ax])
                draw_beside(ax, group, [curve for curve in reported if curve.metric == panel.key[1]], looks)
        for ax, panel in zip(axes, shown, strict=True):  # after drawing, since some axes share a scale
            if panel is not None:
                _within_range(ax, panel.key[1])
        if any(_coincide(panel.lines) for panel in panels):
            note += "Equal curves lie on each other: the last is seen.\n"
        note += _band_note({len(one.runs) for one in curves}, bands=not crowded)
        if coloured is not None:
            colour_bar(figure, coloured.scale, coloured.label)
        legend_below(figure, {} if crowded else _entries(figure.axes, names), note, paper)
        figure.caption += reference_words(references, reported=bool(reported))
    return figure


def _top(ax: Axes) -> float:
    """How high a reference may be to be drawn: near the curves of the axes and of those that share their scale, or
    inside the range that constant curves get."""
    curves = [one.dataLim for one in ax.get_shared_y_axes().get_siblings(ax)]
    low, high = min(one.y0 for one in curves), max(one.y1 for one in curves)
    return max(OFF_SCALE * high, value_range(low, high)[1])


def _coincide(lines: Mapping[str, Series]) -> bool:
    """Whether one curve hides another."""
    return any(
        np.array_equal(one.x, other.x) and np.allclose(one.mean, other.mean, rtol=SAME, atol=SAME, equal_nan=True)
        for one, other in combinations(lines.values(), 2)
    )


def _within_range(ax: Axes, metric: str) -> None:
    """Limit the y axis of a share to its possible values. Its band can exceed 0..1 if seeds differ widely."""
    show_constant(ax)
    low, high = ax.get_ylim()
    if metric_of(metric).is_bounded:
        margin = 0.03 * (min(high, 1.0) - max(low, 0.0))
        ax.set_ylim(max(low, -margin), min(high, 1.0 + margin))


def _draw_each(group: Collection, key: Key, lines: Mapping[str, Series], against: str, paper: Paper) -> Captioned:
    """Draw one panel per row, with the row in colour and all others in grey."""
    across, style = across_for(len(lines), paper.width), style_of(paper)
    common, names = short_names(row_names(group, paper.names))
    looks = styles(group.runs)
    divisor, axis = axis_unit(against, max(float(one.x[-1]) for one in lines.values()))
    with matplotlib.rc_context(
        style | {"axes.titlesize": title_size(across, style, paper.width), "lines.markersize": 2.6}
    ):
        height = 1.15 if across >= 5 else 1.4
        figure, axes = panel_grid(len(lines), across, height, beyond=0.4, same_scale=True, paper=paper)
        figure.caption = about(group, [key], against, None)
        for ax, (label, one) in zip(axes, lines.items(), strict=True):
            for other in lines.values():
                ax.plot(other.x / divisor, other.mean, color=FAINT, linewidth=0.6)
            _draw(ax, {label: one}, names, looks, divisor)
            ax.set_title(wrapped(names[label], across, paper.width), loc="left", linespacing=1.0)
            for value in _levels(group.runs, "sft", key[1]):
                ax.axhline(value, color=GREY, linestyle=REFERENCE["sft"], linewidth=0.8, zorder=1.5)
        show_constant(axes[0])  # the axes share one scale
        label_lowest(axes, across, axis)
        figure.supylabel(axis_label(group, key), fontsize=style["axes.labelsize"])
        note = f"In colour: the row that a panel names. Grey: all {len(lines)} rows. Dashed: SFT.{common}\n"
        legend_below(figure, {}, note + _band_note({len(one.runs) for one in lines.values()}, bands=True), paper)
    return figure


@dataclass(frozen=True)
class Quality:
    """Final quality of each row, and its colour scale."""

    values: Mapping[str, float]
    scale: ScalarMappable
    label: str


def _by_quality(group: Collection, labels: Iterable[str]) -> Quality:
    """The rows' final validation NDCG at the largest cut-off; NaN if a row has none."""
    metric = f"ndcg@{max(group.runs.iloc[0]['cutoffs'])}"
    found = all_series(group, "validation", metric)
    values = {label: float(found[label].mean[-1]) if label in found else np.nan for label in labels}
    known = [value for value in values.values() if np.isfinite(value)] or [0.0, 1.0]
    scale = ScalarMappable(Normalize(*value_range(min(known), max(known))), "cividis")
    return Quality(values, scale, axis_label(group, ("validation", metric)) + " at the end")


def _draw_crowd(ax: Axes, panel: Panel, quality: Quality, divisor: float) -> None:
    """Draw more rows than can be told apart, coloured by quality."""
    for label, one in sorted(panel.lines.items(), key=lambda item: quality.values[item[0]]):
        value = quality.values[label]
        colour = quality.scale.to_rgba(np.array(value)) if np.isfinite(value) else FAINT
        ax.plot(one.x / divisor, one.mean, color=colour, linewidth=0.9)
    _set_x_scale(ax, divisor)


def _draw(
    ax: Axes, lines: Mapping[str, Series], names: Mapping[str, str], looks: Mapping[str, Any], divisor: float
) -> None:
    """Draw the rows' curves with bands. Short curves have a marker on every point, long ones on a few."""
    shade = 0.16 if len(lines) <= 4 else 0.09
    for label, one in lines.items():
        every = max(1, len(one.x) // 6) if len(one.x) > FEW_POINTS else 1
        x = one.x / divisor
        ax.fill_between(x, one.low, one.high, color=looks[label]["color"], alpha=shade, linewidth=0)
        ax.plot(x, one.mean, label=names[label], markevery=every, **looks[label])
    _set_x_scale(ax, divisor)


def _set_x_scale(ax: Axes, divisor: float) -> None:
    ax.margins(x=0.02)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=divisor == 1))


def _names(group: Collection, by: str | None, names: Mapping[str, str]) -> dict[str, str]:
    """Names in the legend, without the part in the panel title. Seed counts are added if rows differ in them."""
    rows = rl_rows(group)
    said = {"algorithm": "reward", "reward": "algorithm"}.get(by or "")
    words = row_names(group, names)
    if said:
        words = {label: words[label].partition(BETWEEN)[2 if said == "reward" else 0] for label in rows}
    if len({len(runs) for runs in rows.values()}) == 1:
        return words
    return {label: f"{name} ({many(len(rows[label]), 'seed')})" for label, name in words.items()}


def _levels(runs: pd.DataFrame, stage: str, metric: str) -> list[float]:
    """The mean validation value of a shared stage, or nothing if there is none."""
    values = runs[runs["stage"] == stage].get(f"validation.{metric}", pd.Series(dtype=float)).dropna()
    return [] if values.empty else [float(values.mean())]


def _references(ax: Axes, runs: pd.DataFrame, metric: str, ceiling: str, top: float) -> set[str]:
    """Draw horizontal lines at the validation values of SFT and oracle, labelled at the right.

    An oracle above `top` is not drawn, to keep the curves large. The text `ceiling` is then written above the axes,
    with the oracle's value in it.

    Returns:
        the stages with a line, and "above" if the oracle is named above the axes.
    """
    letters = matplotlib.rcParams["ytick.labelsize"]
    beside: dict[float, list[str]] = {}
    found = set()
    for stage, dashes in REFERENCE.items():
        for value in _levels(runs, stage, metric):
            if stage == "oracle" and value > top:
                if ceiling:
                    ax.set_title(ceiling.format(share(value)), loc="right", color=GREY, fontsize=letters)
                    found.add("above")
            else:
                ax.axhline(value, color=GREY, linestyle=dashes, linewidth=1.1, zorder=1.5)
                beside.setdefault(value, []).append(SHARED_STAGES[stage])
                found.add(stage)
    for value, names in beside.items():
        place = ax.get_yaxis_transform()  # x in axes, y in data
        ax.text(1.01, value, ", ".join(names), transform=place, color=GREY, fontsize=letters, va="center")
    return found


def _share_scales(axes: Sequence[Axes], shown: Sequence[Panel | None], across: int) -> None:
    """Give all panels of a metric the same scale, with its numbers beside the first panel of each row."""
    first: dict[Key, Axes] = {}
    for place, (ax, panel) in enumerate(zip(axes, shown, strict=True)):
        if panel is not None and first.setdefault(panel.key, ax) is not ax:
            ax.sharey(first[panel.key])
            ax.tick_params(labelleft=place % across == 0)


def _entries(axes: Iterable[Axes], names: Mapping[str, str]) -> dict[str, Artist]:
    """Legend labels with their lines, each label once: rows in order, then the paper's curves."""
    entries: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            if isinstance(handle, Line2D):
                entries.setdefault(label, handle)
    return {name: entries.pop(name) for name in names.values() if name in entries} | entries


def _band_note(seeds: set[int], *, bands: bool) -> str:
    """Note on the meaning of lines and bands, given the numbers of seeds that occur."""
    if seeds == {1}:
        return f"Lines: one seed each{', hence no bands' if bands else ''}."
    over = many(min(seeds), "seed") if len(seeds) == 1 else "seeds"
    if not bands:
        return f"Lines: mean over {over}."
    kinds = (
        (max(seeds) >= INTERVAL_SEEDS, "95 % interval over seeds"),
        (seeds == {2}, "smallest to largest"),
        (2 in seeds and len(seeds) > 1, "smallest to largest where there are 2 seeds"),
        (1 in seeds, "none where there is 1 seed"),
    )
    return f"Lines: mean over {over}. Bands: {', '.join(kind for applies, kind in kinds if applies)}."
