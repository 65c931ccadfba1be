"""One forward pass for completions that share prompts.

A group of G completions has one prompt. A plain pass forwards the prompt G times. Here each distinct prompt is
forwarded once. Its keys and values stay in the graph, each completion gets those of its prompt, and only completion
tokens are forwarded on top. The prompt's gradient is the sum over its completions, as in the plain pass.

A model that `add_shared_scores` has prepared does both forwards in one call, so that wrappers (DDP, FSDP2, autocast)
see one forward pass.
"""

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel

from rlbench.models.constraint import Allowed
from rlbench.models.group_attention import attending, can_attend
from rlbench.models.token_head import LogitRule, lm_head, token_scores


@dataclass(frozen=True)
class PromptRows:
    """Completions and their distinct prompts, without columns that are padding everywhere.

    Attributes:
        prompt_ids: (n, P) distinct prompts, padded on the left.
        prompt_mask: (n, P) 1 at tokens.
        start: (n,) minus the padding before each prompt, where positions count from the first token. None where the
            model sets positions itself.
        prompt_of: (B,) index of each completion's prompt.
        completion_ids: (B, T) padded on the right.
        completion_mask: (B, T) 1 at tokens, EOS included.
        allowed: the tokens that could be drawn at each position (B, T); None for the whole vocabulary.
    """

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    start: torch.Tensor | None
    prompt_of: torch.Tensor
    completion_ids: torch.Tensor
    completion_mask: torch.Tensor
    allowed: Allowed | None = None

    @property
    def saving(self) -> float:
        """Tokens of a plain pass over tokens of a shared pass: B (P + T) / (n P + B T)."""
        n, prompt = self.prompt_ids.shape
        rows, completion = self.completion_ids.shape
        return rows * (prompt + completion) / (n * prompt + rows * completion)

    def separate(self) -> "PromptRows":
        """The same completions, each with its own copy of the prompt."""
        of = self.prompt_of
        return replace(
            self,
            prompt_ids=self.prompt_ids[of],
            prompt_mask=self.prompt_mask[of],
            start=None if self.start is None else self.start[of],
            prompt_of=torch.arange(len(of), device=of.device),
        )


def prompt_rows(
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    allowed: Allowed | None = None,
    *,
    trims_prompts: bool = True,
    counts_padding: bool = True,
) -> PromptRows:
    """Find the distinct prompts of a batch.

    Args:
        prompt_ids: (B, P) padded on the left.
        prompt_mask: (B, P).
        completion_ids: (B, T) padded on the right.
        completion_mask: (B, T).
        allowed: the tokens that could be drawn at each position (B, T); None for the whole vocabulary.
        trims_prompts: whether to cut prompt columns that are padding everywhere.
        counts_padding: whether the model sets positions itself, as in TRL's policy trainers. Most models with absolute
            positions then count the padding before a prompt.
    """
    first = int(prompt_mask.any(0).int().argmax()) if trims_prompts else 0
    last = int(completion_mask.any(0).nonzero().max()) + 1 if bool(completion_mask.any()) else 1
    ids, mask = prompt_ids[:, first:], prompt_mask[:, first:]
    keyed = torch.where(mask.bool(), ids, -1)
    _, prompt_of = keyed.unique(dim=0, return_inverse=True)
    n = int(prompt_of.max()) + 1
    where = torch.empty(n, dtype=torch.long, device=ids.device)
    where[prompt_of.flip(0)] = torch.arange(len(ids) - 1, -1, -1, device=ids.device)  # the first row of each prompt
    start = None if counts_padding else -(mask[where] == 0).sum(1)
    return PromptRows(
        ids[where],
        mask[where],
        start,
        prompt_of,
        completion_ids[:, :last],
        completion_mask[:, :last],
        None if allowed is None else allowed[:, :last],
    )


@dataclass(frozen=True)
class TokenScores:
    """Results of one pass over completions.

    Attributes:
        logps: (B, T) log-probabilities of their tokens.
        entropies: (B, T) entropies at their tokens, in nats; None if not wanted.
        hidden: (B, T + 1, H) last hidden states at the last prompt token and at the completions' tokens; None if not
            wanted.
    """

    logps: torch.Tensor
    entropies: torch.Tensor | None
    hidden: torch.Tensor | None

    @classmethod
    def joined(cls, parts: Sequence["TokenScores"]) -> "TokenScores":
        """Scores of consecutive parts of a batch. All have the same fields."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))

    def __getitem__(self, rows: torch.Tensor) -> "TokenScores":
        return TokenScores(*(None if value is None else value[rows] for value in vars(self).values()))

    def widened(self, length: int) -> "TokenScores":
        """The same scores for completions that are padded to `length` tokens. The new values are 0."""
        more = length - self.logps.size(1)
        return TokenScores(
            pad(self.logps, (0, more)),
            None if self.entropies is None else pad(self.entropies, (0, more)),
            None if self.hidden is None else pad(self.hidden, (0, 0, 0, more)),
        )


def reason_against(model: PreTrainedModel) -> str | None:
    """Why the model cannot share prompts, or None if it can."""
    if getattr(type(model), "_is_stateful", False):
        return f"{type(model).__name__} carries a recurrent state"
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    other = sorted(set(kinds) - {"full_attention", "sliding_attention", "chunked_attention"})
    if other:
        return f"{type(model).__name__} has layers of the kind {', '.join(other)}"
    if angles := _kinds_of_rotary_angles(model) & {"dynamic", "longrope"}:
        return f"{type(model).__name__} has rotary angles ({', '.join(angles)}) that depend on the length of a row"
    accepted = inspect.signature(type(model.base_model).forward).parameters
    if "past_key_values" not in accepted:
        return f"{type(model).__name__} takes no cache"
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    rates.append(model.config.get_text_config().to_dict().get("attention_dropout") or 0.0)
    if max(rates) > 0:
        return f"{type(model).__name__} has dropout (p = {max(rates):g}), which differs between completions"
    return None


def has_relative_positions(model: PreTrainedModel) -> bool:
    """Whether padding before a prompt does not change the model's numbers, so it can be cut."""
    return bool(_kinds_of_rotary_angles(model))


def _kinds_of_rotary_angles(model: PreTrainedModel) -> set[str]:
    """`rope_type` of a model's layers; empty for a model without rotary angles."""
    found = model.config.get_text_config().to_dict().get("rope_parameters") or {}
    of_layers = [found] if "rope_type" in found else [one for one in found.values() if isinstance(one, dict)]
    return {one["rope_type"] for one in of_layers if "rope_type" in one}


def shared_scores(
    model: PreTrainedModel,
    rows: PromptRows,
    rule: LogitRule,
    *,
    wants_entropy: bool,
    wants_hidden: bool = False,
    recompute: bool = False,
) -> TokenScores:
    """Score completions, forwarding each distinct prompt once. Scores are 0 at padding.

    Args:
        model: a causal language model for which `reason_against` is None.
        rows: the batch.
        rule: what happens to logits after the head.
        wants_entropy: whether to compute entropies.
        wants_hidden: whether to return hidden states.
        recompute: keep no activations of the backbone, and forward again in the backward pass (gradient checkpointing).
    """
    if len(rows.prompt_ids) == len(rows.completion_ids):
        hidden = _states_of_whole_rows(model, rows, wants_hidden)
    else:
        hidden = (_recomputed if recompute else _states)(model, rows, wants_hidden)
    before = hidden[:, : rows.completion_ids.size(1)]
    kept = rows.completion_mask.bool()
    allowed = None if rows.allowed is None else rows.allowed[kept]
    scores = token_scores(
        before[kept], *lm_head(model), rows.completion_ids[kept], rule, wants_entropy=wants_entropy, allowed=allowed
    )
    logps, entropies, _ = scores.placed(kept)
    return TokenScores(logps, entropies, hidden if wants_hidden else None)


def add_shared_scores(model: PreTrainedModel, rule: LogitRule) -> None:
    """Make `model(shared=..., **options)` return `shared_scores` as a dictionary without the fields that are None.

    Other calls are unchanged. Sharded models unshard their weights around a call, so the parts of one pass must be in
    one call. A dictionary lets their hooks find the tensors.

    Args:
        model: changed in place. A wrapper around it may be called instead, also one that was there before.
        rule: what happens to logits after the head.
    """
    original = model.forward

    @functools.wraps(type(model).forward)
    def forward(
        *args: Any,
        shared: PromptRows | None = None,
        wants_entropy: bool = False,
        wants_hidden: bool = False,
        recompute: bool = False,
        **kwargs: Any,
    ) -> Any:
        if shared is None:
            return original(*args, **kwargs)
        # `kwargs` may hold a usual call's arguments, all None: peft's wrapper adds them.
        found = shared_scores(
            model, shared, rule, wants_entropy=wants_entropy, wants_hidden=wants_hidden, recompute=recompute
        )
        return {name: value for name, value in vars(found).items() if value is not None}

    model.forward = forward


def _states(model: PreTrainedModel, rows: PromptRows, with_last: bool) -> torch.Tensor:
    """(B, T, H) hidden states that predict the completion tokens; one more column at the last token if asked."""
    backbone = model.base_model
    ids, mask, of, completions = rows.prompt_ids, rows.prompt_mask, rows.prompt_of, rows.completion_ids
    cache = DynamicCache(config=model.config.get_text_config())
    length = ids.size(1) - 1  # the last prompt token goes with the completions: its state predicts their first tokens
    unused: torch.Tensor | None = None
    if length:
        output = backbone(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            past_key_values=cache,
            use_cache=True,
            **_positions(model, rows, range(length), None),
        )
        if any(isinstance(module, FSDPModule) for module in model.modules()):
            # The last layer gives only keys and values. The hooks of a sharded layer wait for a gradient of its output.
            unused = output.last_hidden_state.sum() * 0.0
    scored = completions if with_last else completions[:, :-1]
    on_top = torch.cat([ids[of, -1:], scored], dim=1)
    if length and can_attend(model, cache, mask[:, :-1], length + on_top.size(1)):
        attention: AbstractContextManager[DynamicCache] = attending(model, cache, of, mask[:, :-1])
    else:
        attention = nullcontext(_repeated(cache, of))
    with attention as repeated:
        output = backbone(
            input_ids=on_top,
            attention_mask=torch.cat([mask[of], rows.completion_mask[:, : scored.size(1)]], dim=1),
            past_key_values=repeated,
            use_cache=True,
            **_positions(model, rows, range(length, length + on_top.size(1)), of),
        )
    states: torch.Tensor = output.last_hidden_state
    return states if unused is None else states + unused


def _repeated(cache: DynamicCache, of: torch.Tensor) -> DynamicCache:
    """The cache with the keys and values of each completion's prompt."""
    for layer in cache.layers:  # the backward pass of `index_select` is faster than that of `batch_select_indices`
        if layer.is_initialized:
            layer.keys, layer.values = layer.keys.index_select(0, of), layer.values.index_select(0, of)
    return cache


def _states_of_whole_rows(model: PreTrainedModel, rows: PromptRows, with_last: bool) -> torch.Tensor:
    """`_states` where no prompt is shared: one forward of prompts and completions."""
    of, length = rows.prompt_of, rows.prompt_ids.size(1)
    scored = rows.completion_ids if with_last else rows.completion_ids[:, :-1]
    ids = torch.cat([rows.prompt_ids[of], scored], dim=1)
    output = model.base_model(
        input_ids=ids,
        attention_mask=torch.cat([rows.prompt_mask[of], rows.completion_mask[:, : scored.size(1)]], dim=1),
        use_cache=False,
        **_positions(model, rows, range(ids.size(1)), of),
    )
    states: torch.Tensor = output.last_hidden_state[:, length - 1 :]
    return states


def _positions(model: PreTrainedModel, rows: PromptRows, columns: range, of: torch.Tensor | None) -> dict[str, Any]:
    """Positions (B, length) of some columns, where they count from the first token and the model takes them.

    Args:
        of: (B,) indices of prompts; None for all prompts.
    """
    if rows.start is None or "position_ids" not in inspect.signature(type(model.base_model).forward).parameters:
        return {}
    start = rows.start if of is None else rows.start[of]
    places = torch.arange(columns.start, columns.stop, device=start.device)
    return {"position_ids": (start[:, None] + places).clamp(min=0)}


def _recomputed(model: PreTrainedModel, rows: PromptRows, with_last: bool) -> torch.Tensor:
    """`_states` group by group, each under a checkpoint: a backward pass holds activations of one prompt's rows."""
    states = []
    order = []
    for index in range(len(rows.prompt_ids)):
        mine = (rows.prompt_of == index).nonzero().squeeze(1)
        part = PromptRows(
            rows.prompt_ids[index : index + 1],
            rows.prompt_mask[index : index + 1],
            None if rows.start is None else rows.start[index : index + 1],
            torch.zeros_like(mine),
            rows.completion_ids[mine],
            rows.completion_mask[mine],
        )
        states.append(checkpoint(_states_without_checkpoints, model, part, with_last, use_reentrant=False))
        order.append(mine)
    return torch.cat(states)[torch.cat(order).argsort()]


def _states_without_checkpoints(model: PreTrainedModel, rows: PromptRows, with_last: bool) -> torch.Tensor:
    with _layers_keep_activations(model):
        return _states(model, rows, with_last)


@contextmanager
def _layers_keep_activations(model: PreTrainedModel) -> Iterator[None]:
    """Turn off the layers' own gradient checkpointing, under which they take no cache."""
    layers = [one for one in model.modules() if getattr(one, "gradient_checkpointing", False)]
    for layer in layers:
        layer.gradient_checkpointing = False
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = True
