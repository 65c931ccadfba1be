"""How much one part of a prompt and its list decides about a later part: sensitivities of CE-PO (arXiv 2509.23095).

With Z the prompt, X the first ranks of a list and Y its other ranks, J_AB is the gradient of the log-likelihood of B
with respect to the embeddings of the tokens of A: (tokens of A, H). From each J,

1. for Z -> Y, what lies along J_ZX is subtracted, so that only the direct path is left;
2. what lies along the mean J of K counterfactual texts is subtracted, in which the tokens of A are shuffled, so that
   only what depends on their order is left.

With R the rest and s_1 its largest singular value, the sensitivity is s_1 / ||J||. In the words of the paper's official
code it is sqrt(share of the energy of R in its first direction * ||R||^2 / ||J||^2). It lies in [FLOOR, 1]. "Lies
along" means the projection on a matrix as one long vector, which is our reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from rlbench.models.batches import Completions

FLOOR = 0.005
"""The least sensitivity, as in the paper's code. Parts without tokens have it."""
STREAM = 23
"""Separates the random numbers of shuffles from others."""
PATHS = ("prompt_to_first", "first_to_rest", "prompt_to_rest")
"""Z -> X, X -> Y and Z -> Y."""


@dataclass(frozen=True)
class Gradients:
    """Gradients of a batch with respect to embeddings: of X's log-likelihood and of Y's, (B, P + T, H) each."""

    first: torch.Tensor
    rest: torch.Tensor


def sensitivities(
    model: PreTrainedModel,
    batch: Completions,
    units: torch.Tensor,
    ranks: int,
    *,
    first: int,
    shuffles: int,
    temperature: float,
) -> torch.Tensor:
    """(B, 3) float64, the sensitivities of `PATHS` for each list.

    Args:
        model: a causal language model with whole weights.
        batch: the lists.
        units: (B, T) unit of each token (`rlbench.lists.reader.UnitLayout`).
        ranks: N.
        first: ranks of X.
        shuffles: K.
        temperature: divisor of the logits.
    """
    own = batch.completion_mask.bool()
    of_first, of_rest = own & (units < first), own & (units >= first) & (units < ranks)
    length = batch.prompt_ids.size(1)
    in_prompt = torch.nn.functional.pad(batch.prompt_mask.bool(), (0, own.size(1)))
    in_first = torch.nn.functional.pad(of_first, (length, 0))
    ids, mask = batch.joined()
    run = _Passes(model, mask, ids[:, length:], of_first, of_rest, temperature)
    true = run(ids)
    prompts = [run(shuffled(ids, in_prompt, number)) for number in range(shuffles)]
    beginnings = [run(shuffled(ids, in_first, number)) for number in range(shuffles)]
    by_prompt = torch.stack([one.first for one in prompts]).mean(0), torch.stack([one.rest for one in prompts]).mean(0)
    by_first = torch.stack([one.rest for one in beginnings]).mean(0)
    rows = []
    for row in range(len(ids)):
        z, x = in_prompt[row], in_first[row]
        z_to_x, x_to_y, z_to_y = true.first[row, z], true.rest[row, x], true.rest[row, z]
        rows.append(
            [
                sensitivity(z_to_x, [by_prompt[0][row, z]]),
                sensitivity(x_to_y, [by_first[row, x]]),
                sensitivity(z_to_y, [z_to_x, by_prompt[1][row, z]]),
            ]
        )
    return torch.tensor(rows, dtype=torch.float64)


def sensitivity(jacobian: torch.Tensor, without: Sequence[torch.Tensor]) -> float:
    """The sensitivity of one Jacobian (tokens, H), from which other matrices are projected out in turn."""
    rest = jacobian.double()
    before = rest.square().sum()
    for other in without:
        along = other.double()
        energy = along.square().sum()
        if energy > 0:
            rest = rest - (rest * along).sum() / energy * along
    if before == 0:
        return FLOOR
    return max(float(torch.linalg.svdvals(rest)[0] / before.sqrt()), FLOOR)


def shuffled(ids: torch.Tensor, where: torch.Tensor, number: int) -> torch.Tensor:
    """Ids (B, L) whose tokens at `where` change places in each row. Their order depends on them and `number` alone."""
    changed = ids.clone()
    for row in range(len(ids)):
        places = where[row].nonzero().squeeze(1)
        own = ids[row, places]
        rng = np.random.default_rng([STREAM, number, *own.tolist()])
        changed[row, places] = own[torch.from_numpy(rng.permutation(len(own))).to(own.device)]
    return changed


@dataclass(frozen=True)
class _Passes:
    """Passes over texts that differ only in their tokens before what is scored."""

    model: PreTrainedModel
    mask: torch.Tensor
    completion_ids: torch.Tensor
    of_first: torch.Tensor
    of_rest: torch.Tensor
    temperature: float

    def __call__(self, ids: torch.Tensor) -> Gradients:
        model, length = self.model, self.completion_ids.size(1)
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
        trains = model.training
        with torch.enable_grad():
            try:
                model.eval()  # neither dropout nor gradient checkpointing
                output: Any = model(inputs_embeds=embeddings, attention_mask=self.mask, use_cache=False)
            finally:
                model.train(trains)
            logits = output.logits[:, -length - 1 : -1]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature
            logps = logits.log_softmax(2).gather(2, self.completion_ids[:, :, None]).squeeze(2)
            # Rows do not depend on each other, so the gradient of a sum over rows is that of each row.
            parts = [(logps * part).sum() for part in (self.of_first, self.of_rest)]
            (first,) = torch.autograd.grad(parts[0], embeddings, retain_graph=True)
            (rest,) = torch.autograd.grad(parts[1], embeddings)
        return Gradients(first.detach(), rest.detach())
