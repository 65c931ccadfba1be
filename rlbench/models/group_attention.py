"""Attention of whole completions over prompts that are held once, with gradients, on a CPU.

A completion's token attends to its prompt and to the completion's earlier tokens. Each part is one call of torch's
fused attention, which also returns the logarithm of its normaliser. The two outputs are weighted by their normalisers.
In the backward pass, fused attention runs once for each part with the merged output and normaliser. The gradient is the
sum of both. A prompt's keys are not copied for its completions, and no mask is built.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rlbench.models import prompt_cache
from rlbench.models.prompt_cache import (
    PromptHolder,
    PromptPlaces,
    apart,
    fused_part,
    latest_prompts,
    merged,
    places_of,
    refuse_unknown,
    together,
)

NAME = "rlbench_group_attention"
"""Name under which transformers knows `attend`."""
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def can_attend(model: PreTrainedModel, cache: DynamicCache, prompt_mask: torch.Tensor, tokens: int) -> bool:
    """Whether `attend` gives what the model's own attention gives.

    Args:
        model: a causal language model.
        cache: the cache after the prompts have been forwarded.
        prompt_mask: (n, P) 1 at tokens of prompts.
        tokens: largest number of tokens of a prompt with its completion.
    """
    return (
        prompt_mask.device.type == "cpu"
        and tokens <= most_tokens(model)
        and all(type(layer) is DynamicLayer and layer.keys.size(3) == layer.values.size(3) for layer in cache.layers)
        and bool(prompt_mask.any(1).all())
    )


def most_tokens(model: PreTrainedModel) -> float:
    """Largest number of tokens of a prompt with its completion for which `attend` knows the model's attention.

    0 for a model whose attention it does not know, infinity for one without a window.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    known = (
        config._attn_implementation == "sdpa"
        and type(model)._supports_attention_backend
        and kinds <= {"full_attention"}
        and not getattr(config, "num_kv_shared_layers", None)
    )
    return 0 if not known else math.inf if window is None else window


class HeldLayer(PromptHolder):
    """Keys and values of one layer's prompts. An update returns only the keys and values of the completions.

    Args:
        prompts: the layer after the prompts have been forwarded.
        places: where completions stand among those of their prompts.
    """

    def __init__(self, prompts: DynamicLayer, places: PromptPlaces) -> None:
        super().__init__()
        assert prompts.keys is not None and prompts.values is not None
        self.prompt, self.places = (prompts.keys, prompts.values), places

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.remember()
        return key_states, value_states

    def get_seq_length(self) -> int:
        assert self.prompt is not None
        return self.prompt[0].size(2)


@contextmanager
def attending(
    model: PreTrainedModel, cache: DynamicCache, prompt_of: torch.Tensor, mask: torch.Tensor
) -> Iterator[DynamicCache]:
    """In this block the model's attention is `attend`. Yields the cache for the completions.

    Args:
        model: a model for which `can_attend` is true.
        cache: the cache after the prompts have been forwarded.
        prompt_of: (B,) index of each completion's prompt.
        mask: (n, P) 1 at tokens of prompts.
    """
    held, places = DynamicCache(config=model.config.get_text_config(decoder=True)), places_of(prompt_of, mask)
    held.layers = [HeldLayer(layer, places) for layer in cache.layers]
    with prompt_cache.attending(model, NAME):
        yield held


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of completions, as a function of transformers' `AttentionInterface`.

    Args:
        module: the attention module.
        query: (B, heads, T, width).
        key: (B, key heads, T, width), of the completions.
        value: (B, key heads, T, width).
        attention_mask: not used. Completions are padded on the right, where nothing attends, and the prompts' padding
            is known.
        scaling: factor of scores; by default width ** -.5.
        dropout: must be 0.
        **others: further arguments of transformers.

    Returns:
        (B, T, heads, width), and None for the weights.

    Raises:
        ValueError: the model's attention has a part that this function does not know.
    """
    assert dropout == 0.0
    (prompt_keys, prompt_values), places = latest_prompts()
    refuse_unknown(module, others, "trainer.share_prompts=never")
    # Under autocast, rotary angles make queries and keys float32, and a cache stores values in the precision of keys.
    query, key, prompt_keys, prompt_values = (one.to(value.dtype) for one in (query, key, prompt_keys, prompt_values))
    output: torch.Tensor = _GroupAttention.apply(query, key, value, prompt_keys, prompt_values, places, scaling)
    return output.transpose(1, 2), None


class _GroupAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        prompt_keys: torch.Tensor,
        prompt_values: torch.Tensor,
        places: PromptPlaces,
        scale: float | None,
    ) -> torch.Tensor:
        ctx.places, ctx.scale = places, scale
        repeats = query.size(1) // key.size(1)
        grouped = _by_prompt(query, key.size(1), places)
        parts = fused_part(grouped, prompt_keys, prompt_values, scale=scale, bias=places.bias)
        before, before_log = (_by_row(one, query, places) for one in parts)
        own, own_log = fused_part(query, _repeated(key, repeats), _repeated(value, repeats), scale=scale, causal=True)
        output, log = merged(before, before_log, own, own_log), torch.logaddexp(before_log, own_log)
        ctx.save_for_backward(query, key, value, prompt_keys, prompt_values, output, log)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        query, key, value, prompt_keys, prompt_values, output, log = ctx.saved_tensors
        places, shared = ctx.places, key.size(1)
        repeats = query.size(1) // shared
        bias = None if places.bias is None else places.bias.to(query.dtype)
        of_query, of_key, of_value = _backward(
            gradient,
            query,
            _repeated(key, repeats),
            _repeated(value, repeats),
            output,
            log.squeeze(3),
            0.0,
            True,
            scale=ctx.scale,
        )
        of_group, of_prompt_keys, of_prompt_values = _backward(
            _by_prompt(gradient, shared, places),
            _by_prompt(query, shared, places),
            prompt_keys,
            prompt_values,
            _by_prompt(output, shared, places),
            _by_prompt(log, shared, places).squeeze(3),
            0.0,
            False,
            attn_mask=bias,
            scale=ctx.scale,
        )
        return (
            of_query + _by_row(of_group, query, places),
            _summed(of_key, repeats),
            _summed(of_value, repeats),
            of_prompt_keys,
            of_prompt_values,
            None,
            None,
        )


def _by_prompt(rows: torch.Tensor, shared: int, places: PromptPlaces) -> torch.Tensor:
    """(B, heads, T, d) -> (n, shared, G * heads / shared * T, d): all that attends to the same keys in one row."""
    count, _, _, width = rows.shape
    return together(rows.reshape(count, shared, -1, width), places)


def _by_row(grouped: torch.Tensor, like: torch.Tensor, places: PromptPlaces) -> torch.Tensor:
    """The inverse of `_by_prompt`."""
    _, heads, length, _ = like.shape
    shared = grouped.size(1)
    return apart(grouped, places, heads // shared * length).reshape(len(like), heads, length, -1)


def _repeated(held: torch.Tensor, repeats: int) -> torch.Tensor:
    """(B, shared, T, d) -> (B, shared * repeats, T, d)."""
    return held if repeats == 1 else held.repeat_interleave(repeats, dim=1)


def _summed(gradient: torch.Tensor, repeats: int) -> torch.Tensor:
    """(B, shared * repeats, T, d) -> (B, shared, T, d)."""
    if repeats == 1:
        return gradient
    rows, heads, length, width = gradient.shape
    return gradient.view(rows, heads // repeats, repeats, length, width).sum(2)


AttentionInterface.register(NAME, attend)
