"""`python -m analysis.convergence runs/mini`: which method learns faster, with intervals."""

import argparse
import sys
from collections.abc import Sequence

from analysis import command
from analysis.figures.choices import AXES
from analysis.studies.thresholds import FINAL, threshold_value
from rlbench.base.errors import BadInput

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


@command.refusing("convergence")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    for asked in options.threshold:
        threshold_value(asked, 0.0, 1.0)
    if wrong := command.no_folders(options.runs):
        raise BadInput(*wrong)
    from analysis.commands.convergence import run  # loads pandas and scipy

    return run(options)


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


if __name__ == "__main__":
    sys.exit(main())
