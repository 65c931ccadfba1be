"""KL estimators against exact enumeration, terms against slow loops, and both against TRL where it has them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlbench.config.options import check_options
from rlbench.objective.inputs import Course, alone
from rlbench.objective.pieces import estimators, kl_scales, regularisers
from rlbench.objective.regularisers import (
    calibration,
    entropy_bonus,
    entropy_mask,
    forward,
    k1,
    k2,
    k3,
    ntp,
    rank_calibration,
    siren,
    siren_anchor,
)
from tests.helpers_losses import N, Slow, gradient, loss_inputs, mean, numeric_gradient, polluted, trl_loss

ANCHOR = loss_inputs().course.carried["siren/anchor"]


def policies(scale: float = 1.0):
    """Return logits of pi (with gradients) and log-probabilities of a reference, over six tokens."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(6, generator=generator, dtype=torch.float64)
    reference = theta + scale * torch.randn(6, generator=generator, dtype=torch.float64)
    return theta.requires_grad_(), reference.log_softmax(0)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q), where both are given as log-probabilities."""
    return (p.exp() * (p - q)).sum()


def expected(estimator, theta, ref):
    """Return the mean of an estimator under pi, and the mean of its gradient without a gradient of the sampling."""
    logps = theta.log_softmax(0)
    value = (logps.exp() * estimator(logps, ref)).sum()
    held = (logps.exp().detach() * estimator(logps, ref)).sum()
    return value.item(), torch.autograd.grad(held, theta)[0]


def gradient_of(quantity, theta):
    return torch.autograd.grad(quantity, theta)[0]


VALUES = {
    k1: lambda p, q: kl(p, q),
    k2: lambda p, q: (p.exp() * (p - q) ** 2).sum() / 2,
    k3: lambda p, q: kl(p, q),
    forward: lambda p, q: kl(q, p),
}
GRADIENTS = {
    k1: lambda p, q: 0 * p.sum(),
    k2: lambda p, q: kl(p, q),
    k3: lambda p, q: kl(q, p),
    forward: lambda p, q: (q.exp() * (p - q) ** 2).sum() / 2,
}
"""The expectation of each estimator, and of its gradient."""


def test_every_estimator_and_every_term_has_a_reference():
    assert {estimators[name].function for name in estimators} == set(VALUES) == set(GRADIENTS)
    assert set(regularisers) == set(TERMS)


@pytest.mark.parametrize("estimator", VALUES)
def test_expectation_of_an_estimator_and_of_its_gradient(estimator):
    theta, ref = policies()
    value, slope = expected(estimator, theta, ref)
    assert value == pytest.approx(VALUES[estimator](theta.log_softmax(0), ref).item())
    torch.testing.assert_close(slope, gradient_of(GRADIENTS[estimator](theta.log_softmax(0), ref), theta))


@pytest.mark.parametrize("estimator", VALUES)
def test_weighted_by_the_ratio_the_gradient_is_that_of_the_value(estimator):
    theta, ref = policies()

    def weighted(logps, ref):
        return estimator(logps, ref) * (logps - logps.detach()).exp()

    quantity = VALUES[estimator](theta.log_softmax(0), ref)
    torch.testing.assert_close(expected(weighted, theta, ref)[1], gradient_of(quantity, theta))


@pytest.mark.parametrize("estimator, reverse", [(k2, True), (forward, False)])
def test_to_second_order(estimator, reverse):
    theta, ref = policies(1e-3)
    p = theta.log_softmax(0)
    exact = kl(p, ref) if reverse else kl(ref, p)
    assert expected(estimator, theta, ref)[0] == pytest.approx(exact.item(), rel=1e-2)
    torch.testing.assert_close(expected(estimator, theta, ref)[1], gradient_of(exact, theta), rtol=1e-2, atol=1e-6)


def test_estimators_of_one_policy_with_itself_are_zero_and_two_of_them_are_never_negative():
    logps = loss_inputs().logps
    assert not any(estimator(logps, logps).any() for estimator in VALUES)
    assert all((estimator(logps, loss_inputs().ref_logps) >= 0).all() for estimator in (k2, k3, forward))


def test_k3_is_that_of_trl():
    inputs = loss_inputs()
    still = replace(inputs, advantages=torch.zeros_like(inputs.advantages))
    settings = {"loss_type": "bnpo", "epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.5}
    theirs = trl_loss(still, **settings, args={"use_bias_correction_kl": False})
    ours = 0.5 * (k3(still.logps, still.ref_logps) * still.mask).sum() / still.mask.sum()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)


def slow_entropy_bonus(s):
    return -mean(s.extras["entropy"][i][t] for i, t in s.tokens())


def slow_siren(s, quantile):
    means = []
    for i, length in enumerate(s.lengths):
        entropies = s.extras["top_p_entropy"][i][:length]
        bound = float(np.quantile(np.array(entropies, dtype=np.float32), quantile))
        means.append(mean(h for h in entropies if np.float32(h) > np.float32(bound)))
    return (mean(means) - ANCHOR) ** 2


def slow_sft(s):
    rows = zip(s.extras["demonstration_logps"], s.extras["demonstration_mask"], strict=True)
    return -mean(lp for logps, mask in rows for lp, there in zip(logps, mask, strict=True) if there)


def slow_unlearn(s):
    names = ("demonstration_logps", "demonstration_ref_logps", "demonstration_mask")
    rows = zip(*(s.extras[name] for name in names), strict=True)
    each = [pair for logps, refs, mask in rows for pair in zip(logps, refs, mask, strict=True)]
    return mean(-math.log(1 / (1 + math.exp(-(ref - lp)))) for lp, ref, there in each if there)


def texts_of(s):
    """What the discriminator reads of each completion and each demonstration."""
    lists = [s.lp[i][:length] for i, length in enumerate(s.lengths)]
    rows = zip(s.extras["demonstration_logps"], s.extras["demonstration_mask"], strict=True)
    demonstrations = [[lp for lp, there in zip(*row, strict=True) if there] for row in rows]
    return [[(1.0, mean(text), math.log(len(text))) for text in texts] for texts in (lists, demonstrations)]


def chance(weights, x):
    return 1 / (1 + math.exp(-sum(w * value for w, value in zip(weights, x, strict=True))))


def slow_adversarial(s, rate):
    return -mean(math.log(2 * chance((0.4, 0.7, -0.3), x)) * x[1] for x in texts_of(s)[0])


def slow_ntp(s):
    return -mean(s.lp[i][t] for i, t in s.tokens() if s.extras["unused"][i][t])


def cross_entropy(c, y):
    return -(y * math.log(c) + (1 - y) * math.log(1 - c))


def slow_calibration(s):
    confidences = [math.exp(mean(s.lp[i][:length])) for i, length in enumerate(s.lengths)]
    return mean(cross_entropy(c, y) for c, y in zip(confidences, s.extras["correct"], strict=True))


def slow_rank_calibration(s):
    losses = []
    for i, length in enumerate(s.lengths):
        for k in range(N):
            logps = [s.lp[i][t] for t in range(length) if s.unit[i][t] == k]
            if logps:
                losses.append(cross_entropy(math.exp(mean(logps)), s.extras["correct_ranks"][i][k]))
    return mean(losses)


TERMS = {
    "entropy_bonus": ({}, slow_entropy_bonus),
    "siren": ({"quantile": 0.7}, slow_siren),
    "sft": ({}, slow_sft),
    "unlearn": ({}, slow_unlearn),
    "adversarial": ({"rate": 0.1}, slow_adversarial),
    "ntp": ({}, slow_ntp),
    "calibration": ({}, slow_calibration),
    "rank_calibration": ({}, slow_rank_calibration),
}
OF_SCALARS = {
    "entropy_bonus": "entropy",
    "siren": "top_p_entropy",
    "sft": "demonstration_logps",
    "unlearn": "demonstration_logps",
}
"""Terms whose gradients flow through an input other than the completions' log-probabilities."""


def term(name, inputs):
    return regularisers[name].function(inputs, **TERMS[name][0])


@pytest.mark.parametrize("name", TERMS)
def test_terms_against_the_loop(name):
    options, reference = TERMS[name]
    assert set(options) == set(regularisers[name].options)
    assert not check_options(regularisers[name].options, options)
    found = term(name, loss_inputs())
    assert found.shape == ()
    assert found.item() == pytest.approx(reference(Slow(loss_inputs()), **options), abs=1e-12)


@pytest.mark.parametrize(("name", "scalar"), OF_SCALARS.items())
def test_gradient_of_terms_of_scalars_against_finite_differences(name, scalar):
    inputs = loss_inputs()

    def of_scalar(values):
        return term(name, replace(inputs, extras={**inputs.extras, scalar: values}))

    assert torch.autograd.gradcheck(of_scalar, (inputs.extras[scalar].clone().requires_grad_(),))


def test_gradient_of_ntp_against_the_formula():
    inputs = loss_inputs()
    unused = inputs.extras["unused"]
    torch.testing.assert_close(gradient(ntp, inputs), -unused.double() / unused.sum())


@pytest.mark.parametrize("name", ["calibration", "rank_calibration"])
def test_gradient_of_calibration_against_finite_differences_of_the_loop(name):
    inputs = loss_inputs()
    found = gradient(lambda given: term(name, given), inputs)
    reference = TERMS[name][1]
    # The loss is a mean over rows, so a step in one row changes only that row's part.
    expected_gradient = numeric_gradient(lambda logps, row: reference(Slow(inputs, logps=logps)), inputs)
    torch.testing.assert_close(found, expected_gradient, atol=1e-8, rtol=0)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 1e30])
@pytest.mark.parametrize("name", TERMS)
def test_padding_may_hold_anything(name, value):
    inputs = loss_inputs()
    dirty = polluted(inputs, value)
    assert torch.equal(term(name, dirty), term(name, inputs))

    def slope(given):
        scalar = OF_SCALARS.get(name, "entropy")
        logps, values = given.logps.clone().requires_grad_(), given.extras[scalar].clone().requires_grad_()
        term(name, replace(given, logps=logps, extras={**given.extras, scalar: values})).backward()
        return values.grad if name in OF_SCALARS else logps.grad

    assert torch.equal(slope(dirty), slope(inputs))
    padding = (inputs.extras["demonstration_mask"] if name in ("sft", "unlearn") else inputs.mask) == 0
    assert not slope(dirty)[padding].any()
    assert torch.equal(entropy_mask(dirty, 0.3), entropy_mask(inputs, 0.3))


def test_the_discriminator_learns_between_updates():
    """One step per update, over the texts of all its micro-batches, against a loop."""
    weights, carried = [0.0, 0.0, 0.0], {}
    for update in range(4):
        batches = [loss_inputs(seed) for seed in (2 * update, 2 * update + 1)]
        for inputs in batches:
            found = regularisers["adversarial"].function(replace(inputs, course=Course(update, carried)), rate=0.3)
            lists, _ = texts_of(Slow(inputs))
            expected = -mean(math.log(2 * chance(weights, x)) * x[1] for x in lists)
            assert found.item() == pytest.approx(expected, abs=1e-12)
            assert (found == 0) == (update == 0)
        labelled = [(x, y) for inputs in batches for y, texts in enumerate(texts_of(Slow(inputs))) for x in texts]
        slopes = [mean((chance(weights, x) - y) * x[k] for x, y in labelled) for k in range(3)]
        weights = [w - 0.3 * slope for w, slope in zip(weights, slopes, strict=True)]


def test_a_discriminator_of_two_processes_is_that_of_one():
    inputs, alone_, together = loss_inputs(), {}, {}
    regularisers["adversarial"].function(replace(inputs, course=Course(0, alone_)), rate=0.3)

    def doubled(values):
        return torch.cat([values, values])

    regularisers["adversarial"].function(replace(inputs, course=Course(0, together, doubled)), rate=0.3)
    assert together["adversarial/texts"] == 2 * alone_["adversarial/texts"] > 0
    for k in range(3):
        assert together[f"adversarial/slope/{k}"] == pytest.approx(2 * alone_[f"adversarial/slope/{k}"])


def test_the_gradient_of_the_adversarial_term_is_that_of_a_policy_gradient():
    inputs = loss_inputs()
    found = gradient(lambda given: term("adversarial", given), inputs)
    for i, (length, x) in enumerate(zip(Slow(inputs).lengths, texts_of(Slow(inputs))[0], strict=True)):
        wanted = -math.log(2 * chance((0.4, 0.7, -0.3), x)) / length / len(found)
        torch.testing.assert_close(found[i, :length], torch.full((length,), wanted, dtype=torch.float64))


def test_the_entropy_bonus_is_that_of_trl():
    inputs = loss_inputs()
    settings = {"epsilon_low": 0.2, "epsilon_high": 0.2}
    with_bonus = trl_loss(inputs, **settings, _entropy_bonus_enabled=True, entropy_coef=0.3)
    assert (with_bonus - trl_loss(inputs, **settings)).item() == pytest.approx(
        0.3 * entropy_bonus(inputs).item(), abs=1e-12
    )


@pytest.mark.parametrize("quantile", [0.0, 0.2, 0.5, 0.8])
def test_the_entropy_mask_is_that_of_trl(quantile):
    """The loss is the sum over kept tokens divided by the number of all tokens."""
    inputs = loss_inputs()
    inputs = replace(inputs, extras={**inputs.extras, "entropy": inputs.extras["entropy"].float()})
    per_token = -inputs.advantages * inputs.log_ratio.exp()
    ours = (per_token * entropy_mask(inputs, quantile)).sum() / inputs.mask.sum()
    theirs = trl_loss(inputs, loss_type="bnpo", epsilon_low=99.0, epsilon_high=99.0, top_entropy_quantile=quantile)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    kept = entropy_mask(inputs, quantile)
    assert kept.sum().item() == pytest.approx(max(quantile * inputs.mask.sum().item(), 1), abs=1)
    assert not kept[inputs.mask == 0].any()


def test_masks_and_terms_of_no_tokens():
    inputs = loss_inputs()
    empty = replace(inputs, mask=torch.zeros_like(inputs.mask))
    assert not entropy_mask(empty, 0.2).any()
    assert entropy_bonus(empty) == 0 and calibration(empty) == 0 and rank_calibration(empty) == 0
    assert siren(empty).item() == pytest.approx(ANCHOR**2)
    nothing = torch.zeros_like(inputs.mask, dtype=torch.bool)
    assert ntp(replace(inputs, extras={**inputs.extras, "unused": nothing})) == 0


def siren_at(inputs, memory, **options):
    return siren(replace(inputs, course=replace(inputs.course, carried=memory)), **options)


def test_the_share_of_peaks_in_siren_is_counted_per_completion():
    inputs = loss_inputs()
    none = {"siren/anchor": 0.0}
    inputs.extras["top_p_entropy"][0] += 10.0  # must not change the peaks of the other completions
    shifted = siren_at(inputs, none).sqrt()
    inputs.extras["top_p_entropy"][0] -= 10.0
    assert (shifted - siren_at(inputs, none).sqrt()).item() == pytest.approx(10.0 / len(inputs.mask))


def test_the_anchor_of_siren_is_the_mean_over_the_completions_of_the_first_rollout():
    """A micro-batch differs from the batch, so the term acts from the first update on."""
    batches = [loss_inputs(0), loss_inputs(1)]
    heights = [siren_at(inputs, {"siren/anchor": 0.0}).sqrt().item() for inputs in batches]
    rollout = {"top_p_entropy": torch.cat([inputs.extras["top_p_entropy"] for inputs in batches])}
    anchor = siren_anchor(rollout, torch.cat([inputs.mask for inputs in batches]), alone)
    assert anchor == pytest.approx(mean(heights))
    held = batches[0].extras["top_p_entropy"].requires_grad_()
    term_of_first = siren_at(batches[0], {"siren/anchor": anchor})
    term_of_first.backward()
    assert term_of_first.item() == pytest.approx((heights[0] - mean(heights)) ** 2) and held.grad.any()


def test_siren_takes_tokens_above_the_quantile_alone_and_none_where_all_are_equal():
    inputs = loss_inputs()
    entropy = torch.zeros_like(inputs.extras["top_p_entropy"])
    entropy[0, 1:14] = torch.arange(13) / 10.0 + 0.1  # the .8 quantile of 14 tokens is between the 11th and 12th
    entropy[1, 4] = 7.0
    there = replace(inputs, extras={**inputs.extras, "top_p_entropy": entropy})
    # In the second completion the quantile is 0 and one token exceeds it. In the others no token does.
    expected = (mean([1.1, 1.2, 1.3]) + 7.0 + 0 + 0 + 0) / 5
    assert siren_at(there, {"siren/anchor": 0.0}, quantile=0.8).sqrt().item() == pytest.approx(expected)
    flat = replace(inputs, extras={**inputs.extras, "top_p_entropy": torch.ones_like(entropy)})
    assert siren_at(flat, {"siren/anchor": 0.5}).item() == pytest.approx(0.25)


def test_a_quantile_that_is_a_token_leaves_that_token_out():
    inputs = loss_inputs()
    mask = torch.zeros_like(inputs.mask)
    mask[:, :6] = 1  # the .8 quantile of six tokens is the fifth
    entropy = torch.arange(14.0, dtype=torch.float64).expand_as(inputs.logps)
    there = replace(inputs, mask=mask, extras={**inputs.extras, "top_p_entropy": entropy})
    assert siren_at(there, {"siren/anchor": 0.0}).sqrt().item() == pytest.approx(5.0)


def test_processes_share_what_reaches_beyond_them():
    """The anchor and the highest-entropy threshold use the tokens of all processes."""
    mine, other = loss_inputs(0), loss_inputs(1)
    heights = [siren_at(inputs, {"siren/anchor": 0.0}).sqrt().item() for inputs in (mine, other)]
    values = [{"top_p_entropy": inputs.extras["top_p_entropy"]} for inputs in (mine, other)]
    theirs = torch.full((len(other.mask),), heights[1], dtype=torch.float64)
    found = siren_anchor(values[0], mine.mask, lambda mine_alone: torch.cat([mine_alone, theirs]))
    assert found == pytest.approx(mean(heights))
    theirs = other.extras["entropy"][other.mask.bool()] + 5
    course = Course(0, {}, lambda values: torch.cat([values, theirs.to(values)]))
    assert not entropy_mask(replace(mine, course=course), 0.3).any()


def test_difficulty_scales_the_kl():
    rates = torch.tensor([0.0, 0.25, 0.3, 0.31, 0.7, 0.75, 1.0])
    assert kl_scales["constant"].function(rates).tolist() == [1] * 7
    scale = kl_scales["by_difficulty"].function(rates, hard=0.5, medium=1.0, easy=2.0)
    assert scale.tolist() == [0.5, 0.5, 0.5, 1, 1, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logp", [0.0, -1e-12, -1e4])
def test_calibration_of_certainty_is_finite(logp, dtype):
    inputs = loss_inputs()
    certain = replace(inputs, logps=torch.full_like(inputs.logps, logp).to(dtype))
    for name in ("calibration", "rank_calibration"):
        assert 0 < term(name, certain) <= -math.log(1e-8)
        assert gradient(lambda given, name=name: term(name, given), certain).isfinite().all()


def test_calibration_is_least_where_confidence_is_correctness():
    inputs = loss_inputs()
    targets = {**inputs.extras, "correct": (inputs.logps * inputs.mask).sum(1).div(inputs.mask.sum(1)).exp()}
    at_rest = replace(inputs, extras=targets)
    assert gradient(calibration, at_rest).abs().max() < 1e-12
