"""The effects of a factorial sweep as a forest plot."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.figures.style import COLOURS, GREY, MARKERS, STYLE, draw_legend
from analysis.render.numbers import chance, share, signed
from analysis.render.sheet import estimate
from analysis.render.templates import PAGE_WIDTH
from analysis.studies.ablation import NO_P, Ablation
from analysis.studies.factorial import CLEAR, Effect
from analysis.tables.marks import marked
from analysis.tables.model import ONE_SEED, UNEQUAL
from rlbench.lists.metric_catalogue import metric_title

REACH = 2.5
"""The axis ends at this multiple of the largest pair difference. A longer interval ends in an arrow."""

NARROWEST = 0.004
"""Minimum extent of the axis to each side, so that three digits are meaningful."""

HEAD = 1.3
"""Height of a line with a factor's name, where a line with a level has height 1."""

BESIDE = (84, 116, 142)
"""Right ends of the number columns next to the axes, in points: difference, p, pairs."""


def draw_effects(ablation: Ablation) -> Figure | None:
    """A forest plot with one line per effect, grouped by factor; None if no effect has a pair."""
    drawn = [effect for effect in ablation.effects if effect.change is not None]
    if not drawn:
        return None
    factors = [factor for factor in ablation.design.factors if any(effect.factor == factor.key for effect in drawn)]
    height = HEAD * len(factors) + len(drawn)
    title = metric_title(ablation.metric)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE_WIDTH, 0.215 * height + 0.95), layout="constrained")
        ax = figure.subplots()
        ax.set(xlim=_limits(drawn), ylim=(height + 0.2, 0.2), xlabel=f"Δ {title} on test to the reference level")
        ax.axvline(0, color=GREY, linewidth=0.8, zorder=1.5)
        _beside(ax, 0.1, (f"Δ {title} [95 %]", "p", "Pairs"), color=GREY)
        ticks: dict[float, tuple[str, str]] = {}
        y = 0.0
        for factor, colour, marker in zip(factors, cycle(COLOURS), cycle(MARKERS)):
            y += HEAD
            ticks[y - 0.45] = (factor.name, colour)
            for effect in (effect for effect in drawn if effect.factor == factor.key):
                ticks[y + 0.5] = (f"{effect.level} vs. {effect.reference}", "black")
                _draw_effect(ax, effect, y + 0.5, colour, marker)
                y += 1
        ax.set_yticks(list(ticks), [name for name, _ in ticks.values()])
        for label, (_, colour) in zip(ax.get_yticklabels(), ticks.values(), strict=True):
            label.set(color=colour, weight="normal" if colour == "black" else "bold")
        ax.tick_params(axis="y", length=0, pad=6)
        ax.grid(visible=False, axis="y")
        ax.spines["left"].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value)))
        _explain(figure, drawn)
    return figure


def _limits(drawn: Sequence[Effect]) -> tuple[float, float]:
    """Ends of the horizontal axis: the data range, limited by REACH and at least NARROWEST to each side."""
    singles = [single for effect in drawn for single in effect.singles]
    cells = [effect.change for effect in drawn if effect.change is not None and effect.change.has_interval]
    ends = [end for cell in cells for end in (cell.low, cell.high)]
    most = max(REACH * max(map(abs, singles)), NARROWEST)
    low, high = max(min(*singles, *ends, -NARROWEST), -most), min(max(*singles, *ends, NARROWEST), most)
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _draw_effect(ax: Axes, effect: Effect, y: float, colour: str, marker: str) -> None:
    """Draw mean and interval, each pair as a faint dot below, and the numbers next to the axes."""
    cell = effect.change
    if cell is None:
        return
    low, high = (cell.low, cell.high) if cell.has_interval else (cell.mean, cell.mean)
    below = [y + 0.33] * len(effect.singles)
    ax.plot(effect.singles, below, "o", color=colour, alpha=0.4, markersize=2.4, markeredgewidth=0)
    ax.plot([low, high], [y, y], color=colour, linewidth=2.4, solid_capstyle="butt")
    ax.plot(cell.mean, y, marker, color=colour, markersize=4.5, markeredgecolor="white", markeredgewidth=0.5)
    left, right = ax.get_xlim()
    for edge, arrow, beyond in ((left, "<", low < left), (right, ">", high > right)):
        if beyond:
            ax.plot(edge, y, arrow, color=colour, markersize=4, clip_on=False)
    weight = "bold" if effect.clear else "normal"
    pairs = marked(str(len(effect.singles)), effect.marks, UNEQUAL)
    _beside(ax, y, (estimate(cell, signed).text, chance(effect.p_holm), pairs), weight=weight)


def _beside(ax: Axes, y: float, texts: Sequence[str], *, color: str = "black", weight: str = "normal") -> None:
    """Draw texts right of the axes, at height `y` in data coordinates."""
    for x, text in zip(BESIDE, texts, strict=True):
        place: dict[str, Any] = {"xycoords": ax.get_yaxis_transform(), "xytext": (x, 0), "textcoords": "offset points"}
        ax.annotate(text, (1, y), **place, ha="right", va="center", fontsize=7, color=color, weight=weight)


def _explain(figure: Figure, drawn: Sequence[Effect]) -> None:
    """Draw the legend below the axes."""
    one = all(ONE_SEED in effect.marks for effect in drawn)
    over = "contexts and pairs (one seed)" if one else "contexts and seeds"
    intervals = any(effect.change.has_interval for effect in drawn if effect.change is not None)
    tested = any(effect.p is not None for effect in drawn)
    mean = Line2D([], [], color=GREY, linewidth=2.4 * intervals, marker="o", markersize=4.5, markeredgecolor="white")
    single = Line2D([], [], color=GREY, linestyle="", marker="o", markersize=2.4, alpha=0.6, markeredgewidth=0)
    entries = {f"mean, 95 % interval over {over}" if intervals else "mean": mean, "one pair of runs": single}
    note = f"p: corrected by Holm. Bold: p below {share(CLEAR).rstrip('0')}, equal budgets." if tested else NO_P
    draw_legend(figure, entries, 2, note)
