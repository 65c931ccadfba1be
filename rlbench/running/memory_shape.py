"""What decides a model's memory, from its configuration alone."""

import copy
import math
import re
from dataclasses import dataclass, replace

import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlbench.config.adapters import AdapterConfig
from rlbench.models import group_attention, prompt_cache, shared_prompt
from rlbench.models.adapters import adapted, lora_config
from rlbench.models.dropout import without_dropout


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
        embeddings: number of weights of embeddings, of which 8-bit optimisers keep states in float32.
        adapter: number of an adapter's weights; 0 without one.
        adapted: number of weights of the layers that it changes.
        inputs: widths of the inputs of these layers, summed over a block.
        ranks: number of these layers in a block, times the rank.
        linear: number of weights that can be stored in 4 bits.
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
    embeddings: int = 0
    adapter: int = 0
    adapted: int = 0
    inputs: int = 0
    ranks: int = 0
    linear: int = 0


def shape_of(model: PretrainedConfig, adapter: AdapterConfig | None = None) -> Shape:
    """Return the shape of a model of any architecture, without creating weights.

    Args:
        model: its configuration.
        adapter: the adapter to count; None for none.

    Raises:
        UnknownShape: the model has no attention.
        ValueError, AttributeError, TypeError: if the config does not contain its sizes. Code from a model's own folder
            may raise anything.
    """
    with torch.device("meta"):
        made = without_dropout(AutoModelForCausalLM.from_config(copy.deepcopy(model)))
    text = model.get_text_config()  # maps names such as GPT-2's n_embd to the usual ones
    if not getattr(text, "num_attention_heads", None):
        raise UnknownShape(f"the memory of {type(made).__name__}, a model without attention, is not known")
    heads, size = text.num_attention_heads, getattr(text, "head_dim", None)
    size = size or text.hidden_size // heads
    shape = Shape(
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
        embeddings=made.get_input_embeddings().weight.numel(),
    )
    return shape if adapter is None or not adapter.is_used else _with_adapter(shape, made, adapter)


def _with_adapter(shape: Shape, model: PreTrainedModel, adapter: AdapterConfig) -> Shape:
    """Return the shape of a model without weights, with an adapter."""
    head = model.get_output_embeddings()
    linear = [one for one in model.modules() if isinstance(one, nn.Linear | Conv1D) and one is not head]
    of_linear = sum(one.weight.numel() for one in linear)
    with torch.device("meta"):
        layers = adapted(get_peft_model(model, lora_config(adapter)))
    weights = [weight for layer in layers for name, weight in layer.named_parameters() if name.startswith("lora_")]
    return replace(
        shape,
        adapter=sum(weight.numel() for weight in weights),
        adapted=sum(layer.get_base_layer().weight.numel() for layer in layers),
        inputs=math.ceil(sum(layer.in_features for layer in layers) / shape.layers),
        ranks=math.ceil(len(layers) * adapter.rank / shape.layers),
        linear=of_linear,
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
