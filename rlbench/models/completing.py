"""Completions of prompts, where each prompt is forwarded once for all of its completions.

`transformers.generate` forwards a copy of the prompt for each completion, copies the whole cache at each step, and goes
on with finished rows until the last one ends. Here the prompt's keys and values are repeated, a step writes into
reserved room, and finished rows are dropped. The choice of tokens is the same.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

DROPPED_AT = 0.25
"""Finished rows are dropped when they are this share of all rows. Dropping copies the cache of the others."""


@dataclass(frozen=True)
class Completion:
    """One completion.

    Attributes:
        ids: its tokens, EOS included.
        logps: log-probability of the most likely token at each position, before the decoding settings; empty unless
            requested.
    """

    ids: list[int]
    logps: list[float]


class ReservedLayer(DynamicLayer):
    """Keys and values of one layer in tensors with room for all tokens, so that a step copies only its own.

    Args:
        room: number of tokens to reserve.
    """

    def __init__(self, room: int):
        super().__init__()
        self._room = room
        self._reserved: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._reserved is None:
            self._reserved = self._reserve(key_states), self._reserve(value_states)
        end = start + key_states.size(-2)
        for held, new in zip(self._reserved, (key_states, value_states), strict=True):
            held[:, :, start:end] = new
        self.keys, self.values = (held[:, :, :end] for held in self._reserved)
        return self.keys, self.values

    def _reserve(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_empty(*states.shape[:2], self._room, states.size(3))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self._reserved is not None:
            length = self.get_seq_length()
            self._reserved = self._reserved[0][indices], self._reserved[1][indices]
            self.keys, self.values = (held[:, :, :length] for held in self._reserved)


@torch.no_grad()
def complete(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    copies: int = 1,
    wants_logps: bool = False,
) -> list[Completion]:
    """Completions of prompts, `copies` of each prompt in a row.

    Args:
        model: a causal language model that keeps keys and values (`shared_prompt.reason_against`).
        prompts: token ids of each prompt, at least one.
        config: decoding settings, with `max_new_tokens`, `pad_token_id` and `eos_token_id`.
        copies: number of completions per prompt.
        wants_logps: whether to record log-probabilities of the most likely tokens.
    """
    device = model.device
    ids, mask = _padded(prompts, config.pad_token_id, device)
    ends = torch.tensor(config.eos_token_id, device=device).view(-1)
    most = int(config.max_new_tokens)
    cache = _cache(model, ids.size(1) + most)
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    if ids.size(1) > 1:
        placed = {"position_ids": positions[:, :-1]} if takes_positions else {}
        model.base_model(
            input_ids=ids[:, :-1], attention_mask=mask[:, :-1], past_key_values=cache, use_cache=True, **placed
        )
    rows = torch.arange(len(prompts), device=device).repeat_interleave(copies)
    cache.batch_select_indices(rows)
    ids, mask, position = ids[rows], mask[rows], positions[rows, -1:]
    padding = (mask == 0).sum(1)
    processors = processors_of(config, padding)
    text = torch.cat([ids, ids.new_full((len(rows), most), config.pad_token_id)], dim=1) if processors else ids
    tokens = ids.new_full((len(rows), most), config.pad_token_id)
    logps = torch.zeros(len(rows), most, device=device)
    lengths = torch.full((len(rows),), most, device=device)
    active = torch.arange(len(rows), device=device)  # the completion of each row that is still computed
    running = torch.ones(len(rows), dtype=torch.bool, device=device)
    mask = torch.cat([mask, mask.new_ones(len(rows), most)], dim=1)
    last, width = ids[:, -1:], ids.size(1)
    for step in range(most):
        placed = {"position_ids": position + step} if takes_positions else {}
        logits = model(
            input_ids=last, attention_mask=mask[:, : width + step], past_key_values=cache, use_cache=True, **placed
        ).logits[:, -1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if wants_logps:
            logps[active, step] = (logits.amax(1) - logits.logsumexp(1)).to(logps.dtype)
        if processors:
            logits = processors(text[active, : width + step], logits)
        chosen = logits.softmax(1).multinomial(1) if config.do_sample else logits.argmax(1, keepdim=True)
        tokens[active, step] = chosen.squeeze(1)
        if processors:
            text[active, width + step] = chosen.squeeze(1)
        ended = torch.isin(chosen.squeeze(1), ends) & running
        lengths[active[ended]] = step + 1
        running &= ~ended
        left = int(running.sum())
        if not left:
            break
        last = chosen
        if left <= (1 - DROPPED_AT) * len(running):
            kept = running.nonzero().squeeze(1)
            cache.batch_select_indices(kept)
            active, last, mask, position = active[kept], last[kept], mask[kept], position[kept]
            running = running[kept]
            processors = processors_of(config, padding[active])
    rows_of = zip(tokens.tolist(), logps.tolist(), lengths.tolist(), strict=True)
    return [Completion(row[:n], of_row[:n] if wants_logps else []) for row, of_row, n in rows_of]


def processors_of(config: GenerationConfig, padding: torch.Tensor | None = None) -> LogitsProcessorList:
    """The processors that change logits under these settings, in the order of transformers. Empty if there are none.

    Args:
        config: decoding settings.
        padding: (B,) number of padding tokens before each prompt, which no penalty counts; None for none.
    """
    found = LogitsProcessorList()
    if config.repetition_penalty not in (None, 1.0):
        found.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty, padding))
    if config.no_repeat_ngram_size:
        found.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if not config.do_sample:
        return found
    if config.temperature not in (None, 1.0):
        found.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        found.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None and config.top_p < 1:
        found.append(TopPLogitsWarper(config.top_p))
    if config.min_p:
        found.append(MinPLogitsWarper(config.min_p))
    return found


def _cache(model: PreTrainedModel, room: int) -> DynamicCache:
    """A cache for a model, with reserved room in the layers that keep all tokens."""
    cache = DynamicCache(config=model.config.get_text_config())
    cache.layers = [ReservedLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _padded(prompts: Sequence[Sequence[int]], padding: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, P) ids, padded on the left, and their mask."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), padding)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
