"""A cache that holds the keys and values of each prompt once, and attention over it.

Completions of one prompt attend to the same keys. So their queries go through one matrix product with the prompt's
keys, and a second product covers the tokens that a completion has generated itself. The two outputs are weighted by
their normalisers. The result is ordinary attention.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

NAME = "rlbench_prompt_cache"
"""Name under which transformers knows `attend`."""
UNKNOWN = ("s_aux", "sinks", "position_bias", "indices", "block_indices")
"""Arguments of attention that change its result and that shared prompts do not know."""
FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""Torch's fused attention on a CPU, with the logarithm of the normaliser as its second result."""


@dataclass(frozen=True)
class PromptPlaces:
    """Where the rows of a batch stand when rows of the same prompt are put together.

    Attributes:
        prompts: n, number of prompts.
        size: G, largest number of rows of one prompt.
        slots: (B,) place of each row among n * G; None if row i has place i.
        bias: (n, 1, 1, P) minus infinity at padding of prompts; None without padding.
    """

    prompts: int
    size: int
    slots: torch.Tensor | None
    bias: torch.Tensor | None


def places_of(prompt_of: torch.Tensor, mask: torch.Tensor) -> PromptPlaces:
    """The places of rows.

    Args:
        prompt_of: (B,) index of each row's prompt, below n.
        mask: (n, P) 1 at tokens of prompts.
    """
    counts = prompt_of.bincount(minlength=len(mask))
    size = int(counts.max())
    order = prompt_of.argsort(stable=True)
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first[prompt_of[order]]
    slots: torch.Tensor | None = prompt_of * size + rank
    if len(prompt_of) == len(mask) * size and bool((slots == torch.arange(len(order), device=order.device)).all()):
        slots = None
    bias = None
    if not bool(mask.all()):
        bias = torch.zeros(mask.shape, device=mask.device).masked_fill(mask == 0, -math.inf)[:, None, None]
    return PromptPlaces(len(mask), size, slots, bias)


class PromptHolder(DynamicLayer):
    """A layer of a cache whose completions attend to prompts that are held once.

    Attributes:
        prompt: keys and values of prompts, (n, heads, P, width) each; None while the prompts are forwarded.
        places: where rows stand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prompt: tuple[torch.Tensor, torch.Tensor] | None = None
        self.places: PromptPlaces | None = None

    def remember(self) -> None:
        """Be the layer of the next attention. A module updates its layer directly before it calls attention."""
        _latest[0] = self


_latest: list[PromptHolder | None] = [None]
"""The layer that was updated last."""


def latest_prompts() -> tuple[tuple[torch.Tensor, torch.Tensor], PromptPlaces]:
    """Keys and values of the prompts in the layer that was updated last, and where rows stand."""
    layer = _latest[0]
    assert layer is not None and layer.prompt is not None and layer.places is not None
    return layer.prompt, layer.places


class PromptLayer(PromptHolder):
    """Keys and values of one layer: first those of the prompts, then also those of completions, in reserved room."""

    def __init__(self) -> None:
        super().__init__()
        self._own: tuple[torch.Tensor, torch.Tensor] | None = None
        self._made = 0

    def begin(self, places: PromptPlaces, rows: int, room: int) -> None:
        """Begin the completions.

        Args:
            places: where rows stand.
            rows: B, number of completions.
            room: largest number of tokens that a completion adds to the cache.
        """
        self.prompt, self.places = (self.keys, self.values), places
        self._own = (
            self.keys.new_empty(rows, self.keys.size(1), room, self.keys.size(3)),
            self.values.new_empty(rows, self.values.size(1), room, self.values.size(3)),
        )

    def keep(self, rows: torch.Tensor, prompts: torch.Tensor | None, places: PromptPlaces) -> None:
        """Drop the other rows.

        Args:
            rows: indices of the rows to keep.
            prompts: indices of the prompts to keep; None for all.
            places: where the kept rows stand.
        """
        assert self.prompt is not None and self._own is not None
        if prompts is not None:
            self.prompt = self.prompt[0][prompts], self.prompt[1][prompts]
        kept = tuple(held.new_empty(len(rows), *held.shape[1:]) for held in self._own)
        for new, held in zip(kept, self._own, strict=True):
            new[:, :, : self._made] = held[rows, :, : self._made]
        self._own, self.places = (kept[0], kept[1]), places

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._own is None:
            return super().update(key_states, value_states)
        self.remember()
        start, self._made = self._made, self._made + key_states.size(2)
        for held, new in zip(self._own, (key_states, value_states), strict=True):
            held[:, :, start : self._made] = new
        return self._own[0][:, :, : self._made], self._own[1][:, :, : self._made]

    def get_seq_length(self) -> int:
        return super().get_seq_length() + self._made


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token per row, as a function of transformers' `AttentionInterface`.

    Args:
        module: the attention module.
        query: (B, heads, 1, width).
        key: (B, key heads, t, width), of the tokens after the prompt.
        value: (B, key heads, t, value width).
        attention_mask: not used; the layer knows the prompts' padding.
        scaling: factor of scores; by default width ** -.5.
        sliding_window: number of columns that a token sees, itself included; None for all.
        softcap: bound of scores; None for none.
        **others: further arguments of transformers.

    Returns:
        (B, 1, heads, value width), and None for the weights.

    Raises:
        ValueError: the model's attention has a part that this function does not know.
    """
    refuse_unknown(module, others, "generation.prefill=repeated")
    (prompt_keys, prompt_values), places = latest_prompts()
    rows, heads, _, width = query.shape
    grouped = query.view(rows, key.size(1), heads // key.size(1), width)
    first = 0  # the first visible column, counted from the start of the prompts
    if sliding_window is not None:
        first = max(prompt_keys.size(2) + key.size(2) - sliding_window, 0)
    cut = max(first - prompt_keys.size(2), 0)
    own, prompts = (key[:, :, cut:], value[:, :, cut:]), (prompt_keys[:, :, first:], prompt_values[:, :, first:])
    scale = width**-0.5 if scaling is None else scaling
    bias = None if places.bias is None else places.bias[..., first:]
    fused = query.device.type == "cpu" and softcap is None and value.size(3) == width
    part = fused_part if fused else partial(_part, softcap=softcap)
    output, log = part(grouped, *own, scale=scale)
    if prompts[0].size(2):
        before, before_log = part(together(grouped, places), *prompts, scale=scale, bias=bias)
        output = merged(output, log, *(apart(one, places, grouped.size(2)) for one in (before, before_log)))
    return output.view(rows, 1, heads, -1), None


def fused_part(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float | None,
    bias: torch.Tensor | None = None,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over a part of the keys by torch's fused function, on a CPU.

    Args:
        query: (B, heads, T, width).
        key: (B, heads, t, width).
        value: (B, heads, t, width).
        scale: factor of scores; None for width ** -.5.
        bias: added to scores, broadcastable to (B, heads, T, t).
        causal: whether a query sees only the keys up to its own column.

    Returns:
        The output (B, heads, T, width), and the logarithm of its normaliser (B, heads, T, 1).
    """
    bias = None if bias is None else bias.to(query.dtype)
    output, log = FUSED(query, key, value, is_causal=causal, attn_mask=bias, scale=scale)
    return output, log[..., None]


def _part(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scale: float,
    softcap: float | None,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`fused_part` by plain matrix products. Scores are at least in float32."""
    scores = (query * scale) @ key.transpose(2, 3)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if softcap is not None:
        scores = (scores / softcap).tanh_() * softcap
    if bias is not None:
        scores = scores + bias
    log = scores.logsumexp(-1, keepdim=True)
    return scores.sub_(log).exp_().to(value.dtype) @ value, log


def merged(one: torch.Tensor, one_log: torch.Tensor, other: torch.Tensor, other_log: torch.Tensor) -> torch.Tensor:
    """Attention over the keys of two parts.

    Args:
        one: (..., width) output over the first part.
        one_log: (..., 1) logarithm of its normaliser.
        other: (..., width) output over the second part.
        other_log: (..., 1) logarithm of its normaliser.
    """
    share = (other_log - one_log).sigmoid_()
    return torch.lerp(one.to(share.dtype), other.to(share.dtype), share).to(one.dtype)


def refuse_unknown(module: nn.Module, arguments: Mapping[str, Any], remedy: str) -> None:
    """Raise if attention gets one of the arguments `UNKNOWN`.

    Args:
        module: the attention module.
        arguments: further arguments of its attention.
        remedy: the setting that avoids shared prompts.

    Raises:
        ValueError: it gets one.
    """
    unknown = [name for name in UNKNOWN if arguments.get(name) is not None]
    if unknown:
        raise ValueError(
            f"{type(module).__name__} attends with {unknown[0]}, which shared prompts do not support; use {remedy}"
        )


def together(rows: torch.Tensor, places: PromptPlaces) -> torch.Tensor:
    """Put rows of the same prompt together: (B, heads, r, d) -> (n, heads, G * r, d). Missing rows are 0."""
    if places.slots is not None:
        spread = rows.new_zeros(places.prompts * places.size, *rows.shape[1:])
        spread[places.slots] = rows
        rows = spread
    _, heads, repeats, width = rows.shape
    in_groups = rows.view(places.prompts, places.size, heads, repeats, width).transpose(1, 2)
    return in_groups.reshape(places.prompts, heads, places.size * repeats, width)


def apart(grouped: torch.Tensor, places: PromptPlaces, repeats: int) -> torch.Tensor:
    """The inverse of `together`: (n, heads, G * r, d) -> (B, heads, r, d)."""
    prompts, heads, _, width = grouped.shape
    rows = grouped.view(prompts, heads, places.size, repeats, width).transpose(1, 2)
    rows = rows.reshape(prompts * places.size, heads, repeats, width)
    return rows if places.slots is None else rows[places.slots]


AttentionInterface.register(NAME, attend)


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache of `PromptLayer`s."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [PromptLayer() for _ in cache.layers]
    return cache


@contextmanager
def attending(model: PreTrainedModel, name: str = NAME) -> Iterator[None]:
    """In this block the model's attention is `attend`, or another function that `AttentionInterface` knows by name."""
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
        _latest[0] = None  # its keys and values need not stay in memory
        _latest[0] = None


def reason_against(model: PreTrainedModel) -> str | None:
    """Why the model cannot generate with a `PromptLayer` cache, or None if it can."""
    name, config = type(model).__name__, model.config.get_text_config(decoder=True)
    if getattr(type(model), "_is_stateful", False):
        return f"{name} carries a recurrent state"
    if not type(model)._supports_attention_backend:
        return f"{name} does not use transformers' AttentionInterface"
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    if any(type(layer) not in known for layer in DynamicCache(config=config).layers):
        return f"{name} has layers that keep no ordinary keys and values"
    if getattr(config, "num_kv_shared_layers", None):
        return f"{name} has layers that share keys and values"
    if any(parameter.rsplit(".", 1)[-1] == "sinks" for parameter, _ in model.named_parameters()):
        return f"{name} has attention sinks"
    return None
