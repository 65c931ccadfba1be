"""Beam search of free lists, against all texts."""

import math
from itertools import product

import pytest
import torch
from transformers import GenerationConfig

from rlbench.models.beams import ListForm, beam_groups
from tests.helpers_models import tiny_model

SIZE, END, NEWLINE, LONGEST, PROMPT = 5, 0, 1, 5, [2, 3, 4, 2]
NEWLINES = torch.tensor([0, 1, 0, 0, 0])


def all_texts(model) -> dict[tuple[int, ...], float]:
    """The log-probability of each text of at most LONGEST tokens that ends at its first EOS, or is cut off."""
    found = {}
    every = list(product(range(SIZE), repeat=LONGEST))
    with torch.no_grad():
        logps = model(torch.tensor([[*PROMPT, *ids] for ids in every])).logits.double().log_softmax(-1)
    for row, ids in zip(logps, every, strict=True):
        length = ids.index(END) + 1 if END in ids else LONGEST
        found[ids[:length]] = sum(row[len(PROMPT) - 1 + k, ids[k]].item() for k in range(length))
    return found


def lines(ids: tuple[int, ...]) -> int:
    return sum(token == NEWLINE for token in ids)


@pytest.mark.parametrize(
    ("least", "most"), [(1, None), (2, None), (3, None), (2, 2), (3, 3), (1, 2)], ids=lambda value: str(value)
)
def test_the_most_likely_lists_of_all_entries(least: int, most: int | None) -> None:
    """A list of k entries has k - 1 newlines before EOS, or ends with its k-th newline where that is allowed."""
    model = tiny_model("llama", vocab_size=SIZE).eval()
    texts = all_texts(model)
    complete = {ids: score for ids, score in texts.items() if ids[-1] == END and lines(ids) >= least - 1}
    if most is not None:
        complete = {ids: score for ids, score in complete.items() if lines(ids) < most}
        for ids in {ids[:k] for ids in texts for k in range(1, LONGEST + 1)}:
            if END not in ids and lines(ids) == most and ids[-1] == NEWLINE:
                complete[ids] = math.log(sum(math.exp(texts[t]) for t in texts if t[: len(ids)] == ids))
    config = GenerationConfig(max_new_tokens=LONGEST, eos_token_id=[END], pad_token_id=END, do_sample=False)
    (found,), _ = beam_groups(model, [PROMPT], config, SIZE**4, 4, form=ListForm(NEWLINES, least, most))
    assert [tuple(one.ids) for one in found] == sorted(complete, key=lambda ids: -complete[ids])[:4]
    for one in found:
        assert sum(one.recorded) == pytest.approx(complete[tuple(one.ids)], rel=1e-6)
