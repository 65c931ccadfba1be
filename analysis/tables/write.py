"""Format tables as Markdown, CSV, LaTeX and terminal output, and list the runs behind each cell.

Every format except CSV and JSON first turns a table and its comparisons into a `Sheet` of text.
"""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from analysis.collection import Problem
from analysis.render.numbers import at_least, chance, count, metric_title, share, signed
from analysis.tables.model import (
    MARKS,
    MISSING,
    ONE_SEED,
    SPENT,
    STOPPED,
    UNEQUAL,
    Cell,
    Column,
    Made,
    Row,
    Table,
    Value,
)
from rlbench.base.durations import duration


@dataclass(frozen=True)
class Shown:
    """A cell as text: value, interval ("" for none), whether bold, whether the interval may go below the value."""

    value: str
    interval: str = ""
    bold: bool = False
    below: bool = True


NOTHING = Shown("–")


@dataclass(frozen=True)
class Line:
    """A row as text.

    Attributes:
        names: the text cells on the left.
        cells: all other cells.
        group: heading above the row, or "".
        ruled: whether there is a rule above it.
    """

    names: tuple[str, ...]
    cells: tuple[Shown, ...]
    group: str = ""
    ruled: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table as text.

    Attributes:
        title: heading.
        key: one word, for a LaTeX label.
        header: headers of all columns.
        lines: rows.
        notes: notes below the table.
        words: indices of text cells in `Line.cells`.
    """

    title: str
    key: str
    header: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    words: frozenset[int] = frozenset()

    @property
    def names(self) -> int:
        """Number of name columns on the left."""
        return len(self.header) - len(self.lines[0].cells)


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
    return Sheet(table.title, table.key, header, tuple(lines), table.notes, words)


def comparisons_sheet(table: Table) -> Sheet:
    """The comparisons with the baseline as a sheet."""
    several = len({versus.metric for versus in table.comparisons}) > 1
    lines = []
    for versus in table.comparisons:
        difference, better = versus.difference, versus.improvement
        group = versus.group
        if several:
            group = f"{metric_title(versus.metric)}{f', {versus.group}' if versus.group else ''}"
        lines.append(
            Line(
                (marked(versus.row, versus.marks),),
                (
                    Shown(signed(difference.mean), _brackets(difference, signed), versus.holds, below=False),
                    Shown(chance(versus.p_holm)),
                    Shown(chance(versus.permutation_holm)),
                    NOTHING
                    if better is None
                    else Shown(share(better.mean, 2), _brackets(better, share, 2), below=False),
                    NOTHING
                    if versus.detectable is None
                    else Shown(
                        at_least(versus.detectable.mean),
                        f"({at_least(versus.detectable.low)} to {at_least(versus.detectable.high)})",
                        below=False,
                    ),
                    Shown(versus.reading),
                ),
                group,
            )
        )
    title = metric_title(table.headline)
    return Sheet(
        title=f"{table.title}: against {table.baseline}",
        key=f"{table.key}-comparisons",
        header=(table.method, "Δ" if several else f"Δ {title}", "p", "p permuted", "Better", "Detectable", "Reading"),
        lines=tuple(lines),
        notes=table.comparison_notes,
        words=frozenset([5]),
    )


def marked(name: str, marks: Sequence[str]) -> str:
    """A name followed by its marks."""
    return " ".join([name, "".join(marks)]).strip()


def shown(value: Value, column: Column, bold: bool = False) -> Shown:
    """A value as text."""
    if value is None:
        return NOTHING
    if isinstance(value, Cell):
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


def _estimate(cell: Cell, column: Column, bold: bool) -> Shown:
    reads = signed if column.kind == "difference" else share
    value = reads(cell.mean, column.digits)
    p = f"p {chance(cell.p)}" if column.p and cell.p is not None else ""
    if column.interval == "none" or not cell.has_interval:
        return Shown(value, f"({p})" if p else "", bold)
    if column.interval == "plus_minus":
        half = share((cell.high - cell.low) / 2, column.digits)
        return Shown(value, f"± {half}{f' ({p})' if p else ''}", bold, below=False)
    return Shown(value, _brackets(cell, reads, column.digits) + (f" ({p})" if p else ""), bold)


def _brackets(cell: Cell, reads: Any, digits: int = 3) -> str:
    return f"[{reads(cell.low, digits)}, {reads(cell.high, digits)}]"


# Markdown.


def to_markdown(table: Table) -> str:
    """A GitHub table with notes below. Columns are aligned in the source too."""
    return sheet_to_markdown(table_sheet(table))


def sheet_to_markdown(sheet: Sheet) -> str:
    """A sheet as a heading, a GitHub table and notes."""
    lines = [list(sheet.header)]
    previous = ""
    for line in sheet.lines:
        if line.group != previous:
            lines.append([f"**{_escaped(line.group)}**", *[""] * (len(sheet.header) - 1)])
            previous = line.group
        lines.append([*map(_escaped, line.names), *map(in_markdown, line.cells)])
    words = {sheet.names + place for place in sheet.words}
    return markdown_page(sheet.title, lines, sheet.names, sheet.notes, words)


def markdown_page(
    title: str,
    lines: Sequence[Sequence[str]],
    names: int,
    notes: Sequence[str],
    words: frozenset[int] | set[int] = frozenset(),
) -> str:
    """A heading, a table and notes. The first line of the table is its header.

    Args:
        names: number of left-aligned columns on the left.
        words: indices of further left-aligned columns.
    """
    lines = [[no_markup(cell) for cell in line] for line in lines]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(lines[0]))]
    left = [i < names or i in words for i in range(len(widths))]
    rules = [f":{'-' * (w - 1)}" if is_left else f"{'-' * (w - 1)}:" for w, is_left in zip(widths, left, strict=True)]
    text = [f"## {no_markup(title)}", ""]
    for line in (lines[0], rules, *lines[1:]):
        cells = [
            content.ljust(width) if is_left else content.rjust(width)
            for content, width, is_left in zip(line, widths, left, strict=True)
        ]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join([*text, "", *(f"- {no_markup(note)}" for note in notes), ""])


def no_markup(text: str) -> str:
    """Escape text for Markdown so that no name is read as HTML."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text)


def in_markdown(cell: Shown) -> str:
    """Value and interval on one line."""
    value = f"**{cell.value}**" if cell.bold else _escaped(cell.value)
    return f"{value} {cell.interval}".strip()


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")


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
            line += _numbers(cell if isinstance(cell, Cell) else None)
            line += [_plain(cell.p if isinstance(cell, Cell) else None)] if column.kind == "difference" else []
        for column in values:
            value = row.cells[column.key]
            line.append(f"{value:.12g}" if isinstance(value, float) else str(value or ""))
        line += [f"{row.spent[key]:.12g}" for key in SPENT]
        line += [str(int(mark in row.marks)) for mark in (ONE_SEED, UNEQUAL)]
        line += [" ".join(map(str, seeds)) for seeds in (row.missing, row.stopped)]
        lines.append([*line, " ".join(sorted(row.bold)), " ".join(_path(run) for run in row.made)])
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
        + [str(len(versus.seeds)), str(len(versus.baseline_seeds)), *_numbers(versus.difference)]
        + [_plain(versus.difference.p), _plain(versus.p_holm)]
        + [_plain(versus.permutation_p), _plain(versus.permutation_holm), versus.permuted, _plain(versus.smallest_p)]
        + [*_numbers(versus.improvement), *_numbers(versus.detectable), str(int(versus.holds)), versus.reading]
        + [" ".join(names[mark] for mark in MARKS if mark in versus.marks)]
        for versus in table.comparisons
    ]
    return csv_text(header, lines)


def _numbers(cell: Cell | None) -> list[str]:
    if cell is None:
        return ["", "", ""]
    return ["" if math.isnan(value) else f"{value:.6f}" for value in (cell.mean, cell.low, cell.high)]


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _path(run: Made) -> str:
    return f"{run.folder}/{run.run}" if run.folder else run.run


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that make a spreadsheet read a cell as a formula."""


def as_text(cell: str) -> str:
    """Prefix a CSV cell with an apostrophe if a spreadsheet would run it as a formula.

    Numbers keep their sign. The rule follows OWASP's advice on CSV injection.
    """
    if not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def csv_text(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A CSV.

    Raises:
        ValueError: if a line has more or fewer cells than the header.
    """
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"a line of a CSV has {len(line)} cells for {len(header)} columns: {line}")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([map(as_text, line) for line in (header, *lines)])
    return text.getvalue()


def cell_runs(row: Row, column: Column) -> dict[str, Any]:
    """The runs behind one cell: the row's and, for a difference or an improvement, the baseline's."""

    def listed(made: Sequence[Made]) -> list[dict[str, Any]]:
        return [{"run": _path(run), "seed": run.seed, "hash": run.hash} for run in made]

    value = row.cells[column.key]
    return {
        "group": row.group,
        "row": row.name,
        "column": column.key,
        "value": value.mean if isinstance(value, Cell) else value,
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


# LaTeX.


LATEX = {
    "\\": r"\textbackslash{}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "Δ": r"$\Delta$",
    "Γ": r"$\Gamma$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "ε": r"$\varepsilon$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "τ": r"$\tau$",
    "∞": r"$\infty$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\to$",
    "−": r"$-$",
    "–": "--",
    ONE_SEED: r"$^{\dagger}$",
    UNEQUAL: r"$^{\ddagger}$",
    MISSING: r"$^{\S}$",
    STOPPED: r"$^{\P}$",
}


def to_latex(table: Table) -> str:
    """A booktabs table with bracketed intervals below the values. Needs the packages booktabs and graphicx."""
    return sheet_to_latex(table_sheet(table))


def sheet_to_latex(sheet: Sheet) -> str:
    """A sheet as a booktabs table."""
    width = len(sheet.header)
    aligned = "l" * sheet.names
    aligned += "".join("l" if i in sheet.words else "r" for i in range(width - sheet.names))
    lines = [
        "% Needs booktabs and graphicx.",
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{_in_latex(sheet.title)}.}}",
        rf"\label{{tab:{sheet.key}}}",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{@{{}}{aligned}@{{}}}}",
        r"\toprule",
        _latex_row(map(_in_latex, sheet.header)),
        r"\midrule",
    ]
    previous = ""
    for i, line in enumerate(sheet.lines):
        if line.group != previous:
            lines += [r"\midrule"] * (i > 0)
            lines.append(rf"\multicolumn{{{width}}}{{@{{}}l}}{{\textit{{{_in_latex(line.group)}}}}} \\")
            previous = line.group
        elif line.ruled:
            lines.append(r"\addlinespace" if line.group else r"\midrule")
        lines.append(_latex_row([*map(_in_latex, line.names), *map(_latex_value, line.cells)]))
        if any(cell.interval and cell.below for cell in line.cells):
            lines.append(_latex_row([*[""] * len(line.names), *map(_latex_interval, line.cells)]) + "[2pt]")
    lines += [r"\bottomrule", r"\end{tabular}}", r"\par\smallskip", r"\begin{minipage}{\textwidth}\footnotesize"]
    lines += [_in_latex(note) for note in sheet.notes]
    return "\n".join([*lines, r"\end{minipage}", r"\end{table*}", ""])


def _latex_row(cells: Any) -> str:
    return " & ".join(cells) + r" \\"


def _in_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def _latex_value(cell: Shown) -> str:
    value = rf"\textbf{{{_in_latex(cell.value)}}}" if cell.bold else _in_latex(cell.value)
    return value if cell.below else rf"{value} {{\scriptsize {_in_latex(cell.interval)}}}"


def _latex_interval(cell: Shown) -> str:
    return rf"{{\scriptsize {_in_latex(cell.interval)}}}" if cell.interval and cell.below else ""


# Terminal.


GAP = 2
"""Spaces between columns of the terminal table: padding of 1 plus the box's divider."""


def to_rich(table: Table, width: int) -> RenderableType:
    """The table for a terminal of `width` characters."""
    return sheet_to_rich(table_sheet(table), width)


def sheet_to_rich(sheet: Sheet, width: int) -> RenderableType:
    """A sheet for a terminal of `width` characters, split into several tables if needed."""
    names = [line.names[0] for line in sheet.lines]
    headings = [line.group for line in sheet.lines]
    first = max(map(len, [sheet.header[0], *names, *headings]))
    blocks: list[list[int]] = [[]]
    used = first
    for place, header in enumerate(sheet.header[1:]):
        cells = [line.cells[place] for line in sheet.lines]
        needs = GAP + max(len(text) for cell in cells for text in (header, cell.value, cell.interval))
        if blocks[-1] and used + needs > width:
            blocks.append([])
            used = first
        blocks[-1].append(place)
        used += needs
    parts: list[RenderableType] = [Text(sheet.title, style="bold")]
    parts += [_rich_block(sheet, block) for block in blocks]
    return Group(*parts, *(Text(note, style="dim") for note in sheet.notes))


def _rich_block(sheet: Sheet, block: Sequence[int]) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    drawn.add_column(sheet.header[0], no_wrap=True)
    for place in block:
        words = place in sheet.words
        drawn.add_column(sheet.header[1 + place], justify="left" if words else "right", no_wrap=not words)
    previous = ""
    for line in sheet.lines:
        if line.group != previous or line.ruled:
            if drawn.row_count:
                drawn.add_section()
            if line.group != previous:
                drawn.add_row(Text(line.group, style="bold"))
            previous = line.group
        drawn.add_row(line.names[0], *(_rich_cell(line.cells[place]) for place in block))
    return drawn


def _rich_cell(cell: Shown) -> Text:
    text = Text(cell.value, style="bold" if cell.bold else "")
    between = "\n" if cell.below else " "
    return text.append(f"{between}{cell.interval}", style="dim not bold") if cell.interval else text
