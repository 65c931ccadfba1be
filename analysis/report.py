"""`python -m analysis.report RUNS... --out FOLDER`: write table, curves and an HTML page for runs."""

import argparse
import sys
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

from analysis import command
from rlbench.tracking import check_modes

DESCRIPTION = """\
Make the comparison table and the curves of an experiment from its run directories.

Reads every run below each RUNS (any folder with a file STATUS) and writes to the --out folder:
  table.md, table.csv, table.tex   the comparison: Recall and NDCG on test with 95 % intervals, cost
  curves.png, curves.svg           Recall and NDCG on validation against updates
  training.png, training.svg       reward, entropy, KL, list length, ... of training against updates
  report.html                      everything and more on one page: sortable tables, curves with values on hover,
                                   settings, budgets, sample lists, warnings; needs no network
If RUNS have several experiments, datasets or models, each gets its own folder below --out, and
report.html in --out compares them: what differs between them, and their rows side by side. Rows are
tested against each other only where dataset, model, test samples and budgets are equal.

Runs that are not done, half-written, of another schema version, duplicate or with NaN metrics are left
out and named; the report uses the others. Needs no model and no GPU.
"""
EPILOG = """\
example:  python -m analysis.report runs/mini --out reports/mini
          python -m analysis.report runs/mini --out reports/mini --tracker wandb
          python -m analysis.report runs/a runs/b --out reports/a_and_b
          python -m analysis.report runs/mini --short
exit code: 0 written (even if runs were left out); 2 no such folder, or no finished run in it
"""


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser(
        "report", DESCRIPTION, EPILOG, "folders with run directories at any depth", several=True
    )
    command.add_out(parser)
    parser.add_argument(
        "--tracker",
        default="none",
        metavar="MODE",
        help="also log table and figures to a tracker, as a run of job type report: wandb, offline, tensorboard or "
        "trackio",
    )
    parser.add_argument(
        "--short",
        action="store_true",
        help="only print the result and a short table (largest cut-off, difference to SFT); write nothing",
    )
    return parser


def _check(options: argparse.Namespace) -> list[str]:
    wrong = []
    if options.short and (options.out is not None or options.tracker != "none"):
        wrong = ["--short writes nothing; leave out --out and --tracker, or leave out --short"]
    return command.missing_runs(options) + overlapping(options.runs) + check_modes(options.tracker, []) + wrong


def overlapping(folders: Sequence[Path]) -> list[str]:
    """Report each folder that is given twice or lies in another one, since its runs would count twice."""
    return [
        f"{inner} is {'given twice' if inner.resolve() == outer.resolve() else f'in {outer}'}; name it once"
        for (i, outer), (k, inner) in permutations(enumerate(folders), 2)
        if inner.resolve().is_relative_to(outer.resolve()) and (i < k or inner.resolve() != outer.resolve())
    ]


@command.parsing("report", _parser, _check)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.report import run  # loads pandas and matplotlib

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
