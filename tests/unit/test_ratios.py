"""Every ratio level against a slow loop, and why all levels agree on-policy."""

from dataclasses import replace

import pytest
import torch

from rlbench.objective.pieces import ratios
from tests.helpers_losses import (
    B,
    Slow,
    T,
    gradient,
    loss_inputs,
    numeric_gradient,
    on_policy,
    polluted,
)

LEVELS = ["token", "rank", "sequence", "product", "sequence_token", "segment", "none"]
"""The levels of `Slow`, whose loop is the reference."""


def test_every_level_has_a_reference():
    assert set(LEVELS) == set(ratios)


@pytest.mark.parametrize("level", LEVELS)
def test_log_ratio_against_the_loop(level):
    inputs, slow = loss_inputs(), Slow(loss_inputs(), level)
    log_ratio = ratios[level].function(inputs)
    assert log_ratio.shape == (B, T) and log_ratio.isfinite().all()
    for i, t in slow.tokens():
        assert log_ratio[i, t].item() == pytest.approx(slow.log_ratio(i, t), abs=1e-12)


@pytest.mark.parametrize("level", LEVELS)
def test_gradient_against_finite_differences_of_the_loop(level):
    inputs = loss_inputs()
    weights = torch.randn(B, T, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * inputs.mask
    found = gradient(lambda given: (ratios[level].function(given) * weights).sum(), inputs)

    def of_row(logps, i):
        slow = Slow(inputs, level, logps)
        return sum(weights[i, t].item() * slow.log_ratio(i, t) for t in range(slow.lengths[i]))

    torch.testing.assert_close(found, numeric_gradient(of_row, inputs), atol=1e-8, rtol=0)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 1e30])
@pytest.mark.parametrize("level", LEVELS)
def test_padding_may_hold_anything(level, value):
    inputs = loss_inputs()
    dirty = polluted(inputs, value)

    def total(given):
        return (ratios[level].function(given).exp() * inputs.advantages).sum()

    assert ratios[level].function(dirty).isfinite().all()
    assert torch.equal(total(dirty), total(inputs))
    assert torch.equal(gradient(total, dirty), gradient(total, inputs))


@pytest.mark.parametrize("level", LEVELS)
def test_on_policy_every_ratio_is_one(level):
    assert not ratios[level].function(on_policy(loss_inputs())).any()


def test_sequence_token_has_the_value_of_the_sequence_and_the_gradient_of_the_token():
    inputs = loss_inputs()
    whole, own = (ratios[level].function(inputs) for level in ("sequence", "sequence_token"))
    torch.testing.assert_close(own * inputs.mask, whole * inputs.mask)
    first = gradient(lambda given: ratios["sequence_token"].function(given)[0, 3], inputs)
    assert first[0, 3] == 1 and first.abs().sum() == 1


def test_levels_are_constant_on_their_blocks():
    inputs = loss_inputs()
    for level, block in [("rank", inputs.unit_ids), ("segment", (inputs.unit_ids == inputs.units.other).long())]:
        log_ratio = ratios[level].function(inputs)
        for row in range(B):
            for code in block[row][inputs.mask[row] == 1].unique():
                members = log_ratio[row][(block[row] == code) & (inputs.mask[row] == 1)]
                assert (members == members[0]).all()


def test_a_completion_without_tokens_has_ratio_one():
    inputs = loss_inputs()
    empty = replace(inputs, mask=torch.zeros_like(inputs.mask))
    for level in LEVELS:
        assert not ratios[level].function(empty).any()
