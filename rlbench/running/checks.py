"""Checks a config as far as possible without data and model. Returns one sentence per problem.

Importing this module loads neither torch nor transformers. `check_config` loads torch for the algorithm's pieces.
"""

import importlib.util
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatch

from rlbench.base.errors import nearest
from rlbench.base.program import by_name, install
from rlbench.config.adapters import NONE, OPTIMIZERS, check_adapter, check_optimizer
from rlbench.config.baselines import check_baselines
from rlbench.config.bounds import check_numbers
from rlbench.config.decoding import CONSTRAINTS, EXCLUSIONS, check_constraints, check_decoding
from rlbench.config.engines import CORRECTIONS, ENGINES, PREFILLS, check_generation
from rlbench.config.models import PATH_OF_MODEL
from rlbench.config.names import check_paths
from rlbench.config.plugins import HINT, load_plugins
from rlbench.config.schedules import check_schedules, flat
from rlbench.config.schema import (
    AlgorithmConfig,
    Config,
    FileModelConfig,
    LengthShapingConfig,
    MiniConfig,
    PreferenceConfig,
    RewardConfig,
    RLConfig,
    TinyModelConfig,
)
from rlbench.lists.catalog import MATCHERS, check_matching
from rlbench.lists.items import LINE_FORMATS, TITLES
from rlbench.lists.metric_catalogue import of_training, selectable
from rlbench.preference.checks import check_choices, check_drawing, check_preference
from rlbench.rewards.success import check_success
from rlbench.rewards.terms import TERMS, check_terms
from rlbench.tracking import check_modes

# A contract test keeps these equal to the registries.
LAYOUTS = ("aligned", "published")
SHAPINGS = ("none", "paper", "published")
MISSING_RANKS = ("zero", "excluded")
COMBINERS = ("sum_then_normalise", "normalise_then_sum", "power_mean")
MATCHING_RULES = ("ours", "published")
STAGES = ("zero_shot", "sft", "rl")
STARTS = ("sft", "base")
SHARINGS = ("auto", "always", "never")
SHUFFLES = ("groups", "completions")
CHECKPOINT_RULES = ("last", "best")
DTYPES = ("float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")
LONG_PROMPTS = ("drop_oldest_turns", "drop_sample")
PIECES = ("words", "titles")
SYSTEM_ROLES = ("template", "merge")
STRATEGIES = ("ddp", "fsdp2", "deepspeed")
SCHEDULES = ("constant", "linear", "cosine")
MOST_CONTEXTS = 10**6
MOST_TRUTHS = 50


def _choice(problems: list[str], key: str, value: str, known: Sequence[str], hint: str = "") -> None:
    if value not in known:
        near = nearest(value, list(known))
        problems.append(f"{key} = '{value}' is unknown; known: {', '.join(known)}.{near}{hint}")


def check_config(config: Config, processes: int = 1) -> list[str]:
    """Return all problems of a config that can be found without data or model, one sentence each.

    Args:
        processes: number of processes of the run.
    """
    problems = load_plugins(config.plugins)
    if problems:
        return problems  # without its plugins, their names would be reported as unknown
    problems = check_values(config, processes)
    if config.plugins:
        problems += _of_plugins(config)
        problems += [] if problems else _metric(config)
    from rlbench.objective.checks import check_algorithm  # loads torch
    from rlbench.objective.guards import refusals
    from rlbench.sampling.checks import check_pieces, check_sampling

    if isinstance(config.algorithm, AlgorithmConfig):
        problems += check_algorithm(config.algorithm)
    if isinstance(config.algorithm, PreferenceConfig):
        problems += check_choices(config.algorithm, config, numbers=not problems)
    problems += check_pieces(config) if problems else check_sampling(config, processes)
    problems = problems or refusals(config)
    return problems or check_schedules(config, lambda changed: _of_numbers(changed, processes), _recorded(config))


def _recorded(config: Config) -> list[str]:
    """Names of the metrics that a config's training can record."""
    algorithm = config.algorithm
    regularisers = algorithm.regularisers if isinstance(algorithm, AlgorithmConfig) else ()
    families = {"term": config.reward.terms, "regulariser": regularisers, "schedule": flat(config.schedule.values)}
    return of_training(families, config.dataset.list_length)


def _of_numbers(config: Config, processes: int) -> list[str]:
    """The problems of a config in which a schedule has changed numbers."""
    from rlbench.objective.checks import check_algorithm  # loads torch
    from rlbench.sampling.checks import check_sampling

    problems = check_values(config, processes)
    if isinstance(config.algorithm, AlgorithmConfig):
        problems += check_algorithm(config.algorithm)
    return problems or check_sampling(config, processes)


def check_values(config: Config, processes: int = 1) -> list[str]:
    """Run the checks of `check_config` that need neither torch nor plugins, so that mistakes are reported at once.

    Plugins may define reward terms, matchers and metrics. With plugins, these are checked in `check_config` only.

    Args:
        processes: number of processes of the run.
    """
    rl, sft = config.trainer.rl, config.trainer.sft
    problems = check_paths(config)
    for key, value, known in [
        ("stage", config.stage, STAGES),
        ("reward.combine", config.reward.combine, COMBINERS),
        ("evaluation.checkpoint", config.evaluation.checkpoint, CHECKPOINT_RULES),
        ("dataset.long_prompts", config.dataset.long_prompts, LONG_PROMPTS),
        ("dataset.line_format", config.dataset.line_format, LINE_FORMATS),
        ("model.dtype", config.model.dtype, DTYPES),
        ("runtime.device", config.runtime.device, DEVICES),
        ("trainer.sft.schedule", sft.schedule, SCHEDULES),
        ("trainer.rl.schedule", rl.schedule, SCHEDULES),
        ("trainer.rl.start", rl.start, STARTS),
        ("trainer.rl.shuffle", rl.shuffle, SHUFFLES),
        ("trainer.share_prompts", config.trainer.share_prompts, SHARINGS),
        ("trainer.optimizer", config.trainer.optimizer, tuple(OPTIMIZERS)),
        ("trainer.parallel.strategy", config.trainer.parallel.strategy, STRATEGIES),
        ("generation.engine", config.generation.engine, ENGINES),
        ("generation.prefill", config.generation.prefill, PREFILLS),
        ("generation.vllm.correction", config.generation.vllm.correction, CORRECTIONS),
        ("generation.constraint", config.generation.constraint, CONSTRAINTS),
        ("evaluation.constraint", config.evaluation.constraint, CONSTRAINTS),
        *(("generation.exclude", value, EXCLUSIONS) for value in config.generation.exclude),
        *(("evaluation.exclude", value, EXCLUSIONS) for value in config.evaluation.exclude),
    ]:
        _choice(problems, key, value, known)
    problems += check_modes(config.tracker.mode, config.tracker.also, config.tracker.upload) + check_baselines(
        config.baselines
    )
    problems += check_numbers({key: value for key, value in asdict(config).items() if key != "matching"})
    problems += [
        f"evaluation.pass_at contains {k}, outside 1..evaluation.samples = {config.evaluation.samples}"
        for k in config.evaluation.pass_at
        if not 1 <= k <= config.evaluation.samples
    ]
    problems += _repeated("evaluation.pass_at", config.evaluation.pass_at)
    problems += _repeated("dataset.cutoffs", config.dataset.cutoffs)
    problems += _repeated("generation.exclude", config.generation.exclude)
    problems += _repeated("evaluation.exclude", config.evaluation.exclude)
    problems += _steps(rl) + _item(config)
    if not config.plugins:
        problems += _of_plugins(config)
    if config.generation.top_p == 0:
        problems.append("generation.top_p = 0 leaves no token to sample")
    if isinstance(config.dataset, MiniConfig):
        problems += _contexts_of_mini(config.dataset) + _truths_of_mini(config.dataset)
    if isinstance(config.model, FileModelConfig):
        _choice(problems, "model.system_role", config.model.system_role, SYSTEM_ROLES)
        if config.model.path is None and config.model.kind == "hub":
            problems.append(PATH_OF_MODEL)
    if isinstance(config.model, TinyModelConfig):
        problems += _heads_of_tiny(config.model)
        _choice(problems, "model.pieces", config.model.pieces, PIECES)
    problems += _parallel(config, processes) + check_decoding(config.generation)
    problems += check_adapter(config.adapter, config.stages) + check_optimizer(config.trainer.optimizer)
    problems += _low_memory(config)
    if isinstance(config.algorithm, AlgorithmConfig):
        problems += _policy_optimisation(config)
    else:
        problems += check_drawing(config)
    if problems:
        # The checks below divide by or look up values that the checks above may have refused.
        return list(dict.fromkeys(problems))
    if isinstance(config.algorithm, PreferenceConfig):
        problems += check_preference(config.algorithm, config)
    return (
        problems
        + check_generation(config.generation, processes)
        + check_constraints(config.generation, config.evaluation)
        + _batches(config, processes)
        + _tokens_at_once(config)
        + _cutoffs(config)
        + ([] if config.plugins else _metric(config))
    )


def _item(config: Config) -> list[str]:
    """Check the noun of an item, and that nothing needs years if there are none."""
    problems = []
    if not re.fullmatch(r"[^\W\d_][\w -]*", config.dataset.item):
        problems.append(f"dataset.item = {ascii(config.dataset.item)} must be a noun in the singular, such as book")
    if config.dataset.line_format != TITLES:
        return problems
    without = f'dataset.line_format = "{TITLES}" leaves out years'
    if config.matching.rules == "published":
        problems.append(
            f"{without}, but matching.rules = 'published' reads only lines with a year; use matching=casefold"
        )
    problems += [
        f"{without}, but reward.terms.{name}.of = 'recency' needs them; use of: rarity"
        for name, options in config.reward.terms.items()
        if isinstance(options, Mapping) and options.get("of") == "recency"
    ]
    return problems


def _of_plugins(config: Config) -> list[str]:
    """Check choices to which plugins may add: reward terms and matching rules."""
    problems = _reward(config.reward) + _answers(config)
    _choice(problems, "matching.rules", config.matching.rules, (*MATCHING_RULES, *MATCHERS), HINT)
    return problems + check_matching(config.matching)


def _metric(config: Config) -> list[str]:
    problems: list[str] = []
    _choice(problems, "evaluation.metric", config.evaluation.metric, selectable(config.dataset.cutoffs), HINT)
    return problems


def _repeated(key: str, values: Sequence[int | str]) -> list[str]:
    return [f"{key} contains {k} {count} times; list it once" for k, count in Counter(values).items() if count > 1]


def _contexts_of_mini(dataset: MiniConfig) -> list[str]:
    splits, given = ("train", "validation", "test"), dataset.contexts
    problems = [
        f"dataset.contexts.{name} is unknown; known: {', '.join(splits)}.{nearest(str(name), list(splits))}"
        for name in given
        if name not in splits
    ]
    problems += [f"dataset.contexts.{name} is missing" for name in splits if name not in given]
    return problems + [
        f"dataset.contexts.{name} = {count} must lie in [1, {MOST_CONTEXTS}]"
        for name, count in given.items()
        if not 1 <= count <= MOST_CONTEXTS
    ]


def _truths_of_mini(dataset: MiniConfig) -> list[str]:
    shares = dataset.truth_sizes
    problems = [
        f"dataset.truth_sizes contains {share}; shares are finite numbers from 0 on"
        for share in shares
        if not (math.isfinite(share) and share >= 0)
    ]
    if not problems and not any(shares):
        problems.append(f"dataset.truth_sizes = {shares} must contain a share above 0")
    if len(shares) > MOST_TRUTHS:
        problems.append(f"dataset.truth_sizes has {len(shares)} shares; an answerer names at most {MOST_TRUTHS} films")
    return problems


def _heads_of_tiny(model: TinyModelConfig) -> list[str]:
    """Rotary embeddings rotate pairs of numbers, so the head size must be even."""
    if model.heads < 1 or model.hidden_size % (2 * model.heads) == 0:
        return []
    return [
        f"model.hidden_size = {model.hidden_size} must be a multiple of twice model.heads = {model.heads}; use "
        f"{math.ceil(model.hidden_size / (2 * model.heads)) * 2 * model.heads}"
    ]


def _without_reward(config: Config) -> list[str]:
    """Refuse terms that all have weight 0, unless a schedule changes a weight."""
    weights = [term.get("weight") for term in config.reward.terms.values() if isinstance(term, Mapping)]
    changes = any(fnmatch(key, "reward.terms.*.weight") for key in flat(config.schedule.values))
    if "rl" not in config.stages or not weights or any(weight != 0 for weight in weights) or changes:
        return []
    return ["reward.terms: every weight is 0, so every reward is 0; give a term another weight"]


def _policy_optimisation(config: Config) -> list[str]:
    """Check a policy-optimisation algorithm except for its pieces."""
    algorithm = config.policy_optimisation
    problems = [] if config.reward.combine == "power_mean" else _without_reward(config)
    ranks, length = config.rollout.ranks, config.dataset.list_length
    if ranks is not None and ranks > length:
        problems.append(
            f"rollout.ranks = {ranks} is more than dataset.list_length = {length}, and entries after that rank earn "
            f"nothing; use at most {length}, or null for no limit"
        )
    for key, value, known in [
        ("algorithm.layout", algorithm.layout, LAYOUTS),
        ("algorithm.missing_rank", algorithm.missing_rank, MISSING_RANKS),
        ("algorithm.length_shaping.rule", algorithm.length_shaping.rule, SHAPINGS),
    ]:
        _choice(problems, key, value, known)
    problems += _length_shaping(algorithm.length_shaping)
    parallel, every = config.trainer.parallel, algorithm.reference.sync_every
    if parallel.strategy == "deepspeed" and parallel.zero_stage == 3 and every > 0:
        problems.append(
            f"algorithm.reference.sync_every = {every}: DeepSpeed checkpoints with sharded weights do not store a "
            "reference that follows the policy; use trainer.parallel.zero_stage=2 or trainer=fsdp2"
        )
    return problems


def _steps(rl: RLConfig) -> list[str]:
    """Check a learning rate that falls in steps."""
    key, problems = "trainer.rl.learning_rate_steps", []
    if rl.learning_rate_steps and rl.schedule != "constant":
        problems.append(f"{key} = {rl.learning_rate_steps} needs trainer.rl.schedule=constant, not '{rl.schedule}'")
    for update, rate in rl.learning_rate_steps.items():
        if update < 1:
            problems.append(f"{key} names update {update}; updates are counted from 1")
        elif update % rl.num_iterations:
            problems.append(
                f"{key} names update {update}, which lies between the trainer.rl.num_iterations = "
                f"{rl.num_iterations} updates on one rollout; use a multiple"
            )
        if not 0 < rate < math.inf:
            problems.append(f"{key} gives update {update} the rate {rate}, which must be a positive number")
    return problems


def _length_shaping(shaping: LengthShapingConfig) -> list[str]:
    unused = {"none": ("early_stop", "overflow", "exact"), "paper": ("exact",)}.get(shaping.rule, ())
    problems = [
        f"algorithm.length_shaping.{name} = {value} has no effect with algorithm.length_shaping.rule = "
        f"'{shaping.rule}'; set it to 0"
        for name in unused
        if (value := getattr(shaping, name)) != 0
    ]
    return problems


def _reward(reward: RewardConfig) -> list[str]:
    problems = [f"reward.{problem}" for problem in check_terms(reward.terms)]
    problems += [f"reward.{problem}" for problem in check_success(reward.success.rule, reward.success.threshold)]
    if reward.combine == "power_mean":
        known = {} if problems else reward.terms
        problems += [
            f"reward.terms.{name}.weight = {term['weight']} must not be negative with reward.combine=power_mean"
            for name, term in known.items()
            if term["weight"] < 0
        ]
        problems += [
            f"reward.terms.{name} can be negative, which reward.combine=power_mean does not support"
            for name in known
            if TERMS[name].signed
        ]
        if known and not any(term["weight"] > 0 for term in known.values()):
            problems.append("reward.terms: at least one weight must be positive with reward.combine=power_mean")
    elif reward.power != 1:
        problems.append(
            f"reward.power = {reward.power} has no effect with reward.combine={reward.combine}; set it to 1"
        )
    return problems


def _answers(config: Config) -> list[str]:
    """Check that something can answer reward terms that ask."""
    asking = {name: TERMS[name].needs for name in config.reward.terms if name in TERMS and TERMS[name].needs}
    strategy, problems = config.trainer.parallel.strategy, []
    for name, needs in asking.items():
        asked = needs[0].replace("_", " ")
        if isinstance(config.algorithm, PreferenceConfig):
            problems.append(
                f"reward.terms.{name} asks the {asked} about the lists of a rollout, but algorithm="
                f"{config.algorithm.name} orders lists that were drawn before; remove the term, or use an algorithm of "
                "policy optimisation (algorithm=grpo)"
            )
        if "policy" in needs and strategy in ("fsdp2", "deepspeed"):
            problems.append(
                f"reward.terms.{name} asks the policy in passes of one process, but trainer.parallel.strategy = "
                f"'{strategy}' shards its weights; remove the term, or use trainer=ddp"
            )
    return problems


def _parallel(config: Config, processes: int) -> list[str]:
    parallel, problems = config.trainer.parallel, []
    sharded = parallel.strategy in ("fsdp2", "deepspeed")
    script = "-m rlbench run" if by_name() else "run.py"
    if sharded and processes == 1:
        problems.append(
            f"trainer.parallel.strategy = '{parallel.strategy}' shards over several processes, but there is only "
            f"one; start {script} with accelerate launch --num_processes N or torchrun, start a sweep with "
            "hydra.launcher.processes=N, or use trainer=default"
        )
    if parallel.strategy == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        problems.append(
            "trainer.parallel.strategy = 'deepspeed' needs the package deepspeed, which is not installed; run "
            f"{install('deepspeed')}, or use trainer=fsdp2"
        )
    if parallel.cpu_offload and not sharded:
        problems.append(
            "trainer.parallel.cpu_offload = True has no effect with trainer.parallel.strategy = 'ddp'; set it to false"
        )
    return problems


def _low_memory(config: Config) -> list[str]:
    """Check adapters and optimisers against the way of training and the engine."""
    adapter, strategy, engine = config.adapter, config.trainer.parallel.strategy, config.generation.engine
    sharded, optimizer, problems = strategy in ("fsdp2", "deepspeed"), config.trainer.optimizer, []
    if sharded and optimizer != "adamw":
        problems.append(
            f"trainer.optimizer = '{optimizer}' needs whole weights, but trainer.parallel.strategy = '{strategy}' "
            "shards them; use trainer.optimizer=adamw or trainer.parallel.strategy=ddp"
        )
    stages = [stage for stage in config.stages if adapter.trains(stage)]
    if not stages:
        return problems
    if strategy == "deepspeed":
        problems.append(
            f"adapter = {adapter.name} is not supported by DeepSpeed here; use trainer=fsdp2 or trainer=ddp"
        )
    if adapter.quantization != NONE and strategy == "fsdp2":
        problems.append(
            f"adapter.quantization = '{adapter.quantization}' stores weights that trainer.parallel.strategy = 'fsdp2' "
            "cannot shard; use trainer=ddp"
        )
    if "rl" not in stages:
        return problems
    if engine.startswith("vllm") and (sharded or adapter.quantization != NONE):
        what = "weights in 4 bits" if adapter.quantization != NONE else "sharded weights"
        problems.append(
            f"generation.engine = '{engine}' gets merged weights, but an adapter on {what} is not merged; use "
            "generation=default or generation=continuous"
        )
    if isinstance(config.algorithm, AlgorithmConfig) and config.algorithm.reference.sync_every:
        problems.append(
            f"algorithm.reference.sync_every = {config.algorithm.reference.sync_every} needs a reference that follows "
            "the policy, but with an adapter the reference is the model without it, which stays; use adapter=none or "
            "algorithm.reference.sync_every=0"
        )
    return problems


def _tokens_at_once(config: Config) -> list[str]:
    """Check micro-batches by tokens."""
    setting = f"trainer.rl.micro_batch_tokens = {config.trainer.rl.micro_batch_tokens}"
    if config.trainer.rl.micro_batch_tokens is None:
        return []
    if isinstance(config.algorithm, PreferenceConfig):
        return [f"{setting}: algorithm={config.algorithm.name} compares whole tuples; use trainer.rl.micro_batch_size"]
    if config.trainer.parallel.strategy == "deepspeed":
        return [f"{setting}: DeepSpeed counts micro-batches of one size; use trainer.rl.micro_batch_size"]
    return []


def _batches(config: Config, processes: int) -> list[str]:
    rl, sft = config.trainer.rl, config.trainer.sft
    problems = []
    if rl.completions_per_update % rl.group_size:
        problems.append(
            f"trainer.rl.completions_per_update = {rl.completions_per_update} is not a multiple of "
            f"trainer.rl.group_size = {rl.group_size}, so a group would be incomplete; use "
            f"{math.ceil(rl.completions_per_update / rl.group_size) * rl.group_size}"
        )
    batches = [("sft.batch_size", sft.batch_size, "sft.micro_batch_size", sft.micro_batch_size)]
    if rl.micro_batch_tokens is None:
        batches.append(
            ("rl.completions_per_update", rl.completions_per_update, "rl.micro_batch_size", rl.micro_batch_size)
        )
    elif rl.completions_per_update % processes:
        problems.append(
            f"trainer.rl.completions_per_update = {rl.completions_per_update} is not a multiple of the {processes} "
            "processes"
        )
    for batch, size, micro, at_once in batches:
        # With several processes, a share smaller than the micro-batch is one micro-batch. One process must match
        # exactly.
        least = at_once if processes == 1 else min(at_once, max(size // processes, 1))
        if size % (least * processes):
            problems.append(
                f"trainer.{batch} = {size} is not a multiple of trainer.{micro} = {least} times {processes} processes"
            )
    for key, every in (("trainer.rl.save_every", rl.save_every), ("evaluation.every", config.evaluation.every)):
        if every % rl.num_iterations:
            problems.append(
                f"{key} = {every} lies between two rollouts: completions are reused for trainer.rl.num_iterations = "
                f"{rl.num_iterations} updates, and resuming is exact only between rollouts; use "
                f"{math.ceil(every / rl.num_iterations) * rl.num_iterations}"
            )
    return problems


def _cutoffs(config: Config) -> list[str]:
    dataset = config.dataset
    problems = [
        f"dataset.cutoffs contains {k}, outside 1..dataset.list_length = {dataset.list_length}"
        for k in dataset.cutoffs
        if not 1 <= k <= dataset.list_length
    ]
    if not dataset.cutoffs:
        problems.append("dataset.cutoffs is empty")
    return problems
