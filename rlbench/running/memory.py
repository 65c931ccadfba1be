"""Estimates a run's memory from its config and its model's config, before anything is loaded.

The estimate is for one process at the longest prompt and the longest completions, which few batches reach.
docs/budget-and-safety.md says what is counted and how accurate it is.
"""

import json
import re
import resource
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlbench.config.schema import AlgorithmConfig, Config
from rlbench.data.record import RankedListDataset
from rlbench.data.stored import column
from rlbench.evaluation.lengths import longest_of
from rlbench.models.loading import load_tokenizer, locate_model
from rlbench.runs import inputs
from rlbench.training.arguments import on_cpu

FLOAT, HALF = 4, 2  # bytes per number
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""Tile size, in tokens and vocabulary entries, in which TRL's fused LM head computes logits (trl/kernels)."""
TILE_COPIES = 5
"""Number of tile-sized tensors that it holds at once on a CPU. The GPU kernel works in place."""
RUNTIME = 64 * 2**20
"""Bytes that a CPU process needs in addition once it trains: kernels, threads, batches."""
HEAP = 1.35
"""Ratio of memory taken by a CPU's allocator to memory in use, for temporary tensors. Freed memory stays with the
process in gaps that may not fit later tensors.
"""
STEP_COPIES = 4
"""Number of vocabulary-sized copies of the logits that sampling a token makes."""
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, from its configuration.

    Attributes:
        parameters: number of weights; tied weights count once.
        layers: number of blocks.
        hidden: width of the residual stream.
        intermediate: width of the feed-forward part.
        attention: number of heads times head size.
        key_value: the same for keys and values.
        vocabulary: number of entries of the LM head.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    attention: int
    key_value: int
    vocabulary: int


def shape_of(model: PretrainedConfig) -> Shape:
    """Return the sizes of a model of any architecture, without creating weights.

    Raises:
        ValueError, AttributeError, TypeError: if the config does not contain them. Code from a model's own folder may
            raise anything.
    """
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(model)
    text = model.get_text_config()  # maps names such as GPT-2's n_embd to the usual ones
    heads, size = text.num_attention_heads, getattr(text, "head_dim", None)
    size = size or text.hidden_size // heads
    return Shape(
        sum(p.numel() for p in made.parameters()),
        text.num_hidden_layers,
        text.hidden_size,
        _feed_forward(text, made),
        heads * size,
        (getattr(text, "num_key_value_heads", None) or heads) * size,
        text.vocab_size,
    )


FEED_FORWARD = ("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff")
"""Names that configs use for the width of the feed-forward part. The width of a single expert comes first."""


def _feed_forward(text: PretrainedConfig, model: PreTrainedModel) -> int:
    """Return the feed-forward width for one token; with experts, the sum over the experts it is routed to."""
    known = [width for name in FEED_FORWARD if (width := getattr(text, name, None))]
    experts = max(getattr(text, "num_experts_per_tok", None) or 1, 1)
    if known:
        return known[0] * experts
    # No known name: use the widest matrix of a block, which is its feed-forward part or its equivalent.
    inside = [p for name, p in model.named_parameters() if p.dim() == 2 and re.search(r"\.\d+\.", name)]
    return max(max(matrix.shape) for matrix in inside)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a run needs.

    Attributes:
        parts: bytes by phase and component. All components of a phase exist at the same time.
        available: bytes available on the machine, or None if unknown.
        on_gpu: whether this is GPU memory.
    """

    parts: Mapping[str, Mapping[str, int]]
    available: int | None
    on_gpu: bool

    @property
    def phase(self) -> str:
        """The phase that needs most."""
        return max(self.parts, key=lambda phase: sum(self.parts[phase].values()))

    @property
    def peak(self) -> int:
        return sum(self.parts[self.phase].values())

    @property
    def fits(self) -> bool:
        return self.available is None or self.peak <= self.available

    def __str__(self) -> str:
        parts = sorted(self.parts[self.phase].items(), key=lambda part: -part[1])
        listed = ", ".join(f"{name} {words(size)}" for name, size in parts if size)
        of = f" of {words(self.available)} available" if self.available is not None else ""
        return f"about {words(self.peak)}{of}, most in {self.phase}: {listed}"


@dataclass(frozen=True)
class NoEstimate:
    """Why there is no memory estimate. This never stops a run."""

    reason: str

    def __str__(self) -> str:
        return f"no estimate: {self.reason}"


def words(size: float) -> str:
    """Format bytes, such as 1.23 GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def estimate(
    config: Config, shape: Shape, prompt: int, contexts: int, on_gpu: bool, processes: int = 1
) -> MemoryEstimate:
    """Estimate the peak memory of one process of a run.

    Args:
        config: the run, up to `config.stage`.
        shape: sizes of its model.
        prompt: tokens of the longest prompt.
        contexts: number of lists that an evaluation generates.
        on_gpu: whether it computes on a GPU.
        processes: number of processes of the run; each is assumed to hold all weights.
    """
    weights = shape.parameters * (HALF if config.model.dtype == "bfloat16" else FLOAT)
    held = {"process": 0 if on_gpu else psutil.Process().memory_info().rss + RUNTIME, "weights": weights}
    trained = held | {"optimiser": 2 * weights}
    length = prompt + config.generation.max_new_tokens
    lists = _evaluation(config, shape, prompt, contexts)
    phases = {"evaluation": held | lists}
    if "sft" in config.stages:
        sft = config.trainer.sft
        rows = min(sft.micro_batch_size, sft.batch_size // processes)
        phases["SFT update"] = trained | _update(config, shape, rows, min(sft.max_length, length), on_gpu, weights)
        if sft.evaluate_every is not None:
            phases["evaluation"] = trained | lists
    if config.stage == "rl":
        rl = config.trainer.rl
        share = rl.completions_per_update // processes
        trained |= {"reference": weights if needs_reference(config) else 0}
        phases["rollout"] = trained | _rollout(config, shape, prompt, share, on_gpu)
        phases["update"] = trained | _update(config, shape, min(rl.micro_batch_size, share), length, on_gpu, weights)
        phases["evaluation"] = trained | lists
    if not on_gpu:
        phases = {phase: parts | _heap(parts, held | lists) for phase, parts in phases.items()}
    return MemoryEstimate(phases, available_memory(on_gpu), on_gpu)


LASTING = ("process", "weights", "optimiser", "reference", "gradients")
"""Components that exist for at least the whole phase, in a few large allocations."""


def _heap(parts: Mapping[str, int], generating: Mapping[str, int]) -> dict[str, int]:
    """Return the CPU allocator's overhead: gaps, and memory left over from generating lists earlier.

    Args:
        parts: components of the phase.
        generating: components of a phase that generates lists.
    """
    passing = sum(size for name, size in parts.items() if name not in LASTING)
    left = 0 if "KV cache" in parts else sum(size for name, size in generating.items() if name not in LASTING)
    return {"heap": int(HEAP * (passing + left)) - passing}


def needs_reference(config: Config) -> bool:
    """Whether the RL stage keeps a reference model."""
    from rlbench.objective import Objective  # dry runs of other stages do not need it

    if not isinstance(config.algorithm, AlgorithmConfig):
        return False  # it stores the reference's log-probabilities, not the model
    return Objective(config.algorithm, config.reward, config.dataset.list_length).needs_reference


def _generation(config: Config, shape: Shape, prompt: int, rows: int) -> dict[str, int]:
    """Return the memory of plain generate for `rows` lists: KV cache, forward pass over prompts, logits of a step."""
    number = HALF if config.trainer.bf16 or config.model.dtype == "bfloat16" else FLOAT
    tokens = rows * (prompt + config.generation.max_new_tokens)
    cache = 2 * shape.layers * shape.key_value * tokens * number
    one_layer = cache // shape.layers  # the cache grows by copying one layer at a time
    first_pass = rows * prompt * (3 * shape.intermediate + 4 * shape.hidden + prompt) * number
    return {
        "KV cache": cache + one_layer,
        "prompts": first_pass,
        "logits": STEP_COPIES * rows * shape.vocabulary * FLOAT,
    }


def _evaluation(config: Config, shape: Shape, prompt: int, contexts: int) -> dict[str, int]:
    """Return the memory of the largest evaluation batch: few of the longest prompts, or many that just fill it."""
    evaluation, new = config.evaluation, config.generation.max_new_tokens
    rows = min(evaluation.batch_size, contexts)
    few = max(min(rows, evaluation.batch_tokens // (prompt + new)), 1)
    filling = min(prompt, max(evaluation.batch_tokens // rows - new, 1))
    batches = [_generation(config, shape, prompt, few)]
    if evaluation.batch_tokens >= rows * (1 + new):
        batches.append(_generation(config, shape, filling, rows))
    return max(batches, key=lambda parts: sum(parts.values()))


def _rollout(config: Config, shape: Shape, prompt: int, rows: int, on_gpu: bool) -> dict[str, int]:
    """Return the memory of a rollout of `rows` completions with the configured engine."""
    if config.generation.engine == "vllm_server":
        return {}
    if config.generation.engine == "vllm_colocate" and on_gpu:
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        return {"vLLM": int(config.generation.vllm.gpu_memory_utilization * total)}
    return _generation(config, shape, prompt, rows)


def _update(config: Config, shape: Shape, rows: int, length: int, on_gpu: bool, weights: int) -> dict[str, int]:
    """Return an update's peak, at the end of the forward pass of a micro-batch of `rows` times `length` tokens."""
    tokens = rows * length
    number = HALF if config.trainer.bf16 else FLOAT
    layers = shape.layers * tokens * _saved_by_layer(config, shape, length)
    if config.trainer.gradient_checkpointing:
        layers = tokens * (shape.layers * shape.hidden * FLOAT + _saved_by_layer(config, shape, length))
    backward = tokens * (3 * shape.intermediate + 2 * shape.hidden) * number  # gradients of one block's activations
    width = TILE_VOCABULARY if on_gpu else min(shape.vocabulary, TILE_VOCABULARY)
    tile = min(tokens, TILE_TOKENS) * width * (number if on_gpu else FLOAT * TILE_COPIES)
    head = (shape.vocabulary + tokens) * shape.hidden * FLOAT  # gradients of the LM head and of its input
    return {
        "gradients": weights,
        "activations": layers + 3 * tokens * shape.hidden * FLOAT + backward,
        "logits": tile + head,
        "bf16 copies": shape.parameters * HALF if config.trainer.bf16 and config.model.dtype == "float32" else 0,
    }


def _saved_by_layer(config: Config, shape: Shape, length: int) -> int:
    """Return the bytes per token that a block keeps for the backward pass, measured on Llama and Qwen2.

    In float32 these are six vectors of the residual width (input, normalised and output of two norms); query, key,
    value and output of the attention, with key and value repeated for all heads; four of the feed-forward part (gate,
    its activation, up, product); and a row of the attention mask. Under autocast the norms stay in float32.
    """
    if config.trainer.bf16 or config.model.dtype == "bfloat16":
        return 20 * shape.hidden + 14 * shape.attention + 4 * shape.intermediate * HALF + length * HALF
    return FLOAT * (6 * shape.hidden + 4 * shape.attention + 4 * shape.intermediate + length)


def available_memory(on_gpu: bool) -> int | None:
    """Return the bytes that this process may use under the tightest limit; on a CPU this includes what it already
    holds.
    """
    if on_gpu:
        return torch.cuda.mem_get_info()[0]
    process = psutil.Process().memory_info()
    limits = [psutil.virtual_memory().available + process.rss]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        limits.append(limit - process.vms + process.rss)
    group = _of_group()
    return min([*limits, *([] if group is None else [group + process.rss])])


def _of_group(folder: Path = CGROUP) -> int | None:
    """Return the bytes left in the control group (containers, Slurm), or None if it has no limit."""
    limit, used = folder / "memory.max", folder / "memory.current"
    if not limit.is_file() or (text := limit.read_text().strip()) == "max":
        return None
    return int(text) - int(used.read_text())


def estimate_run(
    config: Config,
    dataset: RankedListDataset,
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    processes: int = 1,
) -> MemoryEstimate:
    """Estimate a run whose data and tokenizer are available."""
    prompt = max(longest_of(records, tokenizer) for records in dataset.splits.values() if records)
    judged = {split: set(column(dataset.splits[split], "context_id")) for split in ("validation", "test")}
    limits = {"validation": config.evaluation.validation_contexts, "test": config.evaluation.test_contexts}
    lists = {split: min(len(ids), limits[split] or len(ids)) for split, ids in judged.items()}
    contexts = max(lists["validation"], lists["test"] * max(config.evaluation.samples, 1))
    shape = shape_of(AutoConfig.from_pretrained(source))
    return estimate(config, shape, prompt, contexts, not on_cpu(config), processes)


def estimate_or_reason(
    config: Config,
    dataset: RankedListDataset,
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    processes: int = 1,
) -> MemoryEstimate | NoEstimate:
    """Return `estimate_run`, or the reason why it failed."""
    try:
        return estimate_run(config, dataset, source, tokenizer, processes)
    except Exception as error:  # a model's config and code may raise anything; an estimate never stops a run
        return NoEstimate(f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}")


def largest(configs: Sequence[Config]) -> tuple[Config, MemoryEstimate | NoEstimate]:
    """Return the run that needs most memory. Runs with the same memory needs are estimated once.

    A run without an estimate is returned only if no run has one.

    Raises:
        BadInput: if data or a model is not available.
    """
    different: dict[str, Config] = {}
    for config in configs:
        full, rl, sft = asdict(config), config.trainer.rl, config.trainer.sft
        key = [full[name] for name in ("dataset", "model", "generation", "evaluation", "stage", "runtime")]
        key += [rl.completions_per_update, rl.micro_batch_size, sft.batch_size, sft.micro_batch_size, sft.max_length]
        key += [config.trainer.gradient_checkpointing, config.trainer.bf16]
        key += [config.stage == "rl" and needs_reference(config), config.stages, sft.evaluate_every is None]
        different.setdefault(json.dumps(key), config)
    found = []
    for config in different.values():
        dataset = inputs.load(config)
        source = locate_model(config.model, dataset, Path(config.cache_dir))
        tokenizer = load_tokenizer(source, config.generation.template_date)
        found.append((config, estimate_or_reason(config, dataset, source, tokenizer)))
    return max(found, key=lambda pair: pair[1].peak if isinstance(pair[1], MemoryEstimate) else -1)
