"""Curves of a figure of the paper beside ours, and their plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.choices import AXES
from analysis.figures.grid import panel_grid
from analysis.figures.labels import in_lines
from analysis.figures.reported import colour_of
from analysis.figures.style import COLOURS, GREY, STYLE, draw_legend, show_constant
from analysis.papers.reported import TITLES
from analysis.statistics import Floats
from rlbench.lists.metric_catalogue import inside, metric_of

if TYPE_CHECKING:
    from rlbench.launching.recorded import RecordedCell

SINGLE_POINTS = ("loss",)
"""Metrics with single points instead of a curve: the smallest validation loss, and the loss of checkpoint 1,500."""


@dataclass(frozen=True)
class Curve:
    """One reported curve and ours.

    Attributes:
        regime, backbone, method, metric: as in the figure.
        points: update to reported value.
        measured: name of our metric.
        cell: cell of the sweep for one seed; None if the sweep has none.
        ours: (T, S) values by update and run; None without runs.
    """

    regime: str
    backbone: str
    method: str
    metric: str
    points: Mapping[int, float]
    measured: str
    cell: "RecordedCell | None"
    ours: pd.DataFrame | None

    @property
    def title(self) -> str:
        return TITLES.get(self.method, self.method)

    @property
    def full_title(self) -> str:
        """Title with the regime, except for SFT."""
        return self.title if self.regime == "sft" else f"{self.title}, {self.regime}"


def draw(curves: Sequence[Curve], *, comparable: bool) -> Figure | None:
    """Plot reported curves dashed and ours solid with the range over seeds, one panel per regime, backbone and metric.

    Args:
        comparable: whether our runs use the paper's data; otherwise reported curves are omitted.
    """
    panels: dict[tuple[str, str, str], list[Curve]] = {}
    for curve in curves:
        if comparable or curve.ours is not None:
            panels.setdefault((curve.metric, curve.regime, curve.backbone), []).append(curve)
    if not panels:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = panel_grid(len(panels), min(3, len(panels)), 1.9, beyond=0.4)
        for ax, ((metric, regime, backbone), of_panel) in zip(axes, panels.items(), strict=True):
            for curve in of_panel:
                _draw_curve(ax, curve, colour_of(curve.method), comparable)
            place = f"{backbone}, {regime}" if regime != "sft" else backbone
            ax.set_title(place if comparable else "twin", color=GREY)
            label = metric_of(metric if comparable else of_panel[0].measured).label
            ax.set(xlabel=AXES["updates"], ylabel=in_lines(f"Validation {inside(label)}"))
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            show_constant(ax)
        entries: dict[str, Artist] = {}
        for ax in axes:
            entries |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        note = "Dashed: read off the paper. " if comparable else ""
        ours = {curve.ours.shape[1] for curve in curves if curve.ours is not None}
        if ours == {1}:
            note += "Solid: ours, one seed each."
        elif ours:
            note += "Solid: ours, mean over seeds; bands from the smallest to the largest."
        draw_legend(figure, entries, 3, note, handles=3)
    return figure


def _draw_curve(ax: Axes, curve: Curve, colour: str, comparable: bool) -> None:
    if comparable:
        steps, values = zip(*sorted(curve.points.items()), strict=True)
        dashes = "none" if curve.metric in SINGLE_POINTS else (0, (4, 2))
        name = f"{curve.title}, paper"
        ax.plot(steps, values, color=colour, linestyle=dashes, marker="o", markersize=2.5, label=name)
    if curve.ours is not None:
        updates, measured = curve.ours.index.to_numpy(float), curve.ours.to_numpy(float)
        ax.fill_between(updates, measured.min(axis=1), measured.max(axis=1), color=colour, alpha=0.15, linewidth=0)
        point = "o" if len(updates) == 1 else ""  # a single point has no line
        ax.plot(updates, measured.mean(axis=1), color=colour, marker=point, label=f"{curve.title}, ours")


def draw_ranks(profiles: Mapping[str, tuple[Floats, Floats]]) -> Figure:
    """Plot the mean return of every rank at the start (dashed) and the end of training, one panel per row."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panel_grid(len(profiles), min(3, len(profiles)), 1.9, beyond=0.3)
        for ax, (title, (start, end)) in zip(axes, profiles.items(), strict=True):
            ranks = np.arange(1, len(start) + 1)
            ax.plot(ranks, start, color=GREY, linestyle=(0, (4, 2)), label="first tenth of the updates")
            ax.plot(ranks, end, color=COLOURS[0], marker="o", markersize=2.5, label="last tenth")
            ax.set_title(title, color=GREY)
            ax.axhline(0, color=GREY, linewidth=0.6, zorder=1.5)  # forces 0 onto the scale
            ax.set(xlabel="Rank", ylabel="Mean return")
            show_constant(ax)
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure
