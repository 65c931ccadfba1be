"""What decides a model's memory, from its configuration alone."""

import re
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from rlbench.models import group_attention, prompt_cache, shared_prompt


class UnknownShape(ValueError):
    """The formulas of memory do not cover a model."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, and the paths that it can take.

    Attributes:
        parameters: number of weights; tied weights count once.
        layers: number of blocks.
        hidden: width of the residual stream.
        intermediate: width of the feed-forward part.
        attention: number of heads times head size.
        key_value: the same for keys and values.
        vocabulary: number of entries of the LM head.
        shares_passes: whether a pass can forward a prompt once for all its completions.
        shares_rollouts: whether generation can hold a prompt's keys and values once for all its completions.
        held: largest number of tokens of a prompt with its completion for which completions attend to their prompt on a
            CPU without copies of its keys and values.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    attention: int
    key_value: int
    vocabulary: int
    shares_passes: bool
    shares_rollouts: bool
    held: float


def shape_of(model: PretrainedConfig) -> Shape:
    """Return the shape of a model of any architecture, without creating weights.

    Raises:
        UnknownShape: the model has no attention.
        ValueError, AttributeError, TypeError: if the config does not contain its sizes. Code from a model's own folder
            may raise anything.
    """
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(model)
    text = model.get_text_config()  # maps names such as GPT-2's n_embd to the usual ones
    if not getattr(text, "num_attention_heads", None):
        raise UnknownShape(f"the memory of {type(made).__name__}, a model without attention, is not known")
    heads, size = text.num_attention_heads, getattr(text, "head_dim", None)
    size = size or text.hidden_size // heads
    return Shape(
        parameters=sum(p.numel() for p in made.parameters()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=_feed_forward(text, made),
        attention=heads * size,
        key_value=(getattr(text, "num_key_value_heads", None) or heads) * size,
        vocabulary=text.vocab_size,
        shares_passes=shared_prompt.reason_against(made) is None,
        shares_rollouts=prompt_cache.reason_against(made) is None,
        held=group_attention.most_tokens(made),
    )


FEED_FORWARD = ("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff")
"""Names that configs use for the width of the feed-forward part. The width of a single expert comes first."""


def _feed_forward(text: PretrainedConfig, model: PreTrainedModel) -> int:
    """Return the feed-forward width for one token; with experts, the sum over the experts it is routed to."""
    known = [width for name in FEED_FORWARD if (width := getattr(text, name, None))]
    experts = max(getattr(text, "num_experts_per_tok", None) or 1, 1)
    if known:
        return known[0] * experts
    # No known name: use the widest matrix of a block, which is its feed-forward part or its equivalent.
    inside = [p for name, p in model.named_parameters() if p.dim() == 2 and re.search(r"\.\d+\.", name)]
    return max(max(matrix.shape) for matrix in inside)
