"""Score lists from elsewhere: the same metrics, tables and page as for runs (docs/scoring.md)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlbench.base.command import command_parser, exit_code
from rlbench.base.errors import BadInput
from rlbench.base.program import as_started

EPILOG = """\
a line of a file is {"context_id": "...", "text": "Heat (1995)\\nAlien (1979)"}, or has a "list" instead of the text;
optional keys: "system" (default: the file's name), "seed" (default: 0), "sample" (default: the main list)

examples:
  beside the runs of an experiment:
    python -m rlbench.score lists.jsonl --beside runs/mini
  on a dataset, without runs:
    python -m rlbench.score gpt.jsonl other.jsonl --dataset redial dataset.path=FOLDER
  logged samples of lm-evaluation-harness, whose documents have a field context_id:
    python -m rlbench.score samples_mytask_*.jsonl --lm-eval context_id --system llama --beside runs/mini

exit codes: 0 done, 2 invalid input"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    return exit_code(lambda: _score(options))


def _score(options: argparse.Namespace) -> int:
    options.files = [Path(word) for word in options.words if "=" not in word]
    options.overrides = [word for word in options.words if "=" in word]
    if not options.files:
        raise BadInput("no file of lists was given")
    from rlbench.commands.scoring import score  # loads pandas and scipy

    score(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("rlbench.score", __doc__, EPILOG)
    parser.add_argument("words", nargs="+", metavar="FILE|KEY=VALUE", help="JSONL files of lists, and settings")
    add_place(parser)
    parser.add_argument("--system", metavar="NAME", help="name of the row, instead of the names in the files")
    parser.add_argument(
        "--lm-eval",
        metavar="FIELD",
        help="the files are logged samples of lm-evaluation-harness, and this field of doc has the context id",
    )
    return parser


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what lists are judged on."""
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="FOLDER",
        help="runs whose data, rules and table the lists share, such as runs/mini",
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="the dataset, if there are no runs; further settings as KEY=VALUE"
    )
    parser.add_argument("--config-dir", type=Path, metavar="FOLDER", help=as_started("your own configs, as for run.py"))


if __name__ == "__main__":
    sys.exit(main())
