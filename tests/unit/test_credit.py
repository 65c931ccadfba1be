"""Counterfactual and Shapley credit against every coalition, and credits that mix."""

import itertools
import math

import pytest
import torch

from rlbench.lists.reader import UnitLayout
from rlbench.objective.credit import (
    CreditInputs,
    hybrid,
    mode_and_answer,
    rank,
    removal,
    sequence,
    shapley,
    shapley_max,
    spread_both,
    spread_mode,
    spread_phases,
    swap,
    swap_pool,
    two_phase,
)


def given(hits, n_truth, gamma=0.0):
    hits = torch.tensor([hits], dtype=torch.float64)
    return CreditInputs(hits, torch.tensor([0.25], dtype=torch.float64), hits, torch.tensor([n_truth]), gamma)


def worth(hits, members, n_truth):
    """NDCG of the list of only these ranks, without gaps."""
    discounts = [1 / math.log2(place + 2) for place in range(len(hits))]
    gain = sum(discounts[place] * hits[k] for place, k in enumerate(sorted(members)))
    return gain / sum(discounts[: min(n_truth, len(hits))])


CASES = [([1], 1), ([0, 1], 3), ([1, 1, 0, 1], 3), ([0, 0, 1, 1, 0], 2), ([1, 0, 1, 0, 1, 1], 9), ([0, 0, 0], 1)]


@pytest.mark.parametrize(("hits", "n_truth"), CASES)
def test_shapley_against_every_order(hits, n_truth):
    n = len(hits)
    values = [0.0] * n
    orders = list(itertools.permutations(range(n)))
    for order in orders:
        there: set[int] = set()
        for k in order:
            values[k] += (worth(hits, there | {k}, n_truth) - worth(hits, there, n_truth)) / len(orders)
            there.add(k)
    found = shapley(given(hits, n_truth))[0] - 0.25
    assert found.tolist() == pytest.approx(values, abs=1e-12)
    assert found.sum().item() == pytest.approx(worth(hits, range(n), n_truth))  # efficiency


@pytest.mark.parametrize("gains", [[1.0], [0.5, 0.0], [1.0, 0.2, 1.0, 0.0], [0.3, 0.3, 0.3], [0.1, 0.9, 0.4, 0.9, 0.2]])
def test_shapley_max_against_every_order(gains):
    n = len(gains)
    values = [0.0] * n
    orders = list(itertools.permutations(range(n)))
    for order in orders:
        best = 0.0
        for k in order:
            values[k] += max(gains[k] - best, 0.0) / len(orders)
            best = max(best, gains[k])
    own = torch.tensor([gains], dtype=torch.float64)
    found = shapley_max(CreditInputs(own, torch.tensor([0.25]), own, torch.tensor([1]), 0.0))[0] - 0.25
    assert found.tolist() == pytest.approx(values, abs=1e-9)
    assert found.sum().item() == pytest.approx(max(gains))


@pytest.mark.parametrize(("hits", "n_truth"), CASES)
def test_removal_against_the_list_without_each_rank(hits, n_truth):
    everyone = set(range(len(hits)))
    values = [worth(hits, everyone, n_truth) - worth(hits, everyone - {k}, n_truth) for k in everyone]
    assert (removal(given(hits, n_truth))[0] - 0.25).tolist() == pytest.approx(values, abs=1e-12)


@pytest.mark.parametrize(("hits", "n_truth"), CASES)
def test_swap_against_the_list_with_two_ranks_exchanged(hits, n_truth):
    n = len(hits)

    def exchanged(k, j):
        swapped = list(hits)
        swapped[k], swapped[j] = swapped[j], swapped[k]
        return worth(swapped, range(n), n_truth)

    values = [[worth(hits, range(n), n_truth) - exchanged(k, j) for j in range(k + 1, n)] for k in range(n)]
    means = [sum(of_k) / max(len(of_k), 1) for of_k in values]
    assert (swap(given(hits, n_truth))[0] - 0.25).tolist() == pytest.approx(means, abs=1e-12)


@pytest.mark.parametrize("outside", [1, 4, 30])
@pytest.mark.parametrize(("hits", "n_truth"), CASES)
def test_swap_pool_against_the_list_with_a_rank_and_a_candidate_exchanged(hits, n_truth, outside):
    n, missing = len(hits), min(n_truth - sum(hits), outside)
    pool = hits + [1] * missing + [0] * (outside - missing)

    def exchanged(k, j):
        swapped = list(pool)
        swapped[k], swapped[j] = swapped[j], swapped[k]
        return worth(swapped[:n], range(n), n_truth)

    values = [[worth(hits, range(n), n_truth) - exchanged(k, j) for j in range(k + 1, len(pool))] for k in range(n)]
    means = [sum(of_k) / len(of_k) for of_k in values]
    assert (swap_pool(given(hits, n_truth), outside=outside)[0] - 0.25).tolist() == pytest.approx(means, abs=1e-12)


@pytest.mark.parametrize(("hits", "n_truth"), CASES)
def test_swap_pool_without_candidates_outside_is_swap(hits, n_truth):
    torch.testing.assert_close(swap_pool(given(hits, n_truth), outside=0), swap(given(hits, n_truth)))


def test_a_hybrid_is_the_list_beside_its_ranks():
    inputs = given([1, 0, 1, 1], 4, gamma=0.5)
    both = hybrid(inputs)
    assert torch.equal(both, torch.cat([sequence(inputs), rank(inputs)], dim=1))
    units = UnitLayout(4)
    advantages = torch.tensor([[10.0, 1.0, 2.0, 3.0, 4.0]])
    special = torch.tensor([[-0.1, 0.0, -0.2, 0.0]])
    spread = spread_both(advantages, special, units, alpha=0.75)[0]
    assert spread[:4].tolist() == pytest.approx([7.75, 8.0, 8.25, 8.5])
    assert spread[units.overflow] == pytest.approx(7.5 - 0.025) and spread[units.padding] == 0


def test_returns_of_the_list_and_of_its_ranks_by_hand():
    """Rank-GRPO, Eqs. 8 and 9; a term that scores whole lists counts for the list, or for every rank."""
    gains = torch.tensor([[1.0, 0.0, 0.5]], dtype=torch.float64)
    inputs = CreditInputs(gains, torch.tensor([0.25]), gains, torch.tensor([2]), 0.5)
    assert sequence(inputs).tolist() == [[1.75]]
    assert rank(inputs).tolist() == [[1.0 + 0.25 * 0.5 + 0.25, 0.25 + 0.25, 0.5 + 0.25]]
    exp_inf = CreditInputs(gains, torch.tensor([0.0]), gains, torch.tensor([2]), 0.0)
    assert rank(exp_inf).tolist() == gains.tolist()


def test_a_mode_has_the_text_and_the_answer_all_other_units():
    inputs = given([1, 0, 1], 4)
    assert torch.equal(mode_and_answer(inputs), sequence(inputs).expand(1, 2))
    units = UnitLayout(3)
    spread = spread_mode(torch.tensor([[5.0, 2.0]]), torch.zeros(1, 4), units)[0]
    assert spread[units.other] == 5 and spread[units.padding] == 0
    assert {float(spread[k]) for k in (0, 1, 2, units.overflow, units.eos)} == {2.0}


def test_two_phases_by_hand():
    inputs = given([1, 0, 1, 0, 0], 4)
    coverage, utility = two_phase(inputs)[0].tolist()
    assert coverage == pytest.approx(2 / 4 + 0.25)  # of four truths, not of five ranks
    assert utility == pytest.approx(worth([1, 0, 1, 0, 0], range(5), 4) + 0.25)
    units = UnitLayout(5)
    advantages, special = torch.tensor([[10.0, 1.0]]), torch.tensor([[-0.1, 0.0, -0.2, 0.0]])
    spread = spread_phases(advantages, special, units)[0]
    assert spread[:5].tolist() == [10.0, 10.0, 10.0, 1.0, 1.0]  # half of five ranks, rounded up
    assert spread[units.other] == 10.0 and spread[units.overflow] == pytest.approx(-0.1)
    assert spread_phases(advantages, special, units, first_phase=0.2)[0, :5].tolist() == [10.0, 1.0, 1.0, 1.0, 1.0]
