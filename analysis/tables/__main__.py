"""`python -m analysis.tables RUNS... --spec table.yaml --out FOLDER`: write the tables that a spec describes."""

import argparse
import sys
from pathlib import Path

from analysis import command
from analysis.tables.spec import SPECS

DESCRIPTION = f"""\
Make a table from finished runs, and a second table that compares every row with a baseline.

Reads every run below each RUNS and writes to the --out folder:
  table.md, table.csv, table.tex                     the table
  table.runs.json                                    the runs behind each cell, and those left out
  comparisons.md, comparisons.csv, comparisons.tex   rows against the spec's baseline: interval, tests, power
  profiles.png, .svg, .pdf, .txt                     performance profiles, if the spec names metrics for them
A spec in YAML defines the rows and columns (docs/tables.md). These specs come with rlbench:
  {", ".join(sorted(path.stem for path in SPECS.glob("*.yaml")))}

With --template, the LaTeX fits its text or --width column, in the largest letters that do, with the first notes in the
caption; table.txt has all notes.

Runs that are not done or not sound are left out and named. The same runs give the same bytes. Needs no model and no
GPU.
"""
EPILOG = """\
example:  python -m analysis.tables runs/mini
          python -m analysis.tables runs/table1 runs/table2 --spec paper.yaml --out reports/paper
          python -m analysis.tables runs/mini --spec paper --template icml --width column
          python -m analysis.tables runs/mini --runs-of SFT ndcg@10
exit code: 0 written (even if runs were left out); 2 no such folder, no finished run in it, or a spec that does not fit
"""


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser(
        "tables", DESCRIPTION, EPILOG, "folders with run directories at any depth, or collections", several=True
    )
    parser.add_argument(
        "--spec",
        type=Path,
        default=Path("comparison"),
        metavar="FILE",
        help="spec of the table: a YAML file, or the name of a spec that comes with rlbench (default: %(default)s)",
    )
    command.add_folder(parser, "reports/<RUNS below runs/>/tables/<name of the spec>")
    command.add_resamples(parser)
    command.add_paper(parser)
    parser.add_argument(
        "--runs-of",
        nargs=2,
        metavar=("ROW", "COLUMN"),
        help="only print the runs behind a cell, given by the name or label of its row and the header or CSV name of "
        "its column",
    )
    return parser


@command.parsing("tables", _parser)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.tables import run  # loads pandas and matplotlib

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
