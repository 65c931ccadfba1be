"""Data of a page's curves and heat maps, thinned so that a page of many runs stays small.

A curve is the mean over a row's seeds at the updates that all of them measured. Its band is the 95 % interval over
seeds, or the range of two seeds. Training metrics are first smoothed within each run. All this is as in figures. Then
an evenly spread subset of points is kept unchanged, without interpolation. `analysis.figures.series` has the same
curves for figures, one metric at a time; a page shows every metric of hundreds of runs and reads the frame once.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.collection import Collection
from analysis.figures.lines import SMOOTHING
from analysis.figures.series import AXES, INTERVAL_SEEDS, smoothed, smoothing_points, spent_at
from analysis.html.rows import Look
from analysis.render.numbers import metric_title
from analysis.statistics import Floats, seed_interval

NUMBERS = 300_000
"""Maximum total of numbers in the training curves of one page."""

POINTS = (40, 200)
"""Bounds on the number of points of a training curve: thinning stops at the first; the second is never exceeded."""

HEAT_COLUMNS = 60
"""Maximum number of columns of a heat map. A column is the mean over consecutive updates."""

DIGITS = 5
"""Significant digits of a number in a page."""

TITLES = {
    "reward": "Reward per list",
    "reward_std": "Reward: deviation within groups",
    "hits": "Hits per list",
    "success": "Lists that succeed (share)",
    "entropy": "Entropy per token (nats)",
    "kl": "KL to reference per token (nats)",
    "list_length": "Entries per list",
    "completion_length": "Tokens per completion",
    "truncated": "Cut off at the token limit (share)",
    "frac_zero_variance_units": "Units without signal (share)",
    "effective_units": "Effective units (share)",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "loss": "Loss",
    "clip_low": "Clipped below (share)",
    "clip_high": "Clipped above (share)",
    "max_abs_log_ratio": "Largest |log ratio|",
    "in_catalog": "In catalogue (share)",
    "duplicates": "Duplicates (share)",
    "seen": "Already seen (share)",
    "coverage": "Catalogue coverage (share)",
    "rank_hit_rate": "Hit rate of each rank",
    "advantage_mean": "Advantage: mean",
    "advantage_std": "Advantage: deviation",
}

HEADLINE = ("ndcg", "recall", "hit_rate", "mrr", "map")
FIRST_TRAINING = ("reward", "hits", "entropy", "kl", "frac_zero_variance_units", "list_length")
"""Metrics that come first in the lists of metrics, in this order."""

RANKED = re.compile(r"(reward|hits|advantage_mean|advantage_std|rank_hit_rate)@(\d+)")
"""Metrics of one rank, which form one row of a heat map."""

HEAT_TITLES = {
    "train/reward": "Reward of each rank (mean return)",
    "train/hits": "Hit rate of each rank in rollouts",
    "validation/rank_hit_rate": "Hit rate of each rank on validation",
    "train/advantage_mean": "Advantage of each rank: mean",
    "train/advantage_std": "Advantage of each rank: deviation",
}


@dataclass(frozen=True)
class Band:
    """A curve: (T,) steps, mean, low and high. With one seed, low and high equal the mean."""

    steps: Floats
    mean: Floats
    low: Floats
    high: Floats


class Measured:
    """Measurements by run, split and metric, from one pass over the frame."""

    def __init__(self, frame: pd.DataFrame):
        """`frame`: as in `Collection.curves`."""
        keys = ["run", "split", "metric"]
        ordered = frame.sort_values([*keys, "step"], kind="stable")
        steps, values = ordered["step"].to_numpy(float), ordered["value"].to_numpy(float)
        found: dict[Any, Any] = ordered.groupby(keys, sort=False, observed=True).indices
        self.series: dict[tuple[str, str, str], tuple[Floats, Floats]] = {
            key: (steps[at], values[at]) for key, at in found.items()
        }
        self.names = sorted({(split, metric) for _, split, metric in self.series})

    def wide(self, runs: Sequence[str], split: str, metric: str) -> tuple[Floats, Floats] | None:
        """(T,) updates that all of these runs measured, and (S, T) values; None if there are none."""
        parts = [self.series.get((run, split, metric)) for run in runs]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        common = known[0][0]
        for steps, _ in known[1:]:
            common = np.intersect1d(common, steps, assume_unique=True)
        if not len(common):
            return None
        return common, np.stack([values[np.isin(steps, common)] for steps, values in known])


def band(steps: Floats, values: Floats) -> Band:
    """Mean and band of (S, T) values at (T,) steps."""
    if len(values) < INTERVAL_SEEDS:
        return Band(steps, values.mean(axis=0), values.min(axis=0), values.max(axis=0))
    found = seed_interval(values)
    return Band(steps, found.mean, found.low, found.high)


def thinned(length: int, points: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Indices of at most `points` of `length` points, evenly spread, including the first and the last."""
    if length <= points:
        return np.arange(length)
    return np.unique(np.linspace(0, length - 1, points).round().astype(np.int64))


def number(value: float) -> float | None:
    """A value rounded to `DIGITS` significant digits; None for NaN and infinity."""
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


def numbers(values: Floats) -> list[float | None]:
    return [number(value) for value in values]


def curve_data(group: Collection, looks: Sequence[Look]) -> dict[str, Any]:
    """Curves, references and heat maps of one group, for the page's scripts."""
    measured = Measured(group.curves)
    trained = [i for i, look in enumerate(looks) if look.stage == "rl"]
    cutoffs = sorted(group.runs.iloc[0]["cutoffs"])
    metrics = [name for name in measured.names if name[0] != "test" and not RANKED.fullmatch(name[1])]
    training = sum(split == "train" for split, _ in metrics)
    lowest, most = POINTS
    points = int(np.clip(NUMBERS // max(1, 3 * training * len(trained)), lowest, most))
    axes = Axes(group.spending, [look.runs for look in looks])
    series: dict[str, list[list[Any]]] = {}
    for split, metric in metrics:
        for row in trained:
            found = measured.wide(looks[row].runs, split, metric)
            if found is None:
                continue
            steps, values = found
            drawn = band(steps, smoothed(values, SMOOTHING) if split == "train" else values)
            kept = thinned(len(steps), points) if split == "train" else np.arange(len(steps))
            one = [row, axes.index(row, steps[kept]), numbers(drawn.mean[kept])]
            if len(values) > 1:
                one += [numbers(drawn.low[kept]), numbers(drawn.high[kept])]
            series.setdefault(f"{split}/{metric}", []).append(one)
    longest = max((len(steps) for (_, split, _), (steps, _) in measured.series.items() if split == "train"), default=0)
    return {
        "axes": axes.titles(),
        "xs": axes.xs,
        "metrics": [
            {"key": key, "title": title_of(key.partition("/")[2]), "split": key.partition("/")[0]}
            for key in sorted(series, key=lambda key: _order(key, cutoffs))
        ],
        "series": series,
        "references": _references(group, looks, series),
        "smoothing": smoothing_points(longest, SMOOTHING) if longest else 1,
        "points": points,
        "thinned": longest > points,
        "heat": _heat(measured, looks, trained),
    }


class Axes:
    """The x axes of curves: updates, and the amounts spent by then (mean over the seeds of a row).

    Args:
        spending: as in `Collection`.
        runs: runs of each row.
    """

    def __init__(self, spending: pd.DataFrame, runs: Sequence[Sequence[str]]):
        self.spending = {str(run): part for run, part in spending.groupby("run", observed=True)}
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


def title_of(metric: str) -> str:
    """Title of a metric, or its name if it has no title."""
    name, at, k = metric.partition("@")
    return f"{TITLES[name]}{at}{k}" if name in TITLES else metric_title(metric)


def _order(key: str, cutoffs: Sequence[int]) -> tuple[Any, ...]:
    split, _, metric = key.partition("/")
    name, _, k = metric.partition("@")
    first = HEADLINE if split == "validation" else FIRST_TRAINING
    place = first.index(name) if name in first else len(first)
    return split != "validation", place, name, -int(k) if k.isdigit() else 0


def _references(group: Collection, looks: Sequence[Look], keys: Mapping[str, Any]) -> dict[str, list[list[Any]]]:
    """Row and validation value of SFT, zero-shot and oracle, for each metric with curves."""
    runs, found = group.runs, {}
    for key in keys:
        split, _, metric = key.partition("/")
        column = f"validation.{metric}"
        if split != "validation" or column not in runs:
            continue
        values = [(row, runs.loc[runs["run"].isin(look.runs), column].mean()) for row, look in enumerate(looks)]
        found[key] = [[row, number(v)] for row, v in values if looks[row].stage != "rl" and np.isfinite(v)]
    return found


def _heat(measured: Measured, looks: Sequence[Look], trained: Sequence[int]) -> list[dict[str, Any]]:
    """Heat maps, one per metric of ranks. Each row has the update span of every column and (ranks, columns) values."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for split, metric in measured.names:
        if found := RANKED.fullmatch(metric):
            kinds.setdefault((split, found[1]), []).append(int(found[2]))
    maps = []
    for name, title in HEAT_TITLES.items():
        split, _, kind = name.partition("/")
        ranks = sorted(kinds.get((split, kind), []))
        rows = []
        for row in trained if ranks else ():
            parts = [measured.wide(looks[row].runs, split, f"{kind}@{rank}") for rank in ranks]
            known = [part for part in parts if part is not None]
            if not known:
                continue
            steps = np.unique(np.concatenate([part[0] for part in known]))
            values = np.full((len(ranks), len(steps)), np.nan)
            for at, part in enumerate(parts):
                if part is not None:
                    values[at, np.searchsorted(steps, part[0])] = part[1].mean(axis=0)
            rows.append([row, *_binned(steps, values)])
        if rows:
            maps.append({"key": name, "title": title, "ranks": ranks, "rows": rows})
    return maps


def _binned(steps: Floats, values: Floats) -> tuple[list[list[float | None]], list[list[float | None]]]:
    """First and last update of each column, and (ranks, columns) means over the finite values of a column."""
    edges = np.linspace(0, len(steps), min(HEAT_COLUMNS, len(steps)) + 1).round().astype(int)
    parts = list(zip(edges[:-1], edges[1:], strict=True))
    spans = [[number(steps[a]), number(steps[b - 1])] for a, b in parts]
    means = []
    for line in values:
        known = [line[a:b][np.isfinite(line[a:b])] for a, b in parts]
        means.append([float(f"{part.mean():.3g}") if len(part) else None for part in known])
    return spans, means
