"""`python -m analysis.measures FOLDER`: figures of what `rlbench.measure` has written."""

import argparse
import sys
from pathlib import Path

from analysis import command
from rlbench.measure import KINDS

DESCRIPTION = """\
Draw the files of `python -m rlbench.measure RUN`: KIND.png and KIND.svg beside each KIND.csv (docs/measurements.md).
"""
EPILOG = """\
example:  python -m analysis.measures
          python -m analysis.measures reports/measures --out figures/measures
exit code: 0 written; 2 no such folder, or no file of rlbench.measure in it
"""


def _parser() -> argparse.ArgumentParser:
    parser = command.plain_parser("measures", DESCRIPTION, EPILOG)
    parser.add_argument(
        "runs",
        type=Path,
        metavar="FOLDER",
        nargs="?",
        default=Path("reports/measures"),
        help="folder with files of rlbench.measure (default: %(default)s)",
    )
    command.add_folder(parser, "FOLDER")
    return parser


def _check(options: argparse.Namespace) -> list[str]:
    if problems := command.missing_runs(options):
        return problems
    if not any((options.runs / f"{kind}.csv").is_file() for kind in KINDS):
        names = ", ".join(f"{kind}.csv" for kind in KINDS)
        return [f"{options.runs} has none of {names}; write them with python -m rlbench.measure RUN"]
    return []


@command.parsing("measures", _parser, _check)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.measures import run  # loads pandas and matplotlib

    return run(options, KINDS)


if __name__ == "__main__":
    sys.exit(main())
