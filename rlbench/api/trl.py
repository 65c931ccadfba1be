"""TRL's `GRPOTrainer` with the objective of a method, for a user's own model, data and reward functions."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig
from trl.trainer.utils import create_model_from_path

from rlbench.api.arguments import named_arguments, one_of
from rlbench.api.objectives import MethodObjective, objective
from rlbench.base.errors import BadInput
from rlbench.config.schema import GenerationConfig, RewardConfig, SuccessConfig
from rlbench.evaluation.evaluate import eos_ids
from rlbench.lists.items import LINE_FORMATS, TITLES, WITH_YEARS
from rlbench.lists.reader import ListReader
from rlbench.models.loading import check_weights, fix_positions
from rlbench.objective import Objective
from rlbench.objective.pieces import baselines, credits
from rlbench.rewards.batch import FEATURES
from rlbench.training.callbacks import ReferenceSync
from rlbench.training.own_rewards import OwnScorer
from rlbench.training.scoring import Batching
from rlbench.training.trainer import RankedListTrainer

RewardFunction: TypeAlias = Callable[..., Any] | PreTrainedModel | str

OF_THE_LOSS = (
    *("beta", "epsilon", "epsilon_high", "delta", "loss_type", "importance_sampling_level", "scale_rewards"),
    *("sapo_temperature_neg", "sapo_temperature_pos", "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg"),
    *("vespo_lambda_neg", "top_entropy_quantile", "entropy_coef", "use_adaptive_entropy", "use_bias_correction_kl"),
    *("off_policy_mask_threshold", "sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
)
"""Arguments of TRL that the method replaces."""
COMBINED = {"sum_then_normalize": "sum_then_normalise", "normalize_then_sum": "normalise_then_sum"}
"""TRL's ways to combine several rewards, in this project's spelling."""


@named_arguments
def trl_trainer(
    method: str | MethodObjective,
    *,
    model: str | PreTrainedModel,
    train_dataset: Any,
    reward_funcs: RewardFunction | Sequence[RewardFunction],
    args: GRPOConfig | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    n: int | None = None,
    line_format: str = TITLES,
    callbacks: list[TrainerCallback] | None = None,
) -> RankedListTrainer:
    """A `GRPOTrainer` of TRL whose loss is that of a method. Sampling, batches and the optimiser are TRL's.

    Args:
        method: its name, or `rlbench.objective(name, **settings)` to change its settings.
        model: the policy, or its folder or hub id.
        train_dataset: as for `GRPOTrainer`: a column `prompt`, and columns for the reward functions.
        reward_funcs: as for `GRPOTrainer`. A function may return a list of numbers for a completion: the reward of
            each rank. A method that credits ranks needs at least one such function.
        args: TRL's arguments, except those of the loss, which the method sets. `reward_weights` weighs the functions.
        processing_class: the tokenizer; default: the model's.
        n: N, the number of ranks of a list, for a method that reads ranks.
        line_format: which lines of a completion are its ranks: "{title}" for every line with content, or
            "{title} ({year})".
        callbacks: callbacks of the trainer.

    Raises:
        BadInput: an argument is invalid or missing, or the method needs what a reward function cannot give. All
            problems together. Also if the weights in a model's folder are damaged or incomplete; and while training, if
            a reward function returns something else.

    Example:
        >>> def brevity(completions, **_):
        ...     return [[1.0 / (1 + len(line)) for line in text.splitlines()[:5]] for text in completions]
        >>> trainer = rlbench.trl_trainer(
        ...     "rank_grpo", model=folder, train_dataset=prompts, reward_funcs=brevity, n=5
        ... )
        >>> trainer.train()
    """
    chosen = method if isinstance(method, MethodObjective) else objective(method)
    args = GRPOConfig(f"trl-{chosen.name}") if args is None else copy.copy(args)
    functions = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
    one_of("line_format", line_format, LINE_FORMATS)
    if problems := [*_wrong_arguments(args, chosen.name), *_unsuitable(chosen, functions, args, n)]:
        raise BadInput(*problems)
    if isinstance(model, str):
        check_weights(model)
        model = create_model_from_path(model, **(args.model_init_kwargs or {}))
        args.model_init_kwargs = None
    fix_positions(model)
    if processing_class is None:
        processing_class = AutoTokenizer.from_pretrained(model.config._name_or_path, padding_side="left")
    if processing_class.pad_token is None:
        processing_class.pad_token = processing_class.eos_token
    length = n or 1
    reward = _reward(chosen, functions, args)
    args.beta = (chosen.algorithm.kl.beta or 1.0) if chosen.needs_reference else 0.0  # above 0, TRL keeps a reference
    trainer = RankedListTrainer(
        objective=Objective(chosen.algorithm, reward, length),
        scorer=OwnScorer(
            ListReader(processing_class, length, eos_ids(model, processing_class)),
            functions,
            reward,
            has_years=line_format == WITH_YEARS,
            needs_ranks=chosen.name if chosen.credits_ranks else "",
        ),
        model=model,
        args=args,
        train_dataset=train_dataset,
        processing_class=processing_class,
        callbacks=callbacks,
        batching=Batching("never", "completions"),  # as TRL makes its passes
        generation=_as_trl(args),
    )
    reference = chosen.algorithm.reference
    if reference.sync_every:
        unwrap = trainer.accelerator.unwrap_model
        policy, old = unwrap(trainer.model), unwrap(trainer.ref_model)
        trainer.add_callback(ReferenceSync(policy, old, reference.sync_every, reference.mixup, None))
    return trainer


def _wrong_arguments(args: GRPOConfig, name: str) -> list[str]:
    """Arguments that would have no effect, one sentence each."""
    usual = type(args).__dataclass_fields__
    problems = [
        f"args.{key} = {getattr(args, key)!r} has no effect, because {name} sets the loss: change the method with "
        f"rlbench.objective('{name}', ...)"
        for key in OF_THE_LOSS
        if key in usual and getattr(args, key) != usual[key].default
    ]
    if str(args.eval_strategy) not in ("no", "IntervalStrategy.NO"):
        problems.append(
            f"args.eval_strategy = {str(args.eval_strategy)!r}: this trainer does not evaluate while it trains; "
            "generate lists afterwards, and measure them with rlbench.metrics"
        )
    return problems


def _unsuitable(chosen: MethodObjective, functions: Sequence[Any], args: GRPOConfig, n: int | None) -> list[str]:
    """What a method needs and does not get, one sentence each."""
    a, problems = chosen.algorithm, []
    if n is not None and (type(n) is not int or n < 1):
        problems.append(f"n = {n!r} must be a whole number of at least 1")
    if n is None and chosen.needs_ranks:
        problems.append(f"n is missing: {chosen.name} needs the number of ranks of a list")
    if not functions:
        problems.append("reward_funcs is empty: give a function")
    if args.reward_weights is not None and len(args.reward_weights) != len(functions):
        problems.append(f"args.reward_weights has {len(args.reward_weights)} weights for {len(functions)} reward_funcs")
    if "demonstrations" in chosen.needs:
        problems.append(f"method = '{chosen.name}' learns from demonstrations too, which only rlbench.Experiment gives")
    if credits[a.credit].facts["reads"] == "hits":
        problems.append(
            f"method = '{chosen.name}' computes credit from relevance, not from rewards, which only rlbench.Experiment "
            "gives; for your own tensors use rlbench.objective"
        )
    metric = baselines[a.baseline].options.get("metric")
    if metric is not None and a.options.get(a.baseline, {}).get("metric", metric.default) in FEATURES[2:]:
        problems.append(f"method = '{chosen.name}' compares lists by a property of their items; set another metric")
    return problems


def _reward(chosen: MethodObjective, functions: Sequence[Any], args: GRPOConfig) -> RewardConfig:
    """One term per function."""
    weights = args.reward_weights or [1.0] * len(functions)
    terms: dict[str, dict[str, Any]] = {}
    for place, (function, weight) in enumerate(zip(functions, weights, strict=True)):
        name = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)
        terms[name if name not in terms else f"{name}_{place}"] = {"weight": float(weight)}
    combine = COMBINED[args.multi_objective_aggregation]
    return RewardConfig("own", "own", chosen.gamma, terms, combine, 1.0, SuccessConfig("any_hit", 0.0))


def _as_trl(args: GRPOConfig) -> GenerationConfig:
    """Decoding as TRL's arguments say; the trainer reads only how prompts are forwarded."""
    return GenerationConfig(
        engine="transformers",
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        max_new_tokens=args.max_completion_length,
        continuous=None,  # type: ignore[arg-type]
        vllm=None,  # type: ignore[arg-type]
    )
