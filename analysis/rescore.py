"""`python -m analysis.rescore runs/mini --protocol tolerant`: re-score finished runs, without a model.

Each protocol writes its own tree of run directories, which every command of `analysis` reads. The old runs stay
unchanged. Budget and training curves are copied. On validation only the checkpoint of the result has texts, so the
validation curve has only that point.
"""

import argparse
import sys
from pathlib import Path

from analysis import command

DESCRIPTION = """\
Judge the lists of finished runs again with other rules, without a model.

PROTOCOL is NAME[,KEY=VALUE]... NAME is a file of conf/matching/ (casefold, exact, fuzzy, published, tolerant), or `own`
for the rules of each run. KEY is list_length, cutoffs (5+10), normalisers (nfkc+casefold), year_tolerance or
fuzzy_threshold. The columns published_* of the published protocols are also written, at the new cut-offs.

For each protocol, writes a tree of run directories below --out that every command of analysis can read, and
comparison.csv with every mean, old and new. The runs themselves do not change. Run it again to add what is missing.
"""
EPILOG = """\
example:  python -m analysis.rescore runs/mini --protocol tolerant --protocol own,cutoffs=1+3+10
          python -m analysis.report runs/mini-rescored
exit code: 0 all done; 1 some runs could not be judged again; 2 no run could be, or an option is wrong
"""


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser("rescore", DESCRIPTION, EPILOG, "folder with run directories at any depth")
    parser.add_argument(
        "--protocol", action="append", required=True, metavar="PROTOCOL", help="as above; may be repeated"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: RUNS-rescored)")
    where = "new place of a dataset's files, for example reddit_v2.path=FOLDER; may be repeated"
    parser.add_argument("--data", action="append", default=[], metavar="KEY=PATH", help=where)
    return parser


@command.parsing("rescore", _parser, check=lambda options: [])
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.rescore import run  # loads pandas and scipy

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
