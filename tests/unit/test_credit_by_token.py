"""Credit that differs inside a rank, and credit in two phases, against loops."""

import math

import numpy as np
import pytest
import torch

from rlbench.lists.reader import TokenUnits, UnitLayout
from rlbench.objective import Objective
from rlbench.objective.credit import CreditInputs, decay_to_end, spread_phases, two_phase
from rlbench.objective.objective import Rollout, RolloutTokens
from rlbench.rewards.batch import FEATURES, RewardBatch
from tests.conftest import composed

N, G = 5, 3
UNITS = UnitLayout(N)
PREAMBLE, OVERFLOW, EOS, PADDING = UNITS.other, UNITS.overflow, UNITS.eos, UNITS.padding

LISTS = [
    [PREAMBLE, PREAMBLE, 0, 0, 0, 1, 1, 2, EOS],
    [0, 0, PREAMBLE, 1, 1, 1, 1, PREAMBLE, PREAMBLE, 2, 2, EOS],
    [0, 1, 1, 2, 2, 3, 4, 4, EOS],
    [0, 1, 1, 2, 2, 3, 3, 3, 4, 4, OVERFLOW, OVERFLOW, EOS],
    [PREAMBLE, PREAMBLE, EOS],
    [0, 0, 0, 1, 1, 1, 1],  # cut off
]
B, T = len(LISTS), max(map(len, LISTS))
UNIT_IDS = torch.tensor([units + [PADDING] * (T - len(units)) for units in LISTS])
MASK = (UNIT_IDS != PADDING).long()
ENTRIES = [len({unit for unit in units if unit < N}) + (OVERFLOW in units) for units in LISTS]
TOKENS = TokenUnits(UNIT_IDS, UNIT_IDS == EOS, torch.tensor(ENTRIES))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 1.0])
def test_decay_to_the_end_of_a_rank(decay):
    found = decay_to_end(UNIT_IDS, MASK, UNITS, decay=decay)
    for i, units in enumerate(LISTS):
        for t, unit in enumerate(units):
            after = sum(later == unit for later in units[t + 1 :])
            assert found[i, t].item() == pytest.approx(decay**after if unit < N else 1.0), (i, t)
    assert (found[MASK == 0] == 1).all()


def rewards(seed: int = 0) -> RewardBatch:
    generator = torch.Generator().manual_seed(seed)
    there = torch.tensor([[k in units for k in range(N)] for units in LISTS])
    hits = (torch.rand(B, N, generator=generator) < 0.5).double() * there
    return RewardBatch(
        gains=hits[:, None],
        scores=torch.zeros(B, 1, dtype=torch.float64),
        hits=hits,
        n_truth=torch.tensor([3, 3, 3, 2, 2, 2]),
        present=there,
        totals=hits.sum(1),
        success=hits.sum(1) > 0,
        features=torch.zeros(B, len(FEATURES)),
    )


def objective(*overrides: str) -> Objective:
    config = composed(*overrides)
    return Objective(config.algorithm, config.reward, N)


def token_advantages(chosen: Objective, seed: int = 0) -> torch.Tensor:
    zeros = torch.zeros(B, T)
    units = chosen.token_units(TOKENS)
    rollout = Rollout.of_tokens(rewards(seed), RolloutTokens(units.unit_ids, MASK, zeros, zeros), UNITS.count)
    spread = chosen.spread_advantages(chosen.unit_advantages(rollout, G), units.n_units)
    return chosen.token_advantages(spread, units)


def test_token_credit_without_decay_is_rank_credit():
    rank = token_advantages(objective("algorithm=rank_grpo"))
    without = objective("algorithm=rank_grpo", "algorithm.credit=token", "+algorithm.options.token={decay:1.0}")
    assert torch.equal(token_advantages(without), rank) and rank.abs().max() > 0.5


def test_token_credit_is_rank_credit_times_the_decay():
    """This holds under the paper's shaping, where the EOS of a complete list is the last token of rank N."""
    rank = token_advantages(objective("algorithm=rank_grpo"))
    chosen = objective("algorithm=rank_grpo", "algorithm.credit=token", "+algorithm.options.token={decay:0.5}")
    found, units = token_advantages(chosen), chosen.token_units(TOKENS).unit_ids
    assert units[2, len(LISTS[2]) - 1] == N - 1
    for i, row in enumerate(units.tolist()):
        for t, unit in enumerate(row):
            factor = 0.5 ** sum(later == unit for later in row[t + 1 :]) if unit < N else 1.0
            assert found[i, t].item() == pytest.approx(factor * rank[i, t].item(), abs=1e-7)


def test_two_phases_are_recall_and_ndcg():
    given = rewards(seed=3)
    scores = torch.arange(B, dtype=torch.float64)
    found = two_phase(CreditInputs(given.gains[:, 0], scores, given.hits, given.n_truth, 0.7))
    for i in range(B):
        hits, n_truth = given.hits[i].tolist(), int(given.n_truth[i])
        dcg = sum(hit / math.log2(k + 2) for k, hit in enumerate(hits))
        ideal = sum(1 / math.log2(k + 2) for k in range(min(n_truth, N)))
        assert found[i].tolist() == pytest.approx([sum(hits) / n_truth + i, dcg / ideal + i])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.6, 1.0])
def test_phases_of_units(share):
    generator = torch.Generator().manual_seed(1)
    advantages, special = torch.randn(B, 2, generator=generator), torch.randn(B, 4, generator=generator)
    special[:, 3] = 0.0
    given = special.clone()
    found = spread_phases(advantages, special, UNITS, first_phase=share)
    assert found.shape == (B, UNITS.count) and torch.equal(special, given)
    for i in range(B):
        first, second = advantages[i].tolist()
        expected = [first if k < math.floor(share * N + 0.5) else second for k in range(N)] + special[i].tolist()
        expected[PREAMBLE] += first
        assert found[i].tolist() == pytest.approx(expected)
        assert found[i, PADDING] == 0


@pytest.mark.parametrize("rule", ["none", "paper"])
def test_phases_of_tokens(rule):
    """From hits to tokens: each phase is compared with the group's, using its own standard deviation."""
    overrides = ["algorithm=f_grpo", f"algorithm.length_shaping.rule={rule}"]
    stop, over = (-0.1, -0.2) if rule == "paper" else (0.0, 0.0)
    overrides += [f"algorithm.length_shaping.early_stop={stop}", f"algorithm.length_shaping.overflow={over}"]
    given, found = rewards(seed=3), token_advantages(objective(*overrides), seed=3)
    discounts = 1 / np.log2(np.arange(2, N + 2))
    hits, n_truth = given.hits.numpy(), given.n_truth.numpy()
    returns = np.stack([hits.sum(1) / n_truth, hits @ discounts / discounts.cumsum()[n_truth - 1]], axis=1)
    for i, units in enumerate(LISTS):
        group = returns[i // G * G : i // G * G + G]
        first, second = (returns[i] - group.mean(0)) / (group.std(0, ddof=1) + 1e-4)
        for t in range(T):
            unit = units[t] if t < len(units) else PADDING
            if unit == EOS and rule == "paper" and ENTRIES[i] == N:
                unit = N - 1
            advantage = {PREAMBLE: first, OVERFLOW: over, EOS: stop * (ENTRIES[i] < N), PADDING: 0.0}
            advantage |= {k: first if k < 3 else second for k in range(N)}  # half of 5, rounded up
            assert found[i, t].item() == pytest.approx(advantage[unit], abs=1e-6), (i, t)
    assert found.abs().max() > 0.5
    assert (found[2, 0] - found[2, 5]).abs() > 1e-3  # ranks in different phases
