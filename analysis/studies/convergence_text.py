"""The numbers of `analysis.studies.convergence` as sentences, table and CSV."""

from collections.abc import Callable

import numpy as np

from analysis.figures.style import axis_unit
from analysis.render.numbers import Interval, chance, share, signed
from analysis.render.sheet import NOTHING, Cells, Sheet, Shown, estimate, sheet_of
from analysis.render.spreadsheet import csv_text
from analysis.studies.convergence import UNITS, Convergence, Passage, Threshold, at_least
from analysis.studies.thresholds import FINAL
from analysis.tables.compare import FEWEST_SEEDS
from rlbench.lists.metric_catalogue import metric_title


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
    after = f"{estimate(one.mean, _amounts(divisor)).text} of {all_of_it}"
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


def _amounts(divisor: float) -> Callable[[float], str]:
    return lambda value: _amount(value / divisor)


def convergence_sheet(found: Convergence) -> Sheet:
    """One row per method, with its area and its time to each threshold."""
    divisor, _ = axis_unit(found.against, found.horizon)
    unit = _unit(found.against, divisor)
    header = ["method", "seeds", f"area ({metric_title(found.metric)})", "Δ area", "p (Holm)"]
    for threshold in found.thresholds:
        header += [f"{unit} to {share(threshold.value)}", "reached", "ratio", "p (Holm)"]
    rows: list[Cells] = []
    for label, name in found.names.items():
        one = found.areas[label]
        row: list[str | Shown] = [name, str(len(found.seeds[label])), estimate(one.mean, share)]
        row += _compared(one.difference, signed)
        for threshold in found.thresholds:
            if not _is_above_start(found, threshold):
                row += [NOTHING] * 4
                continue
            passage = threshold.rows[label]
            late = Shown(f"> {_amount(found.horizon / divisor)}")
            row += [estimate(passage.mean, _amounts(divisor)) if passage.reached else late]
            row += [f"{passage.reached}/{len(passage.times)}", *_compared(passage.ratio, "{:.2f}".format)]
        rows.append(row)
    return sheet_of(f"Convergence: {found.title}", header, rows, [*sentences(found), *notes(found)], names=1)


def _compared(one: Interval | None, show: Callable[[float], str]) -> list[Shown]:
    """Difference or ratio with its interval, and p."""
    if one is None or np.isnan(one.mean):
        return [Shown("")] * 2
    return [estimate(one, show), Shown("" if one.p is None else chance(one.p))]


def _shown(found: Convergence) -> list[Interval]:
    """The means and the comparisons of rows with several seeds."""
    shown: list[Interval | None] = []
    for label, seeds in found.seeds.items():
        if len(seeds) > 1:
            shown += [found.areas[label].mean, found.areas[label].difference]
            for threshold in found.thresholds:
                if _is_above_start(found, threshold) and threshold.rows[label].reached:
                    shown += [threshold.rows[label].mean, threshold.rows[label].ratio]
    return [one for one in shown if one is not None]


def notes(found: Convergence) -> list[str]:
    """Notes below the table."""
    shown = _shown(found)
    tested = "; p two-sided, corrected over the rows by Holm" if any(one.p is not None for one in shown) else ""
    agreed = any(not one.has_interval and not np.isnan(one.mean) for one in shown)
    counts = [len(seeds) for seeds in found.seeds.values()]
    several = len(found.names) > 1
    fell = [found.names[label] for t in found.thresholds for label, row in t.rows.items() if row.fell_back]
    stopped = [found.names[label] for label in found.stopped]
    said = (
        (
            True,
            f"Validation {metric_title(found.metric)}, 0 to {_range(found)}, which all rows cover; baseline: "
            f"{found.names[found.baseline]}.",
        ),
        (
            True,
            "Area: mean height of the curve. Time: where the isotonic regression of a seed's curve passes the "
            "threshold. A seed that never passes it counts as the whole range (restricted mean). Ratio: mean divided "
            "by the baseline's mean.",
        ),
        (not several, "There is one row, so nothing is compared."),
        (any(one.has_interval for one in shown), f"[95 % intervals] over seeds, given the threshold{tested}."),
        (agreed, "A number on which all seeds agree has neither interval nor p."),
        (1 in counts, "A row of one seed has no interval, because it does not show how much trainings differ."),
        (
            several and min(counts) < FEWEST_SEEDS,
            "A comparison has a p if both rows have three seeds or more. With fewer seeds, tests are wrong too often.",
        ),
        (
            fell,
            "Above a threshold at two evaluations in a row, then below it for good, so not counted: one seed or more "
            f"of {', '.join(dict.fromkeys(fell))}.",
        ),
        (stopped, f"Runs of {', '.join(stopped)} stopped before the end. Their last value counts from there on."),
    )
    return [sentence for applies, sentence in said if applies]


def to_csv(found: Convergence) -> str:
    """CSV in the unit of the axis, one line per row and threshold. An absent number is empty."""
    rows = [_csv_row(found, threshold, label) for threshold in found.thresholds for label in threshold.rows]
    return csv_text(list(rows[0]), [list(row.values()) for row in rows])


def _csv_row(found: Convergence, threshold: Threshold, label: str) -> dict[str, str]:
    """One line of the CSV, by column name."""
    row, of_area = threshold.rows[label], found.areas[label]
    numbers = {"value": threshold.value, "reached": row.reached, "seeds": len(row.times), "horizon": found.horizon}
    numbers |= _bounded("time", row.mean) | _bounded("ratio", row.ratio, with_p=True)
    numbers |= _bounded("area", of_area.mean) | _bounded("difference", of_area.difference, with_p=True)
    return {
        **{"label": label, "metric": found.metric, "against": found.against, "threshold": threshold.asked},
        **{name: "" if np.isnan(value) else f"{value:.10g}" for name, value in numbers.items()},
        "which_seeds": " ".join(map(str, found.seeds[label])),
        "times": " ".join("inf" if np.isinf(time) else f"{time:g}" for time in row.times),
    }


def _bounded(name: str, one: Interval | None, *, with_p: bool = False) -> dict[str, float]:
    """The columns of one interval; all NaN for None."""
    one = one or Interval(np.nan)
    columns = {name: one.mean, f"{name}_lo": one.low, f"{name}_hi": one.high}
    return columns | ({f"{name}_p": np.nan if one.p is None else one.p} if with_p else {})
