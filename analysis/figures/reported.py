"""Curves read off a paper's figures, drawn dashed with open markers, alone or next to our runs.

The numbers are in experiments/reported/curves.csv.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.collection import Collection
from analysis.figures.choices import AXES, BACKBONES, REGIMES
from analysis.figures.grid import label_lowest, panel_grid
from analysis.figures.style import GREY, MARKERS, STYLE, legend_below, method_look
from analysis.statistics import Floats
from rlbench.base.program import EXPERIMENTS

CURVES = EXPERIMENTS / "reported" / "curves.csv"
PAPER = "paper figure"
"""Prefix of the source of curves from the Rank-GRPO paper (arXiv 2510.20150). Other sources are independent runs."""

SOURCE = "Reported in arXiv 2510.20150, read off its figures (to about 0.0003); one seed each."

DASHES = (0, (2.5, 1.5))


@dataclass(frozen=True)
class ReportedMethod:
    """A method of the paper.

    Attributes:
        title: display name.
        algorithms: entries of conf/algorithm that implement this method.
        rewards: entries of conf/reward that give its advantages. The list reward is DCG@N under both `dcg` and
            `log_decay`.
    """

    title: str
    algorithms: tuple[str, ...]
    rewards: tuple[str, ...]


METHODS = {
    "grpo": ReportedMethod("GRPO", ("grpo",), ("dcg", "log_decay")),
    "gspo": ReportedMethod("GSPO", ("gspo",), ("dcg", "log_decay")),
    "rank_grpo_log_decay": ReportedMethod("Rank-GRPO (log)", ("rank_grpo", "rank_grpo_published"), ("log_decay",)),
    "rank_grpo_exp_inf": ReportedMethod("Rank-GRPO (exp∞)", ("rank_grpo", "rank_grpo_published"), ("relevance",)),
}
"""The paper's methods, by their names in experiments/reported."""


@dataclass(frozen=True)
class Reported:
    """One reported curve.

    Attributes:
        method: key of `METHODS`.
        metric: as in a run directory.
        backbone, regime: the paper's names.
        x: (T,) updates, ascending.
        y: (T,) values of the metric.
    """

    method: str
    metric: str
    backbone: str
    regime: str
    x: Floats
    y: Floats


def read_points(file: Path) -> pd.DataFrame:
    """Read a CSV file of reported curves: one row per point, with the columns of the file.

    Values are read as text first, because versions of pandas parse decimals differently.
    """
    return pd.read_csv(file, dtype={"value": str}).astype({"value": float})


def reported_curves(
    *, dataset: str | None = None, backbones: Sequence[str] | None = None, regimes: Sequence[str] | None = None
) -> list[Reported]:
    """The paper's validation curves, in the order of `METHODS`; None for all datasets, backbones or regimes."""
    table = read_points(CURVES)
    table = table[table["source"].str.startswith(PAPER) & (table["split"] == "validation")]
    for column, wanted in (("dataset", dataset and [dataset]), ("backbone", backbones), ("regime", regimes)):
        if wanted is not None:
            table = table[table[column].isin(list(wanted))]
    curves = []
    for (method, metric, backbone, regime), points in table.groupby(["method", "metric", "backbone", "regime"]):
        points = points.sort_values("step")
        x, y = (points[column].to_numpy(float) for column in ("step", "value"))
        curves.append(Reported(str(method), str(metric), str(backbone), str(regime), x, y))
    return sorted(curves, key=lambda curve: list(METHODS).index(curve.method))


def beside(group: Collection) -> list[Reported]:
    """The paper's curves for the dataset, model and regime of a group of runs; empty if it reports none."""
    first = group.runs.iloc[0]
    backbone = BACKBONES.get(first["model"])
    iterations = {settings.get("rl.num_iterations") for settings in group.settings.values()}
    regimes = [name for number, name in REGIMES.items() if number in iterations]
    if backbone is None:
        return []
    return reported_curves(dataset=first["dataset"], backbones=[backbone], regimes=regimes)


def colour_of(method: str) -> str:
    """Colour of a method by its name in experiments/reported: that of our rows with the same method."""
    known = METHODS.get(method, ReportedMethod(method, (method,), ("",)))
    return str(method_look(known.algorithms[0], known.rewards[-1])["color"])


def row_of(group: Collection, method: str) -> str | None:
    """Label of the RL row with a method of the paper, or None. If several match, the first label."""
    known = METHODS[method]
    rl = group.runs[group.runs["stage"] == "rl"]
    same = rl[rl["algorithm"].isin(known.algorithms) & rl["reward"].isin(known.rewards)]
    return None if same.empty else str(same["label"].min())


def name(curve: Reported) -> str:
    """Name of a curve in a legend."""
    return f"{METHODS[curve.method].title}, paper{', μ = 2' if curve.regime == REGIMES[2] else ''}"


def draw_beside(
    ax: Axes, group: Collection, curves: Sequence[Reported], looks: Mapping[str, Mapping[str, Any]]
) -> None:
    """Add the paper's curves to axes with runs, in the colour of the matching row, else in grey."""
    for curve in curves:
        row = row_of(group, curve.method)
        _plot(ax, curve, looks[row]["color"] if row else GREY, name(curve))


def draw_alone(curves: Sequence[Reported], label: str) -> Figure:
    """Draw one panel per backbone and regime, all on one scale.

    Args:
        curves: at least one curve, all of one metric.
        label: axis label of the metric.
    """
    panels = sorted(
        {(curve.regime, curve.backbone) for curve in curves},
        key=lambda panel: (list(REGIMES.values()).index(panel[0]), list(BACKBONES.values()).index(panel[1])),
    )
    across = min(3, len(panels))
    with matplotlib.rc_context(STYLE):
        figure, axes = panel_grid(len(panels), across, 2.1, same_scale=True)
        entries = {}
        for ax, (regime, backbone) in zip(axes, panels, strict=True):
            for curve in curves:
                if (curve.regime, curve.backbone) == (regime, backbone):
                    title = METHODS[curve.method].title
                    entries[title] = _plot(ax, curve, colour_of(curve.method), title)
            ax.set_title(f"{backbone}, {regime.replace('mu=', 'μ = ')}", loc="left")
        for ax in axes[::across]:
            ax.set_ylabel(label)
        label_lowest(axes, across, AXES["updates"])
        ordered = {method.title: entries[method.title] for method in METHODS.values() if method.title in entries}
        legend_below(figure, ordered, SOURCE)
    return figure


def _plot(ax: Axes, curve: Reported, colour: str, label: str) -> Any:
    (line,) = ax.plot(
        curve.x,
        curve.y,
        label=label,
        color=colour,
        marker=MARKERS[list(METHODS).index(curve.method)],
        linestyle=DASHES,
        linewidth=1.0,
        markerfacecolor="white",
        zorder=1.8,
    )
    return line
