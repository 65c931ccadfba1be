"""`python -m analysis.select runs/mini_learning_rates`: the best variant of each algorithm, chosen on validation."""

import argparse
import sys
from pathlib import Path

from analysis import command

DESCRIPTION = """\
Choose the best variant of each algorithm and reward by its mean over seeds on validation.

Reads every finished RL run with a variant below RUNS, such as the cells of a sweep over a learning rate, and prints one
row per variant, best first. The test split is not used. Runs that are not done or not sound are left out and named.
"""
EPILOG = """\
example:  python -m analysis.select runs/mini_learning_rates
          python -m analysis.select runs/mini_learning_rates --metric recall@10 --out chosen.csv
exit code: 0 printed (even if runs were left out); 2 no such folder, no run with a variant in it, or an unknown metric
"""


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser("select", DESCRIPTION, EPILOG, "folder of the sweep, run directories at any depth")
    parser.add_argument("--metric", default="ndcg@10", help="validation metric (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table to this CSV file")
    return parser


@command.parsing("select", _parser)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.select import run  # loads pandas

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
