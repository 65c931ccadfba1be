"""Checks of a configuration of preference optimisation that need neither data nor a model."""

from collections.abc import Mapping
from typing import Any

from rlbench.base.errors import nearest
from rlbench.config.options import Option, check_options, with_defaults
from rlbench.config.schema import USUAL_DRAWING, Config, PreferenceConfig
from rlbench.preference.rounds import make_rounds
from rlbench.teacher.endpoint import check_endpoint

CHOSEN = ("sampled", "demonstration")


def check_preference(method: PreferenceConfig, config: Config) -> list[str]:
    """Every problem that needs no plugin and no torch, one sentence each. Numbers are checked before."""
    problems = []
    if method.chosen not in CHOSEN:
        problems.append(
            f"algorithm.chosen = '{method.chosen}' is unknown; known: {', '.join(CHOSEN)}."
            f"{nearest(method.chosen, list(CHOSEN))}"
        )
    if problems:
        return problems
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
    if config.trainer.rl.token_budget is not None and len(make_rounds(method, config.trainer.rl)) == 1:
        problems.append(
            f"trainer.rl.token_budget = {config.trainer.rl.token_budget:,}: algorithm={method.name} with "
            f"algorithm.rounds = {method.rounds} draws all lists before its first update, so a budget cannot end it "
            "earlier; choose their number with algorithm.prompts, or use more rounds"
        )
    return problems


def check_drawing(config: Config) -> list[str]:
    """Choices of drawing that have no effect on preference optimisation, one sentence each."""
    return [
        f"{key} = {name} has no effect on algorithm={config.algorithm.name}, which draws its own lists and has no "
        f"rollouts; use {key}={USUAL_DRAWING[key]}"
        for key, name in config.drawn.items()
    ]


def check_choices(method: PreferenceConfig, config: Config, *, numbers: bool) -> list[str]:
    """Every problem of recipe, loss, update and their options, one sentence each. Plugins have been loaded.

    Args:
        numbers: whether the config's numbers are valid. Otherwise only names and options are checked.
    """
    from rlbench.preference.places import choices, lists_of_tuple, of_earlier, pieces_by_name  # loads torch

    chosen = choices(method)
    problems = [problem for place, name in chosen for problem in place.check(name)]
    known = pieces_by_name()
    options: dict[str, dict[str, Option]] = {name: piece.options for name, piece in known.items()}
    for name, given in method.options.items():
        if name not in known:
            problems.append(f"algorithm.options.{name}: no piece has this name.{nearest(name, list(known))}")
        else:
            problems += [f"algorithm.options.{name}.{problem}" for problem in check_options(options[name], given)]
    if problems or not numbers:
        return problems
    (recipes, recipe), (losses, loss), _ = chosen
    facts, needs = recipes[recipe].facts, losses[loss].facts
    if facts["pairs"] != needs["pairs"]:
        fitting = [name for name, piece in losses.items() if piece.facts["pairs"] == facts["pairs"]]
        problems.append(
            f"algorithm.pairs = {recipe} makes tuples of {facts['pairs']} pairs, but algorithm.loss = {loss} takes "
            f"{needs['pairs']}; use algorithm.loss={fitting[0]}"
        )
    if method.negatives > 1 and not (needs["many"] and facts["pairs"] == 1):
        problems.append(
            f"algorithm.negatives = {method.negatives}: algorithm.pairs = {recipe} with algorithm.loss = {loss} "
            "compares pairs; use algorithm.negatives=1"
        )
    if method.chosen == "demonstration" and not facts["follows"]:
        problems.append(
            f"algorithm.chosen = demonstration has no effect on algorithm.pairs = {recipe}; use "
            "algorithm.chosen=sampled"
        )
    if of_earlier(method) and config.trainer.parallel.strategy != "ddp":
        problems.append(
            f"trainer.parallel.strategy = {config.trainer.parallel.strategy}: algorithm.loss = {loss} with "
            f"algorithm.update = {method.update} exchanges whole weights; use trainer.parallel.strategy=ddp"
        )
    if facts["judge"] == "teacher":
        problems += _of_teacher(recipe, with_defaults(options[recipe], method.options.get(recipe, {})))
    if method.update != "free" and method.sft_share:
        problems.append(
            f"algorithm.sft_share = {method.sft_share}: algorithm.update = {method.update} starts from the first "
            "comparison of a round; use algorithm.sft_share=0"
        )
    return problems + _sizes(method, config, lists_of_tuple(method), facts["draws"])


def _of_teacher(recipe: str, given: Mapping[str, Any]) -> list[str]:
    """Problems of the options that name a teacher: endpoint and model, or local."""
    section = f"algorithm.options.{recipe}"
    if bool(given["local"]) == bool(given["endpoint"] or given["model"]):
        return [f"{section} must name one judge: endpoint and model, or local"]
    if given["local"]:
        return []
    problems = [check_endpoint(given["endpoint"], f"{section}.endpoint", f"{section}.key_env")]
    if not given["model"]:
        problems.append(f"{section}.model is missing; name the model that the endpoint shall use")
    return [problem for problem in problems if problem]


def _sizes(method: PreferenceConfig, config: Config, lists: int, draws: str) -> list[str]:
    """Numbers of lists that do not fit a tuple.

    Args:
        lists: lists of a tuple.
        draws: which of them are drawn, as a recipe declares.
    """
    rl, problems = config.trainer.rl, []
    of_pair = 1 + method.negatives if method.chosen == "sampled" else method.negatives
    drawn = {"pair": of_pair, "rejected": method.negatives, "one": 1}[draws]
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
    return problems
