"""One group of completions with its credit, sampled from the model of a run."""

import os
from pathlib import Path

import pandas as pd

from rlbench.api.arguments import named_arguments
from rlbench.base.errors import BadInput
from rlbench.commands.inspection import model_folder
from rlbench.commands.inspection import sample_group as sampled
from rlbench.config.schema import AlgorithmConfig, Config
from rlbench.running.checks import check_config, check_values
from rlbench.runs.inputs import load
from rlbench.runs.recorded import read_config

COLUMNS = ("completion", "rank", "title", "year", "verdict", "return", "advantage", "reward")


@named_arguments
def sample_group(
    run: str | os.PathLike[str], prompt: int = 0, group_size: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Sample completions of one training prompt from a run's model, with the credit that an update would give them.

    Works on the CPU, also for a run that was trained on a GPU.

    Args:
        run: a run directory with a model or a checkpoint.
        prompt: index of the training prompt.
        group_size: G, at least 2; default: the run's.
        seed: seed of the sampling.

    Returns:
        one row per completion and rank, both from 1: title, year, verdict, the rank's return and advantage, and the
        reward of the list. `rlbench.plot_credit` draws it. `attrs` has the prompt and the relevant items.

    Raises:
        BadInput: every problem of the run, its model, its data and the arguments.

    Example:
        >>> group = rlbench.sample_group("runs/mini/mini-tiny/rank_grpo-relevance/seed0-1a2b3c4d", prompt=3)
        >>> rlbench.plot_credit(group)
    """
    folder = Path(run)
    config = read_config(folder)
    size = config.trainer.rl.group_size if group_size is None else group_size
    if problems := _problems(config, folder, prompt, size, seed):
        raise BadInput(*problems)
    found = sampled(config, model_folder(folder), prompt, size, seed)
    rows = [
        (place + 1, rank + 1, entry.title, entry.year, str(verdict), worth, credit, float(found.rewards[place]))
        for place, scored in enumerate(found.lists)
        for rank, (entry, verdict, worth, credit) in enumerate(
            zip(
                scored.parsed.entries,
                scored.verdicts,
                found.returns[place].tolist(),
                found.advantages[place].tolist(),
                strict=False,
            )
        )
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"year": "Int64"})
    frame.attrs |= {"prompt": found.record.prompt, "relevant": list(found.record.ground_truth)}
    return frame


def _problems(config: Config, folder: Path, prompt: int, size: int, seed: int) -> list[str]:
    """Everything that is wrong with the run or the arguments, one sentence each."""
    problems = []
    if type(size) is not int or size < 2:
        problems.append(f"group_size = {size!r} must be a whole number of at least 2")
    if type(seed) is not int or not 0 <= seed < 2**32:
        problems.append(f"seed = {seed!r} must be a whole number from 0 on")
    if not isinstance(config.algorithm, AlgorithmConfig):
        problems.append(f"run = '{folder}': {config.algorithm.name} compares whole lists, which have no advantages")
    if found := check_values(config) or check_config(config):
        return problems + [f"run = '{folder}': {problem}" for problem in found]
    prompts = len(load(config).splits["train"])
    if type(prompt) is not int or not 0 <= prompt < prompts:
        problems.append(f"prompt = {prompt!r} must be a whole number in 0..{prompts - 1}")
    return problems
