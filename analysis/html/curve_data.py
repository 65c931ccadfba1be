"""Data of a page's curves and heat maps, thinned so that a page of many runs stays small.

Curves and maps are those of figures (`analysis.figures.series`). Of a long training curve, an evenly spread subset of
points is kept unchanged, without interpolation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.collection import Collection
from analysis.figures.choices import AXES
from analysis.figures.labels import metric_label
from analysis.figures.ranks import RANK_METRICS, split_of
from analysis.figures.series import (
    SMOOTHING,
    RankMap,
    in_bins,
    rank_map,
    row_series,
    smoothing_points,
    spent_at,
    window_of,
)
from analysis.html.rows import Look
from analysis.statistics import Floats
from rlbench.lists.metric_catalogue import metric_of

NUMBERS = 300_000
"""Maximum total of numbers in the training curves of one page."""

POINTS = (40, 200)
"""Bounds on the number of points of a training curve: thinning stops at the first; the second is never exceeded."""

HEAT_COLUMNS = 60
"""Maximum number of columns of a heat map. A column is the mean over consecutive updates."""

DIGITS = 5
"""Significant digits of a number in a page."""

HEAT_DIGITS = 3
"""Significant digits of a number in a heat map."""

HEADLINE = ("ndcg", "recall", "hit_rate", "mrr", "map")
FIRST_TRAINING = ("reward", "hits", "entropy", "kl", "frac_zero_variance_units", "list_length")
"""Metrics that come first in the lists of metrics, in this order."""


def thinned(length: int, points: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Indices of at most `points` of `length` points, evenly spread, including the first and the last."""
    if length <= points:
        return np.arange(length)
    return np.unique(np.linspace(0, length - 1, points).round().astype(np.int64))


def number(value: float, digits: int = DIGITS) -> float | None:
    """A value rounded to some significant digits; None for NaN and infinity."""
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def numbers(values: Floats) -> list[float | None]:
    return [number(value) for value in values]


def curve_data(group: Collection, looks: Sequence[Look]) -> dict[str, Any]:
    """Curves, references and heat maps of one group, for the page's scripts."""
    trained = [i for i, look in enumerate(looks) if look.stage == "rl"]
    cutoffs = sorted(group.runs.iloc[0]["cutoffs"])
    names = group.measurements.names
    metrics = [name for name in names if name[0] != "test" and metric_of(name[1]).k != "rank"]
    training = sum(split == "train" for split, _ in metrics)
    points = int(np.clip(NUMBERS // max(1, 3 * training * len(trained)), *POINTS))
    axes = Axes(group.spending_of, [look.runs for look in looks])
    series: dict[str, list[list[Any]]] = {}
    for split, metric in metrics:
        for row in trained:
            drawn = row_series(group, looks[row].runs, split, metric, window=window_of(split))
            if drawn is None:
                continue
            kept = thinned(len(drawn.x), points) if split == "train" else np.arange(len(drawn.x))
            one = [row, axes.index(row, drawn.x[kept]), numbers(drawn.mean[kept])]
            if len(drawn.runs) > 1:
                one += [numbers(drawn.low[kept]), numbers(drawn.high[kept])]
            series.setdefault(f"{split}/{metric}", []).append(one)
    of_training = (steps for (_, split, _), (steps, _) in group.measurements.series.items() if split == "train")
    longest = max(map(len, of_training), default=0)
    return {
        "axes": axes.titles(),
        "xs": axes.xs,
        "metrics": [
            {"key": key, "title": metric_label(group, key.partition("/")[2]), "split": key.partition("/")[0]}
            for key in sorted(series, key=lambda key: _order(key, cutoffs))
        ],
        "series": series,
        "references": _references(group, looks, series),
        "smoothing": smoothing_points(longest, SMOOTHING) if longest else 1,
        "points": points,
        "thinned": longest > points,
        "heat": _heat(group, looks, trained),
    }


class Axes:
    """The x axes of curves: updates, and the amounts spent by then (mean over the seeds of a row)."""

    def __init__(self, spending: Mapping[str, pd.DataFrame], runs: Sequence[Sequence[str]]):
        self.spending = spending
        self.runs = runs
        self.xs: list[dict[str, list[float | None]]] = []
        self._known: dict[tuple[int, bytes], int] = {}

    def index(self, row: int, steps: Floats) -> int:
        """Index in `xs` of the x values of a row's curve at these updates."""
        key = (row, steps.tobytes())
        if key not in self._known:
            self._known[key] = len(self.xs)
            at = {"updates": numbers(steps)}
            if all(run in self.spending for run in self.runs[row]):
                for axis in AXES:
                    if axis != "updates":
                        spent = [spent_at(self.spending[run], axis, steps) for run in self.runs[row]]
                        at[axis] = numbers(np.mean(spent, axis=0))
            self.xs.append(at)
        return self._known[key]

    def titles(self) -> dict[str, str]:
        """Titles of the axes that every curve has. All axes, if every run recorded what it spent."""
        return {axis: title for axis, title in AXES.items() if all(axis in at for at in self.xs)}


def _order(key: str, cutoffs: Sequence[int]) -> tuple[Any, ...]:
    split, _, metric = key.partition("/")
    name, _, k = metric.partition("@")
    first = HEADLINE if split == "validation" else FIRST_TRAINING
    place = first.index(name) if name in first else len(first)
    return split != "validation", place, name, -int(k) if k.isdigit() else 0


def _references(group: Collection, looks: Sequence[Look], keys: Mapping[str, Any]) -> dict[str, list[list[Any]]]:
    """Row and validation value of the rows without curves, for each metric with curves.

    Of the classical baselines, it is the one with the highest NDCG at the largest cut-off.
    """
    runs, found = group.runs, {}
    headline = f"validation.ndcg@{max(group.runs.iloc[0]['cutoffs'])}"
    of_baselines = {
        row: runs.loc[runs["run"].isin(look.runs), headline].mean()
        for row, look in enumerate(looks)
        if look.stage == "baseline" and headline in runs
    }
    best = max(of_baselines, key=lambda row: of_baselines[row], default=None)
    drawn = [row for row, look in enumerate(looks) if look.stage not in ("rl", "baseline") or row == best]
    for key in keys:
        split, _, metric = key.partition("/")
        column = f"validation.{metric}"
        if split != "validation" or column not in runs:
            continue
        values = [(row, runs.loc[runs["run"].isin(looks[row].runs), column].mean()) for row in drawn]
        found[key] = [[row, number(v)] for row, v in values if np.isfinite(v)]
    return found


def _heat(group: Collection, looks: Sequence[Look], trained: Sequence[int]) -> list[dict[str, Any]]:
    """Heat maps, one per metric of ranks. Each row has the update span of every column and (ranks, columns) values."""
    maps = []
    for metric in RANK_METRICS:
        split = split_of(metric)
        found = {row: rank_map(group, looks[row].runs, split, metric) for row in trained}
        known = {row: one for row, one in found.items() if one is not None}
        if known:
            ranks = max(len(one.ranks) for one in known.values())
            key, title = f"{split}/{metric.removesuffix('@k')}", metric_label(group, metric)
            rows = [[row, *_binned(one, ranks)] for row, one in known.items()]
            maps.append({"key": key, "title": title, "ranks": list(range(1, ranks + 1)), "rows": rows})
    return maps


def _binned(one: RankMap, ranks: int) -> tuple[list[list[float | None]], list[list[float | None]]]:
    """First and last update of each column, and (ranks, columns) means over the finite values of a column."""
    values, parts = in_bins(one.values, HEAT_COLUMNS)
    spans = [[number(one.x[part[0]]), number(one.x[part[-1]])] for part in parts]
    means = [[number(value, HEAT_DIGITS) for value in line] for line in values]
    return spans, means + [[None] * len(parts)] * (ranks - len(means))
