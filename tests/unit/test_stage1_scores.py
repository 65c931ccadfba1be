"""Remap, reflect and adjust against hand-made examples, slow loops, scipy's numeric gradient and a known truth."""

import numpy as np
import pytest
from scipy import optimize
from scipy.special import log_softmax, softmax

from rlbench.data.stage1.scores import (
    Adjustment,
    AdjustmentLoss,
    fit_adjustment,
    membership,
    rank_weights,
    reflect,
    remap,
    top_films,
)


def test_remap_by_hand():
    """Three films. The teacher names film 1, then an item outside the catalogue similar to film 2."""
    similarity = np.array([[0.2, 1.0, 0.0], [0.1, 0.0, 0.8]])
    conversation = np.array([[0.5, 0.0, 0.25]])
    found = remap(rank_weights([[0, 1]], 2), similarity, membership([1, -1], 3), conversation)
    second = 1 / np.sqrt(2)
    assert found == pytest.approx(np.array([[0.2 + 0.1 * second + 0.5, 1 + 1, 0.8 * second + 0.25]]))
    without = remap(rank_weights([[0, 1]], 2), similarity, membership([1, -1], 3), conversation, 0.0)
    assert found - without == pytest.approx(conversation)


def slow_remap(lists, similarity, catalogued, conversation, weight):
    scores = np.zeros_like(conversation)
    for row, ranked in enumerate(lists):
        for film in range(conversation.shape[1]):
            done = set()
            for k, item in enumerate(ranked, start=1):
                if item not in done:
                    own = 1.0 if catalogued[item] == film else 0.0
                    scores[row, film] += (similarity[item, film] + own) / k**0.5
                done.add(item)
            scores[row, film] += weight * conversation[row, film]
    return scores


@pytest.mark.parametrize("seed", range(5))
def test_remap_is_the_slow_loop(seed):
    rng = np.random.default_rng(seed)
    conversations, films, items = 6, 9, 12
    lists = [list(rng.integers(0, items, rng.integers(0, 8))) for _ in range(conversations)]  # repeats and empty lists
    similarity, conversation = rng.normal(size=(items, films)), rng.normal(size=(conversations, films))
    catalogued = [int(film) if rng.uniform() < 0.6 else -1 for film in rng.integers(0, films, items)]
    found = remap(rank_weights(lists, items), similarity, membership(catalogued, films), conversation, 0.7)
    assert found == pytest.approx(slow_remap(lists, similarity, catalogued, conversation, 0.7), abs=1e-12)


def test_reflect_by_hand():
    scores, ratings = np.array([[1.0, 2.0, 3.0]]), np.array([[2, 0, -2]])
    assert reflect(scores, ratings) == pytest.approx(np.array([[2.0, 2.0, 2.0]]))
    assert reflect(scores, ratings, 0.25) == pytest.approx(np.array([[1.5, 2.0, 2.5]]))
    with pytest.raises(ValueError, match=r"-2\.\.2"):
        reflect(scores, np.array([[3, 0, 0]]))


def test_top_films_leave_out_what_is_excluded_and_break_ties_by_order():
    scores = np.array([[1.0, 3.0, 3.0, 2.0], [5.0, 4.0, 4.0, 0.0]])
    excluded = np.array([[False] * 4, [True, False, False, False]])
    assert top_films(scores, 3, excluded).tolist() == [[1, 2, 3], [1, 2, 3]]
    with pytest.raises(ValueError, match="fewer than 4"):
        top_films(scores, 4, excluded)


def problem(seed: int, conversations: int = 20, films: int = 5, targets: int = 60) -> AdjustmentLoss:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(conversations, films))
    rows, truth = rng.integers(0, conversations, targets), rng.integers(0, films, targets)
    return AdjustmentLoss(scores, rows, truth, ridge_weight=0.3, ridge_bias=0.2, at_once=7)


def slow_loss(loss: AdjustmentLoss, w, b) -> float:
    value = 0.0
    for row, film in zip(loss.rows, loss.films, strict=True):
        value -= log_softmax(w * loss.scores[row] + b)[film]
    for one, other in zip(w, b, strict=True):
        value += loss.ridge_weight * (one - 1) ** 2 + loss.ridge_bias * other**2
    return value


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_slow_sum_and_its_gradient_the_numeric_one(seed):
    loss = problem(seed)
    rng = np.random.default_rng(seed + 10)
    point = rng.normal(size=10)
    value, slope = loss(point)
    assert value == pytest.approx(slow_loss(loss, point[:5], point[5:]), rel=1e-12)
    numeric = optimize.approx_fprime(point, lambda p: slow_loss(loss, p[:5], p[5:]), 1e-6)
    assert slope == pytest.approx(numeric, rel=1e-4, abs=1e-4)


def test_the_fit_is_the_minimum():
    loss = problem(0)
    found = fit_adjustment(loss)
    best, slope = loss(np.concatenate([found.weight, found.bias]))
    assert np.abs(slope).max() < 1e-3  # summed over 60 targets
    other = optimize.minimize(lambda p: slow_loss(loss, p[:5], p[5:]), np.zeros(10), method="BFGS")
    assert best == pytest.approx(other.fun, abs=1e-4)
    rng = np.random.default_rng(1)
    for _ in range(20):
        assert loss(np.concatenate([found.weight, found.bias]) + rng.normal(size=10) * 0.1)[0] > best


def test_the_fit_finds_a_known_truth():
    """Truths are drawn with w and b. The fit can find b only up to a constant."""
    rng = np.random.default_rng(0)
    w, b = np.array([0.5, 1.0, 2.0, 1.5]), np.array([1.0, 0.0, -1.0, 0.0])
    scores = rng.normal(size=(20_000, 4))
    chances = softmax(w * scores + b, axis=1)
    truth = np.array([rng.choice(4, p=p) for p in chances])
    found = fit_adjustment(AdjustmentLoss(scores.astype(np.float32), np.arange(20_000), truth))
    assert found.weight == pytest.approx(w, abs=0.1)
    assert found.bias - found.bias.mean() == pytest.approx(b, abs=0.1)


def test_without_a_reason_to_adjust_the_ridges_hold():
    """Strong ridges leave scores unchanged. A film in every truth is raised."""
    scores, rows = np.zeros((8, 3)), np.arange(8)
    held = fit_adjustment(AdjustmentLoss(scores, rows, np.zeros(8, dtype=int), 1e6, 1e6))
    assert held(np.array([[1.0, 2.0, 3.0]])) == pytest.approx(np.array([[1.0, 2.0, 3.0]]), abs=1e-4)
    lifted = fit_adjustment(AdjustmentLoss(scores, rows, np.zeros(8, dtype=int)))
    assert lifted.bias[0] > 1 > 0 > lifted.bias[1] == pytest.approx(lifted.bias[2])
    assert lifted.weight == pytest.approx(1.0)  # scores of 0 contain no information about it
    with pytest.raises(ValueError, match="no ground-truth film"):
        fit_adjustment(AdjustmentLoss(scores, rows[:0], rows[:0]))


def test_an_adjustment_by_hand():
    assert Adjustment(np.array([2.0, 1.0]), np.array([0.0, 1.0]))(np.array([[3.0, 4.0]])).tolist() == [[6.0, 5.0]]
