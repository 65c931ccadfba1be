"""`python -m analysis.tables RUNS... --spec table.yaml --out FOLDER`: write the tables that a spec describes."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from analysis import tables
from analysis.collection import Problem, collect
from analysis.command import (
    add_folder,
    add_resamples,
    default_folder,
    make_parser,
    refusing,
    set_aside,
    show_problems,
    show_written,
    terminal,
    write_texts,
)
from analysis.render.sheet import to_latex, to_markdown, to_rich
from analysis.tables.profiles_figure import FORMATS, draw_profiles, save_profiles
from analysis.tables.spec import SPECS
from rlbench.base.errors import BadInput, nearest
from rlbench.base.files import new_folder

DESCRIPTION = f"""\
Make a table from finished runs, and a second table that compares every row with a baseline.

Reads every run below each RUNS and writes to the --out folder:
  table.md, table.csv, table.tex                     the table
  table.runs.json                                    the runs behind each cell, and those left out
  comparisons.md, comparisons.csv, comparisons.tex   rows against the spec's baseline: interval, tests, power
  profiles.png, profiles.svg, profiles.pdf           performance profiles, if the spec names metrics for them
A spec in YAML defines the rows and columns (docs/tables.md). These specs come with rlbench:
  {", ".join(sorted(path.stem for path in SPECS.glob("*.yaml")))}

Runs that are not done or not sound are left out and named. The same runs give the same bytes. Needs no model and no
GPU.
"""
EPILOG = """\
example:  python -m analysis.tables runs/mini
          python -m analysis.tables runs/table1 runs/table2 --spec paper.yaml --out reports/paper
          python -m analysis.tables runs/mini --runs-of SFT ndcg@10
exit code: 0 written (even if runs were left out); 2 no such folder, no finished run in it, or a spec that does not fit
"""


@refusing("tables")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    console = terminal()
    spec = tables.read_spec(options.spec)
    found, problems = _read(options.runs)
    table = tables.build(found, spec, problems=problems, resamples=options.resamples)
    if options.runs_of is not None:
        console.print_json(json.dumps(runs_of(table, *options.runs_of), ensure_ascii=False))
        return 0
    drawn = tables.profile_scores(found, spec)
    out = options.out if options.out is not None else _default_folder(options.runs, options.spec)
    show(table, console)
    written = write(table, out, problems)
    written += _profiles(drawn, out, options.resamples)
    show_problems(console, Path(" ".join(map(str, options.runs))), problems)
    show_written(console, written)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "tables", DESCRIPTION, EPILOG, "folders with run directories at any depth, or collections", several=True
    )
    parser.add_argument(
        "--spec",
        type=Path,
        default=Path("comparison"),
        metavar="FILE",
        help="spec of the table: a YAML file, or the name of a spec that comes with rlbench (default: %(default)s)",
    )
    add_folder(parser, "reports/<RUNS below runs/>/tables/<name of the spec>")
    add_resamples(parser)
    parser.add_argument(
        "--runs-of",
        nargs=2,
        metavar=("ROW", "COLUMN"),
        help="only print the runs behind a cell, given by the name or label of its row and the header or CSV name of "
        "its column",
    )
    return parser


def _default_folder(runs: Sequence[Path], spec: Path) -> Path:
    """Default output folder: one per spec, next to the output of other commands for the same runs."""
    first, *others = [default_folder(folder) for folder in runs]
    beside = "+".join([first.name, *(folder.name for folder in others)])
    return first.with_name(beside) / "tables" / spec.stem


def _read(folders: Sequence[Path]) -> tuple[list[tables.Folder], list[Problem]]:
    """The runs of all folders. With several folders, run names include their folder.

    Raises:
        BadInput: names every folder that does not exist; also if no folder has a finished run.
    """
    wrong = [f"there is no folder {folder}" for folder in folders if not folder.is_dir()]
    if wrong:
        raise BadInput(*wrong)
    several = len(folders) > 1
    found, problems = [], []
    for folder in folders:
        collection = collect(folder)
        found.append(tables.Folder(str(folder) if several else "", collection))
        problems += [
            replace(problem, run=f"{folder}/{problem.run}") if several else problem for problem in collection.problems
        ]
    if all(one.collection.runs.empty for one in found):
        reasons = [f"  {problem}" for problem in problems]
        below = " or ".join(map(str, folders))
        raise BadInput(f"no finished run below {below}, so there is nothing to show", *reasons)
    return found, problems


def runs_of(table: tables.Table, name: str, column: str) -> list[dict[str, object]]:
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
    return [tables.cell_runs(row, one) for row in rows for one in columns]


def show(table: tables.Table, console: Console) -> None:
    """Print both tables. Shared notes are printed once."""
    console.print(to_rich(tables.table_sheet(table), console.width))
    console.print()
    if table.comparisons:
        against = tables.comparisons_sheet(table)
        against = replace(against, notes=tuple(note for note in against.notes if note not in table.notes))
        console.print(to_rich(against, console.width))
        console.print()


def write(table: tables.Table, out: Path, problems: Sequence[Problem]) -> list[Path]:
    """Write both tables and the list of runs. Returns the files written."""
    new_folder(out, "--out")
    sheet = tables.table_sheet(table)
    texts = {
        "table.md": to_markdown(sheet),
        "table.csv": tables.to_csv(table),
        "table.tex": to_latex(sheet),
        "table.runs.json": tables.runs_json(table, problems),
    }
    if table.comparisons:
        against = tables.comparisons_sheet(table)
        texts["comparisons.md"] = to_markdown(against)
        texts["comparisons.csv"] = tables.comparisons_csv(table)
        texts["comparisons.tex"] = to_latex(against)
    written = write_texts(out, texts)
    set_aside(out, [f"comparisons.{suffix}" for suffix in ("md", "csv", "tex")], written)
    return written


def _profiles(drawn: dict[str, list[tables.Profile]], out: Path, resamples: int) -> list[Path]:
    figure = draw_profiles(drawn, resamples=resamples)
    written = [] if figure is None else save_profiles(figure, out / "profiles")
    set_aside(out, [f"profiles.{suffix}" for suffix in FORMATS], written)
    return written


if __name__ == "__main__":
    sys.exit(main())
