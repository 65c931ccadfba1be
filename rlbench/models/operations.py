"""Floating-point operations that a causal language model needs: of its matrix products and of attention.

A multiplication and an addition count as two operations. Embeddings, norms, activations and softmax are left out, as is
usual for model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B). Padding, repeated prompts and recomputed
activations are no needed work, so they are never part of a count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")
"""Kinds of layers in which a token sees other tokens. Linear attention and convolutions are not among them."""
BACKWARD = 2
"""A backward pass needs this many times the operations of its forward pass."""


@dataclass(frozen=True)
class ModelShape:
    """What decides the operations of a model.

    Attributes:
        linear: weights that every token is multiplied by, without the LM head.
        head: weights of the LM head.
        attention: width of all attention heads of a layer together.
        windows: for each layer with attention, the number of positions that a token sees; None for all.
        frozen: part of `linear` that is not trained, under an adapter.
        is_head_frozen: whether the LM head is not trained.
    """

    linear: int
    head: int
    attention: int
    windows: tuple[int | None, ...]
    frozen: int = 0
    is_head_frozen: bool = False

    @classmethod
    def of(cls, model: PreTrainedModel) -> "ModelShape":
        """The shape of a model. Of a mixture, only the experts that a token uses count."""
        config, head = model.config.get_text_config(), model.get_output_embeddings()
        inside = [module for module in model.modules() if not isinstance(module, nn.Embedding) and module is not head]
        merged = {id(w) for one in model.modules() if getattr(one, "merged", False) for w in _of_adapter(one)}
        weights = [
            weight for module in inside for weight in module.parameters(recurse=False) if id(weight) not in merged
        ]
        experts = getattr(config, "num_experts_per_tok", None) or 0

        def products(of: Sequence[nn.Parameter]) -> int:
            stacked = [weight[0].numel() for weight in of if weight.dim() == 3]  # by expert
            return sum(_size(weight) for weight in of if weight.dim() == 2) + experts * sum(stacked)

        frozen = products([weight for weight in weights if not weight.requires_grad])
        fixed = not head.weight.requires_grad
        heads = getattr(config, "num_attention_heads", None)
        if not heads:  # a state-space model: its scan is no matrix product
            return cls(products(weights), head.weight.numel(), 0, (), frozen, fixed)
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        window = getattr(config, "sliding_window", None)
        windows = tuple(window if kind == "sliding_attention" else None for kind in kinds if kind in ATTENTION)
        return cls(products(weights), head.weight.numel(), heads * size, windows, frozen, fixed)

    def forward(self, before: Sequence[int], new: Sequence[int], scored: int, *, trains: bool = False) -> int:
        """Operations of a forward pass, or of a forward and a backward pass.

        Args:
            before: for each row, the number of tokens whose keys and values are known.
            new: for each row, the number of tokens that are forwarded.
            scored: number of tokens whose logits are needed.
            trains: whether a backward pass follows. It needs no gradient of frozen weights.
        """
        pairs = 0
        for window in set(self.windows):
            of_layer = sum(_pairs(b, n, window) for b, n in zip(before, new, strict=True))
            pairs += of_layer * self.windows.count(window)
        of_pass = 2 * self.linear * sum(new) + 4 * self.attention * pairs + 2 * self.head * scored
        if not trains:
            return of_pass
        spared = 2 * self.frozen * sum(new) + (2 * self.head * scored if self.is_head_frozen else 0)
        return of_pass * (1 + BACKWARD) - spared

    def completions(
        self, distinct: Sequence[int], prompts: Sequence[int], completions: Sequence[int], *, trains: bool = False
    ) -> int:
        """Operations of one pass over completions that forwards each prompt once.

        Args:
            distinct: the length of each distinct prompt, at least 1.
            prompts: for each completion, the length of its prompt.
            completions: the length of each completion. Its last token is not forwarded.
            trains: whether a backward pass follows.
        """
        # A completion's first token is predicted by the last token of its prompt, which goes with each completion.
        before = [0] * len(distinct) + [length - 1 for length in prompts]
        new = [length - 1 for length in distinct] + list(completions)
        return self.forward(before, new, sum(completions), trains=trains)


def _of_adapter(layer: nn.Module) -> list[nn.Parameter]:
    """The matrices of an adapted layer, which do nothing once they are merged into its weight."""
    return [weight for name, weight in layer.named_parameters() if name.startswith("lora_")]


def _size(weight: nn.Parameter) -> int:
    """Number of entries of a matrix, also of one that is stored in 4 bits."""
    state = getattr(weight, "quant_state", None)
    return weight.numel() if state is None else math.prod(state.shape)


def _pairs(before: int, new: int, window: int | None) -> int:
    """Number of (query, key) pairs of `new` tokens, each of which sees itself and up to `window` - 1 tokens before it.

    Args:
        before: number of tokens before the new ones.
    """
    if window is None:
        return new * before + new * (new + 1) // 2
    growing = max(0, min(new, window - before))
    return growing * before + growing * (growing + 1) // 2 + (new - growing) * window
