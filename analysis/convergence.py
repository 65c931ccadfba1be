"""`python -m analysis.convergence runs/mini`: which method learns faster, with intervals."""

import argparse
import sys

from analysis import command
from analysis.figures.choices import AXES
from analysis.studies.thresholds import FINAL, threshold_value

DESCRIPTION = """\
Show which method learns faster: time to a threshold of a validation metric, and area under its curve, against a
baseline, with 95 % intervals over seeds.

Writes to the --out folder:
  convergence.md    table, one sentence per row, notes
  convergence.csv   plain numbers, with the time of each seed
  convergence.tex   the table for a paper

The time to a threshold is where the isotonic regression of a seed's curve crosses it, so a single lucky evaluation does
not count. Seeds that never cross it count as the whole range (restricted mean) and are reported.
"""
EPILOG = """\
example:  python -m analysis.convergence runs/mini
          python -m analysis.convergence runs/mini --threshold final 50% 0.12 --against generated_tokens
          python -m analysis.convergence runs/mini --baseline gspo-relevance --metric recall@10
exit code: 0 written; 2 no such folder, no RL run in it, or an option that does not fit the runs
"""


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser("convergence", DESCRIPTION, EPILOG, "folder with run directories at any depth")
    command.add_folder(parser)
    parser.add_argument("--baseline", metavar="LABEL", help="an RL row (default: the first of algorithm grpo)")
    parser.add_argument("--metric", help="on validation (default: NDCG at the largest cut-off)")
    parser.add_argument(
        "--threshold",
        nargs="+",
        default=[FINAL],
        metavar="VALUE",
        help="final: the baseline's value at the end of the range that all rows cover, mean over seeds (default); "
        "50%%: that share of the way from its start to this value; or a number",
    )
    parser.add_argument("--against", choices=list(AXES), default="updates", help="(default: %(default)s)")
    return parser


def _check(options: argparse.Namespace) -> list[str]:
    for asked in options.threshold:
        threshold_value(asked, 0.0, 1.0)
    return command.missing_runs(options)


@command.parsing("convergence", _parser, _check)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.convergence import run  # loads pandas and scipy

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
