"""Curves as data. Every figure, page and table of curves uses this module, so all show the same numbers.

A row (a method) has one curve per metric: its seeds at common x values, their mean, and a band. The x axis is updates
or the amount spent by then. All seeds share the same updates, but the amount spent may differ. Then each seed is
interpolated linearly between its own measurements, within the range that all seeds of the row cover.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.collection import Collection
from analysis.collection.stages import row_name
from analysis.figures.choices import VARIANT
from analysis.statistics import Floats, seed_interval

INTERVAL_SEEDS = 3
"""Fewest seeds for which a band is an interval; with fewer it is the range."""


SMOOTHING = 0.05
"""Window of the moving mean over training metrics, as a share of the run."""


@dataclass(frozen=True)
class Series:
    """One curve of one row.

    Attributes:
        x: (T,) ascending, in the unit of the axis (updates, lists, tokens, seconds).
        values: (S, T) values of each seed; NaN where a run wrote NaN.
        mean: (T,) mean over seeds.
        low, high: (T,) the band: the 95 % interval of the mean with at least `INTERVAL_SEEDS` seeds, else the range.
        runs: the S run directories, in the order of `values`.
    """

    x: Floats
    values: Floats
    mean: Floats
    low: Floats
    high: Floats
    runs: tuple[str, ...]


@dataclass(frozen=True)
class RankMap:
    """A training metric of each rank over the training of one row.

    Attributes:
        x: (T,) as in `Series`.
        ranks: (K,) 1 .. K.
        values: (K, T) mean over seeds; NaN where a seed has no measurement.
    """

    x: Floats
    ranks: Floats
    values: Floats


def rl_rows(group: Collection) -> dict[str, pd.DataFrame]:
    """Label of each RL row to its runs, sorted by seed."""
    rl = group.runs[group.runs["stage"] == "rl"].sort_values(["label", "seed"], kind="stable")
    return {str(label): runs for label, runs in rl.groupby("label", sort=True)}


def row_names(group: Collection, names: Mapping[str, str] | None = None) -> dict[str, str]:
    """Label of each RL row to its name in words. `names` has displayed names of algorithms and rewards."""

    def word(_: str, value: str) -> str:
        name, separator, variant = value.partition(VARIANT)
        return f"{(names or {}).get(name, name)}{separator}{variant}"

    return {label: row_name(runs.iloc[0], word) for label, runs in rl_rows(group).items()}


def measured(group: Collection, split: str) -> list[str]:
    """Sorted names of the metrics that any RL run measured on a split."""
    rl = set(group.runs.loc[group.runs["stage"] == "rl", "run"])
    return sorted({metric for run, of, metric in group.measurements.series if of == split and run in rl})


def without_spending(group: Collection) -> list[str]:
    """Labels of RL rows with a run without budget.jsonl. Their curves can only be drawn over updates."""
    return [label for label, runs in rl_rows(group).items() if not set(group.spending_of).issuperset(runs["run"])]


def all_series(
    group: Collection, split: str, metric: str, *, against: str = "updates", window: float = 0.0
) -> dict[str, Series]:
    """The curves of the RL rows, by label. Rows without a curve are absent. Arguments as for `row_series`."""
    found = {
        label: row_series(group, list(rows["run"]), split, metric, against=against, window=window)
        for label, rows in rl_rows(group).items()
    }
    return {label: series for label, series in found.items() if series is not None}


def row_series(
    group: Collection, runs: Sequence[str], split: str, metric: str, *, against: str = "updates", window: float = 0.0
) -> Series | None:
    """The curve of a row: the mean over its runs, and the band. None if the runs have no common measurement.

    Args:
        runs: the row's runs, one per seed.
        against: one of `AXES`. Without budget.jsonl in every run, a row has curves over updates only.
        window: width of a centred moving mean over each run, as a share of its points; 0 for none.
    """
    together = group.measurements.together(runs, split, metric)
    if together is None or (against != "updates" and not set(runs).issubset(group.spending_of)):
        return None
    x, values = together[0], smoothed(together[1], window)
    if against != "updates":
        places = np.stack([spent_at(group.spending_of[run], against, x) for run in runs])
        x, values = on_common_grid(places, values)
    return Series(x, values, *mean_and_band(values), tuple(runs)) if len(x) else None


def window_of(split: str) -> float:
    """Width of the moving mean in figures and on the page. Only training metrics are smoothed."""
    return SMOOTHING if split == "train" else 0.0


def smoothed(values: Floats, window: float) -> Floats:
    """(S, T) mean of each piecewise linear curve over a centred window; NaN where the input is NaN.

    With linear interpolation, a zigzag line averages to its middle for any window width. Metrics logged at every update
    zigzag if several updates use one rollout.

    Args:
        values: (S, T).
        window: width as a share of the points; 0 for none.
    """
    half = smoothing_points(values.shape[1], window) // 2
    if not half:
        return values
    steps = (values[:, 1:] + values[:, :-1]) / 2
    known = np.isfinite(steps)
    sums, counts = (np.cumsum(np.pad(part, ((0, 0), (1, 0))), axis=1) for part in (np.where(known, steps, 0.0), known))
    places = np.arange(values.shape[1])
    first, last = np.maximum(places - half, 0), np.minimum(places + half, places[-1])
    spans = counts[:, last] - counts[:, first]
    means = (sums[:, last] - sums[:, first]) / np.maximum(spans, 1)
    return np.where(np.isfinite(values) & (spans > 0), means, values)


def smoothing_points(length: int, window: float) -> int:
    """Number of points in the window: odd, and at least 1."""
    return 2 * int(length * window / 2) + 1


def mean_and_band(values: Floats) -> tuple[Floats, Floats, Floats]:
    """(T,) mean, low and high of (S, T) values, as in `Series`."""
    if len(values) < INTERVAL_SEEDS:
        return values.mean(axis=0), values.min(axis=0), values.max(axis=0)
    estimate = seed_interval(values)
    return estimate.mean, estimate.low, estimate.high


def spent_at(spending: pd.DataFrame, kind: str, steps: Floats) -> Floats:
    """(T,) amount that one run had spent by each of T updates: 0 at update 0, linear between logged updates.

    Args:
        spending: spending of one run, as in `Collection`, sorted by update.
        kind: one of `AXES` except updates.
        steps: (T,) updates; the result is NaN after the last logged update.
    """
    updates = np.concatenate([[0.0], spending["update"].to_numpy(float)])
    spent = np.concatenate([[0.0], spending[kind].to_numpy(float)])
    return np.interp(steps, updates, spent, right=np.nan)


def on_common_grid(places: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Curves of S seeds at common x values.

    If all seeds were measured at the same x values, these are kept. Otherwise the grid is the mean over seeds of the
    x value of each measurement, clipped to the range that all seeds cover, and each seed is interpolated linearly. Of
    several measurements at one x value (updates on one rollout) the last counts.

    Args:
        places: (S, T) x values, ascending in each row; NaN where unknown.
        values: (S, T).

    Returns:
        (P,) ascending x values and (S, P) values there; P is 0 if the seeds have no common range.
    """
    known = np.isfinite(places).all(axis=0)
    places, values = places[:, known], values[:, known]
    if not places.size:
        return np.empty(0), np.empty((len(values), 0))
    if (places == places[0]).all():
        last = np.append(np.diff(places[0]) > 0, True)
        return places[0, last], values[:, last]
    low, high = places[:, 0].max(), places[:, -1].min()
    grid = np.unique(places.mean(axis=0).clip(low, high)) if low <= high else np.empty(0)
    return grid, np.stack([interpolate(grid, *own) for own in zip(places, values, strict=True)])


def interpolate(grid: Floats, places: Floats, values: Floats) -> Floats:
    """(P,) values of a curve on a grid within its range; NaN next to a NaN. Of equal x values the last counts."""
    last = np.append(np.diff(places) > 0, True)
    return np.interp(grid, places[last], values[last])


def rank_maps(group: Collection, split: str, metric: str, *, against: str = "updates") -> dict[str, RankMap]:
    """The rank maps of the RL rows, by label. Rows without one are absent.

    Args:
        metric: name with k for the rank, as in `reward@k`.
    """
    found = {
        label: rank_map(group, list(rows["run"]), split, metric, against=against)
        for label, rows in rl_rows(group).items()
    }
    return {label: one for label, one in found.items() if one is not None}


def rank_map(
    group: Collection, runs: Sequence[str], split: str, metric: str, *, against: str = "updates"
) -> RankMap | None:
    """A row's map over the union of its ranks' x values; NaN where a rank has no measurement. None without any rank."""
    stem = metric.removesuffix("k")
    measured = [name.removeprefix(stem) for of, name in group.measurements.names if of == split and stem in name]
    ranks = [int(rank) for rank in measured if rank.isdigit()]
    every = {rank: row_series(group, runs, split, f"{stem}{rank}", against=against) for rank in ranks}
    known = {rank: series for rank, series in every.items() if series is not None}
    if not known:
        return None
    x = np.unique(np.concatenate([series.x for series in known.values()]))
    values = np.full((max(known), len(x)), np.nan)
    for rank, series in known.items():
        values[rank - 1, np.searchsorted(x, series.x)] = series.mean
    return RankMap(x, np.arange(1, max(known) + 1, dtype=float), values)


def in_bins(values: Floats, bins: int) -> tuple[Floats, list[Sequence[int]]]:
    """(K, B) means over groups of neighbouring columns of (K, T), and the columns of each group.

    There are at most `bins` groups, of sizes as equal as possible.
    """
    parts = np.array_split(np.arange(values.shape[1]), min(bins, values.shape[1]))
    with np.errstate(invalid="ignore"):
        means = [np.ma.masked_invalid(values[:, part]).mean(axis=1).filled(np.nan) for part in parts]
    return np.stack(means, axis=1), [part.tolist() for part in parts]


def own_curves(
    group: Collection, split: str, metric: str, *, against: str = "updates"
) -> dict[str, list[tuple[Floats, Floats]]]:
    """The finite points of each seed's own curve, for RL rows in which every seed has a curve.

    Args:
        against: as in `all_series`.

    Returns:
        label to (P,) ascending x values and (P,) values of each seed, in the order of `rl_rows`.
    """
    every = {
        label: [_own_curve(group, run, split, metric, against) for run in rows["run"]]
        for label, rows in rl_rows(group).items()
    }
    return {label: own for label, own in every.items() if all(len(x) for x, _ in own)}


def _own_curve(group: Collection, run: str, split: str, metric: str, against: str) -> tuple[Floats, Floats]:
    """The finite points of one run; none without a curve."""
    known = group.measurements.series.get((run, split, metric))
    if known is None or (against != "updates" and run not in group.spending_of):
        return np.empty(0), np.empty(0)
    x, y = known
    x = x if against == "updates" else spent_at(group.spending_of[run], against, x)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    last = np.append(np.diff(x) > 0, True)[: len(x)]
    return x[last], y[last]
