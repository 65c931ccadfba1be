"""Beam search: the most likely lists that a search with k beams finds.

A beam is the beginning of a text. Each step extends a prompt's beams by every possible token, and keeps the k most
likely results. A text's score is its log-probability, without a correction for length. A text becomes less likely with
every token. So the search for a prompt ends when no beam is more likely than the complete texts that are kept. With as
many beams as there are texts, it finds the most likely ones.

Only lists of all entries are compared (`ListForm`, or the constraint): the most likely of all texts is often a list of
one entry, although the policy hardly ever samples it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel

from rlbench.base.errors import BadInput
from rlbench.models.completing import Batch, Completion
from rlbench.models.constraint import Walk
from rlbench.models.prompt_cache import attending, reason_against


@dataclass(frozen=True)
class ListForm:
    """When a text may end.

    Attributes:
        newlines: (V,) number of newlines in each token.
        least: number of lines of the shortest list that EOS may end, unless a constraint decides it.
        most: number of lines after which a list is over without EOS; None if only EOS ends it.
    """

    newlines: torch.Tensor
    least: int
    most: int | None = None


def beam_search(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    beams: int,
    walk: Walk | None = None,
    form: ListForm | None = None,
) -> list[Completion]:
    """For each prompt, the most likely completion that the search finds, with its tokens' log-probabilities.

    Arguments and errors as for `beam_groups`.
    """
    groups, _ = beam_groups(model, prompts, config, beams, 1, walk, form)
    return [best for (best,) in groups]


def beam_groups(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    beams: int,
    kept: int,
    walk: Walk | None = None,
    form: ListForm | None = None,
) -> tuple[list[list[Completion]], int]:
    """For each prompt, the most likely completions that the search finds, and the number of tokens that it tried.

    Args:
        model: a causal language model.
        prompts: token ids of each prompt, at least one.
        config: decoding settings without sampling and penalties.
        beams: k.
        kept: number of completions per prompt, at most k. Where fewer complete texts are found, unfinished ones follow.
        walk: the beginning of the lists, one per prompt, if they are held to the catalogue; None for free lists.
        form: when a text may end; None: wherever EOS is possible.

    Raises:
        BadInput: the model cannot share prompts.
    """
    reason = reason_against(model)
    if reason is not None:
        raise BadInput(f"evaluation.beams = {beams}: {reason}; use evaluation.beams=1")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            search = _Search(model, prompts, config, beams, kept, walk, form)
            return search.groups(), search.tried
    finally:
        model.train(was_training)


class _Search(Batch):
    """The state of a search. Rows are the beams of the first prompt, then those of the second, and so on."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        config: GenerationConfig,
        beams: int,
        kept: int,
        walk: Walk | None,
        form: ListForm | None,
    ):
        if walk is not None:
            walk.keep(torch.arange(len(prompts), device=model.device).repeat_interleave(beams))
        super().__init__(model, [prompt for prompt in prompts for _ in range(beams)], config, walk=walk)
        self.prompts, self.beams, self.kept, self.tried = len(prompts), beams, kept, 0
        rows, device = len(self.text), self.text.device
        self.logps = torch.zeros(rows, self.most, dtype=torch.float64, device=device)
        # At first all beams of a prompt are the same text, so only one may go on.
        self.scores = torch.full((self.prompts, beams), -math.inf, dtype=torch.float64, device=device)
        self.scores[:, 0] = 0.0
        self.worst = torch.full((self.prompts,), -math.inf, dtype=torch.float64, device=device)
        self.found: list[list[tuple[float, Completion]]] = [[] for _ in range(self.prompts)]
        self.form, self.lines = form, torch.zeros(rows, dtype=torch.long, device=device)
        self.newlines = None if form is None else form.newlines.to(device)

    def groups(self) -> list[list[Completion]]:
        """Search for all prompts together. The most likely completions come first."""
        width = self.ids.size(1)
        logits, position = self._prefill()
        with attending(self.model):
            for step in range(self.most):
                chosen = self._extend(logits, step)
                self.tried += len(chosen)
                if step + 1 == self.most or bool((self.scores.amax(dim=1) <= self.worst).all()):
                    break
                position = position + 1
                logits = self._forward(chosen, self.whole_mask[:, : width + step + 1], position)
        return [self._with_unfinished(prompt) for prompt in range(self.prompts)]

    def _with_unfinished(self, prompt: int) -> list[Completion]:
        """The complete texts of a prompt, and the most likely unfinished ones if they are too few."""
        complete = [completion for _, completion in self.found[prompt]]
        first, order = prompt * self.beams, self.scores[prompt].argsort(descending=True, stable=True).tolist()
        return complete + [self._completion(first + n, self.most) for n in order[: self.kept - len(complete)]]

    def _extend(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """(rows, 1) next token of each new beam. Also puts the rows in the order of the new beams."""
        if self.walk is not None:
            logits = logits.masked_fill(~self.walk.allowed(logits.size(1)), -math.inf)
        logps = logits.double().log_softmax(1)
        totals = (self.scores.view(-1, 1) + logps).view(self.prompts, self.beams, -1)
        ended = totals[:, :, self.ends]
        if self.form is not None and self.walk is None:
            short = self.lines < self.form.least - 1  # the last line may end with EOS
            ended = ended.masked_fill(short.view(self.prompts, self.beams, 1), -math.inf)
        self._end(ended, logps[:, self.ends], step)
        totals[:, :, self.ends] = -math.inf
        vocabulary = totals.size(2)
        scores, places = totals.flatten(1).topk(self.beams, dim=1)
        # Fewer continuations than beams: the others copy the first. If no text goes on, EOS fills the rows.
        goes_on = scores > -math.inf
        places = torch.where(goes_on, places, places[:, :1])
        places = torch.where(goes_on[:, :1], places, self.ends[0])
        self.scores = scores
        first = torch.arange(self.prompts, device=places.device)[:, None] * self.beams
        parents, chosen = (first + places // vocabulary).flatten(), (places % vocabulary).flatten()
        self.text, self.logps = self.text[parents], self.logps[parents]
        self.text[:, self.ids.size(1) + step] = chosen
        self.logps[:, step] = logps[parents, chosen]
        if step:  # the first token is not in the cache yet
            for layer in self.cache.layers:
                layer.keep(parents, None, layer.places)
        if self.walk is not None:
            self.walk.keep(parents)
            self.walk.advance(chosen)
        if self.newlines is not None:
            self.lines = self.lines[parents] + self.newlines[chosen]
            self._stop(step + 1)
        return chosen[:, None]

    def _stop(self, length: int) -> None:
        """Remember texts of the most lines, whose beams go on no further."""
        assert self.form is not None
        if self.form.most is None:
            return
        over = (self.lines >= self.form.most).view_as(self.scores) & (self.scores > -math.inf)
        for prompt, beam in over.nonzero().tolist():
            self._keep(prompt, self.scores[prompt, beam].item(), self._completion(prompt * self.beams + beam, length))
        self.scores = self.scores.masked_fill(over, -math.inf)

    def _end(self, totals: torch.Tensor, logps: torch.Tensor, step: int) -> None:
        """Remember complete texts that are more likely than those before.

        Args:
            totals: (prompts, k, ends) log-probabilities of texts that end now.
            logps: (rows, ends) log-probabilities of EOS.
            step: the number of tokens before EOS.
        """
        scores, places = totals.flatten(1).topk(min(self.kept, totals[0].numel()), dim=1)
        for prompt, which in (scores > self.worst[:, None]).nonzero().tolist():
            beam, end = divmod(int(places[prompt, which]), len(self.ends))
            row = prompt * self.beams + beam
            before = self._completion(row, step)
            ended = Completion(
                [*before.ids, int(self.ends[end])], [*before.recorded, logps[row, end].item()], before.prompt_tokens
            )
            self._keep(prompt, scores[prompt, which].item(), ended)

    def _keep(self, prompt: int, score: float, text: Completion) -> None:
        """Add a complete text to those of a prompt, of which only the most likely stay."""
        self.found[prompt] = sorted([*self.found[prompt], (score, text)], key=lambda one: -one[0])[: self.kept]
        if len(self.found[prompt]) == self.kept:
            self.worst[prompt] = self.found[prompt][-1][0]

    def _completion(self, row: int, length: int) -> Completion:
        """The first tokens of a row."""
        width = self.ids.size(1)
        ids = self.text[row, width : width + length].tolist()
        return Completion(ids, self.logps[row, :length].tolist(), self.of_prompts[row])
