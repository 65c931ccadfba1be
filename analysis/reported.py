"""`python -m analysis.reported --out figures/paper`: draw the curves that the paper reports, without any run."""

import argparse
import sys
from pathlib import Path

from analysis import command
from analysis.figures.choices import BACKBONES, REGIMES

DESCRIPTION = """\
Draw the validation NDCG@20 over updates that the Rank-GRPO paper (arXiv 2510.20150) reports on Reddit-v2,
as read off its figures (experiments/reported/curves.csv). Needs no run. Writes paper.png, paper.svg and paper.pdf.

To compare runs with it: python -m analysis.curves RUNS --reference paper
"""
EPILOG = """\
example:  python -m analysis.reported --out figures/paper
          python -m analysis.reported --backbone Qwen2.5-0.5B Llama-3.2-3B --regime mu=2
exit code: 0 written; 2 the paper reports no such curve, or an unknown name
"""


def _parser() -> argparse.ArgumentParser:
    parser = command.plain_parser("reported", DESCRIPTION, EPILOG)
    parser.add_argument("--out", type=Path, default=Path("figures/paper"), help="where to write (default: %(default)s)")
    parser.add_argument("--backbone", nargs="+", choices=list(BACKBONES.values()), help="(default: all)")
    parser.add_argument("--regime", nargs="+", choices=list(REGIMES.values()), help="(default: all)")
    return parser


@command.parsing("reported", _parser, check=lambda options: [])
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.reported import run  # loads matplotlib

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
