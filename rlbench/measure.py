"""`python -m rlbench.measure RUN`: what a run has changed in its model (docs/measurements.md)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlbench.base.command import command_parser, exit_code
from rlbench.base.errors import BadInput
from rlbench.config.arguments import count, whole

KINDS = ("geometry", "token_ranks", "patterns", "solved", "judge", "transfer")
DESCRIPTION = """\
Measure the models of an RL run on a probe set of validation contexts: its start, each checkpoint that is kept, its end.

Writes to the --out folder, one file for each kind:
  geometry.csv      RankMe, effective rank and alpha-ReQ of the last hidden states of prompts (arXiv 2509.23024)
  token_ranks.csv   ranks of a model's tokens under the base (arXiv 2506.04695)
  patterns.csv      shares of lists that copy, repeat, invent, sort by popularity, ... (the same paper, adapted)
  solved.csv        hits of each context's list
  judge.csv         accuracy of a judge trained on the lists of one model, on those of each other (arXiv 2509.23542)
  transfer.csv      NDCG under other forms of the prompt (arXiv 2509.23657, adapted)
Train with trainer.rl.keep_checkpoints=100 to keep all checkpoints. `python -m analysis.measures` draws the files.
"""
EPILOG = """\
example:  python -m rlbench.measure runs/mini/mini-tiny/rank_grpo-relevance/seed0-*
          python -m rlbench.measure runs/mini/mini-tiny/rank_grpo-relevance/seed0-* --kinds geometry --contexts 200
exit code: 0 written; 2 no RL run, no model in it, or no base"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    if problems := [f"there is no folder {path}" for path in (options.run, options.base) if path and not path.is_dir()]:
        raise BadInput(*problems)
    from rlbench.commands.measuring import measure  # loads torch

    return measure(options)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("rlbench.measure", DESCRIPTION, EPILOG)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory of the RL stage")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help="(default: all)")
    parser.add_argument(
        "--contexts", type=whole(2), default=64, metavar="N", help="size of the probe set (default: %(default)s)"
    )
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="the base model (default: where the run started)")
    parser.add_argument(
        "--steps", type=count, default=200, metavar="N", help="steps of a judge's training (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("reports/measures"),
        metavar="FOLDER",
        help="where to write (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
