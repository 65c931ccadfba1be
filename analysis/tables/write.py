"""A table and its comparisons as sheets of text and as CSV, and the runs behind each cell as JSON."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from analysis.problems import Problem
from analysis.render.numbers import Interval, bounds, chance, count, share, signed
from analysis.render.sheet import NOTHING, Line, Sheet, Shown, estimate
from analysis.render.spreadsheet import csv_interval, csv_p, csv_text
from analysis.tables.compare import detectable_parts
from analysis.tables.marks import CLONED, marked
from analysis.tables.model import MARKS, MISSING, ONE_SEED, SPENT, STOPPED, UNEQUAL, Column, Made, Row, Table, Value
from rlbench.base.durations import duration
from rlbench.lists.metric_catalogue import metric_title


def table_sheet(table: Table) -> Sheet:
    """The table as a sheet."""
    lines = []
    previous: Row | None = None
    for row in table.rows:
        ruled = previous is not None and previous.stage != "rl" and row.stage == "rl" and previous.group == row.group
        cells = tuple(shown(row.cells[column.key], column, column.key in row.bold) for column in table.columns)
        lines.append(Line((marked(row.name, row.marks),), cells, row.group, ruled))
        previous = row
    header = (table.method, *(column.header for column in table.columns))
    words = frozenset(
        i for i, column in enumerate(table.columns) if any(isinstance(row.cells[column.key], str) for row in table.rows)
    )
    return Sheet(table.title, header, tuple(lines), table.notes, table.key, words)


def short_sheet(table: Table) -> Sheet:
    """The columns that matter most: both metrics at the largest cut-off, differences and seeds; notes on marks only."""
    largest = {f"{metric}@{table.cutoffs[-1]}" for metric in ("recall", "ndcg")}
    columns = [column for column in table.columns if column.kind == "difference" or column.key in (*largest, "seeds")]
    notes = tuple(note for note in table.notes if note.startswith((*MARKS, CLONED)))
    return table_sheet(replace(table, columns=tuple(columns), notes=notes))


def comparisons_sheet(table: Table) -> Sheet:
    """The comparisons with the baseline as a sheet."""
    several = len({versus.metric for versus in table.comparisons}) > 1
    lines = []
    for versus in table.comparisons:
        metric = metric_title(versus.metric)
        found = versus.detectable
        cells = (
            estimate(versus.difference, signed, bold=versus.holds),
            Shown(chance(versus.p_holm)),
            Shown(chance(versus.permutation_holm)),
            estimate(versus.improvement, partial(share, digits=2)),
            NOTHING if found is None else Shown(*detectable_parts(found)),
            Shown(versus.reading),
        )
        group = f"{metric}{f', {versus.group}' if versus.group else ''}" if several else versus.group
        lines.append(Line((marked(versus.row, versus.marks),), cells, group))
    difference = "Δ" if several else f"Δ {metric_title(table.headline)}"
    return Sheet(
        title=f"{table.title}: against {table.baseline}",
        header=(table.method, difference, "p", "p permuted", "Better", "Detectable", "Reading"),
        lines=tuple(lines),
        notes=table.comparison_notes,
        key=f"{table.key}-comparisons",
        words=frozenset([5]),
    )


def caption_notes(sheet: Sheet) -> tuple[str, ...]:
    """The notes that a caption needs: samples and intervals, marks, and tests if something is bold."""
    bold = any(cell.bold for line in sheet.lines for cell in line.cells)
    wanted = (*MARKS, *(("Bold:", "Tested:", "p:") if bold else ()))
    return (*sheet.notes[:1], *(note for note in sheet.notes[1:] if note.startswith(wanted)))


def shown(value: Value, column: Column, bold: bool = False) -> Shown:
    """A value as text."""
    if value is None:
        return NOTHING
    if isinstance(value, Interval):
        return _estimate(value, column, bold)
    return Shown(value if isinstance(value, str) else number(value, column.of, column.digits))


def number(value: float, of: str, digits: int) -> str:
    """A count, time or setting as text; – for a count of 0."""
    if of == "seeds" or of.endswith("_step"):
        return f"{value:,.0f}"
    if of.startswith(("test.", "validation.")):
        return share(value, digits)
    if value == 0 or math.isnan(value):
        return NOTHING.value
    if of.startswith("seconds"):
        return duration(value)
    if of.endswith("_tokens"):
        return count(value)
    if of.startswith("peak_memory_bytes"):
        return f"{value / 2**30:.2f} GiB"
    return f"{value:,.0f}" if of in SPENT or value == int(value) else f"{value:g}"


def _estimate(cell: Interval, column: Column, bold: bool) -> Shown:
    show = partial(signed if column.kind == "difference" else share, digits=column.digits)
    p = f"(p {chance(cell.p)})" if column.p and cell.p is not None else ""
    if column.interval == "none" or not cell.has_interval:
        return Shown(show(cell.mean), p, bold, below=True)
    if column.interval == "plus_minus":
        return Shown(show(cell.mean), f"± {share((cell.high - cell.low) / 2, column.digits)} {p}".strip(), bold)
    return Shown(show(cell.mean), f"{bounds(cell, show)} {p}".strip(), bold, below=True)


# CSV and JSON.


def to_csv(table: Table) -> str:
    """The table as CSV. An estimate has the columns <key>, <key>_lo and <key>_hi; an absent number is empty.

    The corrected p of a difference is in <key>_p. The columns `one_seed` and `unequal_budget` are 0 or 1.
    `missing_seeds` and `stopped_seeds` list seeds; `runs` lists the run directories of the row.
    """
    estimates = [column for column in table.columns if column.kind != "value"]
    values = [column for column in table.columns if column.kind == "value" and column.of not in ("seeds", *SPENT)]
    header = ["label", "stage", "algorithm", "reward", "seeds", "name", "group", "experiment", "dataset", "model"]
    for column in estimates:
        header += [column.key, f"{column.key}_lo", f"{column.key}_hi"]
        header += [f"{column.key}_p"] if column.kind == "difference" else []
    header += [column.key for column in values]
    header += [*SPENT, "one_seed", "unequal_budget", "missing_seeds", "stopped_seeds", "bold", "runs"]
    lines = []
    for row in table.rows:
        line = [row.label, row.stage, row.algorithm, row.reward, str(len(row.seeds)), row.name, row.group]
        line += [row.experiment, row.dataset, row.model]
        for column in estimates:
            cell = row.cells[column.key]
            line += csv_interval(cell if isinstance(cell, Interval) else None)
            line += [csv_p(cell.p if isinstance(cell, Interval) else None)] if column.kind == "difference" else []
        for column in values:
            value = row.cells[column.key]
            line.append(f"{value:.12g}" if isinstance(value, float) else str(value or ""))
        line += [f"{row.spent[key]:.12g}" for key in SPENT]
        line += [str(int(mark in row.marks)) for mark in (ONE_SEED, UNEQUAL)]
        line += [" ".join(map(str, seeds)) for seeds in (row.missing, row.stopped)]
        lines.append([*line, " ".join(sorted(row.bold)), " ".join(run.path for run in row.made)])
    return csv_text(header, lines)


def comparisons_csv(table: Table) -> str:
    """The comparisons with the baseline as CSV. An absent number is empty."""
    header = ["metric", "group", "row", "label", "baseline", "seeds", "baseline_seeds"]
    header += ["difference", "difference_lo", "difference_hi", "p", "p_holm"]
    header += ["permutation_p", "permutation_p_holm", "permuted", "smallest_permutation_p"]
    header += ["improvement", "improvement_lo", "improvement_hi"]
    header += ["detectable", "detectable_lo", "detectable_hi", "holds", "reading", "marks"]
    names = {ONE_SEED: "one_seed", UNEQUAL: "unequal_budget", MISSING: "missing_seeds", STOPPED: "stopped_early"}
    lines = [
        [versus.metric, versus.group, versus.row, versus.label, versus.baseline]
        + [str(len(versus.seeds)), str(len(versus.baseline_seeds)), *csv_interval(versus.difference)]
        + [csv_p(versus.difference.p), csv_p(versus.p_holm)]
        + [csv_p(versus.permutation_p), csv_p(versus.permutation_holm), versus.permuted, csv_p(versus.smallest_p)]
        + [*csv_interval(versus.improvement), *csv_interval(versus.detectable), str(int(versus.holds)), versus.reading]
        + [" ".join(names[mark] for mark in MARKS if mark in versus.marks)]
        for versus in table.comparisons
    ]
    return csv_text(header, lines)


def cell_runs(row: Row, column: Column) -> dict[str, Any]:
    """The runs behind one cell: the row's and, for a difference or an improvement, the baseline's."""

    def listed(made: Sequence[Made]) -> list[dict[str, Any]]:
        return [{"run": run.path, "seed": run.seed, "hash": run.hash} for run in made]

    value = row.cells[column.key]
    return {
        "group": row.group,
        "row": row.name,
        "column": column.key,
        "value": value.mean if isinstance(value, Interval) else value,
        "runs": listed(row.made if value is not None else ()),
        "against": listed(row.against.get(column.key, ()) if value is not None else ()),
    }


def runs_json(table: Table, problems: Sequence[Problem]) -> str:
    """The runs behind every cell and the excluded runs, as JSON."""
    content = {
        "title": table.title,
        "cells": [cell_runs(row, column) for row in table.rows for column in table.columns],
        "left_out": [{"run": problem.run, "reason": problem.reason} for problem in problems if problem.left_out],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
