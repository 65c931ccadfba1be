"""Checks of a sampler and a rollout that need no model. `check_sampling` needs no data either."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlbench.base.errors import nearest
from rlbench.config.options import Option, check_options, with_defaults
from rlbench.config.schema import AlgorithmConfig, Config, MiniConfig
from rlbench.data.record import Record
from rlbench.objective.pieces import Place, baselines
from rlbench.sampling.places import keeps, makers, structures, weights
from rlbench.sampling.structures import all_options, levels_of


def check_sampling(config: Config, processes: int = 1) -> list[str]:
    """Every problem of the sections `sampler` and `rollout`, one sentence each.

    Args:
        config: a config of valid numbers.
        processes: number of processes of the run.
    """
    problems = check_pieces(config)
    if problems or not config.collects or not isinstance(config.algorithm, AlgorithmConfig):
        return problems
    of_rollout = _of_rollout(config, processes)
    return [*_of_replay(config), *_of_rounds(config), *_of_maker(config, processes), *of_rollout, *_of_engine(config)]


def check_pieces(config: Config) -> list[str]:
    """Unknown pieces and wrong options of the sections `sampler` and `rollout`, one sentence each."""
    sampler, rollout = config.sampler, config.rollout
    made = [] if sampler.make == "none" else [(makers, sampler.make)]
    problems = _pieces("sampler", [(weights, sampler.weigh), (keeps, sampler.keep), *made], sampler.options)
    return problems + _pieces("rollout", [(structures, rollout.structure)], rollout.options)


def check_prompts(config: Config, prompts: Sequence[Record], demonstrations: Sequence[Record] = ()) -> list[str]:
    """Problems of a sampler or a rollout with the prompts of the train split, one sentence each.

    Args:
        config: a config that `check_sampling` accepts.
        prompts: the train split.
        demonstrations: the split sft.
    """
    if not config.collects or "rl" not in config.stages or not isinstance(config.algorithm, AlgorithmConfig):
        return []
    sampler, problems = config.sampler, []
    for key in ("capacity", "successes"):
        if (most := getattr(sampler, key)) > len(prompts):
            problems.append(
                f"sampler.{key} = {most}: the buffer has at most one entry per prompt, and the train split has "
                f"{len(prompts)}; use at most {len(prompts)}"
            )
    rollout = config.rollout
    if rollout.structure == "expert" and all_options(rollout)["source"] == "demonstration":
        shown = {record.context_id for record in demonstrations}
        if not any(record.context_id in shown for record in prompts):
            problems.append(
                f"rollout.options.expert.source = demonstration: no context of {config.dataset.name}'s train split has "
                "a demonstration; use truth or endpoint"
            )
    piece = weights[sampler.weigh]
    if "check" in piece.facts:
        options = with_defaults(piece.options, sampler.options.get(sampler.weigh, {}))
        problems.append(piece.facts["check"]([record.context_id for record in prompts], **options))
    return [problem for problem in problems if problem]


def _pieces(section: str, chosen: Sequence[tuple[Place, str]], options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Unknown pieces and wrong options."""
    problems = [problem for place, name in chosen for problem in place.check(name)]
    known: dict[str, dict[str, Option]] = {}
    for place, _ in chosen:
        for name, piece in place.items():
            known.setdefault(name, {}).update(piece.options)
    for name, given in options.items():
        if name not in known:
            problems.append(f"{section}.options.{name}: no piece has this name.{nearest(name, list(known))}")
        else:
            problems += [f"{section}.options.{name}.{problem}" for problem in check_options(known[name], given)]
    return problems


def _of_replay(config: Config) -> list[str]:
    sampler = config.sampler
    if sampler.replay and not sampler.capacity:
        return [f"sampler.replay = {sampler.replay} needs a buffer; set sampler.capacity, for example to 512"]
    if sampler.capacity and not sampler.replay:
        return [f"sampler.capacity = {sampler.capacity} has no effect with sampler.replay = 0; set both or neither"]
    return []


def _of_rounds(config: Config) -> list[str]:
    sampler = config.sampler
    if sampler.keep == "all" and sampler.rounds > 1:
        return [
            f"sampler.rounds = {sampler.rounds} has no effect, because sampler.keep = all refuses no group; use "
            "sampler.keep=varied, or sampler.rounds=1"
        ]
    if sampler.keep != "all" and sampler.rounds == 1:
        return [
            f"sampler.keep = {sampler.keep} has no effect with sampler.rounds = 1, because refused groups train if no "
            "round is left; use sampler.rounds=10"
        ]
    return []


def _of_maker(config: Config, processes: int) -> list[str]:
    sampler, problems = config.sampler, []
    if sampler.successes and config.rollout.structure != "flat":
        problems.append(
            f"sampler.successes = {sampler.successes} with rollout = {config.rollout.name}: a kept list can replace a "
            "member only where members are drawn one by one; use rollout=flat"
        )
    makes_after = sampler.make != "none" and makers[sampler.make].facts["when"] == "after"
    if makes_after and processes > 1 and config.trainer.parallel.strategy != "ddp":
        problems.append(
            f"sampler.make = {sampler.make} with trainer.parallel.strategy = {config.trainer.parallel.strategy}: the "
            "number of new prompts differs between processes, which sharded weights do not allow; use trainer=ddp"
        )
    return problems


def _of_rollout(config: Config, processes: int) -> list[str]:
    rl, rollout = config.trainer.rl, config.rollout
    problems, baseline = [], config.policy_optimisation.baseline
    options = all_options(rollout)
    if rollout.structure == "expert" and options["source"] == "oracle" and not isinstance(config.dataset, MiniConfig):
        problems.append(
            f"rollout.options.expert.source = oracle: the best lists of {config.dataset.name} are unknown; use "
            "truth, demonstration or endpoint, or dataset=mini"
        )
    check = structures[rollout.structure].facts["check"]
    if wrong := check(rl.group_size, config.dataset.list_length, **options):
        problems.append(wrong)
    elif baselines[baseline].facts.get("once") and levels_of(rollout, rl.group_size, config.dataset.list_length):
        problems.append(
            f"rollout = {rollout.name} with algorithm.baseline = '{baseline}', which adds a bonus to the returns or "
            "remembers them, and would do so once for each level of the rollout; use rollout=flat"
        )
    if (rl.completions_per_update // processes) % rl.group_size:
        problems.append(
            f"sampler = {config.sampler.name} and rollout = {rollout.name} need whole groups on each process, but "
            f"trainer.rl.completions_per_update = {rl.completions_per_update} on {processes} processes is no multiple "
            f"of trainer.rl.group_size = {rl.group_size} for each"
        )
    return problems


def _of_engine(config: Config) -> list[str]:
    generation, rollout = config.generation, config.rollout
    problems = []
    if generation.engine != "transformers" or generation.prefill != "shared":
        problems.append(
            f"sampler = {config.sampler.name} and rollout = {rollout.name} draw lists with "
            "generation.engine=transformers and generation.prefill=shared; here they are "
            f"{generation.engine} and {generation.prefill}"
        )
    if generation.constraint != "none" and not structures[rollout.structure].facts["held"]:
        problems.append(
            f"generation.constraint = '{generation.constraint}' with rollout = {rollout.name}: a list that is held to "
            "the catalogue cannot be continued from its middle or edited; use rollout=flat"
        )
    return problems
