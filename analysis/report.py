"""`python -m analysis.report runs/mini --out reports/mini`: write table, curves and an HTML page for runs."""

import argparse
import sys

from analysis import command
from rlbench.tracking import check_modes

DESCRIPTION = """\
Make the comparison table and the curves of an experiment from its run directories.

Reads every run below RUNS (any folder with a file STATUS) and writes to the --out folder:
  table.md, table.csv, table.tex   the comparison: Recall and NDCG on test with 95 % intervals, cost
  curves.png, curves.svg           Recall and NDCG on validation against updates
  training.png, training.svg       reward, entropy, KL, list length, ... of training against updates
  report.html                      everything and more on one page: sortable tables, curves with values on hover,
                                   settings, budgets, sample lists, warnings; needs no network
If RUNS has several experiments, datasets or models, each gets its own folder below --out, and
report.html in --out links to their pages.

Runs that are not done, half-written, of another schema version, duplicate or with NaN metrics are left
out and named; the report uses the others. Needs no model and no GPU.
"""
EPILOG = """\
example:  python -m analysis.report runs/mini --out reports/mini
          python -m analysis.report runs/mini --out reports/mini --tracker wandb
          python -m analysis.report runs/mini --short
exit code: 0 written (even if runs were left out); 2 no such folder, or no finished run in it
"""


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser("report", DESCRIPTION, EPILOG, "folder with run directories at any depth")
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
    return command.missing_runs(options) + check_modes(options.tracker, []) + wrong


@command.parsing("report", _parser, _check)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.report import run  # loads pandas and matplotlib

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
