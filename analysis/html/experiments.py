"""One page for several experiments: what differs between them, their rows side by side, and their curves.

Experiments are comparable if they have the same dataset, model, list length, cut-offs and test samples. Only rows of
comparable experiments stand in one table, and only rows with equal budgets are tested against each other: the leading
row against the others, as in the table of one experiment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.collection import Collection
from analysis.figures.choices import AXES
from analysis.figures.series import row_series
from analysis.figures.style import styles
from analysis.html.curve_data import numbers
from analysis.html.grid import MISSING, GridCell, Head, folded, grid, lines, number, scripted, section, text
from analysis.html.markup import Html, breakable, join, tag
from analysis.html.results import best_on_validation, drawn, interval_cell, scale_of
from analysis.html.rows import Look, dash_lengths, looks, name_cell
from analysis.html.settings import NAMING, shown
from analysis.render.numbers import share, signed
from analysis.render.sheet import LATEX
from analysis.tables.build import build
from analysis.tables.headline import lead_note, ranking_metric
from analysis.tables.model import BUDGET, UNEQUAL, Row, Table
from analysis.tables.scores import samples_digest
from analysis.tables.select import Folder
from analysis.tables.spec import ColumnSpec, RowSpec, TableSpec
from rlbench.lists.metric_catalogue import metric_title
from rlbench.runs.record import STAGES

VARIES = "varies"
"""What is shown for a setting in which the rows of one experiment differ."""


@dataclass(frozen=True)
class ComparedGroup:
    """One experiment with a dataset and a model.

    Attributes:
        name: as shown on this page; no other experiment here has it.
        path: path of its own page, relative to this one.
        group: its runs.
        table: its table (`analysis.tables.build_table`).
    """

    name: str
    path: str
    group: Collection
    table: Table


def comparable(experiments: Sequence[ComparedGroup]) -> list[list[ComparedGroup]]:
    """The experiments in sets that share dataset, model, list length, cut-offs and test samples."""
    sets: dict[tuple[Any, ...], list[ComparedGroup]] = {}
    for one in experiments:
        first = one.group.runs.iloc[0]
        key = (first["dataset"], first["model"], first["list_length"], tuple(first["cutoffs"]))
        sets.setdefault((*key, samples_digest(one.group.queries, str(first["run"]))), []).append(one)
    return list(sets.values())


def differences(experiments: Sequence[ComparedGroup]) -> Html:
    """The section on what differs between experiments."""
    known = {one.name: facts(one.group) for one in experiments}
    keys = list(dict.fromkeys(key for found in known.values() for key in found))
    differ = [key for key in keys if len({found.get(key) for found in known.values()}) > 1]
    heads = [Head("Setting", number=False), *(Head(breakable(one.name), number=False) for one in experiments)]
    rows = [[text(breakable(key), key), *(_fact(known[one.name].get(key)) for one in experiments)] for key in differ]
    same = [tag("span", tag("code", breakable(key)), " ", tag("b", breakable(known[experiments[0].name][key])))
            for key in keys if key not in differ]  # fmt: skip
    told = f"“{VARIES}”: the trained rows of the experiment differ in it; its own page shows how."
    return section(
        "differences",
        "What differs",
        grid("differences-table", "Data, budgets and settings in which the experiments differ", heads, rows)
        if rows
        else tag("p", "Nothing that the runs have recorded differs between the experiments."),
        tag("p", told, class_="note"),
        folded(f"The same in all ({len(same)})", lines(same, class_="settings")) if same else None,
    )


def _fact(value: str | None) -> GridCell:
    return MISSING if value is None else text(breakable(value), value)


def facts(group: Collection) -> dict[str, str]:
    """Data, budgets and settings of an experiment, as text; `VARIES` where its trained rows differ."""
    runs = group.runs
    trained = runs[runs["stage"] == "rl"] if (runs["stage"] == "rl").any() else runs
    first = runs.iloc[0]
    samples = group.queries.read(str(first["run"]), [])
    found = {
        "dataset": str(first["dataset"]),
        "model": str(first["model"]),
        "length of lists": str(first["list_length"]),
        "cut-offs": ", ".join(map(str, first["cutoffs"])),
        "test samples": f"{len(samples):,} of {samples['context_id'].nunique():,} contexts",
        "digest of test samples": samples_digest(group.queries, str(first["run"]))[:12],
        "trained rows": str(trained["label"].nunique()) if (runs["stage"] == "rl").any() else "0",
        "seeds": ", ".join(map(str, sorted(set(trained["seed"])))),
        "checkpoint": _one({str(rule) for rule in trained["checkpoint_rule"]}),
    }
    found |= {f"{key} per run": _one({f"{value:,.0f}" for value in trained[key]}) for key in BUDGET}
    settings = [group.settings[run] for run in trained["run"] if run in group.settings]
    for key in sorted({key for one in settings for key in one} - set(NAMING)):
        found[key] = _one({shown(one[key]) if key in one else "–" for one in settings})
    return found


def _one(values: set[str]) -> str:
    return next(iter(values)) if len(values) == 1 else VARIES


def side_by_side(sets: Sequence[Sequence[ComparedGroup]], seen: Mapping[tuple[str, str], Look], resamples: int) -> Html:
    """The section with the rows of each comparable set in one table.

    Args:
        seen: look of each row, by name of the experiment and label.
    """
    told = (
        "Each table has the rows that were judged on the same test samples with the same model. Nothing is compared "
        "across tables."
    )
    return section(
        "rows",
        "Rows side by side",
        tag("p", told, class_="note") if len(sets) > 1 else None,
        *(_set(i, one, seen, resamples) for i, one in enumerate(sets)),
    )


def _set(
    place: int, experiments: Sequence[ComparedGroup], seen: Mapping[tuple[str, str], Look], resamples: int
) -> Html:
    metric = ranking_metric(experiments[0].table)
    title, first = metric_title(metric), experiments[0].group.runs.iloc[0]
    heads = [
        Head("Method", number=False),
        Head("Experiment", number=False),
        Head(f"{title}, drawn", "Mean and 95 % interval"),
        Head(title, "On test, with its 95 % interval"),
        Head(f"Δ {title} to SFT", "To the SFT of its own experiment, paired on the same contexts"),
        Head(f"Best {title} on validation", "Highest point of the mean validation curve, and its update"),
        *(Head(metric_title(key), "Mean per run") for key in BUDGET),
        Head("Seeds"),
    ]
    joint = joined(experiments, resamples)
    unequal = {(row.experiment, row.label) for row in joint.rows if UNEQUAL in row.marks}
    scale = scale_of([row for one in experiments for row in one.table.rows], metric)
    rows, kinds = [], []
    for row, own, names in listed(experiments, metric):
        look = seen[own.name, row.label]
        marks = "".join(mark for mark in row.marks if mark != UNEQUAL) + UNEQUAL * ((own.name, row.label) in unequal)
        score, stage = row.metrics[metric], row.stage
        cells = [name_cell(look, marks), text(breakable(names), names)]
        cells += [GridCell(drawn(score, look, scale), score.mean), interval_cell(score, share)]
        cells += [interval_cell(row.difference, signed), best_on_validation(own.group, look, metric)]
        cells += [number(row.spent[key] or None, "{:,.0f}".format) for key in BUDGET]
        cells.append(number(len(row.seeds), str) if stage in ("sft", "external", "rl") else MISSING)
        rows.append(cells)
        kinds.append("" if stage == "rl" else "reference")
    caption = f"{first['dataset']}, {first['model']}, lists of {first['list_length']}: {title} on test"
    return join(
        grid(f"rows-{place}", caption, heads, rows, kinds=kinds),
        _tests(place, joint, seen) if len(experiments) > 1 else None,
    )


def listed(experiments: Sequence[ComparedGroup], metric: str) -> list[tuple[Row, ComparedGroup, str]]:
    """Rows with their experiment and its name. Shared stages with equal scores are one row, with all names."""
    found: dict[tuple[Any, ...], tuple[Row, ComparedGroup, list[str]]] = {}
    for one in experiments:
        for row in one.table.rows:
            mean = row.metrics[metric].mean
            key = (one.name, row.label) if row.stage == "rl" else (row.stage, row.label, round(mean, 12))
            found.setdefault(key, (row, one, []))[2].append(one.name)
    ordered = sorted(found.values(), key=lambda entry: STAGES.index(entry[0].stage))
    every = len(experiments)
    return [(row, one, "all" if len(names) == every > 1 else ", ".join(names)) for row, one, names in ordered]


def joined(experiments: Sequence[ComparedGroup], resamples: int) -> Table:
    """One table of all rows of comparable experiments, for its marks and its tests."""
    folders = [
        Folder("", replace(one.group, runs=one.group.runs.assign(experiment=one.name))) for one in experiments
    ]  # fmt: skip
    rows = tuple(RowSpec({"stage": (stage,)}) for stage in STAGES)
    spec = TableSpec("", rows, (ColumnSpec("metric", "ndcg@largest"),), group_by=("dataset", "model"))
    return build(folders, spec, resamples=resamples)


def _tests(place: int, joint: Table, seen: Mapping[tuple[str, str], Look]) -> Html | None:
    """The leading row of a set against its other rows; None with fewer than two RL rows."""
    if not joint.leads:
        return None
    (lead,) = joint.leads
    of_name = {row.name: row for row in joint.rows}
    experiment_of = {row.name: row.experiment for row in joint.rows}
    title = metric_title(lead.metric)
    heads = [
        Head("Method", number=False),
        Head("Experiment", number=False),
        Head(f"Lead in {title}", "Of the leading row over this one, with its 95 % interval"),
        Head("Compared", "Whether seeds and budgets allow it", number=False),
    ]
    rows = [
        [
            name_cell(seen[experiment_of[one.row], one.label]),
            text(breakable(experiment_of[one.row]), experiment_of[one.row]),
            interval_cell(one.difference, signed, strong=one.holds),
            text(f"no: {one.reason}" if one.reason else "yes"),
        ]
        for one in lead.over
    ]
    leader = of_name[lead.row]
    name = f"{seen[leader.experiment, leader.label].name} of {leader.experiment}"
    budgets = [note for note in joint.notes if note.startswith(UNEQUAL)]
    return join(
        grid(f"lead-{place}", f"Lead of {name} in {title} on test; bold where it holds", heads, rows),
        lines([lead_note(lead, name), "Nothing else is tested on this page.", *budgets], class_="notes"),
    )


def all_looks(experiments: Sequence[ComparedGroup]) -> dict[tuple[str, str], Look]:
    """Look of each row, by name of the experiment and label. No two trained rows look alike."""
    frames = [
        one.group.runs.assign(
            label=[f"{one.name}\n{label}" for label in one.group.runs["label"]],
            reward=[f"{reward} @ {one.name}" for reward in one.group.runs["reward"]],
        )
        for one in experiments
    ]
    styled = styles(pd.concat(frames, ignore_index=True))
    found = {}
    for one in experiments:
        for look in looks(one.group):
            if (style := styled.get(f"{one.name}\n{look.label}")) is not None:
                look = replace(look, colour=style["color"], dashes=dash_lengths(style["linestyle"]))
            found[one.name, look.label] = look
    return found


def curves_of(sets: Sequence[Sequence[ComparedGroup]], seen: Mapping[tuple[str, str], Look]) -> dict[str, Any]:
    """Validation curves of the ranking metric over updates, one choice for each set, for the page's scripts."""
    row_of = {key: place for place, key in enumerate(seen)}
    xs: list[dict[str, Any]] = []
    series: dict[str, list[list[Any]]] = {}
    references: dict[str, list[list[Any]]] = {}
    metrics = []
    for place, experiments in enumerate(sets):
        metric, first = ranking_metric(experiments[0].table), experiments[0].group.runs.iloc[0]
        key = f"validation/{place}"
        for one in experiments:
            for look in looks(one.group):
                row = row_of[one.name, look.label]
                found = row_series(one.group, look.runs, "validation", metric)
                if found is None or (look.stage not in ("sft", "rl")):
                    continue
                if look.stage == "sft":
                    references.setdefault(key, []).append([row, numbers(found.mean)[-1]])
                    continue
                drawn_line: list[Any] = [row, len(xs), numbers(found.mean)]
                if len(found.runs) > 1:
                    drawn_line += [numbers(found.low), numbers(found.high)]
                xs.append({"updates": numbers(found.x)})
                series.setdefault(key, []).append(drawn_line)
        if key in series:
            where = f": {first['dataset']}, {first['model']}" if len(sets) > 1 else ""
            metrics.append({"key": key, "title": f"{metric_title(metric)}{where}", "split": "validation"})
    return {
        "axes": {"updates": AXES["updates"]},
        "xs": xs,
        "metrics": metrics,
        "series": series,
        "references": references,
        "smoothing": 1,
        "points": 0,
        "thinned": False,
    }


@dataclass(frozen=True)
class Compared:
    """Sections of a page over several experiments, by id, and the data of its scripts."""

    sections: Mapping[str, Html]
    data: Mapping[str, Any]


def compare(experiments: Sequence[ComparedGroup], *, resamples: int) -> Compared:
    """The sections that compare several experiments."""
    sets, seen = comparable(experiments), all_looks(experiments)
    curves = curves_of(sets, seen)
    scores = {
        (one.name, row.label): row.metrics[ranking_metric(one.table)].mean
        for one in experiments
        for row in one.table.rows
    }
    rows = [look.as_data() | {"name": f"{look.name}, {name}"} for (name, _), look in seen.items()]
    sections = {"differences": differences(experiments), "rows": side_by_side(sets, seen, resamples)}
    if curves["series"]:
        sections["curves"] = scripted("curves", "Curves on validation")
    return Compared(
        sections, {"rows": rows, "score": [round(scores[key], 6) for key in seen], "curves": curves, "latex": LATEX}
    )
