"""Facts by which completions are not forwarded: what they promise of the pieces, and what the trainer makes of them."""

from dataclasses import replace

import pytest
import torch

from rlbench.config.options import filled
from rlbench.objective.inputs import LossInputs
from rlbench.objective.pieces import Place, aggregations, ratios, surrogates
from tests.helpers_losses import loss_inputs, window

ROW = 1
"""The completion without advantages."""
OPTIONS = {"low": 0.2, "high": 0.3}


def piece_of(place: Place, name: str):
    """A piece with values for its options that have no default."""
    piece = place[name]
    needed = [option for option in OPTIONS if option in piece.options and name not in ("gmpo", "cispo")]
    return filled(piece.function, {option: OPTIONS[option] for option in needed})


def without_advantages(seed: int) -> LossInputs:
    inputs = loss_inputs(seed)
    advantages = inputs.advantages.clone()
    advantages[ROW] = 0
    return replace(inputs, advantages=advantages, logps=inputs.logps.requires_grad_())


def other_logps(inputs: LossInputs, row: int) -> LossInputs:
    """The same micro-batch with other log-probabilities of one completion."""
    logps = inputs.logps.detach().clone()
    logps[row] = logps[row] * 0.5 - 0.1
    return replace(inputs, logps=logps)


def losses(name: str, ratio: str, inputs: LossInputs) -> torch.Tensor:
    return piece_of(surrogates, name)(inputs, piece_of(ratios, ratio)(inputs)).loss * inputs.mask


def effects(name: str, ratio: str, seed: int) -> tuple[bool, bool, bool]:
    """Whether the completion without advantages has a loss, a gradient, and an effect on the losses of others."""
    inputs = without_advantages(seed)
    loss = losses(name, ratio, inputs)
    (gradient,) = torch.autograd.grad(loss.sum(), inputs.logps)
    others = [row for row in range(len(loss)) if row != ROW]
    assert gradient[others].any()
    moved = losses(name, ratio, other_logps(inputs, ROW))
    return bool(loss[ROW].any()), bool(gradient[ROW].any()), not torch.equal(moved[others], loss[others])


@pytest.mark.parametrize("name", [name for name, piece in surrogates.items() if piece.facts.get("vanishes")])
@pytest.mark.parametrize("ratio", [name for name, piece in ratios.items() if piece.facts.get("separate")])
def test_without_advantages_a_completion_has_no_effect(name: str, ratio: str) -> None:
    for seed in range(3):
        assert effects(name, ratio, seed) == (False, False, False)


@pytest.mark.parametrize("name", [name for name, piece in surrogates.items() if not piece.facts.get("vanishes")])
def test_the_other_surrogates_lack_the_fact_for_a_reason(name: str) -> None:
    """A completion without advantages has an effect, or they need the reference, which is computed for all."""
    assert surrogates[name].facts["needs_reference"] or any(any(effects(name, "token", seed)) for seed in range(20))


@pytest.mark.parametrize("name", [name for name, piece in aggregations.items() if piece.facts.get("separate")])
def test_an_aggregation_is_a_sum_whose_weights_depend_on_no_log_probabilities(name: str) -> None:
    aggregate, inputs = piece_of(aggregations, name), loss_inputs()
    one, two = (
        torch.randn(inputs.mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 2)
    )
    of = [
        [float(aggregate(values, given, window(inputs, 2))) for values in (one, two, one + two)]
        for given in (inputs, other_logps(inputs, 0))
    ]
    assert of[0] == of[1]
    assert of[0][0] + of[0][1] == pytest.approx(of[0][2])
