"""Every aggregation against a slow loop, and which ratios and aggregations agree on-policy."""

import pytest
import torch

from rlbench.config.options import check_options
from rlbench.objective.aggregation import (
    constant,
    rank_mean,
    segment_weights,
    sequence_mean,
    sequence_sum,
    token_mean,
)
from rlbench.objective.pieces import aggregations, ratios
from rlbench.objective.surrogates import clip
from tests.helpers_losses import (
    B,
    N,
    Slow,
    T,
    gradient,
    loss_inputs,
    mean,
    on_policy,
    one_advantage_a_list,
    one_advantage_a_unit,
    trl_loss,
    window,
)

STEPS = 3
"""Micro-batches of an update."""


def rows(s, losses):
    return [losses[i][:length] for i, length in enumerate(s.lengths)]


def slow_rank_mean(s, losses):
    return sum(
        mean(x for x, unit in zip(row, s.unit[i], strict=False) if unit == k)
        for i, row in enumerate(rows(s, losses))
        for k in set(s.unit[i][: len(row)])
    ) / (B * N * STEPS)


def slow_segment_weights(s, losses, preamble, answer):
    total = 0.0
    for i, row in enumerate(rows(s, losses)):
        before = [x for x, unit in zip(row, s.unit[i], strict=False) if unit == s.other]
        after = [x for x, unit in zip(row, s.unit[i], strict=False) if unit != s.other]
        total += preamble * (mean(before) if before else 0.0) + answer * mean(after)
    return total / B / STEPS


def slow_plan_weights(s, losses, plan, ranks):
    total = 0.0
    for i, row in enumerate(rows(s, losses)):
        units = s.unit[i][: len(row)]
        planned = [unit < ranks or said > 0 for unit, said in zip(units, s.extras["segment"][i], strict=False)]
        total += mean(x * (plan if weighs else 1.0) for x, weighs in zip(row, planned, strict=True))
    return total / B / STEPS


CASES = {
    "sequence_mean": ({}, lambda s, x: mean(mean(row) for row in rows(s, x)) / STEPS),
    "rank_mean": ({}, slow_rank_mean),
    "token_mean": ({}, lambda s, x: mean(sum(rows(s, x), [])) / STEPS),
    "global_token_mean": ({}, lambda s, x: sum(map(sum, rows(s, x))) / (STEPS * sum(s.lengths))),
    "constant": ({}, lambda s, x: sum(map(sum, rows(s, x))) / (B * T) / STEPS),
    "sequence_sum": ({}, lambda s, x: mean(map(sum, rows(s, x))) / STEPS),
    "plan_weights": ({"plan": 2.5, "ranks": 2}, slow_plan_weights),
    "segment_weights": ({"preamble": 2.0, "answer": 0.5}, slow_segment_weights),
}


def windowed(inputs):
    """A window of STEPS micro-batches of equal size."""
    one = window(inputs, STEPS)
    return type(one)(STEPS, STEPS * one.tokens, T)


def aggregated(name, per_token, inputs):
    return aggregations[name].function(per_token, inputs, windowed(inputs), **CASES[name][0])


def random_losses():
    return torch.randn(B, T, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_every_aggregation_has_a_reference():
    assert set(CASES) == set(aggregations)
    for name, (options, _) in CASES.items():
        assert set(options) == set(aggregations[name].options)
        assert not check_options(aggregations[name].options, options)


@pytest.mark.parametrize("name", CASES)
def test_loss_against_the_loop(name):
    options, reference = CASES[name]
    inputs, losses = loss_inputs(), random_losses()
    found = aggregated(name, losses, inputs)
    assert found.shape == ()
    assert found.item() == pytest.approx(reference(Slow(inputs), losses.tolist(), **options), abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_gradient_against_finite_differences(name):
    losses = random_losses().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: aggregated(name, x, loss_inputs()), (losses,))


@pytest.mark.parametrize("name", CASES)
def test_padding_counts_for_nothing(name):
    inputs, losses = loss_inputs(), random_losses()
    dirty = losses.masked_fill(inputs.mask == 0, 1e30)
    assert torch.equal(aggregated(name, dirty, inputs), aggregated(name, losses, inputs))


def test_loss_of_luspo_is_that_of_trl():
    inputs = loss_inputs()

    def ours(given):
        per_token = clip(given, ratios["sequence"].function(given), low=0.2, high=0.28).loss
        return sequence_sum(per_token, given, window(given))

    def theirs(given):
        return trl_loss(given, level="sequence", loss_type="luspo", epsilon_low=0.2, epsilon_high=0.28)

    assert ours(inputs).item() == pytest.approx(theirs(inputs).item(), abs=1e-12)
    torch.testing.assert_close(gradient(ours, inputs), gradient(theirs, inputs), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name, loss_type", [("token_mean", "bnpo"), ("constant", "dr_grpo")])
def test_token_aggregations_are_those_of_trl(name, loss_type):
    inputs = loss_inputs()
    per_token = clip(inputs, ratios["token"].function(inputs), low=0.2, high=0.28).loss
    ours = {"token_mean": token_mean, "constant": constant}[name](per_token, inputs, window(inputs))
    assert ours.item() == pytest.approx(
        trl_loss(inputs, loss_type=loss_type, epsilon_low=0.2, epsilon_high=0.28).item(), abs=1e-12
    )


def test_segments_of_weight_one_are_the_mean_where_there_is_no_preamble():
    inputs, losses = loss_inputs(), random_losses()
    answers = [i for i in range(B) if (inputs.unit_ids[i] != inputs.units.other).all()]
    assert answers
    for i in answers:
        one = losses * (torch.arange(B) == i).unsqueeze(1)
        torch.testing.assert_close(
            segment_weights(one, inputs, window(inputs)), sequence_mean(one, inputs, window(inputs))
        )


def clip_gradient(inputs, ratio, aggregation):
    def loss(given):
        return aggregation(clip(given, ratios[ratio].function(given), low=0.2, high=0.2).loss, given, window(given))

    return gradient(loss, inputs)


def test_on_policy_the_level_of_ratio_changes_nothing_but_the_weights_of_tokens():
    """With one optimiser step per rollout, the ratio's level changes nothing: a sweep compares aggregations only."""
    of_units = one_advantage_a_unit(on_policy(loss_inputs()))
    of_lists = one_advantage_a_list(on_policy(loss_inputs()))

    def same(inputs, level, aggregation):
        torch.testing.assert_close(
            clip_gradient(inputs, level, aggregation), clip_gradient(inputs, "token", aggregation), atol=1e-14, rtol=0
        )

    same(of_units, "rank", token_mean)
    same(of_units, "rank", rank_mean)
    same(of_units, "sequence_token", token_mean)
    same(of_lists, "sequence", sequence_mean)
    same(of_lists, "sequence", token_mean)
    same(of_lists, "segment", token_mean)
    same(of_units, "none", rank_mean)
    # They differ if the ratio's block is larger than the advantage's, or if the weights differ inside it.
    different = clip_gradient(of_units, "sequence", token_mean) - clip_gradient(of_units, "token", token_mean)
    assert different.abs().max() > 1e-3
    weights = clip_gradient(of_units, "rank", rank_mean) - clip_gradient(of_units, "rank", token_mean)
    assert weights.abs().max() > 1e-3


def test_off_policy_the_levels_differ_but_for_the_two_of_the_sequence():
    """GSPO-token equals GSPO if a completion has one advantage (arXiv 2507.18071, section 4.3)."""
    inputs = one_advantage_a_list(loss_inputs())
    by_level = {level: clip_gradient(inputs, level, sequence_mean) for level in ratios}
    torch.testing.assert_close(by_level.pop("sequence_token"), by_level["sequence"], atol=1e-14, rtol=0)
    found = list(by_level.values())
    assert all((a - b).abs().max() > 1e-3 for k, a in enumerate(found) for b in found[:k])


def test_every_rank_weighs_the_same_however_long():
    """rank_mean: the gradients of a rank's tokens sum to the same value for a long and a short title."""
    inputs = loss_inputs()
    losses = torch.zeros(B, T, dtype=torch.float64, requires_grad=True)
    rank_mean(losses, inputs, window(inputs)).backward()
    for i in range(B):
        for k in range(N):
            members = losses.grad[i][inputs.unit_ids[i] == k]
            assert not len(members) or members.sum().item() == pytest.approx(1 / (B * N))
