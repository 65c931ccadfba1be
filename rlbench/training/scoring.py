"""Passes of the policy and of its reference over completions.

The plain pass is TRL's: each completion is forwarded with its own copy of the prompt. Where completions share prompts,
`rlbench.models.shared_prompt` forwards each distinct prompt once and gives the same numbers.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer

from rlbench.base.errors import BadInput
from rlbench.models.adapters import causal
from rlbench.models.batches import Completions
from rlbench.models.constraint import FORBIDDEN
from rlbench.models.shared_prompt import (
    PromptRows,
    TokenScores,
    add_shared_scores,
    has_relative_positions,
    prompt_rows,
    reason_against,
)
from rlbench.models.token_head import LogitRule
from rlbench.runs import processes
from rlbench.training.parallel import shards_head

log = logging.getLogger(__name__)

LEAST_SAVING = 1.15
"""`trainer.share_prompts: auto` shares prompts where a plain pass has at least this many times the tokens."""


@dataclass(frozen=True)
class Batching:
    """How completions become forward passes.

    Attributes:
        share_prompts: `trainer.share_prompts`.
        shuffle: `trainer.rl.shuffle`.
        micro_batch_tokens: `trainer.rl.micro_batch_tokens`. If set, TRL must get this process's completions of an
            update as one batch.
    """

    share_prompts: str = "auto"
    shuffle: str = "groups"
    micro_batch_tokens: int | None = None


class SharedPasses:
    """Passes that forward each distinct prompt once.

    Args:
        models: the policy and its reference, before or after a wrapper; their calls accept shared prompts afterwards.
        temperature: divisor of the logits.
        always: whether to share prompts even where it saves little.
        recompute: whether gradients are computed with gradient checkpointing.
        autocast: a new context of the accelerator's autocast.
        counts_padding: as in `prompt_rows`.
        agreed: turns this process's wish to share prompts into a decision of all processes. Passes of sharded weights
            are collective, so all processes must make the same kind of pass.
    """

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        temperature: float,
        *,
        always: bool,
        recompute: bool,
        autocast: Callable[[], AbstractContextManager[None]],
        counts_padding: bool = True,
        agreed: Callable[[bool], bool] = bool,
    ):
        for model in models:
            add_shared_scores(model, LogitRule.of(model, temperature))
        self.always, self.recompute, self.autocast = always, recompute, autocast
        self.counts_padding, self.agreed = counts_padding, agreed
        self.trims_prompts = not counts_padding or has_relative_positions(models[0])

    def rows(self, batch: Completions) -> PromptRows:
        """The batch without repeated prompts and without needless padding."""
        rows = prompt_rows(*vars(batch).values(), trims_prompts=self.trims_prompts, counts_padding=self.counts_padding)
        # A pass over shared prompts calls the backbone twice: for all prompt tokens but the last, then for the rest.
        has_two_calls = len(rows.prompt_ids) < len(rows.completion_ids) and rows.prompt_ids.size(1) > 1
        shares = has_two_calls and (self.always or rows.saving >= LEAST_SAVING)
        return rows if self.agreed(shares) else rows.separate()

    def scores(
        self, model: Any, batch: Completions, cuts: Sequence[slice], *, wants_entropy: bool, wants_hidden: bool = False
    ) -> TokenScores:
        """Score completions.

        Args:
            model: one of the models, possibly wrapped.
            batch: the completions.
            cuts: which completions to forward at a time.
            wants_entropy: whether to compute entropies.
            wants_hidden: whether to return hidden states.
        """
        length = batch.completion_ids.size(1)
        recompute = self.recompute and torch.is_grad_enabled()
        found = []
        for cut in cuts:
            rows = self.rows(batch[cut])
            with self.autocast():
                part = model(shared=rows, wants_entropy=wants_entropy, wants_hidden=wants_hidden, recompute=recompute)
            found.append(TokenScores(part["logps"], part.get("entropies"), part.get("hidden")).widened(length))
        return TokenScores.joined(found)


def agreement(trainer: Trainer) -> Callable[[bool], bool]:
    """`SharedPasses.agreed` for a trainer. With sharded weights, the decision is yes only if all processes wish it."""
    return (lambda own: all(processes.gather(own))) if trainer.is_fsdp_enabled else bool


def reasons_of_training(trainer: Trainer) -> list[str]:
    """Reasons why a trainer's way of distributing a model cannot share prompts."""
    state, reasons = trainer.accelerator.state, []
    if shards_head(trainer):
        reasons.append("DeepSpeed ZeRO-3 shards the LM head")
    if trainer.is_fsdp_enabled and state.fsdp_plugin.activation_checkpointing:
        reasons.append("FSDP2's gradient checkpointing keeps no cache")
    return reasons


def shared_passes(
    share: str, models: Sequence[PreTrainedModel], against: Sequence[str], **settings: Any
) -> SharedPasses | None:
    """Passes with shared prompts, or None where only the plain pass can be used.

    Args:
        share: `trainer.share_prompts`.
        models: the policy and its reference, with or without an adapter.
        against: reasons why the way of training cannot share prompts (`reasons_of_training`).
        **settings: as for `SharedPasses`.

    Raises:
        BadInput: prompts must be shared and cannot be.
    """
    if share == "never":
        return None
    models = [causal(model) for model in models]
    reason = next(filter(None, [*against, *map(reason_against, models)]), "")
    if reason and share == "always":
        raise BadInput(f"trainer.share_prompts = always, but prompts cannot be shared: {reason}. Use auto or never")
    if reason:
        log.warning("each completion is forwarded with its own copy of the prompt, because %s", reason)
        return None
    return SharedPasses(models, always=share == "always", **settings)


def held_scores(model: Any, batch: Completions, temperature: float) -> TokenScores:
    """Log-probabilities and entropies of completions among their allowed tokens, (B, T) each, 0 at padding.

    Each completion is forwarded with its own copy of the prompt. Models that cannot share prompts need this pass. It is
    also the reference for the fused head.

    Args:
        model: a causal language model, possibly wrapped.
        batch: completions with `allowed`.
        temperature: divisor of the logits.
    """
    (ids, mask), length = batch.joined(), batch.completion_ids.size(1)
    assert batch.allowed is not None
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -length - 1 : -1]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    allowed = batch.allowed.flat().mask(logits.size(2)).view_as(logits)
    logs = logits.masked_fill(~allowed, FORBIDDEN).log_softmax(2)
    logps, padding = logs.gather(2, batch.completion_ids[:, :, None]).squeeze(2), batch.completion_mask == 0
    entropies = -(logs.exp() * logs).sum(2)
    return TokenScores(logps.masked_fill(padding, 0.0), entropies.masked_fill(padding, 0.0), None)


def even_cuts(rows: int, size: int | None) -> list[slice]:
    """Cuts of `size` rows; a single one for None."""
    size = size or rows
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


def cuts_by_tokens(batch: Completions, most: int) -> list[slice]:
    """Cuts with at most `most` tokens each, padding included. A prompt that adjacent rows share counts once.

    A row with more tokens is alone in its cut.

    Args:
        batch: the completions, those of one prompt adjacent.
        most: number of tokens.
    """
    prompts = batch.prompt_mask.sum(1).tolist()
    lengths = batch.completion_mask.sum(1).tolist()
    same = (batch.prompt_ids[1:] == batch.prompt_ids[:-1]).all(1).tolist()
    starts = list(_starts(prompts, lengths, [False, *same], most))
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(batch)], strict=True)]


def at_least(cuts: Sequence[slice], count: int) -> list[slice]:
    """At least `count` cuts of the same rows, but at most one for each row. The widest ones are halved."""
    found = list(cuts)
    while len(found) < min(count, found[-1].stop):
        widest = max(range(len(found)), key=lambda place: found[place].stop - found[place].start)
        start, end = found[widest].start, found[widest].stop
        found[widest : widest + 1] = [slice(start, (start + end) // 2), slice((start + end) // 2, end)]
    return found


def _starts(prompts: Sequence[int], lengths: Sequence[int], same: Sequence[bool], most: int) -> Iterator[int]:
    """First rows of the cuts. `same` says whether a row has the prompt of the row before."""
    distinct = rows = longest_prompt = longest = 0
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        distinct += not same[row]
        rows += 1
        longest_prompt, longest = max(longest_prompt, prompt), max(longest, length)
        if row == 0 or distinct * longest_prompt + rows * longest > most:
            yield row
            distinct, rows, longest_prompt, longest = 1, 1, prompt, length


def taken(batch: Mapping[str, Any], rows: torch.Tensor | slice) -> dict[str, Any]:
    """Rows of a batch: those of every tensor except scalars."""
    return {name: value[rows] if torch.is_tensor(value) and value.dim() else value for name, value in batch.items()}


def shuffled_groups(rows: int, group_size: int, first: int) -> torch.Tensor:
    """(B,) random order of completions that keeps those of a prompt adjacent, from torch's generator.

    Args:
        rows: B, the completions of this process.
        group_size: completions per prompt.
        first: index of its first completion over all processes.
    """
    group = (torch.arange(rows) + first) // group_size
    places = torch.randperm(int(group[-1]) - int(group[0]) + 1)
    return places[group - group[0]].argsort(stable=True)


def pad_rows(rows: Sequence[Sequence[float]], like: torch.Tensor) -> torch.Tensor:
    """(B, T) numbers of each row followed by zeros, in the shape and precision of another tensor."""
    padded = torch.zeros_like(like)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.tensor(row, dtype=like.dtype)
    return padded
