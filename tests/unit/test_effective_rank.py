"""Effective ranks against numpy's singular values, list features against loops, and the baseline over updates."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from rlbench.lists.reader import UnitLayout
from rlbench.objective import Objective
from rlbench.objective.effective_rank import effective_ranks, rank_features
from rlbench.objective.inputs import Course
from rlbench.objective.objective import Rollout, RolloutTokens
from rlbench.rewards.batch import FEATURES, RewardBatch
from tests.conftest import composed

N, H = 5, 12
UNITS = UnitLayout(N)
PREAMBLE, OVERFLOW, EOS, PADDING = UNITS.other, UNITS.overflow, UNITS.eos, UNITS.padding


def slow_effective_rank(states: np.ndarray) -> float:
    """Effective rank of the token states (n, H) of a prefix."""
    if len(states) < 2:
        return float(len(states))
    singular = np.linalg.svd(states - states.mean(axis=0), compute_uv=False)
    shares = singular[singular > 1e-12 * singular.max()] / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STATES = {
    "fewer tokens than dimensions": drawn(3, 9, 40),
    "more tokens than dimensions": drawn(3, 60, 7),
    "far from the origin": 1000 + drawn(3, 30, 12),
    "a few directions": drawn(3, 40, 3) @ drawn(3, 64, seed=1),
    "directions of very different size": drawn(3, 30, 12) * torch.logspace(0, -4, 12, dtype=torch.float64),
}


@pytest.mark.parametrize("name", STATES)
def test_effective_ranks_of_prefixes(name):
    states = STATES[name]
    length = states.size(1)
    ends = torch.tensor([[0, 1, 2, 3, length // 2, length], [1, 1, 4, 5, 6, length - 1], [0, 0, 0, 0, 0, 0]])
    pairs = zip(states.numpy(), ends, strict=True)
    expected = [[slow_effective_rank(row[:end]) for end in of_list] for row, of_list in pairs]
    found = effective_ranks(states, ends)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-8, rtol=0)
    assert found[0, 1] == 1 and not found[2].any() and found[0, -1] > 2.5


def test_effective_ranks_that_are_known_by_hand():
    states = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [6.0, 0.0], [0.0, 1.0]], [[5.0, 5.0]] * 4])
    found = effective_ranks(states, torch.tensor([[2, 3], [2, 4]]))
    np.testing.assert_allclose(found.numpy(), [[1.0, 1.0], [1.0, 1.0]], atol=1e-12)  # all on a line; all at one point
    cross = torch.tensor([[[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]]])
    np.testing.assert_allclose(effective_ranks(cross, torch.tensor([[4]])).numpy(), [[2.0]], atol=1e-12)


def test_effective_ranks_do_not_depend_on_scale_origin_and_later_tokens():
    states, ends = drawn(2, 20, 6, seed=2), torch.tensor([[4, 9], [3, 20]])
    plain = effective_ranks(states, ends)
    np.testing.assert_allclose(effective_ranks(7 * states - 3, ends), plain, atol=1e-10)
    later = states.clone()
    later[0, 9:] = 100.0
    np.testing.assert_allclose(effective_ranks(later, ends)[0], plain[0], atol=1e-8)
    assert effective_ranks(states.float(), ends).dtype == torch.float64


LISTS = {
    "nothing but a preamble": [PREAMBLE] * 6 + [EOS],
    "one entry": [0, 0, 0, EOS],
    "two entries after a preamble": [PREAMBLE, PREAMBLE, 0, 0, 0, 1, 1, EOS],
    "three entries, a blank line between": [0, 0, PREAMBLE, 1, 1, 1, PREAMBLE, PREAMBLE, 2, EOS],
    "all entries": [0, 0, 1, 2, 2, 3, 3, 3, 4, 4, EOS],
    "overflow": [0, 1, 1, 2, 2, 3, 4, 4, OVERFLOW, OVERFLOW, OVERFLOW, EOS],
    "EOS in the last rank": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4],
    "cut off": [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2],
    "a rank without tokens": [0, 0, 0, 2, 2, 3, 3, EOS],
    "the first rank without tokens": [1, 1, 3, 3, EOS],
}
NAMES = list(LISTS)


def unit_ids() -> torch.Tensor:
    longest = max(map(len, LISTS.values()))
    return torch.tensor([units + [PADDING] * (longest - len(units)) for units in LISTS.values()])


def slow_features(states: np.ndarray, units: list[int]) -> dict[str, float]:
    ends = [max(t + 1 for t, unit in enumerate(units) if unit == k) for k in range(N) if k in units]
    m = [slow_effective_rank(states[:end]) for end in ends]
    delta = {j: m[j] - sum(m[:j]) / j for j in range(1, len(m))}
    steps = [delta[j] - delta[j - 1] for j in range(2, len(m))]
    return {
        "effective_rank": m[-1] if m else 0.0,
        "rank_velocity": sum(delta.values()) / len(delta) if delta else 0.0,
        "rank_acceleration": sum(steps) / len(steps) if steps else 0.0,
    }


def test_numbers_of_lists():
    ids = unit_ids()
    states = drawn(len(LISTS), ids.size(1), H, seed=3)
    found = rank_features(states, ids, UNITS)
    expected = [slow_features(row, units) for row, units in zip(states.numpy(), LISTS.values(), strict=True)]
    assert found.keys() == expected[0].keys()
    for name, values in found.items():
        np.testing.assert_allclose(values.numpy(), [of_list[name] for of_list in expected], atol=1e-8, err_msg=name)
    shown = {name: tuple(map(bool, of_list.values())) for name, of_list in zip(LISTS, expected, strict=True)}
    assert shown["nothing but a preamble"] == (False, False, False) and shown["one entry"] == (True, False, False)
    assert shown["two entries after a preamble"] == (True, True, False) and shown["all entries"] == (True, True, True)


def test_what_comes_after_the_last_entry_changes_nothing():
    ids = unit_ids()
    states = drawn(len(LISTS), ids.size(1), H, seed=3)
    after = ids >= N
    after &= ~torch.flip(torch.flip(ids < N, [1]).cumsum(1), [1]).bool()  # no token of an entry follows
    changed = torch.where(after[..., None], drawn(*states.shape, seed=4), states)
    assert after.any(dim=1).sum() > 5
    for name, values in rank_features(changed, ids, UNITS).items():
        np.testing.assert_allclose(values, rank_features(states, ids, UNITS)[name], atol=1e-8)


# The baseline from hidden states to advantages, over several updates.

G, P = 3, 2
KAPPA, EMA = 1.5, 0.4


def of_update(update: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return gains (B, N), hidden states and unit ids of one rollout."""
    order = [(update + i) % len(NAMES) for i in range(G * P)]
    ids = unit_ids()[order]
    gains = (drawn(G * P, N, seed=50 + update) > 0.3).double()
    scale = torch.logspace(0, -update, H, dtype=torch.float64)  # makes ranks fall from update to update
    return gains, drawn(G * P, ids.size(1), H, seed=60 + update) * scale, ids


def rewards(gains: torch.Tensor) -> RewardBatch:
    b = len(gains)
    return RewardBatch(
        gains=gains[:, None],
        scores=torch.zeros(b, 1, dtype=torch.float64),
        hits=gains,
        n_truth=torch.full((b,), 3),
        present=torch.ones(b, N, dtype=torch.bool),
        totals=gains.sum(1),
        success=gains.sum(1) > 0,
        features=torch.zeros(b, len(FEATURES)),
    )


def slow_baseline(gains, states, ids, usual: dict[str, float], credit: str) -> list[list[float]]:
    """Return baselines (B, C) and update `usual`: running means, and means of the last update under "last/"."""
    returns = [[sum(row)] if credit == "sequence" else row for row in gains.tolist()]
    features = [slow_features(row, units) for row, units in zip(states.numpy(), ids.tolist(), strict=True)]
    first = not usual
    usual.update({name: 0.0 for name in features[0] if first})
    found = []
    for i, row in enumerate(returns):
        group = returns[i // G * G : i // G * G + G]
        far = {
            name: min(max((value - usual[name]) / (abs(usual[name]) + 1e-8), -5.0), 5.0)
            for name, value in features[i].items()
        }
        gate = 1 / (1 + math.exp(-2 * far["rank_acceleration"]))
        phi = gate * math.tanh(far["effective_rank"]) + (1 - gate) * math.tanh(far["rank_velocity"])
        found.append([])
        for c, value in enumerate(row):
            column = [other[c] for other in group]
            a = (value - np.mean(column)) / (np.std(column, ddof=1) + 1e-6)
            found[-1].append(a if first else a + min(max(phi, 0.0), abs(a) / KAPPA))
    for name in features[0]:
        if not first:
            usual[name] = EMA * usual[f"last/{name}"] + (1 - EMA) * usual[name]
        usual[f"last/{name}"] = sum(of_list[name] for of_list in features) / len(features)
    return found


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("credit", ["sequence", "rank"])
def test_baseline_over_three_updates(credit, double):
    options = f"algorithm.options.effective_rank={{kappa:{KAPPA},ema:{EMA}}}"
    config = composed("algorithm=verl_erank", f"algorithm.credit={credit}", options)
    objective = Objective(config.algorithm, config.reward, N)
    memory, usual, bonuses = {}, {}, 0
    for update in range(3):
        gains, states, ids = of_update(update)
        tokens = RolloutTokens(ids, ids != PADDING, torch.zeros(ids.shape), torch.zeros(ids.shape))
        make = partial(Rollout.of_tokens, rewards(gains), tokens, UNITS.count)
        rollout = make(rank_features(states, ids, UNITS), course=Course(carried=memory))
        found = objective.unit_advantages(rollout, G)
        expected = slow_baseline(gains, states, ids, usual, credit)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)
        assert memory == pytest.approx({f"effective_rank/{name}": value for name, value in usual.items()}, abs=1e-8)
        plain = objective.unit_advantages(make(flat(ids)), G)
        bonuses += int((found - plain > 1e-3).sum())
        assert (found - plain > -1e-12).all()
    assert bonuses > 3


def flat(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return equal features for all lists, which give no bonus."""
    return dict.fromkeys(("effective_rank", "rank_velocity", "rank_acceleration"), torch.ones(len(ids)))
