"""`python -m analysis.reproduce table1`: our numbers next to the paper's, with verdicts by the rule in
docs/reproduction.md.

The table's sweep in experiments/ defines which runs belong to a reported row. A row without runs shows the command that
produces them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.command import add_resamples, plain_parser, refusing, set_aside, show_problems, show_written, terminal
from analysis.papers import figure, table_sheets
from analysis.papers.page import show, write
from analysis.papers.reported import EXPERIMENTS
from rlbench.base.errors import BadInput, nearest

DESCRIPTION = """\
Compare our runs with a table or figure of the paper (arXiv 2510.20150) and say what is reproduced.

NAME is a folder of experiments/. Its README describes it, its cost and how to run it. Writes NAME.md,
NAME.csv and NAME.tex to the --out folder. Without runs, it shows the reported numbers and the commands for ours, with
their cost in GPU-hours. A twin is the same experiment on a small scale. Its numbers cannot be compared with the
paper's, so its verdicts cover only gains over SFT and orderings. The rule behind every verdict: docs/reproduction.md.
"""
EPILOG = """\
examples:
  python -m analysis.reproduce table1                      # reported numbers, and the cost of ours
  python run.py +table1=mini                               # the twin on the embedded benchmark
  python -m analysis.reproduce table1 --twin mini          # ... and its verdicts
  python -m analysis.reproduce table4 --twin mini --runs runs/mini
exit code: 0 written (with or without runs); 2 no such table or folder, or runs of several experiments
"""


def known() -> list[str]:
    """Folders in experiments/ with an expected.csv."""
    return sorted(path.parent.name for path in EXPERIMENTS.glob("*/expected.csv"))


def title(name: str, twin: str | None) -> str:
    """Title of a folder, in words."""
    words = name.replace("table", "Table ").replace("figure_", "Figure: ").replace("_", " ")
    return f"{words} of arXiv 2510.20150" + (f", twin on {twin}" if twin else "")


@refusing("reproduce")
def main(arguments: Sequence[str] | None = None) -> int:
    parser = plain_parser("reproduce", DESCRIPTION, EPILOG)
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(known())}")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="folder of the runs (default: runs/NAME)")
    parser.add_argument(
        "--twin", choices=("mini", "redial"), help="use the scaled-down twin instead of the paper's scale"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: reports/reproduce)")
    add_resamples(parser)
    options = parser.parse_args(arguments)
    console = terminal()
    if options.name not in known():
        raise BadInput(
            f"{options.name}: there is no such folder with an expected.csv in experiments/; known: "
            f"{', '.join(known())}.{nearest(options.name, known())}"
        )
    if options.name.startswith("figure"):
        page = figure.make_page(options.name, options.twin, options.runs)
    else:
        page = table_sheets.make_page(options.name, options.twin, options.runs, options.resamples)
    heading = title(options.name, options.twin)
    show_problems(console, options.runs or Path("runs"), page.problems)
    show(console, heading, page)
    path = (options.out or Path("reports") / "reproduce") / "-".join(filter(None, (options.name, options.twin)))
    written = write(page, heading, path)
    set_aside(path.parent, [f"{path.name}.{suffix}" for suffix in ("png", "svg")], written)
    show_written(console, written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
