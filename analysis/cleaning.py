"""`python -m analysis.cleaning runs/mini`: how well methods of cleaning find wrong labels of preference pairs."""

import argparse
import sys
from pathlib import Path

from analysis import command
from rlbench.config.arguments import index

DESCRIPTION = """\
Compare methods that clean preference pairs, as PrefCleanBench (arXiv 2509.23564) does.

Reads the pairs of every run of preference optimisation below RUNS (its folder preferences/). Labels are swapped at
random in a share --noise of the pairs; each method sees the swapped labels and no reward, and drops or flips pairs. The
table shows how many wrong labels it finds, and what is left.
"""
EPILOG = """\
methods:
  none               keeps every pair
  likelihood, sequence, opening, short
                     one judge: it doubts a share --share of the pairs, those that it supports least.
                     likelihood prefers the list that the reference finds more likely per token, sequence as a whole,
                     opening by its first quarter; short prefers fewer tokens
  vote, unanimous    doubts pairs against which more than half of the judges, or all of them, vote
  reward             as one judge that knows the reward: the upper bound
each: drop removes the doubted pairs, flip swaps their labels

example:  python -m analysis.cleaning runs/mini --noise 0.3 --share 0.3 --out cleaning.csv
exit code: 0 printed; 2 no such folder, no pairs in it, or a number out of range
"""


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} must be a number in [0, 1]")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser("cleaning", DESCRIPTION, EPILOG, "folder with run directories at any depth")
    parser.add_argument("--noise", type=_share, default=0.2, metavar="P", help="share of swapped labels (default: 0.2)")
    parser.add_argument(
        "--share", type=_share, default=0.2, metavar="P", help="share that a judge doubts (default: 0.2)"
    )
    parser.add_argument("--seed", type=index, default=0, metavar="N", help="of the swaps (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table to this CSV file")
    return parser


@command.parsing("cleaning", _parser)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.cleaning import run  # loads pandas and pyarrow

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
