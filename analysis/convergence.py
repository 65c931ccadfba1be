"""`python -m analysis.convergence runs/mini`: which method learns faster, with intervals.

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

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from analysis.collect import Collection, collect
from analysis.command import (
    add_folder,
    make_folder,
    make_parser,
    out_folder,
    refuse,
    refusing,
    show_problems,
    show_written,
    terminal,
)
from analysis.figures.style import SAME, axis_unit
from analysis.series import AXES, measured, own_curves, rl_rows, row_names
from analysis.statistics import Estimate, Floats, Scores, holm, paired_difference, seed_interval
from analysis.tables import (
    FEWEST_SEEDS,
    NOTHING,
    csv_text,
    group_folder,
    group_title,
    markdown_page,
    metric_title,
    share,
    signed,
)
from rlbench.base.errors import BadInput, nearest
from rlbench.base.files import write_text

Curve = tuple[Floats, Floats]

FINAL = "final"

UNITS = {"updates": "updates", "completions": "completions", "generated_tokens": "generated tokens", "seconds": "s"}


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval over seeds; NaN without an interval.

    Attributes:
        p: two-sided p for no difference, Holm-corrected over rows; NaN if nothing is compared.
    """

    mean: float
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan


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
    """A value of the metric, and the times of each row to it.

    Attributes:
        asked: the user's spelling: "final", "50%" or a number.
        value: value of the metric.
        rows: label to its passage.
    """

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
        title: title of the group.
        metric: validation metric.
        against: x axis, one of `series.AXES`.
        horizon: H, in the unit of `against`.
        baseline: label of the baseline.
        names: label to the row's name.
        seeds: label to its seeds.
        start: first value of the baseline's curve, mean over its seeds.
        thresholds, areas: the two measures; areas by label.
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
    found = seed_interval(heights[:, None])
    return Interval(float(heights.mean()), float(found.low[0]), float(found.high[0]))


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
            Threshold(asked, value, _passages(held, value, horizon, baseline, seeds))
            for asked in thresholds
            for value in [threshold_value(asked, start, final)]
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


def threshold_value(asked: str, start: float, final: float) -> float:
    """Value of a threshold from the user's spelling.

    Raises:
        BadInput: if it is not a valid threshold.
    """
    if asked == FINAL:
        return final
    try:
        number = float(asked.removesuffix("%"))
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise BadInput(f"--threshold {asked}: give {FINAL}, a share of the way like 50%, or a number like 0.13")
    return start + number / 100 * (final - start) if asked.endswith("%") else number


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
        if len(own) > 1 and len(base) > 1 and found.error[0] > SAME:
            low, high = (float(np.exp(bound[0])) for bound in (found.low, found.high))
            ratios[label] = Interval(ratio, low, high, _p(found, own, base))
        else:
            ratios[label] = Interval(ratio)
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


def _p(found: Estimate, own: Floats, base: Floats) -> float:
    """p of a comparison; NaN if a row has too few seeds for a verdict."""
    return float(found.p[0]) if min(len(own), len(base)) >= FEWEST_SEEDS else np.nan


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
        mean = float(own.mean() - base.mean())
        found = _difference(own[:, None], base[:, None], seeds[label], seeds[baseline])
        if len(own) > 1 and len(base) > 1 and found.error[0] > SAME * max(abs(own).max(), abs(base).max()):
            differences[label] = Interval(mean, float(found.low[0]), float(found.high[0]), _p(found, own, base))
        else:
            differences[label] = Interval(mean)
    corrected = _holm(differences)
    return {label: Area(_mean_height(own), corrected.get(label)) for label, own in heights.items()}


def _holm(intervals: dict[str, Interval]) -> dict[str, Interval]:
    """The intervals with p Holm-corrected over the rows with a p."""
    known = [label for label, one in intervals.items() if np.isfinite(one.p)]
    corrected = holm(np.array([intervals[label].p for label in known]))
    p = dict(zip(known, corrected.tolist(), strict=True))
    return {label: Interval(one.mean, one.low, one.high, p.get(label, np.nan)) for label, one in intervals.items()}


def sentences(found: Convergence) -> list[str]:
    """The findings, one sentence per row and threshold."""
    said = []
    base = found.names[found.baseline]
    for threshold in found.thresholds:
        if not _is_above_start(found, threshold):
            said.append(
                f"The threshold {threshold.asked} ({share(threshold.value)}) is not above where {base} starts "
                f"({share(found.start)}), so that times to it say nothing of speed; see the areas."
            )
            continue
        for label, one in threshold.rows.items():
            whose = "its own" if label == found.baseline else f"{base}'s"
            goal = f"{whose} final {metric_title(found.metric)} ({share(threshold.value)})"
            if threshold.asked.endswith("%"):
                goal = f"{threshold.asked} of the way to {goal}"
            elif threshold.asked != FINAL:
                goal = f"{metric_title(found.metric)} of {share(threshold.value)}"
            said.append(f"{found.names[label]} {_arrives(found, one, goal)}")
    return said


def _is_above_start(found: Convergence, threshold: Threshold) -> bool:
    """Whether the threshold is above the baseline's start, so that times to it are meaningful."""
    return at_least(threshold.value) > found.start


def _arrives(found: Convergence, one: Passage, goal: str) -> str:
    divisor, _ = axis_unit(found.against, found.horizon)
    all_of_it = _range(found)
    seeds = f"{one.reached} of {len(one.times)} seed{'' if len(one.times) == 1 else 's'}"
    if one.reached == 0:
        return f"does not reach {goal} within {all_of_it} in any seed ({seeds})."
    if not one.times.any():
        return f"is at {goal} from the start in {seeds}."
    after = f"{_amount(one.mean.mean / divisor)}{_bounds(one.mean, divisor)} of {all_of_it}"
    if one.reached == len(one.times):
        return f"reaches {goal} after {after} in {seeds}."
    return f"reaches {goal} in {seeds}, after {after} on average with the others counted as all of it."


def _range(found: Convergence) -> str:
    """The horizon with its unit: 50 updates, 1 update, 2.5 h."""
    divisor, _ = axis_unit(found.against, found.horizon)
    amount, unit = _amount(found.horizon / divisor), _unit(found.against, divisor)
    return f"{amount} {unit.removesuffix('s') if amount == '1' and unit != 's' else unit}"


def _unit(against: str, divisor: float) -> str:
    scaled = {1e3: "thousand ", 1e6: "million "}
    return {60.0: "min", 3_600.0: "h"}.get(divisor, scaled.get(divisor, "") + UNITS[against])


def _amount(value: float) -> str:
    """A number with three significant digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _bounds(one: Interval, divisor: float = 1.0) -> str:
    return "" if np.isnan(one.low) else f" [{_amount(one.low / divisor)}, {_amount(one.high / divisor)}]"


def lines(found: Convergence) -> list[list[str]]:
    """The table as text, header first."""
    divisor, _ = axis_unit(found.against, found.horizon)
    unit = _unit(found.against, divisor)
    header = ["method", "seeds", f"area ({metric_title(found.metric)})", "Δ area", "p (Holm)"]
    for threshold in found.thresholds:
        header += [f"{unit} to {share(threshold.value)}", "reached", "ratio", "p (Holm)"]
    text = [header]
    for label, name in found.names.items():
        one = found.areas[label]
        line = [name, str(len(found.seeds[label])), f"{share(one.mean.mean)}{_share_bounds(one.mean)}"]
        line += _compared(one.difference, signed)
        for threshold in found.thresholds:
            if not _is_above_start(found, threshold):
                line += [NOTHING.value] * 4
                continue
            row = threshold.rows[label]
            amount = f"{_amount(row.mean.mean / divisor)}{_bounds(row.mean, divisor)}"
            line += [amount if row.reached else f"> {_amount(found.horizon / divisor)}"]
            line += [f"{row.reached}/{len(row.times)}", *_compared(row.ratio, lambda value: f"{value:.2f}")]
        text.append(line)
    return text


def _share_bounds(one: Interval) -> str:
    return "" if np.isnan(one.low) else f" [{share(one.low)}, {share(one.high)}]"


def _compared(one: Interval | None, show: Callable[[float], str]) -> list[str]:
    """Difference or ratio with its interval, and p."""
    if one is None or np.isnan(one.mean):
        return ["", ""]
    bounds = "" if np.isnan(one.low) else f" [{show(one.low)}, {show(one.high)}]"
    return [f"{show(one.mean)}{bounds}", "" if np.isnan(one.p) else share(one.p) if one.p >= 0.001 else "< .001"]


def _shown(found: Convergence) -> list[tuple[Interval, Interval | None]]:
    """The mean and the comparison of each row with several seeds."""
    areas = [(label, (one.mean, one.difference)) for label, one in found.areas.items()]
    passages = [
        (label, (one.mean, one.ratio))
        for threshold in found.thresholds
        if _is_above_start(found, threshold)
        for label, one in threshold.rows.items()
        if one.reached
    ]
    return [pair for label, pair in areas + passages if len(found.seeds[label]) > 1]


def notes(found: Convergence) -> list[str]:
    """Notes below the table."""
    said = [
        f"Validation {metric_title(found.metric)}, 0 to {_range(found)}, which all rows cover; baseline: "
        f"{found.names[found.baseline]}.",
        "Area: mean height of the curve. Time: where the isotonic regression of a seed's curve passes the threshold; a "
        "seed that does not is counted as all of the range (restricted mean). Ratio: of the means, to the baseline's.",
    ]
    if len(found.names) == 1:
        said.append("There is one row, so nothing is compared.")
    shown = [one for pair in _shown(found) for one in pair if one is not None]
    if any(not np.isnan(one.low) for one in shown):
        compared = "; p two-sided, corrected over the rows by Holm" if any(np.isfinite(one.p) for one in shown) else ""
        said.append(f"[95 % intervals] over seeds, given the threshold{compared}.")
    if any(len(seeds) > 1 for seeds in found.seeds.values()) and any(
        np.isnan(one.low) and not np.isnan(one.mean) for one in shown
    ):
        said.append("A number on which all seeds agree has neither interval nor p.")
    if any(len(seeds) == 1 for seeds in found.seeds.values()):
        said.append("A row of one seed has no interval: how much trainings differ is not known from it.")
    if len(found.names) > 1 and any(len(seeds) < FEWEST_SEEDS for seeds in found.seeds.values()):
        said.append("A comparison has a p from three seeds in both rows on; with fewer, tests are too often wrong.")
    fell = [found.names[label] for t in found.thresholds for label, row in t.rows.items() if row.fell_back]
    if fell:
        said.append(
            f"Above a threshold at two evaluations in a row, then below it for good, so not counted: a seed or more of "
            f"{', '.join(dict.fromkeys(fell))}."
        )
    if found.stopped:
        names = ", ".join(found.names[label] for label in found.stopped)
        said.append(f"Runs of {names} stopped before the end; their last value stands from there on.")
    return said


def to_markdown(found: Convergence) -> str:
    """Table, sentences and notes."""
    return markdown_page(f"Convergence: {found.title}", lines(found), 1, [*sentences(found), *notes(found)])


def to_csv(found: Convergence) -> str:
    """CSV in the unit of the axis, one line per row and threshold. An absent number is empty."""
    rows = [_csv_row(found, threshold, label) for threshold in found.thresholds for label in threshold.rows]
    return csv_text(CSV_COLUMNS, [[row[column] for column in CSV_COLUMNS] for row in rows])


def _csv_row(found: Convergence, threshold: Threshold, label: str) -> dict[str, str]:
    """One line of the CSV, by column name."""
    row, of_area = threshold.rows[label], found.areas[label]
    numbers = {"value": threshold.value, "reached": row.reached, "seeds": len(row.times), "horizon": found.horizon}
    numbers |= _bounded("time", row.mean) | _bounded("ratio", row.ratio, with_p=True)
    numbers |= _bounded("area", of_area.mean) | _bounded("difference", of_area.difference, with_p=True)
    words = {"label": label, "metric": found.metric, "against": found.against, "threshold": threshold.asked}
    words["which_seeds"] = " ".join(map(str, found.seeds[label]))
    words["times"] = " ".join("inf" if np.isinf(time) else f"{time:g}" for time in row.times)
    return words | {name: "" if np.isnan(value) else f"{value:.10g}" for name, value in numbers.items()}


def _bounded(name: str, one: Interval | None, *, with_p: bool = False) -> dict[str, float]:
    """The columns of one interval; all NaN for None."""
    one = one or Interval(np.nan)
    columns = {name: one.mean, f"{name}_lo": one.low, f"{name}_hi": one.high}
    return columns | ({f"{name}_p": one.p} if with_p else {})


CSV_COLUMNS = (
    *("label", "metric", "against", "threshold", "value", "reached", "seeds", "horizon"),
    *("time", "time_lo", "time_hi", "ratio", "ratio_lo", "ratio_hi", "ratio_p"),
    *("area", "area_lo", "area_hi", "difference", "difference_lo", "difference_hi", "difference_p"),
    *("which_seeds", "times"),
)


def to_latex(found: Convergence) -> str:
    """A booktabs table for use with \\input."""
    header, *rows = [[_in_latex(cell) for cell in line] for line in lines(found)]
    body = "\n".join(" & ".join(line) + r" \\" for line in rows)
    columns = "l" + "r" * (len(header) - 1)
    caption = " ".join(_in_latex(note) for note in notes(found))
    return (
        "\\begin{table}\n\\centering\n\\small\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{' & '.join(header)} \\\\\n\\midrule\n{body}\n"
        f"\\bottomrule\n\\end{{tabular}}\n\\caption{{{caption}}}\n\\end{{table}}\n"
    )


def _in_latex(text: str) -> str:
    signs = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "·": r"$\cdot$", "Δ": r"$\Delta$", "−": "$-$", "<": "$<$"}
    signs |= {">": "$>$", "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "^": r"\^{}"}
    return "".join(signs.get(letter, letter) for letter in text)


DESCRIPTION = """\
Say which method learns faster: time to a threshold of a validation metric, and area under its curve, against a
baseline, with 95 % intervals over seeds.

Writes to the --out folder:
  convergence.md    table, a sentence for each row, notes
  convergence.csv   plain numbers, with the time of each seed
  convergence.tex   the table for a paper

Time to a threshold: where the isotonic regression of a seed's curve passes it, so that one lucky evaluation is no
passage. Seeds that do not pass are counted as the whole range (restricted mean), and said.
"""
EPILOG = """\
example:  python -m analysis.convergence runs/mini
          python -m analysis.convergence runs/mini --threshold final 50% 0.12 --against generated_tokens
          python -m analysis.convergence runs/mini --baseline gspo-relevance --metric recall@10
exit code: 0 written; 2 no such folder, no RL run in it, or an option that the runs cannot serve
"""


@refusing("convergence")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    console = terminal()
    out = out_folder(options)
    try:
        for asked in options.threshold:
            threshold_value(asked, 0.0, 1.0)
        collection = collect(options.runs)
        groups = [group for group in collection.groups() if rl_rows(group)]
        if not groups:
            show_problems(console, options.runs, collection.problems)
            raise BadInput(f"no finished RL run below {options.runs}: there is nothing to compare")
        found = [_compare(group, options) for group in groups]
    except BadInput as error:
        return refuse("convergence", error)
    written = []
    for group, one in zip(groups, found, strict=True):
        folder = make_folder(out if len(groups) == 1 else out / group_folder(group), out)
        for sentence in sentences(one):
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)
        console.print()
        for suffix, text in (("md", to_markdown(one)), ("csv", to_csv(one)), ("tex", to_latex(one))):
            path = folder / f"convergence.{suffix}"
            write_text(path, text)
            written.append(path)
    show_problems(console, options.runs, collection.problems)
    show_written(console, written)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("convergence", DESCRIPTION, EPILOG, "folder with run directories at any depth")
    add_folder(parser)
    parser.add_argument("--baseline", metavar="LABEL", help="an RL row (default: the first of algorithm grpo)")
    parser.add_argument("--metric", help="on validation (default: NDCG at the largest cut-off)")
    parser.add_argument(
        "--threshold",
        nargs="+",
        default=[FINAL],
        metavar="VALUE",
        help="final: the baseline's value at the end of the range that all rows cover, mean over seeds (default); "
        "50%%: so much of the way from where it starts to there; or a number",
    )
    parser.add_argument("--against", choices=list(AXES), default="updates", help="(default: %(default)s)")
    return parser


def _compare(group: Collection, options: argparse.Namespace) -> Convergence:
    """Compare the rows of a group. Raises BadInput if it lacks the metric, baseline or axis."""
    metric = options.metric or f"ndcg@{max(group.runs.iloc[0]['cutoffs'])}"
    known = measured(group, "validation")
    if metric not in known:
        raise BadInput(f"--metric {metric}: no RL run measured it on validation.{nearest(metric, known)}")
    curves = own_curves(group, "validation", metric, against=options.against)
    rows = list(curves)
    if single := [label for label, own in curves.items() if any(len(x) < 2 for x, _ in own)]:
        raise BadInput(
            f"{metric} was measured on validation once only in a run of {', '.join(single)}: a curve needs two points; "
            "train with a smaller evaluation.every"
        )
    if not rows:
        raise BadInput(
            f"--against {options.against}: no row has budget.jsonl in all of its runs, so that what was spent by an "
            "update is unknown; compare over updates"
        )
    labels = rl_rows(group)
    grpo = [label for label in rows if labels[label].iloc[0]["algorithm"] == "grpo"]
    baseline = options.baseline or (grpo[0] if grpo else None)
    if baseline not in rows:
        asked = f"--baseline {baseline}: no such row" if baseline else "no row is of algorithm grpo; give --baseline"
        raise BadInput(f"{asked} (rows: {', '.join(rows)}).{nearest(baseline or '', rows)}")
    return compare(group, metric, baseline=baseline, thresholds=options.threshold, against=options.against)


if __name__ == "__main__":
    sys.exit(main())
