"""Scalars of the next-token distribution at every position, for pieces that request one by name.

TRL's fused LM head gives log-probabilities and entropies and keeps no logits. Other scalars are computed here from the
last hidden states, one tile of positions at a time, so no (B, T, V) tensor exists. If gradients are needed, the
backward pass computes a tile's logits again.

A scalar takes log-probabilities of the whole vocabulary (n, V) at n positions and gives (n,). Fact of a scalar:

differentiable: whether gradients flow through it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rlbench.base.errors import BadInput
from rlbench.models.token_head import ADJUSTS_LOGITS
from rlbench.objective.pieces import scalars

TILE_ELEMENTS = 2**24
"""Maximum number of logits in memory at once."""
TOP_P, TOP_TOKENS = 0.8, 10_000  # SIREN, arXiv 2509.25133
FIRST_TOKENS = 64  # number of most likely tokens to try first


@scalars.piece(differentiable=False)
def mean_logps(logps: torch.Tensor) -> torch.Tensor:
    """Mean over the vocabulary of the log-probabilities: mean(logits) - logsumexp(logits)."""
    return logps.mean(dim=1)


@scalars.piece(differentiable=False)
def square_sum(logps: torch.Tensor) -> torch.Tensor:
    """Sum over the vocabulary of squared probabilities."""
    return (2 * logps).logsumexp(dim=1).exp()


@scalars.piece(differentiable=True)
def top_p_entropy(logps: torch.Tensor) -> torch.Tensor:
    """Entropy of the most likely tokens whose probability together stays below .8, at most 10,000 tokens, renormalised
    to sum to 1 (SIREN, arXiv 2509.25133, as its code).

    The token that reaches .8 is left out, as in the published code. If the first token alone reaches it, the set is
    empty and the entropy is 0. Tokens tied with the last token of the set share the remaining places. The published
    code gives these places, and so the gradient, to whichever tokens come first; the entropy is the same.
    """
    count, last = _top_p_set(logps.detach())
    above, tied = logps.detach() > last, logps.detach() == last
    left = (count - above.sum(dim=1, keepdim=True)).to(logps)  # places for the tied tokens
    kept = above.to(logps) + tied * left / tied.sum(dim=1, keepdim=True).clamp(min=1)
    some = count > 0
    weights = torch.where(some, kept, 1.0)  # for an empty set, any finite entropy works: it is multiplied by 0
    normalised = logps - (logps + weights.log()).logsumexp(dim=1, keepdim=True)
    entropy = -(weights * normalised.exp() * normalised.masked_fill(weights == 0, 0.0)).sum(dim=1)
    return entropy * some.squeeze(1)


def _top_p_set(logps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 1) each: number of tokens in each position's set, and the log-probability of the last one; inf if empty."""
    limit = min(TOP_TOKENS, logps.size(1))
    count = torch.empty(len(logps), 1, dtype=torch.long, device=logps.device)
    last = torch.full_like(logps[:, :1], torch.inf)
    rows, k = torch.arange(len(logps), device=logps.device), min(FIRST_TOKENS, limit)
    while len(rows):  # most positions need few tokens, and sorting the whole vocabulary is slow
        top = logps[rows].topk(k, dim=1).values
        inside = (top.exp().cumsum(dim=1) < TOP_P).sum(dim=1, keepdim=True)
        found = (inside.squeeze(1) < k) | (k == limit)
        count[rows[found]] = inside[found]
        of_last = top[found].gather(1, (inside[found] - 1).clamp(min=0))
        last[rows[found]] = torch.where(inside[found] > 0, of_last, torch.inf)
        rows, k = rows[~found], min(k * 8, limit)
    return count, last


class HiddenStates:
    """Captures the backbone's hidden states, to compute scalars from the forward pass that gives log-probabilities.

    Args:
        model: the causal language model, before anything wraps it.
        temperature: divisor of the logits.

    Raises:
        BadInput: the model changes logits after its LM head, which is not reproduced here.
    """

    def __init__(self, model: PreTrainedModel, temperature: float):
        self.model = model
        self.temperature = temperature
        settings = model.config.get_text_config().to_dict()
        adjusted = [name for name in ADJUSTS_LOGITS if settings.get(name) not in (None, 1, 1.0)]
        if adjusted:
            raise BadInput(
                f"model: its {adjusted[0]} changes logits, which the scalars of the forward pass do not support"
            )

    @contextmanager
    def caught(self) -> Iterator[list[torch.Tensor]]:
        """A list that collects the last hidden states (B', L, H) of each forward pass in the block."""
        found: list[torch.Tensor] = []
        backbone = self.model.base_model
        handle = backbone.register_forward_hook(lambda module, args, output: found.append(output.last_hidden_state))
        try:
            yield found
        finally:
            handle.remove()

    @staticmethod
    def around_tokens(found: list[torch.Tensor], length: int) -> torch.Tensor:
        """(B, T + 1, H) hidden states at the token before the last `length` = T tokens, and at these."""
        return torch.cat([states[:, -length - 1 :] for states in found])

    def scalar(self, name: str, hidden: torch.Tensor) -> torch.Tensor:
        """(B, T) a scalar at every position, from hidden states (B, T, H)."""
        head, piece = self.model.get_output_embeddings(), scalars[name]

        def of_tile(states: torch.Tensor) -> torch.Tensor:
            logits = head(states)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return piece.function((logits / self.temperature).log_softmax(dim=-1))

        flat = hidden.flatten(0, 1)
        tiles = flat.split(max(TILE_ELEMENTS // head.out_features, 1))
        if piece.facts["differentiable"] and torch.is_grad_enabled():
            values = [checkpoint(of_tile, tile, use_reentrant=False) for tile in tiles]
        else:
            with torch.no_grad():
                values = [of_tile(tile) for tile in tiles]
        return torch.cat(values).view(hidden.shape[:2])
