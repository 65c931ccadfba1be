"""Properties of every method and baseline: order of lists and prompts, shift, scale, and identities."""

import random
from dataclasses import replace

import pytest
import torch

from rlbench.config.schema import POLICY_OPTIMISATION
from rlbench.objective import baselines as baselines_module
from rlbench.objective.inputs import Group
from rlbench.objective.pieces import baselines
from rlbench.running.cli import methods
from tests.golden.methods import PROMPTS, G, drawn
from tests.golden.test_methods import Case, double_precision, objective

__all__ = ["double_precision"]

METHODS = methods(POLICY_OPTIMISATION)
SEEDS = range(3)


def close(one, two, atol):
    torch.testing.assert_close(one, two, atol=atol, rtol=0)


def orders(rng):
    """Two ways to shuffle lists: within their prompts, and prompt by prompt."""
    prompts = [list(range(start, start + G)) for start in range(0, len(PROMPTS) * G, G)]
    within = [i for prompt in prompts for i in rng.sample(prompt, G)]
    rng.shuffle(prompts)
    return within, [i for prompt in prompts for i in prompt]


@pytest.mark.parametrize("name", METHODS)
def test_lists_of_a_prompt_and_prompts_have_no_order(name):
    for seed in SEEDS:
        batch = drawn(seed)
        case = Case(objective(name), batch)
        loss, slopes = case.loss_and_gradient()
        for order in orders(random.Random(seed)):
            permuted = Case(objective(name), batch.picked(order))
            close(permuted.unit_advantages(), case.unit_advantages()[order], 1e-12)
            loss_there, slopes_there = permuted.loss_and_gradient()
            assert loss_there == pytest.approx(loss, abs=1e-12)
            close(slopes_there["lp"], slopes["lp"][order], 1e-12)


# Shift and scale.

FEATURES = (
    "tokens",
    "entries",
    "entropy",
    "confidence",
    "popularity",
    "in_catalog",
    "duplicates",
    "mode",
    "effective_rank",
    "rank_velocity",
    "rank_acceleration",
)


def random_group(seed, prompts=3, size=5, columns=2):
    """Positive returns, all different."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    shape = (prompts, size, columns)
    return Group(
        returns=uniform(0.1, 1.5, *shape),
        counted=torch.ones(shape, dtype=torch.bool),
        unit_tokens=torch.randint(1, 9, shape, generator=generator),
        log_confidence=uniform(-2.0, -0.1, *shape),
        success=uniform(0, 1, prompts, size) > 0.5,
        features={name: uniform(0.5, 3.0, prompts, size) for name in FEATURES},
        progress=0.4,
        until={"score_norm": uniform(0.1, 3.0, *shape), "divergence": uniform(0.0, 20.0, *shape)},
        prompts=[f"prompt {p}" for p in range(prompts)],
    )


def of_first_prompt(name, group, factor=1.0, shift=0.0):
    """The first prompt's advantages after only its returns are scaled and shifted."""
    returns = group.returns.clone()
    returns[0] = factor * returns[0] + shift
    earlier = {
        f"value_tracker/{prompt}/{c}/{part}": value
        for prompt in group.prompts
        for c in range(returns.size(2))
        for part, value in (("total", 1.2), ("weight", 2.0))
    }
    return baselines[name].function(replace(group, returns=returns, carried=earlier))[0]


def distance(one, two):
    return (one - two).abs().max().item()


@pytest.fixture
def without_guards(monkeypatch):
    """Denominators without epsilon, as in the formulas."""
    for guard in ("STD_EPSILON", "VERL_EPSILON", "WHITEN_EPSILON"):
        monkeypatch.setattr(baselines_module, guard, 0.0)
    monkeypatch.setitem(baselines_module.group_std.__kwdefaults__, "epsilon", 0.0)


def behaviour(same, as_much):
    """The behaviour shown by distances over several groups: "invariant", "equivariant" or "other"."""
    if max(same) < 1e-9:
        return "invariant"
    return "equivariant" if max(as_much) < 1e-9 else "other"


@pytest.mark.parametrize("name", baselines)
def test_shift_and_scale_are_as_the_facts_say(name, without_guards):
    shifts, same, as_much = [], [], []
    for seed in SEEDS:
        group = random_group(seed)
        advantages = of_first_prompt(name, group)
        if not advantages.any():  # such as `solved` in a group without successes, which shows nothing
            continue
        shifts.append(distance(of_first_prompt(name, group, shift=2.0), advantages))
        for factor in (3.0, 0.5):
            scaled = of_first_prompt(name, group, factor)
            same.append(distance(scaled, advantages))
            as_much.append(distance(scaled, factor * advantages))
    assert behaviour(shifts, shifts) == baselines[name].facts["shift"]
    assert behaviour(same, as_much) == baselines[name].facts["scale"]
    # Unequal values are far apart, so rounding decides nothing.
    for distances in (shifts, same, as_much):
        assert max(distances) < 1e-9 or min(distances) > 1e-3


WITH_SIGNAL = {
    "reinforce_pp": "compared with the batch",
    "reinforce_pp_baseline": "centred over the batch's tokens",
    "unlikeliness": "equal lists are told apart by their likelihood",
    "solved": "successes are trained on, whatever the others are",
    "kl_budget": "equal lists are told apart by their distance from the reference",
    "value_tracker": "compared with the prompt's earlier returns and with the batch",
}
"""Baselines that distinguish lists with equal returns, or push them all."""
ROUNDED = {
    "opo": "a weighted mean of equal numbers",
    "optimal_token": "a weighted mean of equal numbers",
    "conditional_split": "a weighted mean of equal numbers",
}
"""Baselines without a small divisor, for which equal returns may leave a rounding error."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", baselines)
def test_equal_returns_give_no_advantage(name, dtype):
    largest = 0.0
    for seed in range(20):
        group = random_group(seed, size=3 + seed % 5)
        group.returns[0] = group.returns[0, :1]
        group = replace(
            group,
            returns=group.returns.to(dtype),
            log_confidence=group.log_confidence.to(dtype),
            until={key: values.to(dtype) for key, values in group.until.items()},
        )
        largest = max(largest, of_first_prompt(name, group).abs().max().item())
    if name in WITH_SIGNAL:
        assert largest > 1e-3
    elif name in ROUNDED:
        assert largest < 10 * torch.finfo(dtype).eps
    else:
        assert largest == 0


# Identities: a method equals another one with certain numbers.


def on_policy(batch):
    return replace(batch, pi=replace(batch.pi, lp=batch.old))


def certain_of_nothing(batch):
    return replace(batch, old=[[-40.0] * len(row) for row in batch.old])


def where_every_group_differs(batch):
    return batch.picked(range(2 * G))


def of_one_mode(batch):
    """Only lists that do not think, in two groups."""
    return batch.picked([0, 2, 3, 2, 4, 5, 7, 5])


def as_it_is(batch):
    return batch


IDENTITIES = {
    "CANON of equal parts is Dr. GRPO": (
        ["canon", "options.conditional_split.mu=0.5"],
        ["dr_grpo", "surrogate=dual_clip", "options.dual_clip={low: 0.2, high: 0.28}", "kl.beta=0.0"],
        as_it_is,
        1e-12,
    ),
    "RS-GRPO towards beta = 0 has R - mean": (
        ["rs_grpo", "options.risk_seeking.beta=1e-6"],
        ["grpo", "baseline=group_mean"],
        as_it_is,
        1e-6,
    ),
    "C2GSPG of lists that were unlikely has R - mean": (
        ["c2gspg", "regularisers.calibration=0.0"],
        ["reinforce"],
        certain_of_nothing,
        1e-6,
    ),
    "RLMLR of the list alone is GRPO with centred returns and verl's loss": (
        ["rlmlr", "options.hybrid.alpha=1.0"],
        [
            "grpo",
            "baseline=group_mean",
            "surrogate=dual_clip",
            "options.dual_clip={low: 0.2, high: 0.2}",
            "aggregation=token_mean",
        ],
        as_it_is,
        1e-12,
    ),
    "RAPO is GRPO": (["rapo_scale"], ["grpo"], where_every_group_differs, 1e-12),
    "KL by difficulty of one coefficient is GRPO": (
        ["clpo_kl", "options.by_difficulty.hard=1.0"],
        ["grpo"],
        as_it_is,
        1e-12,
    ),
    "the 80/20 rule of all tokens is DAPO": (["top_entropy", "entropy_quantile=1.0"], ["dapo"], as_it_is, 1e-12),
    "SIREN without its term is Dr. GRPO": (
        ["siren", "regularisers.siren=0.0"],
        ["dr_grpo", "surrogate=dual_clip", "options.dual_clip={low: 0.2, high: 0.2}", "kl.beta=0.0"],
        as_it_is,
        1e-12,
    ),
    "token credit without decay is rank credit": (
        ["rank_grpo", "credit=token", "options.token.decay=1.0"],
        ["rank_grpo"],
        as_it_is,
        1e-12,
    ),
    "GPG is REINFORCE over tokens": (
        ["gpg"],
        ["reinforce", "aggregation=token_mean"],
        where_every_group_differs,
        1e-12,
    ),
    "TAWin with a window around everyone is GRPO": (["tawin", "options.windowed.width=9"], ["grpo"], as_it_is, 1e-12),
    "swaps with a pool of the list alone stay in the list": (
        ["swap_pool_rank", "options.swap_pool.outside=0"],
        ["swap_rank"],
        as_it_is,
        1e-9,
    ),
    "CMDP with a budget that nobody spends is GRPO without KL": (
        ["cmdp", "options.kl_budget.budget=9.0"],
        ["grpo", "kl.beta=0.0"],
        as_it_is,
        1e-12,
    ),
    "E2C without weights is GRPO": (["e2c", "options.plan_weights.plan=1.0"], ["grpo"], as_it_is, 1e-12),
    "FARL that forgets nothing is GRPO": (["farl", "regularisers.unlearn=0.0"], ["grpo"], as_it_is, 1e-12),
    "UniAPL without a discriminator is UniAPL of RL and SFT": (
        ["uniapl_adversarial", "regularisers.adversarial=0.0"],
        ["uniapl"],
        as_it_is,
        1e-12,
    ),
    "HiPO of one mode is GRPO": (["hipo"], ["grpo"], of_one_mode, 1e-12),
    "on policy DRO is REINFORCE over tokens": (["dro"], ["reinforce", "aggregation=token_mean"], on_policy, 1e-12),
    "GSPO-token is GSPO": (["gspo_token"], ["gspo"], as_it_is, 1e-12),
    "on policy GSPO is GRPO": (["gspo"], ["grpo"], on_policy, 1e-12),
    "on policy the ratio of ranks is that of tokens, over tokens": (
        ["rank_grpo", "aggregation=token_mean"],
        ["rank_grpo", "aggregation=token_mean", "ratio=token"],
        on_policy,
        1e-12,
    ),
    "on policy the ratio of ranks is that of tokens, over ranks": (
        ["rank_grpo"],
        ["rank_grpo", "ratio=token"],
        on_policy,
        1e-12,
    ),
}


def apart(one, two, batch):
    """Largest distance between losses and gradients of two methods."""
    (loss, slopes), (loss_there, slopes_there) = (
        Case(objective(*method), batch).loss_and_gradient() for method in (one, two)
    )
    return max(abs(loss - loss_there), distance(slopes["lp"], slopes_there["lp"]))


@pytest.mark.parametrize("identity", IDENTITIES)
def test_identities_of_methods(identity):
    one, two, condition, tolerance = IDENTITIES[identity]
    for seed in SEEDS:
        assert apart(one, two, condition(drawn(seed))) < tolerance


CONDITIONAL = [identity for identity, (_, _, condition, _) in IDENTITIES.items() if condition is not as_it_is]
WITH_NUMBERS = [
    identity for identity, (one, two, condition, _) in IDENTITIES.items() if condition is as_it_is and one[1:] + two[1:]
]


@pytest.mark.parametrize("identity", CONDITIONAL)
def test_identities_need_their_condition(identity):
    one, two, _, _ = IDENTITIES[identity]
    assert all(apart(one, two, drawn(seed)) > 1e-3 for seed in SEEDS)


@pytest.mark.parametrize("identity", WITH_NUMBERS)
def test_identities_need_their_numbers(identity):
    """With the last change left out, the methods differ."""
    one, two, _, _ = IDENTITIES[identity]
    methods = (one[:-1], two) if one[1:] else (one, two[:-1])
    assert all(apart(*methods, drawn(seed)) > 1e-6 for seed in SEEDS)


def test_on_policy_ranks_and_tokens_weigh_differently():
    """On policy nothing but the aggregation differs, and it changes the result."""
    for seed in SEEDS:
        assert apart(["rank_grpo"], ["rank_grpo", "aggregation=token_mean"], on_policy(drawn(seed))) > 1e-3
