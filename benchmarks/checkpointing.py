"""Two forms of a shared prompt, with and without gradient checkpointing: a cache for each group against packed rows.

    python -m benchmarks.checkpointing                                          # three shapes, some minutes
    python -m benchmarks.checkpointing --only 300/120/8/4096 --json packed.json # PROMPT/COMPLETION/G/VOCABULARY

- shared: rlbench's own pass (`rlbench.models.shared_prompt`). A prompt is forwarded once, and its completions attend to
  its keys and values. A checkpoint holds one prompt with its completions.
- packed: one row for each prompt, [prompt, completion 1, ..., completion G]. Position ids restart at each completion,
  and a block mask lets a completion see its prompt and itself. Checkpoints are those of transformers, one for each
  layer.

Both give the same log-probabilities and gradients. This is checked in float64 before anything is measured.

A pass is forward and backward of 4 prompts, with the same LM head on both sides, in float32. All four passes take turns
after one pass each that is not counted. Seconds are CPU seconds of one thread, because other programs disturb them less
than seconds by the clock. A ratio is the median over rounds. Peak memory is the largest growth of the resident memory
during a second pass, gradients included, in one more process for each pass.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.step_memory import ENVIRONMENT, resident
from benchmarks.step_sides import PROMPTS, Shape, llama
from rlbench.base.files import write_json
from rlbench.config.arguments import count
from rlbench.models.shared_prompt import PromptRows, shared_scores
from rlbench.models.token_head import LogitRule, token_scores
from rlbench.runs.budget import peak_memory, reset_peak_memory

SHAPES = tuple(Shape.read(text) for text in ("60/60/8/4096", "300/120/8/4096", "1000/120/8/4096"))
CHECKED = Shape(9, 5, 3, 128)
"""The shape at which both forms are compared in float64."""
TOLERANCE = 1e-7
"""Maximum difference of a float64 model, which computes norms and rotary angles in float32. With these in float64 it is
below 1e-9 (tests/unit/test_checkpointing.py)."""
ROUNDS = 7
WIDTH = 112
"""Columns of the table."""

Pass = Callable[[PreTrainedModel, PromptRows], torch.Tensor]
"""Model and completions -> (B, T) log-probabilities."""


def shared(model: PreTrainedModel, rows: PromptRows, recompute: bool) -> torch.Tensor:
    """(B, T) log-probabilities by rlbench's shared pass.

    Args:
        model: a causal language model.
        rows: completions.
        recompute: whether to keep no activations, and to forward each group again in the backward pass.
    """
    return shared_scores(model, rows, LogitRule(), wants_entropy=False, recompute=recompute).logps


def packed(model: PreTrainedModel, rows: PromptRows, recompute: bool) -> torch.Tensor:
    """(B, T) log-probabilities by one row for each prompt with all its completions.

    Args:
        model: a causal language model.
        rows: completions without padding, sorted by prompt, equally many for each.
        recompute: whether each layer keeps only its input, and is forwarded again in the backward pass.
    """
    n, length = rows.prompt_ids.shape
    group, tokens = len(rows.completion_ids) // n, rows.completion_ids.size(1)
    scored = tokens - 1  # the last token of a completion predicts nothing
    ids = torch.cat([rows.prompt_ids, rows.completion_ids[:, :-1].reshape(n, group * scored)], dim=1)
    positions = torch.cat([torch.arange(length), torch.arange(length, length + scored).repeat(group)])
    part = torch.cat([torch.zeros(length, dtype=torch.long), torch.arange(1, group + 1).repeat_interleave(scored)])
    visible = (positions[:, None] >= positions) & ((part[:, None] == part) | (part == 0))
    set_checkpoints_of_layers(model, recompute)
    states = model.base_model(
        input_ids=ids,
        attention_mask=visible.expand(n, 1, -1, -1),
        position_ids=positions.expand(n, -1),
        use_cache=False,
    ).last_hidden_state
    set_checkpoints_of_layers(model, False)
    last = states[:, length - 1, None, None].expand(-1, group, -1, -1)
    before = torch.cat([last, states[:, length:].unflatten(1, (group, scored))], dim=2).flatten(0, 2)
    weight = model.get_output_embeddings().weight
    logps = token_scores(before, weight, None, rows.completion_ids.flatten(), LogitRule(), wants_entropy=False).logps
    return logps.view(n * group, tokens)


def set_checkpoints_of_layers(model: PreTrainedModel, on: bool) -> None:
    """Turn checkpoints of a prepared model's layers on or off (`model_of`)."""
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = on


PASSES: dict[str, Pass] = {
    "shared": partial(shared, recompute=False),
    "packed": partial(packed, recompute=False),
    "shared_checkpointed": partial(shared, recompute=True),
    "packed_checkpointed": partial(packed, recompute=True),
}


@dataclass(frozen=True)
class Comparison:
    """Result of a shape. Ratios are medians over rounds.

    Attributes:
        ratio: CPU seconds of packed rows over those of the shared pass, without checkpoints.
        checkpointed_ratio: the same, both with checkpoints.
        seconds: CPU seconds of each pass in `PASSES`, medians.
        memory_ratio: peak memory of packed rows over that of the shared pass, without checkpoints.
        checkpointed_memory_ratio: the same, both with checkpoints.
        peak_bytes: peak memory of each pass.
        rounds: number of rounds.
    """

    ratio: float
    checkpointed_ratio: float
    seconds: dict[str, float]
    memory_ratio: float
    checkpointed_memory_ratio: float
    peak_bytes: dict[str, int]
    rounds: int


def model_of(vocabulary: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The small Llama of `benchmarks.step` with random weights, in training mode. Its layers can take checkpoints."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(llama(vocabulary)).to(dtype).train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    set_checkpoints_of_layers(model, False)
    return model


def rows_of(shape: Shape) -> PromptRows:
    """Completions of random tokens for 4 prompts. None has padding."""
    draw = torch.Generator().manual_seed(1)
    prompts = torch.randint(shape.vocabulary, (PROMPTS, shape.prompt), generator=draw)
    completions = torch.randint(shape.vocabulary, (PROMPTS * shape.group, shape.completion), generator=draw)
    of = torch.arange(PROMPTS).repeat_interleave(shape.group)
    return PromptRows(prompts, torch.ones_like(prompts), None, of, completions, torch.ones_like(completions))


def run(one: Pass, model: PreTrainedModel, rows: PromptRows) -> torch.Tensor:
    """Forward and backward. Returns the log-probabilities. The gradients are those of a fixed sum over tokens."""
    model.zero_grad()
    logps = one(model, rows)
    weights = torch.linspace(-1, 1, logps.numel(), dtype=logps.dtype).view_as(logps)
    (logps * weights).sum().backward()
    return logps.detach()


def differences() -> dict[str, float]:
    """Largest difference of each pass to the shared pass without checkpoints, in float64 at the shape `CHECKED`.

    Log-probabilities are compared as they are, gradients relative to the norm of all gradients.
    """
    model, rows = model_of(CHECKED.vocabulary, torch.float64), rows_of(CHECKED)
    logps, gradients = {}, {}
    for name, one in PASSES.items():
        logps[name] = run(one, model, rows)
        gradients[name] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    norm = gradients["shared"].norm()
    return {
        name: max(
            float((logps[name] - logps["shared"]).abs().max()),
            float((gradients[name] - gradients["shared"]).abs().max() / norm),
        )
        for name in PASSES
    }


def take_turns(shape: Shape, rounds: int) -> list[dict[str, float]]:
    """CPU seconds of the passes in each round. The first round is not counted."""
    model, rows = model_of(shape.vocabulary), rows_of(shape)
    found = []
    for _ in range(rounds + 1):
        seconds = {}
        for name, one in PASSES.items():
            started = process_time()
            run(one, model, rows)
            seconds[name] = process_time() - started
        found.append(seconds)
    return found[1:]


def peak_of(name: str, shape: Shape) -> int:
    """Growth of this process's resident memory during the second of two passes, in bytes."""
    model, rows = model_of(shape.vocabulary), rows_of(shape)
    run(PASSES[name], model, rows)
    model.zero_grad()
    before = resident()
    reset_peak_memory(on_gpu=False)
    run(PASSES[name], model, rows)
    peak = peak_memory(on_gpu=False)["process"]
    assert peak is not None
    return peak - before


def peak_elsewhere(name: str, shape: Shape) -> int:
    """`peak_of` in a new process.

    Raises:
        RuntimeError: the process fails.
    """
    command = [sys.executable, "-m", "benchmarks.checkpointing", "--peak-of", name, "--only", str(shape)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return int(done.stdout.split()[-1])


def compare(shape: Shape, rounds: int) -> Comparison:
    """Measure one shape."""
    found = take_turns(shape, rounds)
    peaks = {name: peak_elsewhere(name, shape) for name in PASSES}
    return Comparison(
        ratio=median(row["packed"] / row["shared"] for row in found),
        checkpointed_ratio=median(row["packed_checkpointed"] / row["shared_checkpointed"] for row in found),
        seconds={name: median(row[name] for row in found) for name in PASSES},
        memory_ratio=peaks["packed"] / peaks["shared"],
        checkpointed_memory_ratio=peaks["packed_checkpointed"] / peaks["shared_checkpointed"],
        peak_bytes=peaks,
        rounds=rounds,
    )


def table_of(results: dict[Shape, Comparison]) -> Table:
    """The results, two rows for each shape."""
    table = Table(
        "prompt/completion/G/vocabulary",
        "checkpoints",
        "shared, s",
        "packed, s",
        "ratio",
        "shared, MB",
        "packed, MB",
        "ratio",
    )
    for shape, found in results.items():
        of_time, of_memory = found.seconds, found.peak_bytes
        for end, ratio, memory_ratio in (
            ("", found.ratio, found.memory_ratio),
            ("_checkpointed", found.checkpointed_ratio, found.checkpointed_memory_ratio),
        ):
            table.add_row(
                str(shape),
                "yes" if end else "no",
                f"{of_time['shared' + end]:.2f}",
                f"{of_time['packed' + end]:.2f}",
                f"{ratio:.2f}",
                f"{of_memory['shared' + end] / 1e6:.0f}",
                f"{of_memory['packed' + end] / 1e6:.0f}",
                f"{memory_ratio:.2f}",
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkpointing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=Shape.read, metavar="PROMPT/COMPLETION/G/VOCABULARY", help="measure one shape")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    parser.add_argument("--rounds", type=count, default=ROUNDS, help=f"number of rounds (default {ROUNDS})")
    parser.add_argument("--peak-of", choices=PASSES, help="print the peak memory of one pass in bytes (needs --only)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.peak_of:
        if not given.only:
            parser.error("--peak-of needs --only")
        print(peak_of(given.peak_of, given.only))
        return
    found = differences()
    if max(found.values()) > TOLERANCE:
        raise SystemExit(f"passes differ by more than {TOLERANCE:g} in float64: {found}")
    console = Console(width=WIDTH)
    console.print(f"largest difference in float64: {max(found.values()):.1e}")
    results: dict[Shape, Comparison] = {}
    for shape in [given.only] if given.only else SHAPES:
        results[shape] = compare(shape, given.rounds)
        console.print(json.dumps({"shape": str(shape), **asdict(results[shape])}), soft_wrap=True)
    console.print(table_of(results))
    console.print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if given.json:
        rows = {str(shape): asdict(one) for shape, one in results.items()}
        write_json(given.json, rows[str(given.only)] if given.only else rows)


if __name__ == "__main__":
    main()
