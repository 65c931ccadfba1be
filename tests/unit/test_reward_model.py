"""The reward model against loops, and what it keeps."""

import io
import math

import numpy as np
import pytest
import torch

from rlbench.rewards.reward_model import SIZE, ItemPairs, RewardModel

COMPARISONS = [
    ItemPairs([0, 2], [1, 4], [0, 3, 5]),
    ItemPairs([], [2], [6]),
    ItemPairs([1], [], [3]),  # no relevant item: left out
    ItemPairs([2], [0], []),  # nothing to compare with: left out
]


def model(seed=3, shaken=True):
    made = RewardModel(titles=4, items=7, seed=seed)
    if shaken:
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for weight in made.parameters():
                weight += torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return made


def slow_score(made, titles, item):
    total = made.bias[item].item()
    for place in range(SIZE):
        context = made.of_all[place].item()
        if titles:
            context += sum(made.of_titles[title, place].item() for title in titles) / len(titles)
        total += context * made.of_items[item, place].item()
    return total


def slow_loss(made, comparisons):
    losses = []
    for one in comparisons:
        pairs = [(b, w) for b in one.better for w in one.worse]
        if pairs:
            of_pairs = [
                math.log1p(math.exp(slow_score(made, one.titles, w) - slow_score(made, one.titles, b)))
                for b, w in pairs
            ]
            losses.append(sum(of_pairs) / len(of_pairs))
    return sum(losses) / len(losses)


def test_scores_loss_and_accuracy_against_loops():
    made = model()
    for one in COMPARISONS:
        items = [*one.better, *one.worse]
        expected = [slow_score(made, one.titles, item) for item in items]
        assert made.scores(one.titles, items).tolist() == pytest.approx(expected, rel=1e-12)
    assert made.loss(COMPARISONS[:2]).item() == pytest.approx(slow_loss(made, COMPARISONS), rel=1e-12)
    pairs = [(one.titles, b, w) for one in COMPARISONS for b in one.better for w in one.worse]
    right = sum(slow_score(made, titles, b) > slow_score(made, titles, w) for titles, b, w in pairs)
    assert made.accuracy(COMPARISONS) == right / len(pairs)
    assert math.isnan(made.accuracy(COMPARISONS[2:]))


def test_shares_of_lists():
    made = model()
    found = made.shares([[1], []], np.array([[3, -1, 2], [-1, -1, 6]]))
    expected = [[1 / (1 + math.exp(-slow_score(made, titles, i))) if i >= 0 else 0 for i in row]
                for titles, row in (([1], [3, -1, 2]), ([], [-1, -1, 6]))]  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_an_untrained_model_prefers_nothing():
    made = model(shaken=False)
    assert made.accuracy(COMPARISONS) == 0.5
    assert (made.shares([[0, 1]], np.array([[0, 3, 6]])) == 0.5).all()


def test_it_learns_what_it_is_shown():
    made = model(shaken=False)
    made.learn(COMPARISONS, 60, 0.05)
    assert made.accuracy(COMPARISONS) == 1.0 and made.loss(COMPARISONS[:2]).item() < 0.2
    before = made.of_items.detach().clone()
    made.learn(COMPARISONS[2:], 5, 0.05)  # no pair
    assert torch.equal(before, made.of_items)


def test_a_restored_model_goes_on_to_the_bit():
    whole, stopped = model(), model()
    for made in (whole, stopped):
        made.learn(COMPARISONS, 4, 0.02)
    file = io.BytesIO()
    torch.save(stopped.whole_state(), file)
    file.seek(0)
    resumed = model(seed=8)
    resumed.restore(torch.load(file, weights_only=True))
    for made in (whole, resumed):
        made.learn(COMPARISONS, 3, 0.02)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
