"""The numbers of `analysis.studies.convergence` as sentences, table, CSV and LaTeX."""

from collections.abc import Callable

import numpy as np

from analysis.figures.style import axis_unit
from analysis.studies.convergence import FINAL, UNITS, Convergence, Interval, Passage, Threshold, at_least
from analysis.tables import FEWEST_SEEDS, NOTHING, csv_text, markdown_page, metric_title, share, signed


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
