"""Curves over updates: validation quality, and what training looked like.

A line is the mean over the seeds of a row, drawn where all of them were measured; a band says how far the seeds are
apart, and the figure says what band it is. Colours are Okabe & Ito's, which colour-blind readers can tell apart;
markers and dashes say the same without colour. Files are byte-identical for the same runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.collect import Collection
from analysis.statistics import Floats, seed_interval
from analysis.tables import SHARED_STAGES, share

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (9, 2)))

REFERENCE = {"sft": (0, (4, 3)), "oracle": (0, (1.5, 2))}
"""Dashes of the horizontal lines."""
GREY = "0.35"

BOOTSTRAP_SEEDS = 3
"""From how many seeds on a band is an interval; with fewer it is the range."""

OFF_SCALE = 1.6
"""A ceiling so many times higher than the highest curve is named above the axes instead of drawn."""

SMOOTHING = 0.05
"""Width of the moving mean over training metrics, as a share of the run."""

PANELS = {
    "reward": "Reward per list",
    "hits": "Hits per list (films)",
    "entropy": "Entropy per token (nats)",
    "kl": "KL to SFT per token (nats)",
    "list_length": "Entries per list",
    "frac_zero_variance_units": "Units without signal (share)",
}
"""Training metrics that have a panel where a run logged them, with their axis labels."""

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
}

WIDTH = 6.9
"""Inches: the text width of a two-column page."""


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        steps: (T,) updates.
        mean: (T,) mean over seeds; NaN where a run wrote NaN.
        low, high: (T,) the band; both the mean where there is one seed.
        seeds: how many.
    """

    steps: Floats
    mean: Floats
    low: Floats
    high: Floats
    seeds: int


def line(curves: pd.DataFrame, runs: Sequence[str], split: str, metric: str, *, window: float = 0.0) -> Line | None:
    """The curve of one row; None where no update was measured in all of its runs.

    Args:
        curves: as in `Collection`.
        runs: the runs of the row.
        window: width of a centred moving mean over each run, as a share of its points; 0 for none.
    """
    part = curves[(curves["split"] == split) & (curves["metric"] == metric) & curves["run"].isin(list(runs))]
    wide = part.pivot(index="step", columns="run", values="value").reindex(columns=list(runs))
    measured = part.pivot(index="step", columns="run", values="metric").reindex(columns=list(runs)).notna()
    wide = wide[measured.all(axis=1)]
    if wide.empty:
        return None
    if window:
        points = smoothing_points(len(wide), window)
        wide = wide.rolling(points, center=True, min_periods=1).mean().where(wide.notna())
    values = wide.to_numpy(float).T
    if len(values) >= BOOTSTRAP_SEEDS:
        estimate = seed_interval(values)
        mean, low, high = estimate.mean, estimate.low, estimate.high
    else:
        mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
    return Line(wide.index.to_numpy(float), mean, low, high, len(values))


def smoothing_points(length: int, window: float) -> int:
    """An odd number of points, at least 1."""
    return 2 * int(length * window / 2) + 1


def draw_validation(group: Collection) -> Figure | None:
    """Recall and NDCG at the largest cut-off on validation against updates; None where no RL run measured them."""
    top = max(group.runs.iloc[0]["cutoffs"])
    labels = {f"recall@{top}": f"Validation Recall@{top} (share)", f"ndcg@{top}": f"Validation NDCG@{top} (0 to 1)"}
    drawn = {metric: _lines(group, "validation", metric) for metric in labels}
    if not any(drawn.values()):
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
        axes = figure.subplots(1, len(labels))
        for ax, (metric, label) in zip(axes, labels.items(), strict=True):
            _draw(ax, drawn[metric], group, marks=True)
            _references(ax, group.runs, metric)
            ax.set(xlabel="Updates", ylabel=label)
        _finish(figure, axes, drawn.values())
    return figure


def draw_training(group: Collection) -> Figure | None:
    """Small multiples of the training metrics in `PANELS` that were logged; None where there are none."""
    drawn = {metric: lines for metric in PANELS if (lines := _lines(group, "train", metric, window=SMOOTHING))}
    if not drawn:
        return None
    across = min(3, len(drawn))
    down = -(-len(drawn) // across)
    several = group.runs[group.runs["stage"] == "rl"]["reward"].nunique() > 1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.85 * down), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for ax, (metric, lines) in zip(axes, drawn.items(), strict=False):
            _draw(ax, lines, group, marks=False)
            own = " (own units)" if metric == "reward" and several else ""
            ax.set(xlabel="Updates", ylabel=PANELS[metric] + own)
        for ax in axes[len(drawn) :]:
            ax.remove()
        longest = max(len(one.steps) for lines in drawn.values() for one in lines.values())
        points = smoothing_points(longest, SMOOTHING)
        _finish(figure, axes[: len(drawn)], drawn.values(), f"Smoothed: moving mean of {points} points. ")
    return figure


def _lines(group: Collection, split: str, metric: str, *, window: float = 0.0) -> dict[str, Line]:
    """The curve of each RL row that has one, by label."""
    rows = group.runs[group.runs["stage"] == "rl"].groupby("label", sort=True)["run"]
    lines = {str(label): line(group.curves, list(runs), split, metric, window=window) for label, runs in rows}
    return {label: one for label, one in lines.items() if one is not None}


def styles(runs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of each RL row: colour and marker say the algorithm, dashes the reward.

    With one reward, dashes say the algorithm as well.
    """
    rl = runs[runs["stage"] == "rl"]
    rows = rl[["label", "algorithm", "reward"]].drop_duplicates().sort_values(["algorithm", "reward"])
    algorithms = sorted(rows["algorithm"].unique())
    rewards = sorted(rows["reward"].unique())
    colours = dict(zip(algorithms, cycle(COLOURS)))
    markers = dict(zip(algorithms, cycle(MARKERS)))
    dashed = ("reward", rewards) if len(rewards) > 1 else ("algorithm", algorithms)
    dashes = dict(zip(dashed[1], cycle(DASHES)))
    return {
        str(row.label): {
            "color": colours[row.algorithm],
            "marker": markers[row.algorithm],
            "linestyle": dashes[getattr(row, dashed[0])],
        }
        for row in rows.itertuples()
    }


def _draw(ax: Axes, lines: Mapping[str, Line], group: Collection, *, marks: bool) -> None:
    """Draw the rows' curves; `marks` puts a marker on every point, else on a few."""
    looks = styles(group.runs)
    shade = 0.16 if len(lines) <= 4 else 0.09
    for label, one in lines.items():
        look = looks[label]
        every = 1 if marks else max(1, len(one.steps) // 6)
        ax.fill_between(one.steps, one.low, one.high, color=look["color"], alpha=shade, linewidth=0)
        ax.plot(one.steps, one.mean, label=_name(group.runs, label, one.seeds), markevery=every, **look)
    ax.margins(x=0.02)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _name(runs: pd.DataFrame, label: str, seeds: int) -> str:
    """A row's name in the legend; with its number of seeds where rows differ in it."""
    rl = runs[runs["stage"] == "rl"]
    first = rl[rl["label"] == label].iloc[0]
    name = f"{first['algorithm']} · {first['reward']}"
    return name if rl.groupby("label").size().nunique() == 1 else f"{name} ({_many(seeds)})"


def _many(seeds: int) -> str:
    return f"{seeds} seed{'' if seeds == 1 else 's'}"


def _references(ax: Axes, runs: pd.DataFrame, metric: str) -> None:
    """Horizontal lines at the validation values of SFT and oracle, named beside the axes.

    An oracle far above the curves is named above the axes instead, so that the curves keep the space.
    """
    highest = ax.dataLim.y1
    for stage, dashes in REFERENCE.items():
        values = runs[runs["stage"] == stage].get(f"validation.{metric}", pd.Series(dtype=float)).dropna()
        if values.empty:
            continue
        value = float(values.mean())
        if stage == "oracle" and value > OFF_SCALE * highest:
            ax.set_title(f"oracle {share(value)}, above this scale ↑", loc="right", color=GREY, fontsize=7)
        else:
            ax.axhline(value, color=GREY, linestyle=dashes, linewidth=1.1, zorder=1.5)
            beside = ax.get_yaxis_transform()  # x in axes, y in data
            ax.text(1.01, value, SHARED_STAGES[stage], transform=beside, color=GREY, fontsize=7, va="center")


def _finish(figure: Figure, axes: Iterable[Axes], drawn: Iterable[Mapping[str, Line]], about: str = "") -> None:
    """Legend and note below the axes; the figure grows by what they need."""
    entries: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    across = legend_columns(list(entries))
    lines_of_text = 1 - (-len(entries) // across)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.1 + 0.17 * lines_of_text)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=across,
        frameon=False,
        handlelength=3.2,
        title=about + _band_note({one.seeds for lines in drawn for one in lines.values()}),
        title_fontsize=7,
    )


def legend_columns(labels: Sequence[str]) -> int:
    """How many of these labels fit beside each other below the axes, in rows as even as can be."""
    entry = max(map(len, labels)) * STYLE["legend.fontsize"] * 0.52 + 42  # points: letters, then handle and gaps
    fit = max(1, int(WIDTH * 72 / entry))
    rows = -(-len(labels) // fit)
    return -(-len(labels) // rows)


def _band_note(seeds: set[int]) -> str:
    """What lines and bands are, for the numbers of seeds that occur."""
    if seeds == {1}:
        return "Lines: one seed each, hence no bands."
    bands = []
    if any(n >= BOOTSTRAP_SEEDS for n in seeds):
        bands.append("95 % bootstrap interval over seeds")
    if 2 in seeds:
        bands.append(f"smallest to largest{' where there are 2 seeds' if len(seeds) > 1 else ''}")
    if 1 in seeds:
        bands.append("none where there is 1 seed")
    over = _many(seeds.copy().pop()) if len(seeds) == 1 else "seeds"
    return f"Lines: mean over {over}. Bands: {', '.join(bands)}."


def save(figure: Figure, path: Path) -> list[Path]:
    """Write <path>.png (200 dpi) and <path>.svg without dates; returns what was written."""
    with matplotlib.rc_context(STYLE):
        files = [path.with_suffix(".png"), path.with_suffix(".svg")]
        figure.savefig(files[0], dpi=200, metadata={"Software": None})
        figure.savefig(files[1], metadata={"Date": None, "Creator": None})
    return files
