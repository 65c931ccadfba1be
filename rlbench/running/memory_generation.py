"""Memory of generating lists: rollouts and evaluations."""

import math

import torch

from rlbench.config.schema import Config
from rlbench.models.generation import shares
from rlbench.running.memory_shape import Shape
from rlbench.running.memory_updates import FLOAT, HALF, bytes_of_number

STEP_COPIES = 4
"""Sampling a token makes this many copies of the logits."""


def rollout(config: Config, shape: Shape, prompt: int, rows: int, on_gpu: bool) -> dict[str, int]:
    """Return the memory of a rollout of `rows` completions with the configured engine, by component."""
    if config.generation.engine == "vllm_server":
        return {}
    if config.generation.engine == "vllm_colocate" and on_gpu:
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        return {"vLLM": int(config.generation.vllm.gpu_memory_utilization * total)}
    if config.generation.engine == "continuous":
        return _repeated(config, shape, prompt, rows)
    return _generation(config, shape, prompt, math.ceil(rows / config.trainer.rl.group_size), rows)


def evaluation(config: Config, shape: Shape, prompt: int, contexts: int) -> dict[str, int]:
    """Return the memory of the largest evaluation batch: few of the longest prompts, or many that just fill it.

    Each list is counted with a prompt of its own. Lists that are sampled after the training share theirs.
    """
    limits, new = config.evaluation, config.generation.max_new_tokens
    rows = min(limits.batch_size, contexts)
    few = max(min(rows, limits.batch_tokens // (prompt + new)), 1)
    filling = min(prompt, max(limits.batch_tokens // rows - new, 1))
    batches = [_generation(config, shape, prompt, few, few)]
    if limits.batch_tokens >= rows * (1 + new):
        batches.append(_generation(config, shape, filling, rows, rows))
    return max(batches, key=lambda parts: sum(parts.values()))


def _generation(config: Config, shape: Shape, prompt: int, prompts: int, rows: int) -> dict[str, int]:
    """Return the memory of `rows` lists of `prompts` distinct prompts."""
    if not (shares(config.generation) and shape.shares_rollouts):
        return _repeated(config, shape, prompt, rows)
    own = _cache(config, shape, rows * config.generation.max_new_tokens)
    return {
        # When finished lists are dropped, the others are copied one layer at a time.
        "KV cache": _cache(config, shape, prompts * prompt) + own + own // shape.layers,
        "prompts": _first_pass(config, shape, prompt, prompts),
        "logits": STEP_COPIES * rows * shape.vocabulary * FLOAT,
    }


def _repeated(config: Config, shape: Shape, prompt: int, rows: int) -> dict[str, int]:
    """Return the memory of transformers' generate for `rows` lists, each with its own copy of the prompt."""
    cache = _cache(config, shape, rows * (prompt + config.generation.max_new_tokens))
    return {
        "KV cache": cache + cache // shape.layers,  # it grows by copying one layer at a time
        "prompts": _first_pass(config, shape, prompt, rows),
        "logits": STEP_COPIES * rows * shape.vocabulary * FLOAT,
    }


def _cache(config: Config, shape: Shape, tokens: int) -> int:
    """Return the bytes of the keys and values of all blocks. Under autocast rotary angles make them float32."""
    number = HALF if config.model.dtype == "bfloat16" else FLOAT
    return 2 * shape.layers * shape.key_value * tokens * number


def _first_pass(config: Config, shape: Shape, prompt: int, rows: int) -> int:
    """Return what one block makes of the prompts."""
    return rows * prompt * (3 * shape.intermediate + 4 * shape.hidden + prompt) * bytes_of_number(config)
