"""Every surrogate against a slow loop and, where TRL has it, against TRL's loss; its flags and facts."""

import math
from dataclasses import replace

import pytest
import torch

from rlbench.config.options import check_options
from rlbench.objective.aggregation import global_token_mean, sequence_mean, token_mean
from rlbench.objective.pieces import ratios, surrogates
from rlbench.objective.surrogates import Surrogate, clip_shares
from tests.helpers_losses import (
    B,
    Slow,
    T,
    gradient,
    loss_inputs,
    mean,
    numeric_gradient,
    on_policy,
    one_advantage_a_list,
    polluted,
    trl_loss,
    window,
)


def clamp(x, low=-math.inf, high=math.inf):
    return min(max(x, low), high)


def slow_clip(s, i, t, low, high):
    w, a = math.exp(s.log_ratio(i, t)), s.a[i][t]
    return -min(w * a, clamp(w, 1 - low, 1 + high) * a)


def slow_clip_delta(s, i, t, low, high, delta):
    w, a = math.exp(s.log_ratio(i, t)), s.a[i][t]
    return -min(min(w, delta) * a, clamp(w, 1 - low, 1 + high) * a)


def slow_dual_clip(s, i, t, low, high, dual):
    w, a = math.exp(s.log_ratio(i, t)), s.a[i][t]
    objective = min(w * a, clamp(w, 1 - low, 1 + high) * a)
    return -(max(objective, dual * a) if a < 0 else objective)


def slow_cispo(s, i, t, high):
    return -min(math.exp(s.frozen_log_ratio(i, t)), high) * s.a[i][t] * s.lp[i][t]


def slow_sapo(s, i, t, temperature_pos, temperature_neg):
    w, a = math.exp(s.log_ratio(i, t)), s.a[i][t]
    tau = temperature_pos if a > 0 else temperature_neg
    return -4 / tau / (1 + math.exp(-tau * (w - 1))) * a


def slow_gmpo(s, i, t, low, high):
    clipped = []
    for u in range(s.lengths[i]):
        d, a = s.log_ratio(i, u), s.a[i][u]
        clipped.append(min(d, clamp(d, -low, high)) if a > 0 else max(d, clamp(d, -low, high)))
    return -math.exp(mean(clipped)) * s.a[i][t]


def slow_vespo(s, i, t, k_pos, lambda_pos, k_neg, lambda_neg):
    a = s.a[i][t]
    log_w = clamp(sum(clamp(s.frozen[i][u] - s.old[i][u], -20, 20) for u in range(s.lengths[i])), math.log(1e-8), 20.0)
    k, rate = (k_pos, lambda_pos) if a >= 0 else (k_neg, lambda_neg)
    phi = math.exp(rate) * math.exp(log_w) ** k * math.exp(-rate * math.exp(log_w))
    return -phi * a * s.lp[i][t]


def slow_dppo(s, i, t, divergence, threshold, cap):
    p, old, a = math.exp(s.frozen[i][t]), math.exp(s.old[i][t]), s.a[i][t]
    further = (a > 0 and p > old) or (a < 0 and p < old)
    if further and divergence(p, old) > threshold:
        return 0.0
    return -min(math.exp(s.frozen_log_ratio(i, t)), cap) * a * s.lp[i][t]


def slow_dppo_tv(s, i, t, threshold, cap):
    return slow_dppo(s, i, t, lambda p, old: abs(p - old), threshold, cap)


def slow_dppo_kl(s, i, t, threshold, cap):
    def divergence(p, old):
        return old * math.log(old / p) + (1 - old) * math.log((1 - old + 1e-8) / (1 - p + 1e-8))

    return slow_dppo(s, i, t, divergence, threshold, cap)


def covariances(s):
    """Covariance of each token, with gradients stopped."""
    a, lp = (mean(x[i][t] for i, t in s.tokens()) for x in (s.a, s.frozen))
    return {(i, t): (s.a[i][t] - a) * (s.frozen[i][t] - lp) for i, t in s.tokens()}


def largest(scores, share, n):
    return sorted(scores, key=scores.get, reverse=True)[: max(int(share * n), 1)]


def slow_clip_cov(s, i, t, low, high, share, cov_low, cov_high):
    def clipped(u):
        w, a = math.exp(s.frozen_log_ratio(*u)), s.a[u[0]][u[1]]
        return (a > 0 and w > 1 + high) or (a < 0 and w < 1 - low)

    eligible = {u: c for u, c in covariances(s).items() if cov_low < c < cov_high and not clipped(u)}
    return 0.0 if (i, t) in largest(eligible, share, sum(s.lengths)) else slow_clip(s, i, t, low, high)


def slow_kl_cov(s, i, t, share, coefficient):
    chosen = (i, t) in largest(covariances(s), share, sum(s.lengths))
    d = s.log_ratio(i, t)
    return -math.exp(d) * s.a[i][t] + (coefficient * abs(d) if chosen else 0.0)


def slow_topr(s, i, t, split):
    w, a = math.exp(s.frozen_log_ratio(i, t)), s.a[i][t]
    good = s.extras["score"][i] > 0 if split == "score" else a >= 0
    return -(1.0 if good else clamp(w, 0, 1)) * a * s.lp[i][t]


def slow_humanline(s, i, t, log_epsilon_p, log_epsilon_r, low, high):
    w, a = math.exp(clamp(s.lp[i][t] - s.ref[i][t], log_epsilon_p, log_epsilon_r)), s.a[i][t]
    return -min(w * a, clamp(w, 1 - low, 1 + high) * a)


def slow_rover(s, i, t, rho):
    new, old = s.extras["mean_logps"][i], s.extras["old_mean_logps"][i]
    value = rho * (new[t + 1] - old[t + 1]) if t + 1 < s.lengths[i] else 0.0
    return (rho * (s.lp[i][t] - s.old[i][t]) - (s.a[i][t] + value)) ** 2


def slow_sage(s, i, t, boost, penalty):
    w, a = math.exp(s.frozen_log_ratio(i, t)), s.a[i][t]
    c = math.exp(mean(s.frozen[i][u] for u in range(s.lengths[i])))
    entropy = mean(s.extras["entropy"][i][u] for u in range(s.lengths[i]))
    bad, good = min(w, c / (1 - c)) * (1 + penalty * math.exp(-entropy)), min(w, 1.0) * (1 + boost * (1 - c))
    return -(bad if a < 0 else good) * a * s.lp[i][t]


def slow_dro(s, i, t, beta):
    return -(s.a[i][t] * s.lp[i][t] - beta / 2 * s.log_ratio(i, t) ** 2)


def slow_reinforce(s, i, t):
    return -s.a[i][t] * s.lp[i][t]


BOUNDS = {"low": 0.2, "high": 0.28}
CASES = {
    "clip": (BOUNDS, slow_clip),
    "clip_delta": ({**BOUNDS, "delta": 2.5}, slow_clip_delta),
    "dual_clip": ({**BOUNDS, "dual": 2.5}, slow_dual_clip),
    "cispo": ({"high": 1.8}, slow_cispo),
    "sapo": ({"temperature_pos": 1.0, "temperature_neg": 1.05}, slow_sapo),
    "gmpo": ({"low": 0.3, "high": 0.4}, slow_gmpo),
    "vespo": ({"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}, slow_vespo),
    "dppo_tv": ({"threshold": 0.15, "cap": 2.0}, slow_dppo_tv),
    "dppo_kl": ({"threshold": 0.05, "cap": 2.0}, slow_dppo_kl),
    "clip_cov": ({**BOUNDS, "share": 0.08, "cov_low": 0.1, "cov_high": 5.0}, slow_clip_cov),
    "kl_cov": ({"share": 0.1, "coefficient": 0.7}, slow_kl_cov),
    "topr": ({"split": "score"}, slow_topr),
    "humanline": ({"log_epsilon_p": -1.0, "log_epsilon_r": 1.0, **BOUNDS}, slow_humanline),
    "rover": ({"rho": 0.8}, slow_rover),
    "sage": ({"boost": 0.7, "penalty": 0.4}, slow_sage),
    "dro": ({"beta": 0.3}, slow_dro),
    "reinforce": ({}, slow_reinforce),
    "log_confidence": ({}, slow_reinforce),
}
CAPS = ["cispo", "topr", "sage"]
"""Surrogates whose bounds cap a weight without stopping the gradient."""
NUMBERS_AT_STAKE = ["token", "rank", "sequence_token"]


def applied(name: str, inputs, ratio: str = "token") -> Surrogate:
    return surrogates[name].function(inputs, ratios[ratio].function(inputs), **CASES[name][0])


def per_token_total(name, weights, ratio="token"):
    """A scalar loss that weights each token differently."""
    return lambda inputs: (applied(name, inputs, ratio).loss * weights * inputs.mask).sum()


def random_weights():
    return torch.randn(B, T, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_every_surrogate_has_a_reference():
    assert set(CASES) == set(surrogates)
    for name, (options, _) in CASES.items():
        assert set(options) == set(surrogates[name].options)
        assert not check_options(surrogates[name].options, options)


@pytest.mark.parametrize("ratio", NUMBERS_AT_STAKE)
@pytest.mark.parametrize("name", CASES)
def test_loss_against_the_loop(name, ratio):
    options, reference = CASES[name]
    inputs = loss_inputs()
    slow, loss = Slow(inputs, ratio), applied(name, inputs, ratio).loss
    for i, t in slow.tokens():
        assert loss[i, t].item() == pytest.approx(reference(slow, i, t, **options), abs=1e-11)


@pytest.mark.parametrize("ratio", NUMBERS_AT_STAKE)
@pytest.mark.parametrize("name", CASES)
def test_gradient_against_finite_differences_of_the_loop(name, ratio):
    """Values without gradient are constants in the loop."""
    options, reference = CASES[name]
    inputs, weights = loss_inputs(), random_weights()
    found = gradient(per_token_total(name, weights, ratio), inputs)

    def of_row(logps, i):
        slow = Slow(inputs, ratio, logps)
        return sum(weights[i, t].item() * reference(slow, i, t, **options) for t in range(slow.lengths[i]))

    torch.testing.assert_close(found, numeric_gradient(of_row, inputs), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", [name for name in CASES if name not in CAPS])
def test_flags_are_the_tokens_without_gradient(name):
    """If a token has a nonzero advantage but no gradient, a bound stopped it."""
    inputs = loss_inputs()
    surrogate = applied(name, inputs)
    # Only each token's own part, because under gmpo a token's loss depends on the others.
    stopped = gradient(per_token_total(name, inputs.advantages), inputs) == 0
    pushed = (inputs.advantages != 0) & (inputs.mask == 1)
    assert not (surrogate.at_low & surrogate.at_high).any()
    if name == "rover":
        assert not (stopped & pushed).any()
    else:
        assert torch.equal(stopped & pushed, surrogate.at_low | surrogate.at_high)


@pytest.mark.parametrize("name", ["clip", "clip_delta", "dual_clip", "dppo_tv", "dppo_kl", "gmpo", "humanline"])
def test_flags_name_the_side(name):
    inputs = loss_inputs()
    surrogate = applied(name, inputs)
    moved = inputs.logps - (inputs.ref_logps if name == "humanline" else inputs.old_logps)
    assert surrogate.at_low.any() and (moved[surrogate.at_low] < 0).all()
    assert surrogate.at_high.any() and (moved[surrogate.at_high] > 0).all()


def test_capped_weights_are_flagged():
    inputs = loss_inputs()
    ratio, advantages = inputs.log_ratio.exp() * inputs.mask, inputs.advantages
    assert torch.equal(applied("cispo", inputs).at_high, (ratio > 1.8) & (advantages != 0))
    bad = (inputs.extras["score"] <= 0)[:, None]
    assert torch.equal(applied("topr", inputs).at_high, (ratio > 1) & bad & (advantages != 0))
    by_sign = surrogates["topr"].function(inputs, ratios["token"].function(inputs), split="advantage")
    assert torch.equal(by_sign.at_high, (ratio > 1) & (advantages < 0))


def test_topr_split_by_advantage_against_the_loop():
    inputs = loss_inputs()
    slow, found = Slow(inputs, "token"), surrogates["topr"].function(inputs, inputs.log_ratio, split="advantage")
    for i, t in slow.tokens():
        assert found.loss[i, t].item() == pytest.approx(slow_topr(slow, i, t, "advantage"), abs=1e-11)


def test_topr_splits_by_the_score_by_default():
    inputs = loss_inputs()
    found = surrogates["topr"].function(inputs, inputs.log_ratio)
    torch.testing.assert_close(found.loss, applied("topr", inputs).loss)
    assert not any(applied(name, inputs).at_low.any() for name in CAPS)


def test_shares_of_flags_count_tokens():
    inputs = loss_inputs()
    low, high = torch.zeros(B, T, dtype=torch.bool), torch.zeros(B, T, dtype=torch.bool)
    low[0, :3] = high[1, 0] = True
    high[3, -1] = True  # padding
    total = int(inputs.mask.sum())
    shares = clip_shares(Surrogate(torch.zeros(B, T), low, high), inputs.mask)
    assert [share.item() for share in shares] == pytest.approx([3 / total, 1 / total])


@pytest.mark.parametrize("name", CASES)
def test_facts_are_true(name):
    inputs, facts = loss_inputs(), surrogates[name].facts
    loss = applied(name, inputs).loss
    assert (not torch.equal(applied(name, inputs, "sequence").loss, loss)) == facts["uses_ratio"]
    other_reference = replace(inputs, ref_logps=inputs.ref_logps * 0.5)
    assert (not torch.equal(applied(name, other_reference).loss, loss)) == facts["needs_reference"]
    flags = applied(name, inputs)
    assert bool((flags.at_low | flags.at_high).any()) == facts["clips"]


def test_sage_without_its_factors_is_bounded_by_the_lists_confidence():
    """GBPO: a good list's weight is at most 1, a bad one's at most c / (1 - c)."""
    inputs = loss_inputs()
    plain = surrogates["sage"].function(inputs, inputs.log_ratio, boost=0.0, penalty=0.0)
    weights = plain.loss / -(inputs.advantages * inputs.logps)
    counted = (inputs.advantages != 0) & (inputs.mask == 1)
    good, bad = counted & (inputs.advantages > 0), counted & (inputs.advantages < 0)
    assert weights[good].max() <= 1 + 1e-12
    for i, length in enumerate(inputs.mask.sum(1).tolist()):
        c = inputs.logps[i, :length].mean().exp()
        assert (weights[i][bad[i]] <= c / (1 - c) + 1e-12).all()
    assert torch.equal(plain.at_high & counted, counted & (weights < inputs.log_ratio.exp() * (1 - 1e-12)))


def test_dro_fits_log_ratios_to_advantages():
    """beta / 2 (log w - A / beta)^2 has its gradient."""
    inputs, weights = loss_inputs(), random_weights()

    def fit(given):
        return (0.3 / 2 * (given.log_ratio - given.advantages / 0.3).square() * weights * given.mask).sum()

    torch.testing.assert_close(gradient(fit, inputs), gradient(per_token_total("dro", weights), inputs))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 1e30])
@pytest.mark.parametrize("name", CASES)
def test_padding_may_hold_anything(name, value):
    inputs, weights = loss_inputs(), random_weights()
    dirty = polluted(inputs, value)
    assert applied(name, dirty).loss.isfinite().all()

    def loss(given):
        return sequence_mean(applied(name, given).loss * weights, given, window(given))

    assert torch.equal(loss(dirty), loss(inputs))
    assert torch.equal(gradient(loss, dirty), gradient(loss, inputs))
    assert not gradient(loss, dirty)[inputs.mask == 0].any()
    for shares in zip(*(clip_shares(applied(name, given), given.mask) for given in (dirty, inputs)), strict=True):
        assert torch.equal(*shares)


ON_POLICY = {name: 1.0 for name in CASES} | {"rover": 2 * 0.8}
"""On-policy gradient as a multiple of the gradient of -A log pi, because no bound, weight or penalty acts."""


@pytest.mark.parametrize("name", [name for name in CASES if name != "sage"])  # its factors act on-policy too
def test_on_policy_every_gradient_is_that_of_reinforce(name):
    inputs = one_advantage_a_list(on_policy(loss_inputs()))

    def of(name):
        return gradient(
            lambda given: sequence_mean(
                applied(name, replace(given, old_logps=inputs.old_logps)).loss, given, window(given)
            ),
            inputs,
        )

    found, plain = of(name), ON_POLICY[name] * of("reinforce")
    unchosen = torch.ones(B, T, dtype=torch.bool)
    if name == "clip_cov":  # the only surrogate that stops tokens on-policy
        unchosen = ~applied(name, inputs).at_high
        assert not unchosen.all() and not found[~unchosen].any()
    else:
        flags = applied(name, inputs)
        assert not (flags.at_low | flags.at_high).any()
    torch.testing.assert_close(found[unchosen], plain[unchosen], atol=1e-12, rtol=0)


def test_clip_is_the_formula_bit_by_bit():
    inputs = loss_inputs()
    log_ratio, advantages = inputs.log_ratio.float(), inputs.advantages.float()
    ratio = log_ratio.exp()
    expected = -torch.min(ratio * advantages, ratio.clamp(1 - 0.06, 1 + 0.08) * advantages)
    given = replace(inputs, advantages=advantages)
    assert torch.equal(surrogates["clip"].function(given, log_ratio, low=0.06, high=0.08).loss, expected)


def test_dual_clip_is_two_sided_clip_where_delta_lies_outside():
    inputs = loss_inputs()
    log_ratio = ratios["token"].function(inputs)
    dual = surrogates["dual_clip"].function(inputs, log_ratio, **BOUNDS, dual=3.0)
    delta = surrogates["clip_delta"].function(inputs, log_ratio, **BOUNDS, delta=3.0)
    torch.testing.assert_close(dual.loss, delta.loss)
    assert torch.equal(dual.at_low, delta.at_low) and torch.equal(dual.at_high, delta.at_high)


def test_two_sided_clip_with_delta_inside_the_bounds():
    inputs = loss_inputs()
    options = {"low": 0.2, "high": 1.5, "delta": 1.6}

    def loss(given):
        return surrogates["clip_delta"].function(given, ratios["token"].function(given), **options).loss

    flags = surrogates["clip_delta"].function(inputs, ratios["token"].function(inputs), **options)
    stopped = gradient(lambda given: loss(given).sum(), inputs) == 0
    pushed = (inputs.advantages != 0) & (inputs.mask == 1)
    assert torch.equal(stopped & pushed, flags.at_low | flags.at_high)


def test_chosen_tokens_are_the_same_every_time():
    """Of equal covariances, earlier tokens come first. At least one token is chosen for any share."""
    inputs = loss_inputs()
    flat = replace(on_policy(inputs), advantages=inputs.mask.double(), logps=torch.zeros(B, T, dtype=torch.float64))
    flat.advantages[0, :3] = -1.0
    flat.logps[0, :3] = -1.0
    flat = replace(flat, old_logps=flat.logps)
    for share, expected in [(0.0, 1), (2 / int(inputs.mask.sum()) + 1e-9, 2)]:
        options = {**BOUNDS, "share": share, "cov_low": 0.5, "cov_high": 5.0}
        chosen = surrogates["clip_cov"].function(flat, ratios["token"].function(flat), **options).at_high
        assert chosen.nonzero().tolist() == [[0, t] for t in range(expected)]


def test_padding_is_never_chosen():
    inputs = loss_inputs()
    options = {**BOUNDS, "share": 1.0, "cov_low": -5.0, "cov_high": 5.0}
    surrogate = surrogates["clip_cov"].function(inputs, ratios["token"].function(inputs), **options)
    assert torch.equal(surrogate.at_low | surrogate.at_high, inputs.mask == 1)


def test_log_confidence_is_the_advantage_times_the_log_of_the_confidence():
    inputs = one_advantage_a_list(loss_inputs())
    per_token = applied("log_confidence", inputs, "none").loss
    loss = sequence_mean(per_token, inputs, window(inputs))
    slow = Slow(inputs)
    expected = mean(-slow.a[i][0] * mean(slow.lp[i][:n]) for i, n in enumerate(slow.lengths))
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("shift", [-300.0, -3.0, 3.0, 300.0])
def test_vespo_clamps_the_weight(shift):
    """A completion that became far more or less likely has almost no weight and causes no overflow."""
    inputs = loss_inputs()
    inputs = replace(inputs, old_logps=inputs.logps - shift)
    loss, slow = applied("vespo", inputs).loss, Slow(inputs)
    for i, t in slow.tokens():
        assert abs(loss[i, t]) < 1e-6
        assert loss[i, t].item() == pytest.approx(slow_vespo(slow, i, t, **CASES["vespo"][0]), rel=1e-9, abs=0)


# Temperatures are exact in float32, because TRL stores them so.
TRL = {
    "clip": ({**BOUNDS}, sequence_mean, {"loss_type": "grpo", "epsilon_low": 0.2, "epsilon_high": 0.28}),
    "clip_delta": (
        {**BOUNDS, "delta": 2.5},
        token_mean,
        {"loss_type": "bnpo", "epsilon_low": 0.2, "epsilon_high": 0.28, "args": {"delta": 2.5}},
    ),
    "cispo": ({"high": 1.8}, global_token_mean, {"loss_type": "cispo", "epsilon_high": 1.8}),
    "sapo": (
        {"temperature_pos": 1.0, "temperature_neg": 1.5},
        sequence_mean,
        {"loss_type": "sapo", "args": {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.5}},
    ),
    "vespo": (
        {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0},
        global_token_mean,
        {
            "loss_type": "vespo",
            "args": {"vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0},
        },
    ),
}


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("name", TRL)
def test_loss_and_gradient_are_those_of_trl(name, level):
    options, aggregation, settings = TRL[name]
    inputs = loss_inputs()

    def ours(given):
        per_token = surrogates[name].function(given, ratios[level].function(given), **options).loss
        return aggregation(per_token, given, window(given))

    def theirs(given):
        return trl_loss(given, level=level, **settings)

    assert ours(inputs).item() == pytest.approx(theirs(inputs).item(), abs=1e-12)
    torch.testing.assert_close(gradient(ours, inputs), gradient(theirs, inputs), atol=1e-12, rtol=0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gmpo_is_that_of_trl():
    from trl.experimental.gmpo import GMPOTrainer

    inputs = one_advantage_a_list(loss_inputs())

    def ours(given):
        return sequence_mean(applied("gmpo", given).loss, given, window(given))

    def theirs(given):
        of_lists = replace(given, advantages=given.advantages[:, 0])
        return trl_loss(of_lists, GMPOTrainer._compute_loss, epsilon_low=0.3, epsilon_high=0.4)

    assert ours(inputs).item() == pytest.approx(theirs(inputs).item(), abs=1e-12)
    torch.testing.assert_close(gradient(ours, inputs), gradient(theirs, inputs), atol=1e-12, rtol=0)
