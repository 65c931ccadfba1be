"""Messages about memory: the estimate before a run, and what to lower after an out-of-memory error."""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.table import Table

from rlbench.base.errors import BadInput, OutOfMemory
from rlbench.config.schema import Config
from rlbench.running.memory import MemoryEstimate, NoEstimate, largest, words
from rlbench.runs.budget import Ledger


def tell(config: Config, expected: MemoryEstimate | NoEstimate, console: Console) -> None:
    """Print the estimate, and a warning with settings to lower if it exceeds the available memory."""
    console.print(f"memory: {expected}", style="dim", markup=False, soft_wrap=True)
    if isinstance(expected, MemoryEstimate) and not expected.fits:
        lower = ", ".join(settings_to_lower(config, expected.phase))
        console.print(
            f"warning: this is more than is available. To reduce it, lower these settings in this order: {lower}",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def show(configs: Sequence[Config], jobs: int, console: Console) -> None:
    """Print a dry run's table: the components of each phase, for the run that needs most memory.

    Args:
        configs: the runs.
        jobs: number of runs side by side.
        console: where to print.
    """
    try:
        config, expected = largest(configs)
    except BadInput as error:
        console.print(f"memory: unknown, because {error.problems[0]}", markup=False, soft_wrap=True)
        return
    if isinstance(expected, NoEstimate):
        tell(config, expected, console)
        return
    names = list(dict.fromkeys(name for parts in expected.parts.values() for name in parts))
    table = Table("memory", *expected.parts, box=None, pad_edge=False)
    for name in names:
        sizes = [parts.get(name, 0) for parts in expected.parts.values()]
        if any(sizes):
            table.add_row(name, *(words(size) if size else "" for size in sizes))
    table.add_row("together", *(words(sum(parts.values())) for parts in expected.parts.values()))
    console.print(table)
    tell(config, expected, console)
    if jobs > 1 and not expected.on_gpu and expected.available is not None:
        together = f"memory: about {words(jobs * expected.peak)} with {jobs} runs at once on this machine"
        style = "yellow" if jobs * expected.peak > expected.available else "dim"
        console.print(f"{together}, of {words(expected.available)} available", style=style, markup=False)


LOWERS = {
    "rollout": ("trainer.bf16", "generation."),
    "evaluation": ("evaluation.", "trainer.bf16", "generation."),
    "update": ("trainer.", "adapter", "generation.max_new_tokens"),
}
"""Prefixes of the keys that reduce the memory of a phase."""


def settings_to_lower(config: Config, phase: str | None) -> list[str]:
    """Return settings to change when memory is short, mildest first. Those without effect on the phase come last.

    Args:
        config: the run.
        phase: phase of a `MemoryEstimate` or of a `Ledger` that ran out of memory; None if unknown.
    """
    trainer = config.trainer
    name, section = ("rl", trainer.rl) if config.stage == "rl" else ("sft", trainer.sft)
    recomputes = trainer.gradient_checkpointing
    vllm = config.generation.engine == "vllm_colocate"
    tokens = trainer.rl.micro_batch_tokens if config.stage == "rl" else None
    wanted = {
        f"trainer.{name}.micro_batch_size (now {section.micro_batch_size}; gradient accumulation keeps the batch "
        "size)": (tokens is None and section.micro_batch_size > 1),
        f"trainer.rl.micro_batch_tokens (now {tokens})": tokens is not None,
        "trainer.share_prompts=auto": config.stage == "rl" and trainer.share_prompts == "never" and not recomputes,
        f"evaluation.batch_size (now {config.evaluation.batch_size})": config.evaluation.batch_size > 1,
        f"evaluation.batch_tokens (now {config.evaluation.batch_tokens})": True,
        "trainer.gradient_checkpointing=true": not recomputes,
        # A shared pass then still holds the activations of a group in all layers.
        "trainer.share_prompts=never": config.stage == "rl" and trainer.share_prompts != "never" and recomputes,
        "trainer.bf16=true": not trainer.bf16,
        "trainer.optimizer=adamw_8bit (docs/low-memory.md)": trainer.optimizer == "adamw",
        "adapter=lora (docs/low-memory.md)": not config.adapter.is_used,
        "generation.prefill=shared": config.generation.prefill == "repeated",
        f"generation.max_new_tokens (now {config.generation.max_new_tokens})": True,
        "generation.vllm.gpu_memory_utilization": vllm,
    }
    effective = LOWERS["update" if phase in ("SFT update", "reward", "reference") else phase or "update"]
    return sorted((key for key, there in wanted.items() if there), key=lambda key: not key.startswith(effective))


ENDED = re.compile(r"out of memory|not enough memory|can.t allocate memory|cannot allocate memory|bad_alloc", re.I)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error reports that GPU or host memory is exhausted."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(ENDED.search(str(error)))


@contextmanager
def explained(config: Config, stage: str, ledger: Ledger, expected: MemoryEstimate | NoEstimate) -> Iterator[None]:
    """Replace out-of-memory errors by one that tells the user what to do.

    Raises:
        OutOfMemory: instead of the original error.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        phase = ledger.failed_in(error)
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OutOfMemory(
            f"out of memory in the {stage} stage{f', phase {phase}' if phase else ''} ({said}). Expected: "
            f"{expected}. Lower these settings in this order: {', '.join(settings_to_lower(config, phase))}. Then "
            "run the command again: it continues, or starts from the beginning if the setting is part of the run's "
            "identity"
        ) from error
