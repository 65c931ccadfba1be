"""Estimates a run's memory from its config and its model's config, before anything is loaded.

The estimate is for one process at the longest prompt and the longest completions, which few batches reach.
docs/budget-and-safety.md says what is counted and how accurate it is.
"""

import json
import resource
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import torch
from transformers import AutoConfig, PreTrainedTokenizerBase

from rlbench.config.adapters import NONE
from rlbench.config.schema import AlgorithmConfig, Config, PreferenceConfig
from rlbench.data.record import RankedListDataset
from rlbench.data.stored import column
from rlbench.evaluation.lengths import longest_of
from rlbench.models.loading import load_tokenizer, locate_model
from rlbench.running.memory_generation import evaluation, rollout
from rlbench.running.memory_shape import Shape, UnknownShape, shape_of
from rlbench.running.memory_updates import (
    FLOAT,
    Pass,
    bytes_of_optimiser,
    bytes_of_weights,
    kept,
    passes_of_updates,
    plain_pass,
    update,
    uses_own_head,
)
from rlbench.runs import inputs
from rlbench.training.arguments import on_cpu

RUNTIME = 64 * 2**20
"""Bytes that a CPU process needs in addition once it trains: kernels, threads, batches."""
HEAP = 1.35
"""Ratio of memory taken by a CPU's allocator to memory in use, for temporary tensors. Freed memory stays with the
process in gaps that may not fit later tensors.
"""
CGROUP = Path("/sys/fs/cgroup")


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
    weights = bytes_of_weights(config, shape)
    held = {"process": 0 if on_gpu else psutil.Process().memory_info().rss + RUNTIME, "weights": weights}
    lists = evaluation(config, shape, prompt, contexts)
    phases = {"evaluation": held | lists}

    def training(stage: str) -> dict[str, int]:
        return held | {
            "weights": bytes_of_weights(config, shape, stage),
            "adapter": shape.adapter * FLOAT if config.adapter.trains(stage) else 0,
            "optimiser": bytes_of_optimiser(config, shape, stage, on_gpu),
        }

    if "sft" in config.stages:
        sft = config.trainer.sft
        rows = min(sft.micro_batch_size, sft.batch_size // processes)
        one = replace(_demonstrations(config, rows, prompt), own_head=uses_own_head(config, processes))
        phases["SFT update"] = training("sft") | update(config, shape, one, on_gpu, "sft")
        if sft.evaluate_every is not None:
            phases["evaluation"] = _larger(phases["evaluation"], training("sft") | lists)
    if config.stage == "rl":
        adapts = config.adapter.trains("rl")
        trained = training("rl") | {"reference": weights if "reference" in _needs(config) and not adapts else 0}
        share = config.trainer.rl.completions_per_update // processes
        copied = {"merged copy": _merged_copy(config, shape, on_gpu)}
        phases["rollout"] = trained | copied | rollout(config, shape, prompt, share, on_gpu)
        phases["update"] = trained | _largest_update(config, shape, prompt, on_gpu, processes)
        phases["evaluation"] = _larger(phases["evaluation"], trained | copied | lists)
    if not on_gpu:
        phases = {phase: parts | _heap(parts, held | lists) for phase, parts in phases.items()}
    return MemoryEstimate(phases, available_memory(on_gpu), on_gpu)


def _larger(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return max(one, other, key=lambda parts: sum(parts.values()))


def _merged_copy(config: Config, shape: Shape, on_gpu: bool) -> int:
    """Return the bytes of the weights that are put back after a rollout. A GPU's are in host memory meanwhile."""
    rounds = config.model.dtype == "bfloat16" or config.adapter.quantization_of("rl") != NONE
    return shape.adapted * FLOAT if config.adapter.trains("rl") and not (on_gpu or rounds) else 0


LASTING = ("process", "weights", "adapter", "optimiser", "reference", "gradients", "merged copy")
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


def _demonstrations(config: Config, rows: int, prompt: int) -> Pass:
    """The largest pass over demonstrations."""
    length = min(config.trainer.sft.max_length, prompt + config.generation.max_new_tokens)
    completion = min(config.generation.max_new_tokens, length)
    return plain_pass(rows, length - completion, completion)


def _largest_update(config: Config, shape: Shape, prompt: int, on_gpu: bool, processes: int) -> dict[str, int]:
    """Return the components of the RL stage's largest update."""
    passes = passes_of_updates(config, shape, prompt, processes)
    updates = [update(config, shape, one, on_gpu) for one in passes]
    if "demonstrations" in _needs(config):  # a further pass in the same graph
        one = _demonstrations(config, passes[0].rows, prompt)
        more = kept(config, shape, one, on_gpu, config.adapter.trains("rl"))
        updates = [parts | {"demonstrations": more} for parts in updates]
    return max(updates, key=lambda parts: sum(parts.values()))


def _needs(config: Config) -> list[str]:
    """Which of reference and demonstrations the updates of policy optimisation need."""
    from rlbench.objective import Objective  # dry runs of other stages do not need it

    if not isinstance(config.algorithm, AlgorithmConfig):
        return []  # preference optimisation stores the reference's log-probabilities, not the model
    objective = Objective(config.algorithm, config.reward, config.dataset.list_length)
    demonstrations = ["demonstrations"] if "demonstrations" in objective.needs else []
    return ["reference", *demonstrations] if objective.needs_reference else demonstrations


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
    shape = shape_of(AutoConfig.from_pretrained(source), config.adapter)
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
    except UnknownShape as error:
        return NoEstimate(str(error))
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
        key = [full[name] for name in ("dataset", "model", "adapter", "generation", "evaluation", "stage", "runtime")]
        key += [full["trainer"][name] for name in ("gradient_checkpointing", "bf16", "share_prompts", "optimizer")]
        key += [rl.completions_per_update, rl.group_size, rl.micro_batch_size, rl.micro_batch_tokens, rl.shuffle]
        key += [sft.batch_size, sft.micro_batch_size, sft.max_length, sft.evaluate_every is None, config.stages]
        if config.stage == "rl":
            key += _needs(config)
            if isinstance(config.algorithm, PreferenceConfig):
                key += [config.algorithm.negatives, config.algorithm.pairs, config.algorithm.sft_share]
        different.setdefault(json.dumps(key), config)
    found = []
    for config in different.values():
        dataset = inputs.load(config)
        source = locate_model(config.model, dataset, Path(config.cache_dir))
        tokenizer = load_tokenizer(source, config.generation.template_date, config.model)
        found.append((config, estimate_or_reason(config, dataset, source, tokenizer)))
    return max(found, key=lambda pair: pair[1].peak if isinstance(pair[1], MemoryEstimate) else -1)
