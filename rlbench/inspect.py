"""`python -m rlbench.inspect RUN`: show one group of completions as the algorithm sees it.

Problems with the command line, the run directory or its config are reported before torch is loaded.
"""

import argparse
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from rlbench.base.errors import BadInput
from rlbench.base.files import leads_outside
from rlbench.base.program import as_started
from rlbench.base.user_files import read_user_yaml
from rlbench.config import arguments
from rlbench.config.resolving import resolve
from rlbench.config.schema import AlgorithmConfig, Config
from rlbench.running.checks import check_config, check_values
from rlbench.running.cli import fail
from rlbench.runs.inputs import load
from rlbench.runs.record import SETTINGS

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


def read_config(run: Path) -> Config:
    """Return the config of a run directory.

    Raises:
        BadInput: if the folder is not a run directory, or its config.yaml is damaged.
    """
    path = run / SETTINGS
    if not path.is_file():
        raise BadInput(
            f"{run} is not a run directory, because it has no config.yaml; give a folder such as runs/mini/*/*/seed*"
        )
    if leads_outside(path, run):
        raise BadInput(f"{path} is a link to a place outside the run; replace it with the file itself")
    content = read_user_yaml(path)
    if not isinstance(content, dict):
        raise BadInput(f"{path} is damaged: it has no settings")
    try:
        loaded = OmegaConf.create(_literal(content))
    except OmegaConfBaseException as error:
        raise BadInput(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    assert isinstance(loaded, DictConfig)
    try:
        return resolve(loaded)
    except BadInput as error:
        raise BadInput(*(f"{path}: {problem}" for problem in error.problems)) from error


def _literal(value: Any) -> Any:
    """Escape `${...}` in the values of a config. A run's config is resolved, so these are plain text."""
    if isinstance(value, dict):
        return {key: _literal(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_literal(one) for one in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


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
    parser = argparse.ArgumentParser(
        prog=as_started("python -m rlbench.inspect"),
        description=as_started(DESCRIPTION),
        epilog=as_started(EPILOG),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
