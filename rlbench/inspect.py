"""`python -m rlbench.inspect RUN`: show one group of completions as the algorithm sees it.

Problems with the command line, the run directory or its config are reported before torch is loaded.
"""

import argparse
from pathlib import Path

from rich.console import Console

from rlbench.base.command import command_parser
from rlbench.base.errors import BadInput
from rlbench.config import arguments
from rlbench.config.schema import AlgorithmConfig, Config
from rlbench.running.checks import check_config, check_values
from rlbench.running.cli import fail
from rlbench.runs.inputs import load
from rlbench.runs.recorded import read_config

DESCRIPTION = """\
Show one group of completions as the algorithm sees it: prompt, entries, hits, and the credit of each rank.

Samples G completions for one training prompt from the run's model, and prints one of them: its parsed list, the verdict
on each entry, and the returns and advantages that an update would use. Loads the model; needs no GPU.
"""
EPILOG = """\
example:  python -m rlbench.inspect runs/mini/mini-tiny/rank_grpo-relevance/seed0-*
          python -m rlbench.inspect runs/mini/mini-tiny/rank_grpo-relevance/seed0-* --prompt 3 --completion 0
exit code: 0 shown; 2 no run directory, no model in it yet, or a number out of range
"""


def check(config: Config, options: argparse.Namespace) -> int:
    """Check everything that does not need the model, and return the group size G.

    Raises:
        BadInput: for an algorithm without advantages, a run without a model, or a number out of range.
    """
    if problems := check_values(config):
        raise BadInput(*(f"{options.run}: {problem}" for problem in problems))
    if not isinstance(config.algorithm, AlgorithmConfig):
        raise BadInput(
            f"{config.label} has no advantages: {config.algorithm.name} compares whole lists. Its preference tuples "
            "are in the folder preferences/ of the run (docs/results-schema.md)"
        )
    size = config.trainer.rl.group_size if options.group_size is None else options.group_size
    if options.completion is not None and options.completion >= size:
        problems.append(f"--completion {options.completion} is outside 0..{size - 1}")
    if not (options.run / "model").is_dir() and not any((options.run / "checkpoints").glob("*")):
        problems.append(f"{options.run} has neither a final model nor a checkpoint yet")
    prompts = len(load(config).splits["train"])
    if options.prompt >= prompts:
        problems.append(f"--prompt {options.prompt} is outside 0..{prompts - 1}")
    if problems:
        raise BadInput(*problems)
    return size


def main() -> None:
    options = _parser().parse_args()
    try:
        config = read_config(options.run)
        size = check(config, options)
        from rlbench.commands.inspection import best, model_folder, sample_group, show  # loads torch

        if problems := check_config(config):
            raise BadInput(*problems)
        group = sample_group(config, model_folder(options.run), options.prompt, size, options.seed)
    except BadInput as error:
        fail(error)
    show(group, config, best(group) if options.completion is None else options.completion, Console())


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("rlbench.inspect", DESCRIPTION, EPILOG)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory with a model or a checkpoint")
    parser.add_argument(
        "--prompt",
        type=arguments.index,
        default=0,
        metavar="N",
        help="index of the training prompt (default: %(default)s)",
    )
    parser.add_argument(
        "--completion",
        type=arguments.index,
        metavar="N",
        help="index of the completion to show (default: the one with the most hits)",
    )
    parser.add_argument(
        "--group-size", type=arguments.whole(2), metavar="G", help="group size, at least 2 (default: the run's)"
    )
    parser.add_argument(
        "--seed", type=arguments.seed, default=0, metavar="N", help="sampling seed (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    main()
