"""Write the tables that a spec describes."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from analysis.collection import collect
from analysis.command import (
    default_folder_of_several,
    set_aside,
    show_problems,
    show_written,
    terminal,
    write_texts,
)
from analysis.figures.captions import save_captioned
from analysis.figures.style import FORMATS
from analysis.problems import Problem
from analysis.render.latex import paper_latex
from analysis.render.sheet import Sheet, to_latex, to_markdown, to_rich
from analysis.render.templates import PAGE, Paper, make_paper
from analysis.tables.build import build
from analysis.tables.model import Table
from analysis.tables.profiles import Profile, profile_scores
from analysis.tables.profiles_figure import draw_profiles
from analysis.tables.select import Folder
from analysis.tables.spec import read_spec
from analysis.tables.write import (
    caption_notes,
    cell_runs,
    comparisons_csv,
    comparisons_sheet,
    runs_json,
    table_sheet,
    to_csv,
)
from rlbench.base.errors import BadInput, nearest
from rlbench.base.files import new_folder


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    console = terminal()
    spec = read_spec(options.spec)
    paper = make_paper(options.template, options.width)
    found, problems = _read(options.runs)
    table = build(found, spec, problems=problems, resamples=options.resamples)
    if options.runs_of is not None:
        console.print_json(json.dumps(runs_of(table, *options.runs_of), ensure_ascii=False))
        return 0
    drawn = profile_scores(found, spec)
    out = (
        options.out
        if options.out is not None
        else default_folder_of_several(options.runs) / "tables" / options.spec.stem
    )
    show(table, console)
    written = write(table, out, problems, paper)
    written += _profiles(drawn, out, options.resamples, paper, table.key)
    show_problems(console, Path(" ".join(map(str, options.runs))), problems)
    show_written(console, written)
    return 0


def _read(folders: Sequence[Path]) -> tuple[list[Folder], list[Problem]]:
    """The runs of all folders. With several folders, run names include their folder.

    Raises:
        BadInput: if no folder has a finished run.
    """
    several = len(folders) > 1
    found, problems = [], []
    for folder in folders:
        collection = collect(folder)
        found.append(Folder(str(folder) if several else "", collection))
        problems += [
            replace(problem, run=f"{folder}/{problem.run}") if several else problem for problem in collection.problems
        ]
    if all(one.collection.runs.empty for one in found):
        reasons = [f"  {problem}" for problem in problems]
        below = " or ".join(map(str, folders))
        raise BadInput(f"no finished run below {below}, so there is nothing to show", *reasons)
    return found, problems


def runs_of(table: Table, name: str, column: str) -> list[dict[str, object]]:
    """The runs behind a cell, one entry for each group with such a row.

    Raises:
        BadInput: if there is no such row or column.
    """
    rows = [row for row in table.rows if name in (row.name, row.label)]
    columns = [one for one in table.columns if column in (one.key, one.header)]
    wrong = []
    if not rows:
        known = list(dict.fromkeys(row.name for row in table.rows))
        wrong.append(f"--runs-of: no row '{name}'.{nearest(name, known)} Rows: {', '.join(known)}")
    if not columns:
        keys = [one.key for one in table.columns]
        wrong.append(f"--runs-of: no column '{column}'.{nearest(column, keys)} Columns: {', '.join(keys)}")
    if wrong:
        raise BadInput(*wrong)
    return [cell_runs(row, one) for row in rows for one in columns]


def show(table: Table, console: Console) -> None:
    """Print both tables. Shared notes are printed once."""
    console.print(to_rich(table_sheet(table), console.width))
    console.print()
    if table.comparisons:
        against = comparisons_sheet(table)
        against = replace(against, notes=tuple(note for note in against.notes if note not in table.notes))
        console.print(to_rich(against, console.width))
        console.print()


def write(table: Table, out: Path, problems: Sequence[Problem], paper: Paper = PAGE) -> list[Path]:
    """Write both tables and the list of runs. Returns the files written."""
    new_folder(out, "--out")
    sheet = table_sheet(table)
    texts = {
        "table.md": to_markdown(sheet),
        "table.csv": to_csv(table),
        "table.runs.json": runs_json(table, problems),
        **latex_files("table", sheet, paper),
    }
    if table.comparisons:
        against = comparisons_sheet(table)
        texts["comparisons.md"] = to_markdown(against)
        texts["comparisons.csv"] = comparisons_csv(table)
        texts |= latex_files("comparisons", against, paper)
    written = write_texts(out, texts)
    made = [f"comparisons.{suffix}" for suffix in ("md", "csv", "tex", "txt")]
    set_aside(out, [*made, "table.txt"], written)
    return written


def latex_files(name: str, sheet: Sheet, paper: Paper) -> dict[str, str]:
    """A table in LaTeX; with a template also all its notes as text, of which the caption has the first ones."""
    if paper.template is None and paper.width == PAGE.width:
        return {f"{name}.tex": to_latex(sheet)}
    short = replace(sheet, notes=caption_notes(sheet))
    return {f"{name}.tex": paper_latex(short, paper), f"{name}.txt": "\n".join([sheet.title, *sheet.notes, ""])}


def _profiles(drawn: dict[str, list[Profile]], out: Path, resamples: int, paper: Paper, key: str) -> list[Path]:
    figure = draw_profiles(drawn, resamples=resamples, paper=paper)
    written = [] if figure is None else save_captioned(figure, out / "profiles", f"{key}-profiles", paper)
    set_aside(out, [f"profiles.{suffix}" for suffix in (*FORMATS, "txt", "tex")], written)
    return written
