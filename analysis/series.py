"""Curves as data: what every figure, page and table of curves draws from, so that all show the same numbers.

A row (a method) has one curve for each metric: its seeds at common places, their mean, and a band. Places are updates,
or what had been spent by then. Updates are the same for all seeds; what is spent may not be, and each seed is then
interpolated linearly between its own measurements, within what all seeds of the row cover and never beyond.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.collect import Collection
from analysis.statistics import Floats, seed_interval

AXES = {
    "updates": "Updates",
    "completions": "Completions",
    "generated_tokens": "Generated tokens",
    "seconds": "Wall-clock time",
}
"""What curves can be drawn against, with its name on an axis."""

INTERVAL_SEEDS = 3
"""From how many seeds on a band is an interval; with fewer it is the range."""


@dataclass(frozen=True)
class Series:
    """One curve of one row.

    Attributes:
        x: (T,) ascending; in the unit of the axis (updates, lists, tokens, seconds).
        values: (S, T) of each seed; NaN where a run wrote NaN.
        mean: (T,) over seeds.
        low, high: (T,) the band: from `INTERVAL_SEEDS` seeds on the 95 % interval of the mean, else the range.
        seeds: S seeds, ascending, in the order of `values`.
        runs: their directories, in the same order.
    """

    x: Floats
    values: Floats
    mean: Floats
    low: Floats
    high: Floats
    seeds: tuple[int, ...]
    runs: tuple[str, ...]


@dataclass(frozen=True)
class RankMap:
    """A training metric of each rank over the training of one row.

    Attributes:
        x: (T,) as in `Series`.
        ranks: (K,) 1 .. K.
        values: (K, T) mean over seeds; NaN where one of them has no measurement.
    """

    x: Floats
    ranks: Floats
    values: Floats


def rl_rows(group: Collection) -> dict[str, pd.DataFrame]:
    """The runs of each RL row by seed, by label."""
    rl = group.runs[group.runs["stage"] == "rl"].sort_values(["label", "seed"], kind="stable")
    return {str(label): runs for label, runs in rl.groupby("label", sort=True)}


def row_names(group: Collection) -> dict[str, str]:
    """The name of each RL row in words, by label."""
    return {label: f"{runs.iloc[0]['algorithm']} · {runs.iloc[0]['reward']}" for label, runs in rl_rows(group).items()}


def measured(group: Collection, split: str) -> list[str]:
    """Names of the metrics that an RL run measured on a split, sorted."""
    rl = group.runs.loc[group.runs["stage"] == "rl", "run"]
    curves = group.curves
    return sorted(curves.loc[(curves["split"] == split) & curves["run"].isin(set(rl)), "metric"].unique())


def without_spending(group: Collection) -> list[str]:
    """Labels of RL rows with a run that has no budget.jsonl, so that its curves are over updates only."""
    recorded = set(group.spending["run"])
    return [label for label, runs in rl_rows(group).items() if not recorded.issuperset(runs["run"])]


def all_series(
    group: Collection, split: str, metric: str, *, against: str = "updates", window: float = 0.0
) -> dict[str, Series]:
    """The curve of each RL row that has one, by label.

    Args:
        against: of `AXES`. Rows of `without_spending` have curves over updates only.
        window: width of a centred moving mean over each run, as a share of its points; 0 for none.
    """
    curves = group.curves[(group.curves["split"] == split) & (group.curves["metric"] == metric)]
    wide = curves.pivot(index="step", columns="run", values="value")
    known = curves.pivot(index="step", columns="run", values="metric").notna()
    spending = dict(list(group.spending.groupby("run"))) if against != "updates" else {}
    found = {}
    for label, rows in rl_rows(group).items():
        runs = list(rows["run"])
        if not set(runs).issubset(wide.columns) or (against != "updates" and not set(runs).issubset(spending)):
            continue
        common = known[runs].all(axis=1)
        values = _smooth(wide.loc[common, runs], window).to_numpy(float).T
        steps = wide.index[common].to_numpy(float)
        if against == "updates":
            x = steps
        else:
            places = np.stack([spent_at(spending[run], against, steps) for run in runs])
            x, values = on_common_grid(places, values)
        if len(x):
            found[label] = _series(x, values, rows)
    return found


def _smooth(wide: pd.DataFrame, window: float) -> pd.DataFrame:
    if not window or wide.empty:
        return wide
    points = smoothing_points(len(wide), window)
    return wide.rolling(points, center=True, min_periods=1).mean().where(wide.notna())


def smoothing_points(length: int, window: float) -> int:
    """An odd number of points, at least 1."""
    return 2 * int(length * window / 2) + 1


def _series(x: Floats, values: Floats, rows: pd.DataFrame) -> Series:
    if len(values) >= INTERVAL_SEEDS:
        estimate = seed_interval(values)
        mean, low, high = estimate.mean, estimate.low, estimate.high
    else:
        mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
    return Series(x, values, mean, low, high, tuple(int(seed) for seed in rows["seed"]), tuple(rows["run"]))


def spent_at(spending: pd.DataFrame, kind: str, steps: Floats) -> Floats:
    """(T,) what one run had spent by each of T updates: nothing by update 0, linear between logged updates.

    Args:
        spending: of one run, as in `Collection`, by update.
        kind: of `AXES`, but updates.
        steps: (T,) updates; NaN comes back for one after the last that was logged.
    """
    updates = np.concatenate([[0.0], spending["update"].to_numpy(float)])
    spent = np.concatenate([[0.0], spending[kind].to_numpy(float)])
    return np.interp(steps, updates, spent, right=np.nan)


def on_common_grid(places: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Curves of S seeds at common places.

    Where all seeds were measured at the same places these are kept as they are. Otherwise the grid is the mean over
    seeds of where each measurement fell, within what all seeds cover, and each seed is interpolated linearly. Of
    several measurements at one place (updates on the lists of one rollout) the last counts.

    Args:
        places: (S, T) ascending in each row; NaN where unknown.
        values: (S, T).

    Returns:
        (P,) places, ascending, and (S, P) values there; P is 0 where the seeds have no range in common.
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
    """(P,) a curve at the places of a grid within its range; NaN beside a NaN. Of equal places the last counts."""
    last = np.append(np.diff(places) > 0, True)
    return np.interp(grid, places[last], values[last])


def rank_maps(group: Collection, split: str, metric: str, *, against: str = "updates") -> dict[str, RankMap]:
    """The map of each RL row that has one, by label.

    Args:
        metric: with k for the rank, as in `reward@k`.
    """
    stem = metric.removesuffix("k")
    names = [name for name in measured(group, split) if name.startswith(stem) and name[len(stem) :].isdigit()]
    by_rank = {int(name[len(stem) :]): all_series(group, split, name, against=against) for name in names}
    maps = {}
    for label in rl_rows(group):
        own = {rank: series[label] for rank, series in sorted(by_rank.items()) if label in series}
        if own:
            maps[label] = _rank_map(own)
    return maps


def _rank_map(ranks: Mapping[int, Series]) -> RankMap:
    """Of ranks that were measured at different places, all places; NaN where a rank has no measurement."""
    x = np.unique(np.concatenate([series.x for series in ranks.values()]))
    values = np.full((max(ranks), len(x)), np.nan)
    for rank, series in ranks.items():
        values[rank - 1, np.searchsorted(x, series.x)] = series.mean
    return RankMap(x, np.arange(1, max(ranks) + 1, dtype=float), values)


def in_bins(values: Floats, bins: int) -> tuple[Floats, list[Sequence[int]]]:
    """(K, B) means of neighbouring columns of (K, T), and which they were: at most `bins`, as even as can be."""
    parts = np.array_split(np.arange(values.shape[1]), min(bins, values.shape[1]))
    with np.errstate(invalid="ignore"):
        means = [np.ma.masked_invalid(values[:, part]).mean(axis=1).filled(np.nan) for part in parts]
    return np.stack(means, axis=1), [part.tolist() for part in parts]


def own_curves(
    group: Collection, split: str, metric: str, *, against: str = "updates"
) -> dict[str, list[tuple[Floats, Floats]]]:
    """Each seed's own curve, places and values where they are finite, for the RL rows of which every seed has one.

    Args:
        against: as in `all_series`.

    Returns:
        label to (P,) places, ascending, and (P,) values of each seed, in the order of `rl_rows`.
    """
    curves = group.curves[(group.curves["split"] == split) & (group.curves["metric"] == metric)]
    of_run = {run: part.sort_values("step") for run, part in curves.groupby("run")}
    spending = dict(list(group.spending.groupby("run")))
    found = {}
    for label, rows in rl_rows(group).items():
        own = []
        for run in rows["run"]:
            if run not in of_run or (against != "updates" and run not in spending):
                break
            x, y = (of_run[run][name].to_numpy(float) for name in ("step", "value"))
            x = x if against == "updates" else spent_at(spending[run], against, x)
            finite = np.isfinite(x) & np.isfinite(y)
            x, y = x[finite], y[finite]
            last = np.append(np.diff(x) > 0, True)[: len(x)]
            own.append((x[last], y[last]))
        if len(own) == len(rows) and all(len(x) for x, _ in own):
            found[label] = own
    return found
