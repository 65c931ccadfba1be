"""Sensitivities of CE-PO against finite differences and loops, on a tiny model in float64."""

import math

import numpy as np
import pytest
import torch

from rlbench.models.batches import Completions
from rlbench.models.sensitivity import FLOOR, STREAM, sensitivities, sensitivity, shuffled
from tests.helpers_training import load

RANKS, FIRST, SHUFFLES, TEMPERATURE = 4, 2, 2, 0.7
PROMPTS = [[11, 12, 13, 14], [21, 22]]
LISTS = [[31, 32, 33, 34, 35, 36, 37], [41, 42, 43, 44]]
UNITS = [[0, 0, 1, 2, 2, 3, 6], [0, 1, 2, 6]]  # the last token ends the list


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load(tiny_folder)[1].double().train()


def likelihood(model, embeddings, ids, units, part):
    """Log-likelihood of a part of a list, from the embeddings (L, H) of a text without padding."""
    logits = model(inputs_embeds=embeddings[None]).logits[0, len(embeddings) - len(ids) - 1 : -1] / TEMPERATURE
    logs = logits.log_softmax(-1)
    return sum(logs[t, token] for t, (token, unit) in enumerate(zip(ids, units, strict=True)) if part(unit))


def is_first(unit):
    return unit < FIRST


def is_rest(unit):
    return FIRST <= unit < RANKS


def slow_jacobian(model, prompt, written, ids, units, part):
    """(L, H) for one list; `written` are the tokens that the model sees, `ids` those that are scored."""
    embeddings = model.get_input_embeddings()(torch.tensor(prompt + written)).detach().requires_grad_()
    return torch.autograd.grad(likelihood(model, embeddings, ids, units, part), embeddings)[0]


def mixed(tokens, number):
    order = np.random.default_rng([STREAM, number, *tokens]).permutation(len(tokens))
    return [tokens[place] for place in order]


def slow_sensitivity(jacobian, without):
    rest = [row.tolist() for row in jacobian]
    before = sum(x * x for row in rest for x in row)
    for other in without:
        energy = sum(x * x for row in other.tolist() for x in row)
        dot = sum(
            x * y for row, along in zip(rest, other.tolist(), strict=True) for x, y in zip(row, along, strict=True)
        )
        rest = [[x - dot / energy * y for x, y in zip(row, along, strict=True)]
                for row, along in zip(rest, other.tolist(), strict=True)]  # fmt: skip
    squares = torch.linalg.svdvals(torch.tensor(rest, dtype=torch.float64)).square()
    left = sum(x * x for row in rest for x in row)
    return max(math.sqrt((squares[0] / squares.sum()).item() * left / before), FLOOR)


def slow(model, prompt, ids, units):
    p, x = len(prompt), [place for place, unit in enumerate(units) if is_first(unit)]
    z_to_x, whole = (slow_jacobian(model, prompt, ids, ids, units, part) for part in (is_first, is_rest))
    prompts = [mixed(prompt, k) for k in range(SHUFFLES)]
    by_prompt = [
        sum(slow_jacobian(model, other, ids, ids, units, part)[:p] for other in prompts) / SHUFFLES
        for part in (is_first, is_rest)
    ]
    by_first = 0
    for k in range(SHUFFLES):
        written, own = list(ids), mixed([ids[place] for place in x], k)
        for place, token in zip(x, own, strict=True):
            written[place] = token
        by_first = by_first + slow_jacobian(model, prompt, written, ids, units, is_rest)[p:][x] / SHUFFLES
    return [
        slow_sensitivity(z_to_x[:p], [by_prompt[0]]),
        slow_sensitivity(whole[p:][x], [by_first]),
        slow_sensitivity(whole[:p], [z_to_x[:p], by_prompt[1]]),
    ]


def fast(model, rows, units):
    batch = Completions.of_rows(rows, 0, torch.device("cpu"))
    longest = max(map(len, units))
    padded = torch.tensor([row + [RANKS + 3] * (longest - len(row)) for row in units])
    return sensitivities(model, batch, padded, RANKS, first=FIRST, shuffles=SHUFFLES, temperature=TEMPERATURE)


def test_against_loops_without_padding(model):
    """Both lists in one padded batch, against each list alone."""
    found = fast(model, list(zip(PROMPTS, LISTS, strict=True)), UNITS)
    for row, (prompt, ids, units) in enumerate(zip(PROMPTS, LISTS, UNITS, strict=True)):
        np.testing.assert_allclose(found[row].tolist(), slow(model, prompt, ids, units), rtol=1e-7)
    assert ((found >= FLOOR) & (found <= 1)).all() and model.training
    assert all(weight.grad is None for weight in model.parameters())


def test_jacobians_against_finite_differences(model):
    embeddings = model.get_input_embeddings()(torch.tensor(PROMPTS[0] + LISTS[0])).detach()
    jacobian = slow_jacobian(model, PROMPTS[0], LISTS[0], LISTS[0], UNITS[0], is_rest)
    step = 3e-3  # the model's norms are in float32, so smaller steps drown in rounding
    for place, dimension in ((0, 0), (2, 5), (5, 1)):
        values = []
        for sign in (1, -1):
            moved = embeddings.clone()
            moved[place, dimension] += sign * step
            with torch.no_grad():
                values.append(likelihood(model, moved, LISTS[0], UNITS[0], is_rest).item())
        assert jacobian[place, dimension].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=3e-3)


def test_a_part_without_tokens_has_the_floor(model):
    short = fast(model, [(PROMPTS[0], LISTS[0][:3])], [[0, 0, 6]])  # nothing but the first rank
    assert short[0, 0] > FLOOR and short[0, 1:].tolist() == [FLOOR, FLOOR]
    assert fast(model, [(PROMPTS[0], LISTS[0][:2])], [[RANKS + 1, 6]])[0].tolist() == [FLOOR] * 3


def test_projections():
    jacobian = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert sensitivity(jacobian, []) == pytest.approx(4 / 5)
    assert sensitivity(jacobian, [torch.tensor([[0.0, 0.0], [0.0, 9.0]])]) == pytest.approx(3 / 5)
    assert sensitivity(jacobian, [2 * jacobian]) == pytest.approx(FLOOR)
    assert sensitivity(jacobian, [torch.zeros(2, 2)]) == pytest.approx(4 / 5)
    assert sensitivity(torch.zeros(2, 2), []) == FLOOR


def test_shuffles_depend_on_the_tokens_alone():
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [9, 8, 3, 4, 5, 7]])
    where = torch.tensor([[False, False, True, True, True, False]] * 2)
    changed = shuffled(ids, where, 1)
    assert changed[0, 2:5].tolist() == changed[1, 2:5].tolist() == mixed([3, 4, 5], 1)
    assert changed[0, [0, 1, 5]].tolist() == [1, 2, 6] and ids[0].tolist() == [1, 2, 3, 4, 5, 6]
