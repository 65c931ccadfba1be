"""What each row spent: bars of seconds per phase, and a table."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.collection import Collection
from analysis.collection.costs import total_cost
from analysis.collection.origins import short
from analysis.html.grid import MISSING, GridCell, Head, amount, grid, number, section
from analysis.html.markup import Html, tag
from analysis.html.rows import Look, name_cell, named
from analysis.render.numbers import first_words, percent
from analysis.tables.marks import unequal_note
from analysis.tables.model import UNEQUAL
from rlbench.base.durations import duration
from rlbench.lists.metric_catalogue import metric_of, metric_title
from rlbench.runs.record import COMPUTING

PHASES = {
    "rollout": "#0072B2",
    "update": "#D55E00",
    "reference": "#CC79A7",
    "reward": "#009E73",
    "evaluation": "#E69F00",
    "checkpoint": "#56B4E9",
    "rest": "#8a8a8a",
}
"""Phases of a run in the order of the bars, with their colours. `rest` is the total minus all other phases."""


NAMED = 4
"""Runs of other experiments that are named; more are counted."""
SHOWN_SECONDS = 0.5
"""A row that took less time has no bar. This is the oracle, which needs no model."""


def budgets(group: Collection, looks: Sequence[Look], unequal: Set[str] = frozenset()) -> Html:
    """The section on budgets; `unequal` has the labels of rows with a different budget."""
    runs, note = group.runs, None
    spent = {look.label: _means(runs[runs["run"].isin(look.runs)]) for look in looks}
    shown = [look for look in looks if spent[look.label].get("seconds", 0) >= SHOWN_SECONDS]
    if not shown:
        return section("budgets", "Budgets", tag("p", "No run of this group spent anything."))
    if unequal:
        note = unequal_note(runs)
    elif sum(look.stage == "rl" for look in looks) > 1:
        note = "All trained rows had the same updates, prompts and completions."
    return section(
        "budgets",
        "Budgets",
        tag("p", note, class_="warn" if unequal else None) if note is not None else None,
        tag("p", "Means per run, of the row's own stage. Memory is the largest of its runs.", class_="note"),
        tag("p", cost_note(runs, group.source.folder), class_="note"),
        _bars(shown, spent),
        _table(shown, spent, unequal),
    )


def cost_note(runs: pd.DataFrame, folder: Path) -> str:
    """Note on the total cost of runs in a folder, and on the runs whose cost another experiment spent."""
    cost = total_cost(runs, folder)
    energy = f", {cost.joules / 3600:.3g} Wh" if cost.joules else ""
    told = f"All runs together: {duration(cost.seconds)}{energy}."
    if not cost.shared:
        return told
    named = first_words([f"{short(run)} (from {maker})" for run, maker in cost.shared], NAMED, "run")
    shared = f"{duration(cost.shared_seconds)} was spent by other experiments, and counts there too: {named}"
    return f"{told} Of that, {shared}."


def _means(runs: pd.DataFrame) -> dict[str, float]:
    names = [name for name in runs.columns if name in (*COUNTS, *EXTRAS, *SPEEDS) or name.startswith("seconds")]
    means = {name: float(runs[name].mean()) for name in names}
    for name in ("peak_memory_bytes_process", "peak_memory_bytes_gpu"):
        means[name] = float(runs[name].max())
    return means


COUNTS = ("updates", "prompts", "completions", "generated_tokens", "trained_tokens", "evaluation_tokens")
SPEEDS = (*(f"tokens_per_second_{phase}" for phase in COMPUTING), *(f"mfu_{phase}" for phase in (*COMPUTING, "total")))
EXTRAS = ("peak_memory_bytes_process", "peak_memory_bytes_gpu", "energy_joules_cpu", "energy_joules_gpu", "attempts")


def phases(spent: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each phase that took time, plus the rest if it exceeds 0.5 % of the total."""
    known = {name: spent.get(f"seconds_{name}", np.nan) for name in PHASES if name != "rest"}
    known = {name: value for name, value in known.items() if np.isfinite(value) and value > 0}
    rest = spent["seconds"] - sum(known.values())
    return known | ({"rest": rest} if rest > 0.005 * spent["seconds"] else {})


def _bars(looks: Sequence[Look], spent: Mapping[str, Mapping[str, float]]) -> Html:
    longest = max(spent[look.label]["seconds"] for look in looks)
    used = [name for name in PHASES if any(name in phases(spent[look.label]) for look in looks)]
    legend = [tag("span", tag("i", class_=f"phase {name}"), f" {name}", class_="key") for name in used]
    bars = []
    for look in looks:
        parts = phases(spent[look.label])
        pieces = [
            tag(
                "i",
                class_=f"phase {name}",
                style=f"width:{100 * value / longest:.3f}%",
                title=f"{name}: {duration(value)} ({percent(value / spent[look.label]['seconds'])})",
            )
            for name, value in parts.items()
        ]
        told = ", ".join(f"{name} {duration(value)}" for name, value in parts.items())
        bar = tag("span", pieces, class_="bar", role="img", aria_label=f"Seconds by phase: {told}")
        total = tag("span", duration(spent[look.label]["seconds"]), class_="total")
        bars.append(tag("div", tag("span", named(look), class_="who"), bar, total, class_="barrow"))
    return tag("figure", tag("figcaption", "Time of a run by phase. ", legend), tag("div", bars, class_="bars"))


def _table(looks: Sequence[Look], spent: Mapping[str, Mapping[str, float]], unequal: Set[str]) -> Html:
    used = [name for name in PHASES if any(name in phases(spent[look.label]) for look in looks)]
    heads = [Head("Row", number=False), *(Head(metric_title(name)) for name in (*COUNTS, "seconds"))]
    heads += [Head(name.capitalize(), "seconds of this phase; m:ss, h:mm:ss") for name in used]
    heads += [
        Head(metric_title("peak_memory_bytes_process"), "peak of the process, GiB"),
        Head(metric_title("peak_memory_bytes_gpu"), "peak, GiB"),
    ]
    heads += [Head("Energy", "CPU and GPU as far as known, Wh"), Head("Starts", "attempts of a run, on average")]
    heads += [Head(metric_title(name), f"{metric_of(name).unit}, mean of the runs") for name in SPEEDS]
    rows = []
    for look in looks:
        own = spent[look.label]
        parts = phases(own)
        mark = UNEQUAL if look.label in unequal else ""
        cells: list[GridCell] = [name_cell(look, mark)]
        cells += [amount(own.get(name)) for name in COUNTS]
        cells.append(number(own["seconds"], duration))
        cells += [number(parts.get(name), duration) for name in used]
        cells += [number(own[f"peak_memory_bytes_{of}"] / 2**30, "{:.2f}".format) for of in ("process", "gpu")]
        energy = np.nansum([own["energy_joules_cpu"], own["energy_joules_gpu"]]) / 3600
        cells += [amount(energy, "{:.3g}".format), number(own["attempts"], "{:g}".format)]
        cells += [amount(own.get(name), "{:.3g}".format) for name in SPEEDS]
        rows.append(cells)
    shown = [i for i in range(len(heads)) if any(row[i] is not MISSING for row in rows)]
    rows = [[row[i] for i in shown] for row in rows]
    return grid("budget-table", "What each row spent", [heads[i] for i in shown], rows)
