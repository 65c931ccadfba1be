"""Log-probabilities and entropies of tokens from hidden states, without a tensor of (tokens, vocabulary).

TRL's fused head does the same. Without Triton it folds each tile in many small steps and always in float32. This head
computes in the precision of the hidden states, and two matrix products per tile are most of its work.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rlbench.models.constraint import FORBIDDEN, Allowed

TILE_ELEMENTS = {"cpu": 2**20}
"""Maximum number of logits in memory at once, by device: on CPUs as many as a core's cache holds."""
TILE_ELEMENTS_ELSEWHERE = 2**26
LEAST_ROWS = 128
"""Minimum number of tokens in a tile: a product of fewer rows is slow."""


@dataclass(frozen=True)
class LogitRule:
    """What a model and the sampling temperature do to logits after the LM head: cap * tanh(scale * logits / cap) / T.

    Attributes:
        temperature: divisor of the logits.
        scale: factor on the head's output.
        cap: bound of soft-capping; None for none.
    """

    temperature: float = 1.0
    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, temperature: float) -> "LogitRule":
        """The rule of a model, as its configuration names it."""
        config = model.config.get_text_config().to_dict()
        scale = next((config[name] for name in FACTORS if config.get(name) is not None), None)
        if scale is None and config.get(DIVISOR) is not None:
            divisor = config[DIVISOR]
            scale = divisor if config.get("model_type") == "hyperclovax" else 1 / divisor
        return cls(temperature, 1.0 if scale is None else float(scale), config.get(CAP))

    def apply_(self, logits: torch.Tensor) -> torch.Tensor:
        """Apply the rule in place. Returns the argument."""
        if self.scale != 1:
            logits.mul_(self.scale)
        if self.cap is not None:
            logits.div_(self.cap).tanh_().mul_(self.cap)
        return logits.div_(self.temperature) if self.temperature != 1 else logits

    def slope_(self, gradient: torch.Tensor, adjusted: torch.Tensor) -> torch.Tensor:
        """Turn a gradient at adjusted logits into one at the head's output, in place.

        Args:
            gradient: (n, V), overwritten.
            adjusted: (n, V) results of `apply_`.
        """
        if self.cap is not None:
            gradient.mul_(1 - (adjusted * (self.temperature / self.cap)).square())
        factor = self.scale / self.temperature
        return gradient.mul_(factor) if factor != 1 else gradient


FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
"""Keys of a model's configuration that multiply its logits. At most one is set."""
DIVISOR = "logits_scaling"
CAP = "final_logit_softcapping"
ADJUSTS_LOGITS = (CAP, *FACTORS, DIVISOR)
"""Keys of a model's configuration that change logits after its LM head."""


class _TokenHead(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        rule: LogitRule,
        wants_entropy: bool,
        allowed: Allowed | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        ctx.set_materialize_grads(False)
        dtype = _compute_dtype(hidden)
        states, matrix = hidden.to(dtype), weight.to(dtype)
        size = len(hidden)
        logps, normaliser = (torch.empty(size, dtype=_at_least_float32(dtype), device=hidden.device) for _ in range(2))
        entropies = torch.empty_like(logps) if wants_entropy else None
        is_top = torch.empty(size, dtype=torch.bool, device=hidden.device)
        for tile in _tiles(size, weight.size(0), hidden.device):
            logits = _logits(states[tile], matrix, bias, rule)
            forbidden = None if allowed is None else ~allowed[tile].mask(logits.size(1))
            largest = (logits if forbidden is None else logits.masked_fill(forbidden, FORBIDDEN)).amax(1, keepdim=True)
            chosen = logits.gather(1, targets[tile, None])
            is_top[tile] = (chosen == largest).squeeze(1)
            logits.sub_(largest)
            if forbidden is not None:
                logits.masked_fill_(forbidden, 0.0)  # exp of very small numbers is slow on CPUs
            powers = logits.exp() if wants_entropy else logits.exp_()
            if forbidden is not None:
                powers.masked_fill_(forbidden, 0.0)
            total = powers.sum(1)
            normaliser[tile] = total.log() + largest.squeeze(1)
            logps[tile] = chosen.squeeze(1) - normaliser[tile]
            if entropies is not None:  # H = log sum e^z - sum z e^z / sum e^z, with the largest z = 0
                mean = torch.bmm(powers[:, None], logits[:, :, None]).view(-1) / total
                entropies[tile] = total.log() - mean
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser, entropies)
        ctx.mark_non_differentiable(is_top)
        ctx.rule, ctx.dtype, ctx.allowed = rule, dtype, allowed
        return logps, entropies, is_top

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, of_logps: torch.Tensor | None, of_entropies: torch.Tensor | None, _: None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, None, None, None, None]:
        hidden, weight, bias, targets, normaliser, entropies = ctx.saved_tensors
        states, matrix = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        wide = normaliser.dtype
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        hidden_gradient = torch.empty_like(states) if for_hidden else None
        weight_gradient = torch.zeros(weight.shape, dtype=wide, device=weight.device) if for_weight else None
        bias_gradient = torch.zeros(bias.shape, dtype=wide, device=weight.device) if for_bias else None
        for tile in _tiles(len(hidden), weight.size(0), hidden.device):
            logits = _logits(states[tile], matrix, bias, ctx.rule)
            forbidden: torch.Tensor | None = None
            if ctx.allowed is not None:
                forbidden = ~ctx.allowed[tile].mask(logits.size(1))
                logits.masked_fill_(forbidden, 0.0)
            if of_entropies is None and ctx.rule.cap is None:  # the common case, without a second tensor of this size
                assert of_logps is not None
                gradient = logits.sub_(normaliser[tile, None]).exp_().mul_(-of_logps[tile, None])
            else:
                logs = logits - normaliser[tile, None]
                probabilities = logs.exp()
                gradient = torch.zeros_like(logs)
                if of_logps is not None:
                    gradient.addcmul_(probabilities, of_logps[tile, None], value=-1)
                if of_entropies is not None:  # dH / d logit j = -p_j (log p_j + H)
                    gradient -= (logs + entropies[tile, None]).mul_(probabilities).mul_(of_entropies[tile, None])
            if of_logps is not None:
                gradient.scatter_add_(1, targets[tile, None], of_logps[tile, None])
            if forbidden is not None:
                gradient.masked_fill_(forbidden, 0.0)
            gradient = ctx.rule.slope_(gradient, logits)
            narrow = gradient.to(ctx.dtype)
            if hidden_gradient is not None:
                torch.mm(narrow, matrix, out=hidden_gradient[tile])
            if weight_gradient is not None:
                _add_product(weight_gradient, narrow.t(), states[tile])
            if bias_gradient is not None:
                bias_gradient += gradient.sum(0)
        return (
            None if hidden_gradient is None else hidden_gradient.to(hidden.dtype),
            None if weight_gradient is None else weight_gradient.to(weight.dtype),
            None if bias_gradient is None else bias_gradient.to(bias.dtype),
            None,
            None,
            None,
            None,
        )


class HeadScores(NamedTuple):
    """Scores of n tokens, in float32, or in float64 for float64 states.

    Attributes:
        logps: (n,) log-probabilities; differentiable.
        entropies: (n,) in nats; differentiable; None unless wanted.
        is_top: (n,) whether no token has a higher probability.
    """

    logps: torch.Tensor
    entropies: torch.Tensor | None
    is_top: torch.Tensor

    def placed(self, where: torch.Tensor) -> "HeadScores":
        """The same scores (B, T) at the n positions of a mask (B, T), and 0 elsewhere."""

        def spread(values: torch.Tensor) -> torch.Tensor:
            # masked_scatter keeps the result in the graph where the mask is empty
            return values.new_zeros(where.shape).masked_scatter(where, values)

        return HeadScores(*(None if values is None else spread(values) for values in self))


def token_scores(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    rule: LogitRule,
    *,
    wants_entropy: bool,
    allowed: Allowed | None = None,
) -> HeadScores:
    """Score tokens.

    Args:
        hidden: (n, H) states that predict the tokens.
        weight: (V, H) of the LM head.
        bias: (V,) of the LM head, or None.
        targets: (n,) the tokens.
        rule: what happens to logits after the head.
        wants_entropy: whether to compute entropies.
        allowed: the tokens (n,) among which each was drawn: log-probabilities and entropies are those of the
            distribution over these, renormalised. None for the whole vocabulary.
    """
    return HeadScores(*_TokenHead.apply(hidden, weight, bias, targets, rule, wants_entropy, allowed))


def lm_head(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight (V, H) and bias (V,) of a model's LM head. Sharded ones are gathered."""
    head = model.get_output_embeddings()
    weight, bias = (one.full_tensor() if isinstance(one, DTensor) else one for one in (head.weight, head.bias))
    return weight, bias


def _compute_dtype(hidden: torch.Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _tiles(size: int, vocabulary: int, device: torch.device) -> list[slice]:
    rows = max(TILE_ELEMENTS.get(device.type, TILE_ELEMENTS_ELSEWHERE) // vocabulary, LEAST_ROWS)
    return [slice(start, min(start + rows, size)) for start in range(0, size, rows)]


def _logits(states: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None, rule: LogitRule) -> torch.Tensor:
    """(n, V) adjusted logits, in at least float32."""
    product = states @ matrix.t() if bias is None else torch.addmm(bias.to(states.dtype), states, matrix.t())
    return rule.apply_(product.to(_at_least_float32(product.dtype)))


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left @ right to `total`. The sum over tiles is not rounded to the precision of the factors."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
