"""Invalid values from reward terms and pieces of algorithms: each message names the term or piece at fault."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rlbench.base.errors import BadInput
from rlbench.config.schema import RewardConfig, SuccessConfig
from rlbench.objective.pieces import aggregations, baselines, credits, estimators, kl_scales, ratios, regularisers
from rlbench.objective.pieces import surrogates as surrogate_pieces
from rlbench.objective.surrogates import Surrogate
from rlbench.rewards.scorer import score
from rlbench.rewards.terms import TERMS, list_term, rank_term
from rlbench.training.safety import NotFinite
from tests.unit.test_objective import B, N, P, batch, objective, rewards, rollout, window  # noqa: F401
from tests.unit.test_rewards import FACTS, LISTS, judged

TEXTS = [f"list number {row}" for row in range(len(LISTS))]


def reward(combine: str = "sum_then_normalise", weight: float = 1.0) -> RewardConfig:
    return RewardConfig("r", "R", 0.0, {"odd": {"weight": weight}}, combine, 1.0, SuccessConfig("any_hit", 0.0))


@pytest.fixture
def enter() -> Iterator[Callable[..., None]]:
    """Register a term called odd that returns the given values."""

    def entered(scope: str, values: Any) -> None:
        def odd(lists: Any, facts: Any) -> Any:
            return values

        (rank_term if scope == "rank" else list_term)()(odd)

    yield entered
    TERMS.pop("odd", None)


def with_value(shape: tuple[int, ...], place: tuple[int, ...], value: float) -> np.ndarray:
    table = np.zeros(shape)
    table[place] = value
    return table


LISTS_6 = (len(LISTS), 6)


@pytest.mark.parametrize(
    ("scope", "values", "told"),
    [
        ("list", with_value((6,), (3,), np.nan), "reward term 'odd' is nan for the list 'list number 3'; values must"),
        ("list", with_value((6,), (5,), np.inf), "reward term 'odd' is inf for the list 'list number 5'"),
        (
            "rank",
            with_value(LISTS_6, (1, 0), np.nan),
            "reward term 'odd' is nan at rank 1 for the list 'list number 1'",
        ),
        ("rank", with_value(LISTS_6, (1, 4), 0.5), "is 0.5 at rank 5 for the list 'list number 1'; the list does not"),
        ("rank", np.full(LISTS_6, -np.inf), "(6 of 6 lists have such a value)"),
        (
            "list",
            np.zeros((6, 1)),
            "returned an array of shape (6, 1) instead of (6,); it must return one value for each list",
        ),
        (
            "rank",
            np.zeros(6),
            "returned an array of shape (6,) instead of (6, 6); it must return one value for each rank of each list",
        ),
        ("rank", np.zeros((1, 6)), "returned an array of shape (1, 6) instead of (6, 6)"),
        ("list", [0.0] * 6, "returned list; it must return a numpy array of numbers"),
        ("list", None, "returned NoneType"),
        ("list", np.zeros(6, dtype=complex), "returned an array of complex128"),
        ("list", np.array(["a"] * 6), "returned an array of <U1"),
    ],
)
def test_a_term_that_gives_no_values_is_named(enter: Callable[..., None], scope: str, values: Any, told: str) -> None:
    enter(scope, values)
    with pytest.raises(BadInput) as found:
        score(judged(), FACTS, reward(), TEXTS)
    assert told in str(found.value)


def test_whole_numbers_and_truths_are_values(enter: Callable[..., None]) -> None:
    enter("list", np.array([True, False] * 3))
    assert score(judged(), FACTS, reward(weight=2.0), TEXTS).totals.tolist() == [2.0, 0.0] * 3


def test_a_negative_value_under_a_power_mean_is_named(enter: Callable[..., None]) -> None:
    enter("list", with_value((6,), (2,), -1.0))
    assert score(judged(), FACTS, reward(), TEXTS).totals.tolist() == [0, 0, -1, 0, 0, 0]
    with pytest.raises(BadInput, match="reward term 'odd' is -1.0 for the list 'list number 2'; combine=power_mean"):
        score(judged(), FACTS, reward("power_mean"), TEXTS)


def test_a_total_that_overflows_is_named(enter: Callable[..., None]) -> None:
    enter("list", np.full(6, 1e300))
    with pytest.raises(BadInput, match="the reward's total is inf for the list 'list number 0'"):
        score(judged(), FACTS, reward(weight=1e300), TEXTS)


# Pieces. Each entry: registry, facts, function, and expected message.


@pytest.fixture
def piece() -> Iterator[Callable[..., None]]:
    entered = []

    def enter_piece(place: Any, function: Callable[..., Any], **facts: Any) -> None:
        function.__name__ = "odd"
        place.piece(**facts)(function)
        entered.append(place)

    yield enter_piece
    for place in entered:
        place._pieces.pop("odd")


ADVANTAGES: list[tuple[Any, dict[str, Any], Callable[..., Any], str, str]] = [
    (
        baselines,
        {"shift": "invariant", "scale": "equivariant"},
        lambda group: group.returns.mean(dim=1),
        "algorithm.baseline=odd",
        rf"baseline 'odd' returned a tensor of shape \({P}, {N}\) instead of \({P}, 3, {N}\)",
    ),
    (
        baselines,
        {"shift": "invariant", "scale": "equivariant"},
        lambda group: group.returns.transpose(1, 2),
        "algorithm.baseline=odd",
        "baseline 'odd' returned a tensor of shape",
    ),
    (
        baselines,
        {"shift": "invariant", "scale": "equivariant"},
        lambda group: group.returns / 0,
        "algorithm.baseline=odd",
        "baseline 'odd', which returned (nan|inf) at .* although all its inputs were finite",
    ),
    (
        baselines,
        {"shift": "invariant", "scale": "equivariant"},
        lambda group: group.returns > 0,
        "algorithm.baseline=odd",
        "baseline 'odd' returned a tensor of torch.bool",
    ),
    (
        credits,
        {"columns": ("rank",), "spread": credits["rank"].facts["spread"], "within": None, "reads": "gains"},
        lambda term: term.gains[:, :1],
        "algorithm.credit=odd",
        r"credit 'odd' returned a tensor of shape \(6, 1\) instead of \(6, 4\)",
    ),
    (
        credits,
        {"columns": ("rank",), "spread": credits["rank"].facts["spread"], "within": None, "reads": "gains"},
        lambda term: term.gains.log(),
        "algorithm.credit=odd",
        "credit 'odd', which returned -inf at",
    ),
]


@pytest.mark.parametrize(("place", "facts", "function", "override", "told"), ADVANTAGES)
def test_a_piece_of_advantages_is_named(
    piece: Callable[..., None], place: Any, facts: dict[str, Any], function: Any, override: str, told: str
) -> None:
    piece(place, function, **facts)
    made = objective("algorithm=rank_grpo", override)
    gains = torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]] * P, dtype=torch.float64)
    if "returned a tensor" in told:
        with pytest.raises(BadInput, match=told):
            made.unit_advantages(rollout(rewards(gains)), 3)
    else:
        made.unit_advantages(rollout(rewards(gains)), 3)
        assert re.search(told, made.not_finite(torch.ones(1, 1)))


def test_a_baseline_is_not_blamed_for_a_policy_that_is_not_finite(piece: Callable[..., None]) -> None:
    piece(baselines, lambda group: group.returns + group.log_confidence, shift="none", scale="none")
    made = objective("algorithm=rank_grpo", "algorithm.baseline=odd")
    of = rollout(rewards(torch.ones(B - 3, N, dtype=torch.float64)))
    advantages = made.unit_advantages(replace(of, unit_logps=of.unit_logps + torch.nan), 3)
    assert made.blamed == ""
    assert advantages.isnan().all()  # the loss will not be finite, so training ends and names the policy


def test_a_scale_of_the_kl_is_named(piece: Callable[..., None]) -> None:
    piece(kl_scales, lambda solve_rate: 1 / solve_rate)
    made = objective("algorithm=rank_grpo", "algorithm.kl.scale=odd", "algorithm.kl.beta=0.1")
    made.kl_scales(torch.tensor([True, True, False, False]), 2)
    assert made.not_finite(torch.ones(1, 1)).startswith("kl.scale 'odd', which returned inf at (1,)")


SURROGATE = {"clips": False, "uses_ratio": True, "needs_reference": False}
LOSS: list[tuple[Any, dict[str, Any], Callable[..., Any], str, str]] = [
    (ratios, {}, lambda inputs: inputs.log_ratio[0], "algorithm.ratio=odd", "ratio 'odd' returned a tensor of shape"),
    (
        surrogate_pieces,
        SURROGATE,
        lambda inputs, log_ratio: Surrogate(log_ratio.mean(1), log_ratio > 0, log_ratio > 0),
        "algorithm.surrogate=odd",
        "surrogate 'odd' returned a tensor of shape",
    ),
    (
        aggregations,
        {},
        lambda per_token, inputs, window: per_token.mean(1),
        "algorithm.aggregation=odd",
        r"aggregation 'odd' returned a tensor of shape \(6,\) instead of \(\)",
    ),
    (
        estimators,
        {},
        lambda logps, ref_logps: (logps - ref_logps).sum(),
        "algorithm.kl.estimator=odd",
        r"kl.estimator 'odd' returned a tensor of shape \(\) instead of",
    ),
    (regularisers, {}, lambda inputs: 0.5, "+algorithm.regularisers.odd=0.1", "regulariser 'odd' returned float"),
]


@pytest.mark.parametrize(("place", "facts", "function", "override", "told"), LOSS)
def test_a_piece_of_the_loss_is_named(
    request: pytest.FixtureRequest,
    piece: Callable[..., None],
    place: Any,
    facts: dict[str, Any],
    function: Any,
    override: str,
    told: str,
) -> None:
    inputs = request.getfixturevalue("batch")
    piece(place, function, **facts)
    made = objective("algorithm=rank_grpo", override, "algorithm.kl.beta=0.1")
    with pytest.raises(BadInput, match=told):
        made.loss(inputs, window(inputs))


@pytest.mark.parametrize(
    ("place", "facts", "function", "override", "first"),
    [
        (
            regularisers,
            {},
            lambda inputs: inputs.logps.mean().log(),
            "+algorithm.regularisers.odd=0.1",
            "regulariser 'odd'",
        ),
        (
            surrogate_pieces,
            SURROGATE,
            lambda inputs, log_ratio: Surrogate(log_ratio.abs().neg().log(), log_ratio > 0, log_ratio > 0),
            "algorithm.surrogate=odd",
            "surrogate 'odd'",
        ),
    ],
)
def test_what_made_a_loss_not_finite_is_found(
    request: pytest.FixtureRequest,
    piece: Callable[..., None],
    place: Any,
    facts: dict[str, Any],
    function: Any,
    override: str,
    first: str,
) -> None:
    inputs = request.getfixturevalue("batch")
    piece(place, function, **facts)
    made = objective("algorithm=rank_grpo", override)
    assert not made.loss(inputs, window(inputs))[0].isfinite()
    assert made.not_finite(inputs.mask) == first
    sound = objective("algorithm=rank_grpo")
    sound.loss(inputs, window(inputs))
    assert sound.not_finite(inputs.mask) == ""
    broken = replace(inputs, logps=inputs.logps.masked_fill(inputs.mask > 0, torch.nan))
    sound.loss(broken, window(inputs))
    assert sound.not_finite(inputs.mask) == "the policy's log-probabilities"


def test_the_stop_says_what_was_not_finite_first() -> None:
    error = NotFinite("loss", 7, float("nan"), "regulariser 'odd'")
    assert error.stop.update == 6
    assert error.stop.reason == (
        "the loss of update 7 is nan (first non-finite value: regulariser 'odd'); it was not applied"
    )
