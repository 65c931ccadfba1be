"""Replaces TRL's fused LM head by rlbench's own, which computes scores at labelled tokens only.

Without Triton, TRL computes the logits of all positions several times, those of prompts included.
"""

import functools
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from rlbench.models.token_head import LogitRule, lm_head, token_scores

IGNORED = -100
"""Label of positions that are not scored."""


def add_label_head(model: PreTrainedModel) -> None:
    """Make `model(..., labels=labels, fused_lm_head=True)` use `token_scores`. Other calls are unchanged.

    Args:
        model: changed in place, after TRL's `add_fused_lm_head` and before any wrapper.
    """
    original, rule = model.forward, LogitRule.of(model, 1.0)

    @functools.wraps(type(model).forward)
    def forward(
        *args: Any, fused_lm_head: bool = False, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> FusedCausalLMOutput | Any:
        if not fused_lm_head or labels is None:
            return original(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        hidden = model.base_model(*args, **kwargs | {"use_cache": False}).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        scored = targets != IGNORED
        scores = token_scores(hidden[scored], *lm_head(model), targets[scored], rule, wants_entropy=True)
        logps, entropies, is_top = scores.placed(scored)
        return FusedCausalLMOutput(log_probs=logps, entropy=entropies, is_top1=is_top, label_mask=scored)

    model.forward = forward
