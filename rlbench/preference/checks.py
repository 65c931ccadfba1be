"""Checks of a configuration of preference optimisation that need neither data nor a model."""

from rlbench.base.errors import nearest
from rlbench.config.schema import Config, PreferenceConfig

CHOSEN = ("sampled", "demonstration")


def check_preference(method: PreferenceConfig, config: Config) -> list[str]:
    """Every problem, one sentence each. Numbers are checked before."""
    rl, problems = config.trainer.rl, []
    if method.chosen not in CHOSEN:
        problems.append(
            f"algorithm.chosen = '{method.chosen}' is unknown; known: {', '.join(CHOSEN)}."
            f"{nearest(method.chosen, list(CHOSEN))}"
        )
    if problems:
        return problems
    lists = 1 + method.negatives
    drawn = lists if method.chosen == "sampled" else method.negatives
    if rl.group_size < drawn:
        problems.append(
            f"trainer.rl.group_size = {rl.group_size} gives too few lists per prompt for a tuple with "
            f"algorithm.negatives = {method.negatives}; use at least {drawn}"
        )
    problems += [
        f"trainer.rl.{key} = {value} is not a multiple of the {lists} lists of a tuple (algorithm.negatives = "
        f"{method.negatives}); use {-(-value // lists) * lists}"
        for key, value in (
            ("completions_per_update", rl.completions_per_update),
            ("micro_batch_size", rl.micro_batch_size),
        )
        if value % lists
    ]
    if config.reward.combine != "sum_then_normalise":
        problems.append(
            f"reward.combine = '{config.reward.combine}' sets how terms become advantages, but "
            f"algorithm={method.name} has no advantages: it orders lists by the sum of their terms; use "
            "reward.combine=sum_then_normalise"
        )
    problems += [
        f"reward.terms.{name}.scaled_by = '{term['scaled_by']}' has no effect on algorithm={method.name}, which only "
        "orders the lists of one prompt; remove it"
        for name, term in config.reward.terms.items()
        if term.get("scaled_by")
    ]
    if config.generation.engine != "transformers":
        problems.append(
            f"generation.engine = '{config.generation.engine}' works only for policy optimisation; "
            f"algorithm={method.name} samples its lists with plain generate; use generation=default"
        )
    return problems
