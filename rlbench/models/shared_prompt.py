"""One forward pass for completions that share prompts.

A group of G completions has one prompt. A plain pass forwards the prompt G times. Here each distinct prompt is
forwarded once. Its keys and values stay in the graph, each completion gets those of its prompt, and only completion
tokens are forwarded on top. The prompt's gradient is the sum over its completions, as in the plain pass.
"""

import inspect
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel

from rlbench.models.token_head import LogitRule, token_scores


@dataclass(frozen=True)
class PromptRows:
    """Completions and their distinct prompts, without columns that are padding everywhere.

    Attributes:
        prompt_ids: (n, P) distinct prompts, padded on the left.
        prompt_mask: (n, P) 1 at tokens.
        prompt_of: (B,) index of each completion's prompt.
        completion_ids: (B, T) padded on the right.
        completion_mask: (B, T) 1 at tokens, EOS included.
    """

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    prompt_of: torch.Tensor
    completion_ids: torch.Tensor
    completion_mask: torch.Tensor

    @property
    def saving(self) -> float:
        """Tokens of a plain pass over tokens of a shared pass: B (P + T) / (n P + B T)."""
        n, prompt = self.prompt_ids.shape
        rows, completion = self.completion_ids.shape
        return rows * (prompt + completion) / (n * prompt + rows * completion)


def prompt_rows(
    prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, completion_ids: torch.Tensor, completion_mask: torch.Tensor
) -> PromptRows:
    """Find the distinct prompts of a batch.

    Args:
        prompt_ids: (B, P) padded on the left.
        prompt_mask: (B, P).
        completion_ids: (B, T) padded on the right.
        completion_mask: (B, T).
    """
    first = int(prompt_mask.any(0).int().argmax())
    last = int(completion_mask.any(0).nonzero().max()) + 1 if bool(completion_mask.any()) else 1
    ids, mask = prompt_ids[:, first:], prompt_mask[:, first:]
    keyed = torch.where(mask.bool(), ids, -1)
    _, prompt_of = keyed.unique(dim=0, return_inverse=True)
    n = int(prompt_of.max()) + 1
    where = torch.empty(n, dtype=torch.long, device=ids.device)
    where[prompt_of.flip(0)] = torch.arange(len(ids) - 1, -1, -1, device=ids.device)  # the first row of each prompt
    return PromptRows(ids[where], mask[where], prompt_of, completion_ids[:, :last], completion_mask[:, :last])


@dataclass(frozen=True)
class CompletionScores:
    """Results of one pass over completions.

    Attributes:
        logps: (B, T) log-probabilities of tokens; 0 at padding.
        entropies: (B, T) in nats; 0 at padding; None if not wanted.
        hidden: (B, T + 1, H) last hidden states at the last prompt token and at each completion token; None if not
            wanted.
    """

    logps: torch.Tensor
    entropies: torch.Tensor | None
    hidden: torch.Tensor | None


def reason_against(model: PreTrainedModel) -> str | None:
    """Why the model cannot share prompts, or None if it can."""
    if getattr(type(model), "_is_stateful", False):
        return f"{type(model).__name__} carries a recurrent state"
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    other = sorted(set(kinds) - {"full_attention", "sliding_attention", "chunked_attention"})
    if other:
        return f"{type(model).__name__} has layers of the kind {', '.join(other)}"
    accepted = inspect.signature(type(model.base_model).forward).parameters
    if "past_key_values" not in accepted:
        return f"{type(model).__name__} takes no cache"
    active = [module.p for module in model.modules() if isinstance(module, nn.Dropout) and module.p > 0]
    if active:
        return f"{type(model).__name__} has dropout (p = {max(active):g}), which differs between completions"
    return None


def shared_scores(
    model: PreTrainedModel,
    rows: PromptRows,
    rule: LogitRule,
    *,
    wants_entropy: bool,
    wants_hidden: bool = False,
    recompute: bool = False,
) -> CompletionScores:
    """Score completions, forwarding each distinct prompt once.

    Args:
        model: a causal language model for which `reason_against` is None.
        rows: the batch.
        rule: what happens to logits after the head.
        wants_entropy: whether to compute entropies.
        wants_hidden: whether to return hidden states.
        recompute: keep no activations of the backbone, and forward again in the backward pass (gradient checkpointing).
    """
    hidden = _recomputed(model, rows, wants_hidden) if recompute else _states(model, rows, wants_hidden)
    before = hidden[:, : rows.completion_ids.size(1)]
    kept = rows.completion_mask.bool()
    head = model.get_output_embeddings()
    logps, entropies = token_scores(
        before[kept], head.weight, head.bias, rows.completion_ids[kept], rule, wants_entropy=wants_entropy
    )

    def placed(values: torch.Tensor) -> torch.Tensor:
        # masked_scatter keeps the result in the graph where a batch has no token
        return values.new_zeros(kept.shape).masked_scatter(kept, values)

    return CompletionScores(
        placed(logps), None if entropies is None else placed(entropies), hidden if wants_hidden else None
    )


def _states(model: PreTrainedModel, rows: PromptRows, with_last: bool) -> torch.Tensor:
    """(B, T, H) hidden states that predict the completion tokens; one more column at the last token if asked."""
    backbone = model.base_model
    ids, mask, completions = rows.prompt_ids, rows.prompt_mask, rows.completion_ids
    cache = DynamicCache(config=model.config.get_text_config())
    length = ids.size(1) - 1  # the last prompt token goes with the completions: its state predicts their first tokens
    if length:
        backbone(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            past_key_values=cache,
            use_cache=True,
        )
        cache.batch_select_indices(rows.prompt_of)
    scored = completions if with_last else completions[:, :-1]
    on_top = torch.cat([ids[rows.prompt_of, -1:], scored], dim=1)
    whole_mask = torch.cat([mask[rows.prompt_of], rows.completion_mask[:, : scored.size(1)]], dim=1)
    output = backbone(
        input_ids=on_top,
        attention_mask=whole_mask,
        past_key_values=cache,
        use_cache=True,
    )
    states: torch.Tensor = output.last_hidden_state
    return states


def _recomputed(model: PreTrainedModel, rows: PromptRows, with_last: bool) -> torch.Tensor:
    """`_states` group by group, each under a checkpoint: a backward pass holds activations of one prompt's rows."""
    states = []
    order = []
    for index in range(len(rows.prompt_ids)):
        mine = (rows.prompt_of == index).nonzero().squeeze(1)
        part = PromptRows(
            rows.prompt_ids[index : index + 1],
            rows.prompt_mask[index : index + 1],
            torch.zeros_like(mine),
            rows.completion_ids[mine],
            rows.completion_mask[mine],
        )
        states.append(checkpoint(_states, model, part, with_last, use_reentrant=False))
        order.append(mine)
    return torch.cat(states)[torch.cat(order).argsort()]
