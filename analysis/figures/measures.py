"""Figures of what `rlbench.measure` has written: one function for each kind of file."""

from collections.abc import Callable, Mapping
from itertools import cycle

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import COLOURS, MARKERS, STYLE
from analysis.render.templates import PAGE_WIDTH

HEIGHT = 2.4
"""Height of a panel in inches."""
UPDATE = "Update"
SPECTRAL = {"rank_me": "RankMe", "effective_rank": "Effective rank", "alpha_req": "α-ReQ"}
MOST_TICKS = 4
"""Updates that a narrow panel names."""
MOST_NAMED = 12
"""A matrix with more rows has no numbers in its cells."""


def _panels(count: int, height: float = HEIGHT) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, count)).flat)


def _lines(ax: Axes, table: pd.DataFrame, by: str, value: str) -> None:
    """One line over updates for each value of a column."""
    looks = zip(cycle(COLOURS), cycle(MARKERS))
    for (name, rows), (colour, marker) in zip(table.groupby(by, sort=False), looks, strict=False):
        ax.plot(rows["update"], rows[value], color=colour, marker=marker, label=str(name).replace("_", " "))
    ax.set_xlabel(UPDATE)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _beside(ax: Axes) -> None:
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)


def draw_geometry(table: pd.DataFrame) -> Figure:
    """RankMe, effective rank and alpha-ReQ over updates."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _panels(len(SPECTRAL))
        for ax, (name, title), colour in zip(axes, SPECTRAL.items(), COLOURS, strict=False):
            ax.plot(table["update"], table[name], color=colour, marker="o")
            ax.set(title=title, xlabel=UPDATE)
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return figure


def draw_token_ranks(table: pd.DataFrame) -> Figure:
    """For each place in a list, the shares of a model's tokens that are not the base's first choice."""
    bins = [name for name in table.columns if name.startswith("share_") and name != "share_to_1"]
    words = {name: name.removeprefix("share_").replace("to_", "up to ") for name in bins}
    words["share_beyond"] = "beyond"
    places = list(dict.fromkeys(table["place"]))
    with matplotlib.rc_context(STYLE):
        figure, axes = _panels(len(places))
        for ax, place in zip(axes, places, strict=True):
            rows = table[table["place"] == place]
            bottom = np.zeros(len(rows))
            for name, colour in zip(bins, COLOURS, strict=False):
                ax.bar(range(len(rows)), rows[name], bottom=bottom, color=colour, label=words[name])
                bottom += rows[name].to_numpy()
            ax.set(title=place, xlabel=UPDATE)
            shown = range(0, len(rows), -(-len(rows) // MOST_TICKS))
            ax.set_xticks(shown, [str(rows["update"].iloc[n]) for n in shown])
            ax.sharey(axes[0])
        axes[0].set_ylabel("Share of tokens")
        axes[-1].legend(title="Rank under the base", loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False)
    return figure


def draw_patterns(table: pd.DataFrame) -> Figure:
    """Shares of lists with each pattern over updates."""
    with matplotlib.rc_context(STYLE):
        figure, (ax,) = _panels(1, 1.2 * HEIGHT)
        _lines(ax, table, "pattern", "share")
        ax.set(ylabel="Share of lists", ylim=(-0.03, 1.03))
        _beside(ax)
    return figure


def draw_solved(table: pd.DataFrame) -> Figure:
    """Hits of each context's list over updates: a map, sorted by total hits, and the share with a hit."""
    hits = table.pivot(index="context_id", columns="update", values="hits")
    order = hits.sum(axis=1).sort_values(ascending=False, kind="stable").index
    with matplotlib.rc_context(STYLE):
        figure, (map_ax, ax) = _panels(2, 1.5 * HEIGHT)
        image = map_ax.imshow(hits.loc[order], aspect="auto", interpolation="nearest", cmap="viridis")
        map_ax.set(xlabel=UPDATE, ylabel="Context, most hits first", yticks=[])
        map_ax.set_xticks(range(hits.shape[1]), [str(update) for update in hits.columns])
        map_ax.grid(visible=False)
        figure.colorbar(image, ax=map_ax, label="Hits", ticks=MaxNLocator(integer=True))
        solved = hits > 0
        ax.plot(hits.columns, solved.mean(), color=COLOURS[0], marker="o", label="with a hit")
        ax.plot(hits.columns, (solved & ~solved.iloc[:, [0]].to_numpy()).mean(), color=COLOURS[2], marker="s",
                label="won since the start")  # fmt: skip
        ax.plot(hits.columns, (~solved & solved.iloc[:, [0]].to_numpy()).mean(), color=COLOURS[1], marker="^",
                label="lost since the start")  # fmt: skip
        ax.set(xlabel=UPDATE, ylabel="Share of contexts", ylim=(-0.03, 1.03))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.legend(frameon=False)
    return figure


def draw_judge(table: pd.DataFrame) -> Figure:
    """Accuracy of judges: a row for the model on whose lists a judge was trained, a column for the judged model."""
    matrix = table.pivot(index="trained_at", columns="update", values="accuracy")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.7 * PAGE_WIDTH, 1.6 * HEIGHT), layout="constrained")
        ax = figure.subplots()
        image = ax.imshow(matrix, cmap="cividis")
        ax.set(xlabel="Lists of update", ylabel="Judge trained at update")
        ax.set_xticks(range(matrix.shape[1]), [str(update) for update in matrix.columns])
        ax.set_yticks(range(matrix.shape[0]), [str(update) for update in matrix.index])
        ax.grid(visible=False)
        if len(matrix) <= MOST_NAMED:
            middle = (np.nanmin(matrix) + np.nanmax(matrix)) / 2
            for (row, column), value in np.ndenumerate(matrix.to_numpy()):
                colour = "white" if value < middle else "black"
                ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
        figure.colorbar(image, ax=ax, label="Accuracy")
    return figure


def draw_transfer(table: pd.DataFrame) -> Figure:
    """Quality under each form of the prompt over updates."""
    metric = str(table.columns[-1])
    with matplotlib.rc_context(STYLE):
        figure, (ax,) = _panels(1, 1.2 * HEIGHT)
        _lines(ax, table, "form", metric)
        ax.set_ylabel(metric.upper())
        _beside(ax)
    return figure


DRAWN: Mapping[str, Callable[[pd.DataFrame], Figure]] = {
    "geometry": draw_geometry,
    "token_ranks": draw_token_ranks,
    "patterns": draw_patterns,
    "solved": draw_solved,
    "judge": draw_judge,
    "transfer": draw_transfer,
}
"""The figure of each kind of file."""
