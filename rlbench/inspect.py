"""Show one group as the algorithm sees it: prompt, completion, entries, hits, and the credit of each rank.

`python -m rlbench.inspect RUN_DIRECTORY` samples G completions for one training prompt from the run's model. It prints
the parsed list, the verdicts, and the returns and advantages that an update would use. Problems with the command line,
the run directory or its config are reported before torch is loaded.
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
    prompts = len(load(config.dataset).splits["train"])
    if options.prompt >= prompts:
        problems.append(f"--prompt {options.prompt} is outside 0..{prompts - 1}")
    if problems:
        raise BadInput(*problems)
    return size


def main() -> None:
    parser = argparse.ArgumentParser(prog=as_started("python -m rlbench.inspect"), description=as_started(str(__doc__)))
    parser.add_argument("run", type=Path, help="a run directory, finished or not")
    parser.add_argument("--prompt", type=arguments.index, default=0, help="index of the training prompt (default 0)")
    parser.add_argument(
        "--completion", type=arguments.index, help="which completion to show (default: the one with the most hits)"
    )
    parser.add_argument("--group-size", type=arguments.whole(2), help="group size G, at least 2 (default: the run's)")
    parser.add_argument("--seed", type=arguments.seed, default=0, help="sampling seed (default 0)")
    options = parser.parse_args()
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


if __name__ == "__main__":
    main()
