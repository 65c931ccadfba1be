"""Checks that a stage can do its planned work, and that it has done it. Loads no torch."""

import math
from collections.abc import Mapping

from rlbench.config.schedules import Schedules
from rlbench.config.schema import Config, PreferenceConfig
from rlbench.preference.rounds import make_rounds

NEARLY_NONE = 0.01
"""Share of validation entries in the catalogue up to which RL has no signal."""


class NotMade(RuntimeError):
    """A stage ended without an error, but has not done its planned work."""


def cannot_update(config: Config, prompts: int, demonstrations: int) -> list[str]:
    """Stages of a config that could not make one whole update, one sentence each.

    Args:
        prompts: number of training prompts in the dataset.
        demonstrations: number of demonstrations in the dataset.
    """
    rl, sft, problems = config.trainer.rl, config.trainer.sft, []
    of_update = rl.completions_per_update // rl.group_size
    drawn_together = "rl" in config.stages and not isinstance(config.algorithm, PreferenceConfig)
    if drawn_together and prompts < of_update:
        # TRL's sampler drops prompts that do not fill an update. It would train on nothing and only print a warning.
        problems.append(
            f"trainer.rl.completions_per_update = {rl.completions_per_update} needs {of_update} prompts with "
            f"trainer.rl.group_size = {rl.group_size} completions each, but {config.dataset.name} has only {prompts} "
            f"training prompts, so no update is possible; use at most {prompts * rl.group_size}"
        )
    if "sft" in config.stages and demonstrations < sft.batch_size:
        problems.append(
            f"trainer.sft.batch_size = {sft.batch_size} is more than the {demonstrations} demonstrations of "
            f"{config.dataset.name}, so no batch can be filled; use at most {demonstrations}"
        )
    return problems


def draws_after(config: Config, update: int) -> bool:
    """Whether the RL stage draws lists next, after this number of updates: for a rollout, or for a round."""
    if isinstance(config.algorithm, PreferenceConfig):
        return any(one.end == update for one in make_rounds(config.algorithm, config.trainer.rl))
    return update % config.trainer.rl.num_iterations == 0


def planned(config: Config, updates: int | None = None) -> dict[str, int]:
    """Updates, prompts and completions of the RL stage if nothing stops it early.

    Args:
        updates: number of updates after which a budget of tokens was spent; by default all.
    """
    rl = config.trainer.rl
    updates = rl.updates if updates is None else updates
    if isinstance(config.algorithm, PreferenceConfig):
        prompts = sum(len(one.prompts) for one in make_rounds(config.algorithm, rl) if one.first < updates)
        return {"updates": updates, "prompts": prompts, "completions": prompts * rl.group_size}
    rollouts = math.ceil(updates / rl.num_iterations)
    completions = rollouts * rl.completions_per_update
    return {"updates": updates, "prompts": completions // rl.group_size, "completions": completions}


def cut_by_budget(config: Config) -> str:
    """What a budget of tokens may cut short, or "" without one: settings whose course counts planned updates."""
    rl = config.trainer.rl
    if rl.token_budget is None or "rl" not in config.stages:
        return ""
    counting = [f"schedule.values.{key}" for key in Schedules(config).counting_updates()]
    if rl.schedule != "constant":
        counting.append(f"trainer.rl.schedule = {rl.schedule}")
    if rl.learning_rate_steps:
        counting.append("trainer.rl.learning_rate_steps")
    if "tiers" in config.sampler.weigh:
        counting.append(f"sampler.weigh = {config.sampler.weigh}")
    said = f"trainer.rl.token_budget = {rl.token_budget:,} may end the training before update {rl.updates}"
    return f"{said}; {' and '.join(counting)} would be cut short there" if counting else said


def check_made(made: Mapping[str, int], wanted: Mapping[str, int]) -> None:
    """Compare the work of a stage with its plan.

    Raises:
        NotMade: a count differs. Names all counts that do.
    """
    differ = [f"{made.get(name, 0):,} of {count:,} {name}" for name, count in wanted.items() if made.get(name) != count]
    if differ:
        raise NotMade(
            f"the stage ended after {', '.join(differ)}, so its numbers would not belong to the requested run; "
            "log.txt of this attempt has the trainer's output"
        )


def without_signal(means: Mapping[str, float], metric: str) -> str:
    """Why RL at a policy with these validation means has hardly anything to learn from, or "" if it has.

    Args:
        means: by metric.
        metric: the metric that selects checkpoints.
    """
    in_catalog = means.get("in_catalog", 1.0)
    if in_catalog <= NEARLY_NONE:
        return (
            f"{100 * in_catalog:.1f} % of the listed entries on validation are in the catalogue. Hardly any list can "
            "have a hit, so rewards give no signal"
        )
    if means.get(metric) == 0:
        return f"{metric} is 0 on validation: no list has a hit, so rewards give hardly any signal"
    return ""
