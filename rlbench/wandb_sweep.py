"""Write a W&B sweep: a file with which `wandb agent` runs the cells of a sweep or a search (docs/sweeps.md)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlbench.base.command import command_parser, exit_code
from rlbench.config.arguments import count

METHODS = ("grid", "random", "bayes")

EPILOG = """examples:
  all combinations:
    python -m rlbench.wandb_sweep algorithm=grpo,rank_grpo trainer.rl.learning_rate=1e-5,1e-4 seed=0,1
    wandb sweep sweep.yaml               # creates it on the server, and prints the command of the agents
    wandb agent ENTITY/rlbench/SWEEP     # on every machine that takes part, in this folder
  a search for the best validation score, of 20 runs:
    python -m rlbench.wandb_sweep --method bayes --runs 20 algorithm=rank_grpo \\
      'trainer.rl.learning_rate=tag(log, interval(1e-5, 1e-3))' 'trainer.rl.group_size=choice(4, 8)'
  a recorded sweep:
    python -m rlbench.wandb_sweep experiment=mini

exit codes: 0 written, 2 invalid input (all problems at once; nothing is written)"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    return exit_code(lambda: _write(options))


def _write(options: argparse.Namespace) -> int:
    from rlbench.commands.wandb_sweeps import write_sweep  # loads torch

    return write_sweep(options)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("rlbench.wandb_sweep", __doc__, EPILOG)
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUES", help="what a sweep command has after -m")
    parser.add_argument("--config-dir", metavar="FOLDER", help="your own config groups, as for run.py")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="grid",
        help="grid: every combination (default). random, bayes: W&B draws from the values and intervals",
    )
    parser.add_argument(
        "--metric", metavar="NAME", help="validation metric that the search improves (default: evaluation.metric)"
    )
    parser.add_argument("--runs", type=count, metavar="N", help="stop after N runs (default: grid all, others never)")
    parser.add_argument("--name", metavar="NAME", help="name on the sweep's page (default: experiment_name)")
    parser.add_argument("--out", type=Path, default=Path("sweep.yaml"), metavar="FILE", help="default: sweep.yaml")
    return parser


if __name__ == "__main__":
    sys.exit(main())
