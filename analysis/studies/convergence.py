"""How fast each method learns, with intervals.

There are two measures over the range that all rows cover. Its end H is the horizon. Every curve is first cut at H, so a
run that continues past H changes no number:

- **area**: the mean height of the validation curve (trapezoid rule, divided by its length). It needs no threshold, and
  the noise of single evaluations does not bias it.
- **time to a threshold**: when a seed's curve crosses it. A noisy curve crosses too early, because the first evaluation
  above is a lucky one. The crossing is therefore taken from the curve's isotonic regression, the closest increasing
  curve (least squares; Barlow, Bartholomew, Bremner & Brunk 1972), linear between evaluations. A seed that rises above
  and permanently falls back has not crossed. A seed that has not crossed by H is censored there. The row's mean is the
  restricted mean E[min(T, H)] (Irwin 1949; Royston & Parmar 2013). Seeds are censored only at H, so the mean of
  min(T, H) over seeds estimates it without a model.

Intervals are over seeds, as in `analysis.statistics`. Times are skewed, so intervals of restricted means and their
ratios use the log scale, with each mean linearised (delta method). `benchmarks.convergence` measures their coverage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import isotonic_regression

from analysis.collection import Collection
from analysis.figures.choices import AXES
from analysis.figures.series import own_curves, rl_rows, row_names
from analysis.figures.style import SAME
from analysis.render.numbers import Interval
from analysis.statistics import Estimate, Floats, Scores, holm_known, paired_difference, seed_interval
from analysis.studies.thresholds import FINAL, threshold_value
from analysis.tables.compare import FEWEST_SEEDS
from analysis.tables.marks import group_title
from analysis.tables.scores import cell_of
from rlbench.base.errors import BadInput
from rlbench.lists.metric_catalogue import inside, metric_of

Curve = tuple[Floats, Floats]

UNITS = {axis: metric_of(axis).unit or inside(title) for axis, title in AXES.items()}


@dataclass(frozen=True)
class Passage:
    """Times of one row to one threshold.

    Attributes:
        times: (S,) time of each seed; infinite if it is not reached by the horizon.
        mean: restricted mean of the times.
        ratio: its restricted mean divided by the baseline's. NaN if one of the two is 0 or no seed of that row reached
            the threshold; None for the baseline.
        fell_back: number of seeds above the threshold at two consecutive evaluations that still do not count as
            crossed.
    """

    times: Floats
    mean: Interval
    ratio: Interval | None
    fell_back: int

    @property
    def reached(self) -> int:
        return int(np.isfinite(self.times).sum())


@dataclass(frozen=True)
class Threshold:
    """A value of the metric as the user spelled it ("final", "50%" or a number), and each row's passage by label."""

    asked: str
    value: float
    rows: dict[str, Passage]


@dataclass(frozen=True)
class Area:
    """Mean height of one row's curve, and its difference to the baseline's (None for the baseline)."""

    mean: Interval
    difference: Interval | None


@dataclass(frozen=True)
class Convergence:
    """The convergence comparison of one group of runs.

    Attributes:
        metric: validation metric.
        against: x axis, one of `series.AXES`.
        horizon: H, in the unit of `against`.
        baseline: label of the baseline.
        names, seeds, areas: by label.
        start: first value of the baseline's curve, mean over its seeds.
        stopped: labels of rows with a run that stopped before H; its last value is held until H.
    """

    title: str
    metric: str
    against: str
    horizon: float
    baseline: str
    names: dict[str, str]
    seeds: dict[str, tuple[int, ...]]
    start: float
    thresholds: tuple[Threshold, ...]
    areas: dict[str, Area]
    stopped: tuple[str, ...]


def passage_time(curve: Curve, threshold: float, horizon: float) -> float:
    """First x at which the isotonic regression of a curve up to the horizon reaches a threshold; infinite if never.

    Args:
        curve: (P,) ascending x values and (P,) values.
    """
    x, y = cut(curve, horizon)
    if not len(x):
        return np.inf
    rising = isotonic_regression(y).x
    above = int(np.searchsorted(rising, at_least(threshold)))
    if above == len(rising):
        return np.inf
    if above == 0:
        return float(x[0])
    share_of_step = (threshold - rising[above - 1]) / (rising[above] - rising[above - 1])
    return float(x[above - 1] + min(share_of_step, 1.0) * (x[above] - x[above - 1]))


def at_least(threshold: float) -> float:
    """Smallest value that counts as reaching a threshold: slightly below it, to tolerate rounding of means."""
    return threshold - SAME * abs(threshold)


def cut(curve: Curve, horizon: float) -> Curve:
    """A curve up to the horizon.

    Without an evaluation at the horizon, the value there is interpolated between the evaluations on both sides.
    Later evaluations do not matter. A curve that ends before the horizon is unchanged.
    """
    x, y = curve
    inside = x <= horizon
    if inside.all() or not inside.any():
        return x[inside], y[inside]
    if x[inside][-1] == horizon:
        return x[inside], y[inside]
    return np.append(x[inside], horizon), np.append(y[inside], np.interp(horizon, x, y))


def area(curve: Curve, horizon: float) -> float:
    """Mean height of a curve from its first point to the horizon, linear between points."""
    x, y = cut(curve, horizon)
    return float(np.trapezoid(y, x) / (horizon - x[0]))


def restricted_interval(times: Floats) -> Estimate:
    """Log of the mean over seeds of (S, M) times, with its interval. The means must be positive."""
    return seed_interval(_logs(times))


def ratio_interval(a: Floats, b: Floats, seeds_a: Sequence[int], seeds_b: Sequence[int]) -> Estimate:
    """Log of the ratio of two means over seeds, with interval and p. Rows with the same seeds are paired.

    Args:
        a, b: (S, M) and (S', M) positive values, for M ratios.
    """
    return _difference(_logs(a), _logs(b), seeds_a, seeds_b)


def _logs(values: Floats) -> Floats:
    """(S, M) values whose mean is the log of the mean: the log linearised around it."""
    mean = values.mean(axis=0)
    return np.log(mean) + values / mean - 1


def _difference(a: Floats, b: Floats, seeds_a: Sequence[int], seeds_b: Sequence[int]) -> Estimate:
    """Difference of means over seeds, with all samples as one context."""
    one = np.zeros(1, dtype=np.int64)
    return paired_difference(Scores(a[:, None], one, tuple(seeds_a)), Scores(b[:, None], one, tuple(seeds_b)))


def _mean_height(heights: Floats) -> Interval:
    """Mean of (S,) values. No interval for one seed or equal values."""
    if len(heights) < 2 or np.ptp(heights) == 0:
        return Interval(float(heights.mean()))
    return replace(cell_of(seed_interval(heights[:, None]), 0), mean=float(heights.mean()))


def _restricted_mean(times: Floats, horizon: float) -> Interval:
    """Mean of (S,) times, each at most the horizon. No interval for one seed or equal times."""
    if len(times) < 2 or np.ptp(times) == 0:
        return Interval(float(times.mean()))
    found = restricted_interval(times[:, None])
    return Interval(float(times.mean()), float(np.exp(found.low[0])), min(float(np.exp(found.high[0])), horizon))


def compare(
    group: Collection,
    metric: str,
    *,
    baseline: str,
    thresholds: Sequence[str] = (FINAL,),
    against: str = "updates",
) -> Convergence:
    """Times to thresholds and areas of all RL rows, against a baseline.

    Args:
        metric: validation metric.
        baseline: label of an RL row with the metric.
        thresholds: "final" (the baseline's value at the horizon, mean over seeds), "50%" (half of the way from the
            baseline's start to its final value) or a number.
        against: x axis, one of `series.AXES`.

    Raises:
        BadInput: if the rows have no common range.
    """
    curves = own_curves(group, "validation", metric, against=against)
    rows = {label: runs for label, runs in rl_rows(group).items() if label in curves}
    ends = {label: runs["stopped_update"].notna().to_list() for label, runs in rows.items()}
    last = [x[-1] for label, own in curves.items() for (x, _), early in zip(own, ends[label], strict=True) if not early]
    horizon = float(min(last or [x[-1] for own in curves.values() for x, _ in own]))
    late = {label: max(x[0] for x, _ in own) for label, own in curves.items()}
    if too_late := [label for label, first in late.items() if first >= horizon]:
        raise BadInput(
            f"--against {against}: {', '.join(too_late)} has no evaluation before {horizon:g}, where the shortest run "
            "ends, so that there is no range to compare over; leave out that row or the shortest run"
        )
    held = {label: [_held(cut(curve, horizon), horizon) for curve in own] for label, own in curves.items()}
    start, final = (float(np.mean([y[place] for _, y in held[baseline]])) for place in (0, -1))
    values = [(asked, threshold_value(asked, start, final)) for asked in thresholds]
    seeds = {label: tuple(int(seed) for seed in runs["seed"]) for label, runs in rows.items()}
    return Convergence(
        title=group_title(group),
        metric=metric,
        against=against,
        horizon=horizon,
        baseline=baseline,
        names={label: name for label, name in row_names(group).items() if label in rows},
        seeds=seeds,
        start=start,
        thresholds=tuple(
            Threshold(asked, value, _passages(held, value, horizon, baseline, seeds)) for asked, value in values
        ),
        areas=_areas(held, horizon, baseline, seeds),
        stopped=tuple(
            label
            for label, own in curves.items()
            if any(early and x[-1] < horizon for (x, _), early in zip(own, ends[label], strict=True))
        ),
    )


def _held(curve: Curve, horizon: float) -> Curve:
    """A curve whose last value is held until the horizon, because a run that stopped early yields that policy."""
    x, y = curve
    return curve if x[-1] >= horizon else (np.append(x, horizon), np.append(y, y[-1]))


def _passages(
    curves: dict[str, list[Curve]], value: float, horizon: float, baseline: str, seeds: dict[str, tuple[int, ...]]
) -> dict[str, Passage]:
    times = {label: np.array([passage_time(curve, value, horizon) for curve in own]) for label, own in curves.items()}
    restricted = {label: np.minimum(own, horizon) for label, own in times.items()}
    base = restricted[baseline]
    ratios = {}
    for label, own in restricted.items():
        if label == baseline:
            continue
        if any(not np.isfinite(times[row]).any() or restricted[row].mean() == 0 for row in (label, baseline)):
            ratios[label] = Interval(np.nan)
            continue
        ratio = float(own.mean() / base.mean())
        found = ratio_interval(own[:, None], base[:, None], seeds[label], seeds[baseline])
        log = _comparison(found, own, base, SAME)
        ratios[label] = Interval(ratio, float(np.exp(log.low)), float(np.exp(log.high)), log.p)
    corrected = _holm(ratios)
    return {
        label: Passage(
            own,
            _restricted_mean(restricted[label], horizon),
            corrected.get(label),
            sum(_fell_back(curve, time, value) for curve, time in zip(curves[label], own, strict=True)),
        )
        for label, own in times.items()
    }


def _comparison(found: Estimate, own: Floats, base: Floats, rounding: float) -> Interval:
    """A difference between two rows. It has no interval for one seed or an error that is due to rounding.

    It has no p if a row has too few seeds for a verdict.
    """
    if len(own) < 2 or len(base) < 2 or found.error[0] <= rounding:
        return Interval(float(found.mean[0]))
    p = float(found.p[0]) if min(len(own), len(base)) >= FEWEST_SEEDS else None
    return replace(cell_of(found, 0), p=p)


def _fell_back(curve: Curve, time: float, value: float) -> bool:
    above = curve[1] >= at_least(value)
    return bool(not np.isfinite(time) and (above[1:] & above[:-1]).any())


def _areas(
    curves: dict[str, list[Curve]], horizon: float, baseline: str, seeds: dict[str, tuple[int, ...]]
) -> dict[str, Area]:
    heights = {label: np.array([area(curve, horizon) for curve in own]) for label, own in curves.items()}
    base = heights[baseline]
    differences = {}
    for label, own in heights.items():
        if label == baseline:
            continue
        found = _difference(own[:, None], base[:, None], seeds[label], seeds[baseline])
        one = _comparison(found, own, base, SAME * max(abs(own).max(), abs(base).max()))
        differences[label] = replace(one, mean=float(own.mean() - base.mean()))
    corrected = _holm(differences)
    return {label: Area(_mean_height(own), corrected.get(label)) for label, own in heights.items()}


def _holm(intervals: dict[str, Interval]) -> dict[str, Interval]:
    """The intervals with p Holm-corrected over the rows with a p."""
    p = dict(zip(intervals, holm_known([one.p for one in intervals.values()]), strict=True))
    return {label: replace(one, p=p.get(label)) for label, one in intervals.items()}
