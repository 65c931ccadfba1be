"""`python -m analysis.reproduce table1`: our numbers next to the paper's, with verdicts by the rule in
docs/reproduction.md.

The table's sweep in experiments/ defines which runs belong to a reported row. A row without runs shows the command that
produces them.
"""

import argparse
import sys
from pathlib import Path

from analysis import command
from rlbench.base.errors import nearest
from rlbench.base.program import EXPERIMENTS


def known() -> list[str]:
    """Folders in experiments/ with an expected.csv."""
    return sorted(path.parent.name for path in EXPERIMENTS.glob("*/expected.csv"))


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


def _parser() -> argparse.ArgumentParser:
    parser = command.plain_parser("reproduce", DESCRIPTION, EPILOG)
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(known())}")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="folder of the runs (default: runs/NAME)")
    parser.add_argument(
        "--twin", choices=("mini", "redial"), help="use the scaled-down twin instead of the paper's scale"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: reports/reproduce)")
    command.add_resamples(parser)
    return parser


def _check(options: argparse.Namespace) -> list[str]:
    if options.name in known():
        return []
    return [
        f"{options.name}: there is no such folder with an expected.csv in experiments/; known: "
        f"{', '.join(known())}.{nearest(options.name, known())}"
    ]


@command.parsing("reproduce", _parser, _check)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.reproduce import run  # loads pandas and matplotlib

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
