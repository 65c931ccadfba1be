"""Continue a run from one of its checkpoints with changed settings, as a new run in its own folder.

The clone takes over weights, optimiser, random numbers, place in the data, curve and spending of its parent at the
checkpoint. Its tables and pages name the parent. The same command resumes an interrupted clone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlbench.base.command import command_parser
from rlbench.base.program import as_started
from rlbench.config.arguments import count

if TYPE_CHECKING:
    from rlbench.config.schema import Config

EPILOG = """\
may change    algorithm, reward, sampler, rollout, schedule and safety, by NAME or by KEY; of trainer.rl: updates,
              learning_rate, learning_rate_steps, schedule, warmup_updates, adam_beta2, max_grad_norm, save_every,
              keep_checkpoints, micro_batch_size, micro_batch_tokens, token_budget; evaluation.checkpoint;
              generation.temperature, top_p, top_k, min_p; and what no result depends on: experiment_name, variant,
              tracker, runtime, cache_dir
may not       dataset, matching, model, SFT, seed, evaluation, and what counts the place in the data (group_size,
              completions_per_update, num_iterations, shuffle, start)
updates       trainer.rl.updates counts from the parent's start, as do learning-rate schedules and all budgets

examples:
  a lower learning rate from the last checkpoint:
    python -m rlbench.clone runs/mini/mini-tiny/grpo-relevance/seed0-1a2b3c4d trainer.rl.learning_rate=1e-5
  another method from update 20:
    python -m rlbench.clone runs/mini/mini-tiny/grpo-relevance/seed0-1a2b3c4d --at 20 algorithm=rank_grpo

exit codes: 0 done, 1 failed, 2 invalid input, 75 stopped by a signal (the same command resumes it), 130 Ctrl-C"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    from rlbench.run import execute  # loads Hydra

    def clone() -> "Config":
        from rlbench.commands.cloning import clone_of

        return clone_of(options.run, options.at, options.overrides, options.config_dir)

    execute(clone)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("rlbench.clone", __doc__, EPILOG)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of the run to continue")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changed settings")
    parser.add_argument(
        "--at", type=count, metavar="STEP", help="update of the checkpoint (default: the last checkpoint)"
    )
    parser.add_argument("--config-dir", type=Path, metavar="FOLDER", help=as_started("your own configs, as for run.py"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
