"""Completions of prompts. Each distinct prompt is forwarded once for all of its completions.

`transformers.generate` forwards a copy of the prompt for each completion, copies the whole cache at each step, and goes
on with finished rows until the last one ends. Here the keys and values of a prompt are held once (`prompt_cache`), a
step writes into reserved room, and finished rows are dropped. The distribution of the lists is the same.
"""

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rlbench.models.batches import padded
from rlbench.models.constraint import FORBIDDEN, OVER, Walk
from rlbench.models.prompt_cache import attending, new_cache, places_of, reason_against

log = logging.getLogger(__name__)
BLOCK = 256
"""Number of tokens that are summed together before one is drawn."""
NEARLY_NOTHING = 80.0
"""Nats between the largest allowed logit and that of a forbidden token. float32 can still hold exp(-80)."""
DROPPED_AT = 0.25
"""Finished rows are dropped when they are this share of all rows. Dropping copies the cache of the others."""


Record = Callable[[torch.Tensor], torch.Tensor]
"""Logits (B, V) at the positions of the next tokens -> (B,) numbers to record."""


def most_likely_logps(logits: torch.Tensor) -> torch.Tensor:
    """(B,) log-probability of the most likely token."""
    return logits.amax(1) - logits.logsumexp(1)


def entropies(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """(B,) entropy in nats at a sampling temperature."""
    logs = (logits / temperature).log_softmax(1).clamp_(min=FORBIDDEN)
    return -(logs.exp() * logs).sum(1)


@dataclass(frozen=True)
class Completion:
    """One completion.

    Attributes:
        ids: its tokens, EOS included.
        recorded: a number for each position, from the logits before the decoding settings; empty unless requested.
        prompt_tokens: number of tokens of its prompt.
    """

    ids: list[int]
    recorded: list[float]
    prompt_tokens: int


@dataclass(frozen=True)
class ListEnd:
    """When a completion is over although it has no EOS.

    Attributes:
        newlines: (V,) number of newlines in each token.
        least: number of newlines before which no completion is over.
        is_over: called with the ids of completions that have just got a newline; whether each is over. A completion
            includes what was written before.
    """

    newlines: torch.Tensor
    least: int
    is_over: Callable[[list[list[int]]], list[bool]]


def complete(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    record: Record | None = None,
    shared: bool = True,
    synced: bool = False,
    end: ListEnd | None = None,
    walk: Walk | None = None,
    written: Sequence[int] | None = None,
) -> list[Completion]:
    """One completion per prompt, in their order. Random numbers come from torch's global generator.

    Args:
        model: a causal language model.
        prompts: token ids of each prompt, at least one. Equal prompts are forwarded once.
        config: decoding settings, with `max_new_tokens`, `pad_token_id` and `eos_token_id`.
        record: what to record at each position; None for nothing.
        shared: false uses transformers' generate, as does a model that cannot share (`prompt_cache.reason_against`).
        synced: whether other processes hold parts of the weights, so that all must make the same number of steps.
        end: what ends a completion besides EOS and the limit; None for nothing.
        walk: the beginning of the lists, if they are held to the catalogue; None for free lists.
        written: number of tokens at the end of each prompt that are the beginning of its completion. They count for
            `end` and for the limit. None for none.

    Raises:
        ValueError: with `end` or `written`, for a model that cannot share.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            reason = reason_against(model) if shared else None
            if shared and reason is None:
                batch = Batch(model, prompts, config, record=record, synced=synced, end=end, walk=walk, written=written)
                return batch.completions()
            if end is not None or written is not None:
                raise ValueError(
                    f"a list can only end without EOS, or be continued, where prompts are shared: {reason}"
                )
            if reason is not None:
                _tell(reason)
            return _generated(model, prompts, config, record, synced, walk)
    finally:
        model.train(was_training)


@cache
def _tell(reason: str) -> None:
    """Log a notice, once per process."""
    log.warning("%s, so transformers' generate forwards a prompt once for each of its lists", reason)


class Batch:
    """The state of a batch of completions. Tensors of rows hold the rows that are still computed.

    Args: as for `complete`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        config: GenerationConfig,
        *,
        record: Record | None = None,
        synced: bool = False,
        end: ListEnd | None = None,
        walk: Walk | None = None,
        written: Sequence[int] | None = None,
    ):
        self.model, self.config, self.synced, self.end, self.walk = model, config, synced, end, walk
        self.most = int(config.max_new_tokens)
        device = model.device
        self.of_prompts = [len(prompt) for prompt in prompts]
        distinct: dict[tuple[int, ...], int] = {}
        prompt_of = [distinct.setdefault(tuple(prompt), len(distinct)) for prompt in prompts]
        ids, mask = padded(list(distinct), config.pad_token_id, left=True)
        self.ids, self.mask = ids.to(device), mask.to(device)
        self.prompt_of = torch.tensor(prompt_of, device=device)
        self.ends = torch.tensor(config.eos_token_id, device=device).view(-1)
        accepted = inspect.signature(type(model).forward).parameters
        self.takes_positions = "position_ids" in accepted
        self.last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        rows, width = len(prompts), self.ids.size(1)
        self.cache = new_cache(model)
        self.active = torch.arange(rows, device=device)  # the completion of each row
        self.running = torch.ones(rows, dtype=torch.bool, device=device)
        self.text = torch.full((rows, width + self.most), config.pad_token_id, device=device)
        self.text[:, :width] = self.ids[self.prompt_of]
        self.whole_mask = torch.ones_like(self.text)
        self.whole_mask[:, :width] = self.mask[self.prompt_of]
        self.written = torch.tensor(written or [0] * rows, device=device)
        self.lines = self._written_lines(end)
        self.limits = self.most - self.written
        self.lengths = self.limits.clone()
        self.record = record
        self.recorded = None if record is None else torch.zeros(rows, self.most, device=device)
        self.processors = processors_of(config, self._padding())

    def _written_lines(self, end: ListEnd | None) -> torch.Tensor:
        """(rows,) newlines in the beginnings of the completions."""
        width = self.ids.size(1)
        longest = int(self.written.max())
        if end is None or not longest:
            return torch.zeros_like(self.written)
        ids = self.text[:, width - longest : width]
        is_written = torch.arange(longest, 0, -1, device=ids.device) <= self.written[:, None]
        return (_newlines(end, ids) * is_written).sum(1)

    def completions(self) -> list[Completion]:
        """Compute all completions."""
        width = self.ids.size(1)
        logits, position = self._prefill()
        with attending(self.model):
            for step in range(self.most):
                chosen = self._choose(logits, step)
                if step + 1 == self.most or not self._left():
                    break
                kept = self._drop()
                if kept is not None:
                    chosen, position = chosen[kept], position[kept]
                position = position + 1
                mask = self.whole_mask[self.active, : width + step + 1]
                logits = self._forward(chosen, mask, position)
        tokens, lengths = self.text[:, width:].tolist(), self.lengths.tolist()
        recorded = [[]] * len(tokens) if self.recorded is None else self.recorded.tolist()
        found = zip(tokens, recorded, lengths, self.of_prompts, strict=True)
        return [Completion(row[:n], of_row[:n], prompt) for row, of_row, n, prompt in found]

    def _prefill(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward the prompts: (rows, V) logits after each row's prompt, and (rows, 1) position of its last token."""
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(self.ids, self.mask, positions)[self.prompt_of]
        places = places_of(self.prompt_of, self.mask)
        for layer in self.cache.layers:
            layer.begin(places, len(self.active), self.most)
        return logits, positions[self.prompt_of, -1:]

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """(rows, V) logits after the last token."""
        placed = {"position_ids": positions} if self.takes_positions else {}
        # The model's own forward, because autocast and sharded weights are attached to it.
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            **placed,
            **self.last_only,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _choose(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """(rows, 1) the next tokens."""
        width = self.ids.size(1)
        allowed = None if self.walk is None else self.walk.allowed(logits.size(1))
        if allowed is not None:
            logits = among(logits, allowed)
        if self.record is not None and self.recorded is not None:
            self.recorded[self.active, step] = self.record(logits).to(self.recorded.dtype)
        if self.processors:
            if allowed is not None:
                logits = logits.masked_fill(~allowed, -math.inf)
            logits = self.processors(self.text[self.active, : width + step], logits)
        chosen = drawn(logits, allowed) if self.config.do_sample else logits.argmax(1)
        self.text[self.active, width + step] = chosen
        if self.walk is not None:
            self.walk.advance(chosen)
        ended = ((chosen[:, None] == self.ends).any(1) | (step + 1 >= self.limits[self.active])) & self.running
        if self.end is not None:
            ended |= self._over(self.end, chosen, width + step + 1)
        self.lengths[self.active[ended]] = step + 1
        self.running &= ~ended
        return chosen[:, None]

    def _over(self, end: ListEnd, chosen: torch.Tensor, reached: int) -> torch.Tensor:
        """(rows,) which running rows are over by `end`.

        Args:
            end: what ends a row.
            chosen: (rows,) the latest tokens.
            reached: number of columns of `text` that are filled.
        """
        new = _newlines(end, chosen)
        self.lines[self.active] += new
        over = (new > 0) & self.running & (self.lines[self.active] >= end.least)
        asked = over.nonzero().squeeze(1)
        if len(asked):
            of_rows = self.text[self.active[asked], :reached].tolist()
            begins = (self.ids.size(1) - self.written[self.active[asked]]).tolist()
            rows = [row[begin:] for row, begin in zip(of_rows, begins, strict=True)]
            over[asked] = torch.tensor(end.is_over(rows), device=over.device)
        return over

    def _left(self) -> bool:
        """Whether a row is still running, here or on a process that needs this one's weights."""
        left = self.running.any()
        if self.synced:
            left = left.float()
            torch.distributed.all_reduce(left)
        return bool(left)

    def _drop(self) -> torch.Tensor | None:
        """Drop finished rows if they are many. Returns the indices of the kept rows; None if none was dropped."""
        if int(self.running.sum()) > (1 - DROPPED_AT) * len(self.running):
            return None
        kept = self.running.nonzero().squeeze(1)
        if not len(kept):
            kept = torch.zeros(1, dtype=torch.long, device=self.running.device)  # steps for the other processes
        if len(kept) == len(self.running):
            return None
        self.active, self.running, prompt_of = self.active[kept], self.running[kept], self.prompt_of[kept]
        prompts, self.prompt_of = prompt_of.unique(return_inverse=True)
        fewer = len(prompts) < len(self.mask)
        self.mask = self.mask[prompts]
        if self.walk is not None:
            self.walk.keep(kept)
        places = places_of(self.prompt_of, self.mask)
        for layer in self.cache.layers:
            layer.keep(kept, prompts if fewer else None, places)
        if self.processors:
            self.processors = processors_of(self.config, self._padding())
        return kept

    def _padding(self) -> torch.Tensor:
        """(rows,) padding tokens before each row's prompt."""
        return (self.mask == 0).sum(1)[self.prompt_of]


def _newlines(end: ListEnd, ids: torch.Tensor) -> torch.Tensor:
    """Newlines in each token."""
    # A model's vocabulary may be padded beyond its tokenizer's; such tokens have no text.
    table = end.newlines.to(ids.device)
    return table[ids.clamp(max=len(table) - 1)] * (ids < len(table))


def among(logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Logits (B, V) in which forbidden tokens are 80 nats below the most likely allowed one.

    Their probabilities, about 1e-35 of the largest, are too small to change a sum. Minus infinity would be exact, but a
    CPU takes a hundred times as long for its exponential.

    Args:
        logits: (B, V).
        allowed: (B, V).
    """
    largest = logits.masked_fill(~allowed, -math.inf).amax(1, keepdim=True)
    return torch.where(allowed, logits, largest - NEARLY_NOTHING)


def drawn(logits: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
    """One token per row. First a block of tokens is drawn, then a token of the block.

    `torch.multinomial` draws one exponential number per row and token, which takes longer than a small model's step.
    Here two uniform numbers per row invert the distribution functions of blocks and of tokens. Their sums are in double
    precision, so that rare tokens keep their probability.

    Args:
        logits: (B, V).
        allowed: (B, V) tokens that may be drawn; None for all.
    """
    weights = torch.nn.functional.pad(logits, (0, -logits.size(1) % BLOCK), value=-math.inf)
    weights = (weights - logits.amax(1, keepdim=True)).exp_()
    if allowed is not None:
        weights[:, : logits.size(1)] *= allowed
    weights = weights.view(len(logits), -1, BLOCK)
    block = _inverted(weights.sum(2))
    within = _inverted(weights[torch.arange(len(logits), device=logits.device), block])
    return (block * BLOCK + within).clamp_(max=logits.size(1) - 1)


def _inverted(weights: torch.Tensor) -> torch.Tensor:
    """(B, n) weights -> (B,) indices, each drawn in proportion to its weight."""
    summed = weights.cumsum(1, dtype=torch.float64)
    at = torch.rand(len(weights), 1, dtype=torch.float64, device=weights.device) * summed[:, -1:]
    return torch.searchsorted(summed, at, right=True).squeeze(1).clamp_(max=weights.size(1) - 1)


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


class _Holder(LogitsProcessor):
    """Forbids tokens after which a list could not become a valid one.

    Args:
        walk: the beginning of the lists.
        prompt: number of columns of the padded prompts.
    """

    def __init__(self, walk: Walk, prompt: int) -> None:
        self.walk, self.prompt = walk, prompt

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if input_ids.size(1) > self.prompt:
            # A finished row goes on with padding, and its walk with EOS.
            end = self.walk.constraint.options.ends[0]
            self.walk.advance(torch.where(self.walk.place == OVER, end, input_ids[:, -1]))
        return scores.masked_fill(~self.walk.allowed(scores.size(1)), -math.inf)


class _Recorder(LogitsProcessor):
    """Records a number at every step, and changes nothing."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.steps.append(self.record(scores))
        return scores


def _generated(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    record: Record | None,
    synced: bool,
    walk: Walk | None,
) -> list[Completion]:
    """Completions by transformers' generate."""
    ids, mask = padded(prompts, config.pad_token_id, left=True)
    watch = None if record is None else _Recorder(record)
    ends = torch.tensor(config.eos_token_id).view(-1).tolist()
    holder = None if walk is None else _Holder(walk, ids.size(1))
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=config,
        logits_processor=LogitsProcessorList([one for one in (holder, watch) if one is not None]),
        synced_gpus=synced,
    )
    recorded = [[]] * len(prompts) if watch is None else torch.stack(watch.steps, dim=1).tolist()
    completions = []
    for row, of_row, prompt in zip(output[:, ids.size(1) :].tolist(), recorded, prompts, strict=True):
        end = next((at for at, token in enumerate(row) if token in ends), len(row) - 1)
        completions.append(Completion(row[: end + 1], of_row[: end + 1], len(prompt)))
    return completions
