"""Baselines against loops written from their formulas, and their promised properties."""

import itertools
import math
import statistics
from dataclasses import dataclass, replace

import pytest
import torch

from rlbench.objective.baselines import STD_EPSILON
from rlbench.objective.inputs import Group
from rlbench.objective.pieces import baselines
from tests.golden.methods import soft_window

P, C = 4, 3
VALUES = [[(1.0, 2.0), (0.0, 3.0), (2.5, 4.0)], [(0.7, 1.0), (2.0, 2.5), (0.1, 0.2)]]
"""Weighted sum and number of earlier returns of two prompts, column by column."""
METRICS = ("tokens", "entries", "entropy", "confidence", "popularity", "in_catalog", "duplicates")
WITH_MODE = (*METRICS, "mode")
OF_HIDDEN = ("effective_rank", "rank_velocity", "rank_acceleration")


def random_group(size, seed=0, counted="some"):
    """Returns with many ties, a column of zeros and units without tokens; all, some, one, two or none count."""
    generator = torch.Generator().manual_seed(seed)

    def integers(high, *shape):
        return torch.randint(0, high, shape, generator=generator).double()

    returns = integers(4, P, size, C) / 3
    returns[0, :, 1] = 0.0
    mask = torch.ones(P, size, C, dtype=torch.bool)
    if counted == "some":
        mask = torch.rand(P, size, C, generator=generator) < 0.7
        mask[1, :, 0] = torch.arange(size) == 2
        mask[1, :, 1] = False
        mask[2, :, 0] = torch.arange(size) < 2
    tokens = integers(5, P, size, C)
    return Group(
        returns=returns,
        counted=mask,
        unit_tokens=tokens,
        log_confidence=-(integers(4, P, size, C) + 1) / 4 * (tokens > 0),
        success=integers(2, P, size) > 0,
        features={name: integers(size, P, size) for name in (*WITH_MODE, *OF_HIDDEN)},
        progress=0.3,
        until={
            "score_norm": integers(7, P, size, C) / 3 * (tokens > 0),
            "divergence": integers(9, P, size, C) - 4,
        },
        prompts=[f"prompt {p}" for p in range(P)],
    )


def baseline(name, group, **options):
    """The advantages of a baseline, after an update in which every mean of effective rank was 2, and in which the
    first two prompts had returns."""
    before = {f"effective_rank/{part}{feature}": 2.0 for feature in OF_HIDDEN for part in ("", "last/")}
    for p, c in itertools.product(range(2), range(C)):
        total, weight = VALUES[p][c]
        before |= {f"value_tracker/prompt {p}/{c}/total": total, f"value_tracker/prompt {p}/{c}/weight": weight}
    return baselines[name].function(replace(group, carried=before), **options)


def close(a, b, atol=1e-9):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


# Loops. Each gives the advantages of the counted members of one prompt's column, or of a whole batch.


@dataclass
class Member:
    """One return, with the values that belong to it."""

    prompt: int
    row: int
    column: int
    r: float
    tokens: int
    log_confidence: float
    metric: float
    score_norm: float
    divergence: float
    mode: float
    success: bool


def members_of(group, metric="tokens"):
    """The counted members of a batch."""
    return [
        Member(
            p,
            i,
            c,
            group.returns[p, i, c].item(),
            int(group.unit_tokens[p, i, c]),
            group.log_confidence[p, i, c].item(),
            group.features[metric][p, i].item(),
            group.until["score_norm"][p, i, c].item(),
            group.until["divergence"][p, i, c].item(),
            group.features["mode"][p, i].item(),
            bool(group.success[p, i]),
        )
        for p, i, c in group.counted.nonzero().tolist()
    ]


def columns_of(members):
    """For each prompt and column, its members."""
    keys = dict.fromkeys((m.prompt, m.column) for m in members)
    return [[m for m in members if (m.prompt, m.column) == key] for key in keys]


def mean(values):
    return statistics.fmean(values)


def std(values):
    return statistics.stdev(values) if len(values) > 1 else 0.0


def mean_ranks(values):
    """Places in ascending order from 0; ties get their mean place."""
    order = sorted(values)
    return [mean([place for place, other in enumerate(order) if other == value]) for value in values]


def rewards(members):
    return [m.r for m in members]


def loop_group_mean(members):
    return [m.r - mean(rewards(members)) for m in members]


def loop_group_std(members, epsilon=1e-4, deviation="sample"):
    scale = statistics.pstdev(rewards(members)) if deviation == "population" else std(rewards(members))
    return [(m.r - mean(rewards(members))) / (scale + epsilon) for m in members]


def loop_leave_one_out(members):
    if len(members) == 1:
        return [0.0]
    return [m.r - mean([other.r for other in members if other is not m]) for m in members]


def loop_opo(members):
    length = sum(m.tokens for m in members)
    if not length:
        return [0.0] * len(members)
    return [m.r - sum(other.tokens * other.r for other in members) / length for m in members]


def loop_best(members):
    highest = max(rewards(members))
    if min(rewards(members)) == highest:
        return [0.0] * len(members)
    return [(m.r == highest) / rewards(members).count(highest) for m in members]


def loop_solved(members):
    return [float(m.success) for m in members]


def loop_ordinal(members):
    if len(members) == 1:
        return [0.0]
    rho = [1 + rank for rank in mean_ranks([-m.r for m in members])]
    return [2 - 4 * (rank - 1) / (len(members) - 1) for rank in rho]


def loop_risk_seeking(members, beta=2.0):
    exps = [math.exp(beta * m.r) for m in members]
    return [(e / mean(exps) - 1) / beta for e in exps]


def loop_unlikeliness(members, beta_rank=0.25):
    with_tokens = [m for m in members if m.tokens]
    ranks = mean_ranks([m.log_confidence for m in with_tokens])
    shaped = rewards(members)
    for m, rank in zip(with_tokens, ranks, strict=True):
        shaped[members.index(m)] *= 1 - beta_rank * rank / len(with_tokens)
    return [(r - mean(shaped)) / (std(shaped) + 1e-6) for r in shaped]


def shares_of_high_half(values):
    """Every member takes one place of unit length. The high half begins at n / 2, and ties share their places."""
    order, half = sorted(values), len(values) / 2
    above = [min(1.0, max(0.0, place + 1 - half)) for place in range(len(order))]
    return [mean([above[place] for place, other in enumerate(order) if other == value]) for value in values]


def loop_conditional_split(members, mu=1.0, alpha=1.0, weighted="high", **_):
    high = shares_of_high_half([m.metric for m in members])
    half = len(members) / 2
    mean_high = sum(h * m.r for h, m in zip(high, members, strict=True)) / half
    mean_low = sum((1 - h) * m.r for h, m in zip(high, members, strict=True)) / half
    advantages = []
    for h, m in zip(high, members, strict=True):
        if weighted == "high":
            inter_if_high, inter_if_low = alpha * m.r - mean_low, m.r - alpha * mean_high
        else:
            inter_if_high, inter_if_low = m.r - alpha * mean_low, alpha * m.r - mean_high
        if_high = mu * inter_if_high + (1 - mu) * (m.r - mean_high)
        if_low = mu * inter_if_low + (1 - mu) * (m.r - mean_low)
        advantages.append(h * if_high + (1 - h) * if_low)
    return advantages


def loop_max_rl(members):
    average = mean(rewards(members))
    return [(m.r - average) / average if average else 0.0 for m in members]


def loop_pass_at_k(members, by_std=True):
    if len(members) == 1:
        return [0.0]
    best, second = sorted(rewards(members), reverse=True)[:2]
    scale = std(rewards(members)) + 1e-6 if by_std else 1.0
    return [(best - second) / scale if m.r == best else 0.0 for m in members]


def loop_c2gspg(members):
    confidences = [math.exp(m.log_confidence) if m.tokens else 0.0 for m in members]
    average = mean(rewards(members))
    return [(m.r - average) / (1 - c + 1e-6) for m, c in zip(members, confidences, strict=True)]


def loop_windowed(members, anchor=2.0, width=2.0, temperature=1.0):
    advantages = loop_group_std(members)
    bad = [i for i, (m, a) in enumerate(zip(members, advantages, strict=True)) if m.tokens and a < 0]
    places = mean_ranks([-members[i].log_confidence for i in bad])
    x = [-abs(place + 1 - anchor) / temperature for place in places]
    for i, weight in zip(bad, soft_window(x, width), strict=True):
        advantages[i] *= weight
    return advantages


def loop_gpg(members, valid="varied"):
    columns = columns_of(members)
    if valid == "varied":
        good = sum(len(c) for c in columns if len(set(rewards(c))) > 1)
    else:
        good = sum(m.r != 0 for m in members)
    advantages = {id(m): a for c in columns for m, a in zip(c, loop_group_mean(c), strict=True)}
    return [len(members) / max(good, 1) * advantages[id(m)] for m in members]


def loop_by_mode(members, gamma=1.0, omega=0.01):
    first = members[0].column == 0
    modes = {True: [m for m in members if m.mode > 0], False: [m for m in members if not m.mode > 0]}
    if len(set(rewards(members))) == 1:
        return [0.0] * len(members)
    means = {mode: mean(rewards(of_mode)) for mode, of_mode in modes.items() if of_mode}
    if first and len(means) == 2:
        margin = omega * abs(means[True])
        if means[False] <= means[True] + 1e-12 and means[True] <= means[False] + margin + 1e-12:
            means[False] += margin
    found = []
    for m in members:
        own = modes[m.mode > 0]
        if first:
            part = means[m.mode > 0] - mean(rewards(members)) + gamma * (m.r - mean(rewards(members)))
            found.append(part / (std(rewards(members)) + 1e-4))
        else:
            found.append((m.r - means[m.mode > 0]) / (std(rewards(own)) + 1e-4))
    return found


def loop_optimal_token(members):
    there = [m for m in members if m.tokens]
    total = sum(m.score_norm for m in there)
    if not total:
        return [0.0] * len(members)
    return [m.r - sum(other.score_norm * other.r for other in there) / total for m in members]


def loop_kl_budget(members, budget=10.0, penalty=1.0):
    return loop_group_std([replace(m, r=-penalty if m.divergence > budget else m.r) for m in members])


def loop_value_tracker(members, forget=0.9):
    advantages = {}
    for column in columns_of(members):
        plain = loop_leave_one_out(column)
        for m, first in zip(column, plain, strict=True):
            known = m.prompt < len(VALUES)
            advantages[id(m)] = m.r - VALUES[m.prompt][m.column][0] / VALUES[m.prompt][m.column][1] if known else first
    means = {c: mean([advantages[id(m)] for m in members if m.column == c]) for c in {m.column for m in members}}
    centred = [advantages[id(m)] - means[m.column] for m in members]
    return [a / (math.sqrt(sum(x * x for x in centred) / (len(members) - 1)) + 1e-8) for a in centred]


def loop_batch_std(members):
    scale = std(rewards(members)) + 1e-4
    means = {(c[0].prompt, c[0].column): mean(rewards(c)) for c in columns_of(members)}
    return [(m.r - means[m.prompt, m.column]) / scale for m in members]


def whitened(members, values):
    """Every token of the batch is one observation of its column."""
    tokens = {}
    for m, value in zip(members, values, strict=True):
        tokens.setdefault(m.column, []).extend([value] * m.tokens)
    means = {column: mean(of_column) if of_column else None for column, of_column in tokens.items()}
    squares = [(value - means[column]) ** 2 for column, of_column in tokens.items() for value in of_column]
    scale = math.sqrt(sum(squares) / (len(squares) - 1) + 1e-8)
    return [(v - means[m.column]) / scale for m, v in zip(members, values, strict=True)]


def loop_reinforce_pp(members):
    return whitened(members, rewards(members))


def loop_reinforce_pp_baseline(members):
    means = {(c[0].prompt, c[0].column): mean(rewards(c)) for c in columns_of(members)}
    return whitened(members, [m.r - means[m.prompt, m.column] for m in members])


def loop_rapo_scale(members):
    columns = columns_of(members)
    good = [c for c in columns if len(set(rewards(c))) > 1]
    advantages = {id(m): a for c in columns for m, a in zip(c, loop_group_std(c), strict=True)}
    return [len(columns) / len(good) * advantages[id(m)] for m in members]


def loop_effective_rank(group, kappa=2.0, ema=0.3):
    """(P, G, C), after an update in which every mean was 2."""
    plain = looped("group_std", group, {"epsilon": 1e-6})
    advantages = plain.clone()
    for p, i, c in group.counted.nonzero().tolist():
        far = [max(min((group.features[f][p, i].item() - 2.0) / (2.0 + 1e-8), 5.0), -5.0) for f in OF_HIDDEN]
        gate = 1 / (1 + math.exp(-2 * far[2]))
        phi = gate * math.tanh(far[0]) + (1 - gate) * math.tanh(far[1])
        a = plain[p, i, c].item()
        advantages[p, i, c] = a + min(max(phi, 0.0), abs(a) / kappa)
    return advantages


OF_COLUMNS = {
    "group_std": loop_group_std,
    "group_mean": loop_group_mean,
    "leave_one_out": loop_leave_one_out,
    "opo": loop_opo,
    "ordinal": loop_ordinal,
    "solved": loop_solved,
    "best": loop_best,
    "risk_seeking": loop_risk_seeking,
    "unlikeliness": loop_unlikeliness,
    "conditional_split": loop_conditional_split,
    "max_rl": loop_max_rl,
    "pass_at_k": loop_pass_at_k,
    "c2gspg": loop_c2gspg,
    "windowed": loop_windowed,
    "optimal_token": loop_optimal_token,
    "kl_budget": loop_kl_budget,
    "by_mode": loop_by_mode,
}
OF_BATCHES = {
    "batch_std": loop_batch_std,
    "reinforce_pp": loop_reinforce_pp,
    "reinforce_pp_baseline": loop_reinforce_pp_baseline,
    "rapo_scale": loop_rapo_scale,
    "gpg": loop_gpg,
    "value_tracker": loop_value_tracker,
}
OPTIONS = {
    "group_std": [{}, {"epsilon": 0.01}, {"epsilon": 0.01, "deviation": "population"}],
    "risk_seeking": [{}, {"beta": 0.1}, {"beta": 20.0}],
    "unlikeliness": [{}, {"beta_rank": 0.0}, {"beta_rank": 1.0}],
    "pass_at_k": [{}, {"by_std": False}],
    "gpg": [{}, {"valid": "nonzero"}],
    "by_mode": [{}, {"gamma": 0.3, "omega": 0.0}, {"gamma": 0.0, "omega": 0.5}],
    "kl_budget": [{}, {"budget": 1.5, "penalty": 0.5}, {"budget": 0.5, "penalty": 0.0}],
    "value_tracker": [{}, {"forget": 0.0}],
    "windowed": [
        {},
        {"anchor": 1.0, "width": 1.0},
        {"anchor": 3.0, "width": 3.5, "temperature": 0.2},
        {"width": 2.0, "temperature": 0.003},
        {"width": 100.0},
    ],
    "effective_rank": [{}, {"kappa": 1.0, "ema": 0.9}],
    "conditional_split": [
        {},
        *({"metric": metric, "mu": 0.8} for metric in METRICS),
        {"mu": 0.0},
        {"mu": 0.3, "alpha": 0.9, "metric": "tokens"},
        {"mu": 0.3, "alpha": 0.9, "weighted": "low"},
    ],
}
CASES = [(name, options) for name in baselines for options in OPTIONS.get(name, [{}])]


def test_every_baseline_has_a_loop():
    assert {*OF_COLUMNS, *OF_BATCHES, "effective_rank"} == set(baselines)
    assert not OF_COLUMNS.keys() & OF_BATCHES.keys()
    assert {name for name in baselines if baselines[name].options} == set(OPTIONS)


def looped(name, group, options):
    """The advantages by the loop, 0 where not counted."""
    if name == "effective_rank":
        return loop_effective_rank(group, **options)
    members = members_of(group, options.get("metric", "entropy"))
    advantages = torch.zeros_like(group.returns)
    batches = [members] if name in OF_BATCHES else columns_of(members)
    loop = {**OF_BATCHES, **OF_COLUMNS}[name]
    for batch in batches:
        for m, advantage in zip(batch, loop(batch, **options), strict=True):
            advantages[m.prompt, m.row, m.column] = advantage
    return advantages


@pytest.mark.parametrize("counted", ["all", "some"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_baselines_against_the_loop(name, options, counted):
    for size, seed in [(6, 0), (5, 1), (8, 2)]:
        group = random_group(size, seed, counted)
        close(baseline(name, group, **options), looped(name, group, options))


# Properties, asserted both where they hold and where they fail.


@dataclass(frozen=True)
class Promise:
    """Properties of a baseline.

    Attributes:
        shifted: effect of adding a constant to all returns: none ("same"), or another.
        scaled: effect of multiplying returns by a constant: none ("same"), as large ("as much"), or another.
        sums_to_zero: whether advantages of each prompt's column sum to 0.
        quiet: whether they are 0 if the returns of a prompt's column are equal.
        apart: whether advantages depend on nothing outside their prompt's column.
    """

    shifted: str = "same"
    scaled: str = "same"
    sums_to_zero: bool = True
    quiet: bool = True
    apart: bool = True


PROMISES = {
    ("group_std",): Promise(),
    ("group_mean",): Promise(scaled="as much"),
    ("leave_one_out",): Promise(scaled="as much"),
    ("batch_std",): Promise(apart=False),
    ("reinforce_pp",): Promise(sums_to_zero=False, quiet=False, apart=False),
    ("reinforce_pp_baseline",): Promise(sums_to_zero=False, quiet=False, apart=False),
    ("opo",): Promise(scaled="as much", sums_to_zero=False),
    ("ordinal",): Promise(),
    ("solved",): Promise(sums_to_zero=False, quiet=False),
    ("best",): Promise(sums_to_zero=False),
    ("risk_seeking",): Promise(scaled="other"),
    ("unlikeliness",): Promise(shifted="other", quiet=False),
    ("conditional_split",): Promise(scaled="as much"),
    ("conditional_split", ("alpha", 0.9)): Promise(shifted="other", scaled="as much", quiet=False),
    ("max_rl",): Promise(shifted="other"),
    ("pass_at_k",): Promise(sums_to_zero=False),
    ("pass_at_k", ("by_std", False)): Promise(scaled="as much", sums_to_zero=False),
    ("rapo_scale",): Promise(apart=False),
    ("c2gspg",): Promise(scaled="as much", sums_to_zero=False),
    ("gpg",): Promise(scaled="as much", apart=False),
    ("gpg", ("valid", "nonzero")): Promise(shifted="other", scaled="as much", apart=False),
    ("windowed",): Promise(sums_to_zero=False),
    ("by_mode", ("omega", 0.0)): Promise(),
    ("optimal_token",): Promise(scaled="as much", sums_to_zero=False),
    ("kl_budget",): Promise(),
    ("kl_budget", ("budget", 1.5)): Promise(shifted="other", scaled="other", quiet=False),
    ("value_tracker",): Promise(shifted="other", scaled="other", sums_to_zero=False, quiet=False, apart=False),
    ("windowed", ("width", 100.0)): Promise(),
    ("effective_rank",): Promise(sums_to_zero=False),
}
PROMISED = [(key[0], dict(key[1:]), promise) for key, promise in PROMISES.items()]
UNDER_EPSILON = 2e-2
"""Tolerance for a property, because of epsilons; a property that does not hold misses it by more."""


OVER_TOKENS = {"opo": (1,), "reinforce_pp": (0, 1), "reinforce_pp_baseline": (0, 1)}
"""Baselines that average over tokens, with the dimensions of that mean."""


def test_every_baseline_promises():
    assert {name for name, _, _ in PROMISED} == set(baselines)


@pytest.mark.parametrize(("name", "options", "promise"), PROMISED)
def test_shift_and_scale(name, options, promise):
    group = random_group(6)
    advantages = baseline(name, group, **options)

    def distance(returns, expected):
        return (baseline(name, replace(group, returns=returns), **options) - expected).abs().max().item()

    shifted = distance(group.returns + 0.7, advantages)
    assert (shifted < UNDER_EPSILON) == (promise.shifted == "same")
    scaled = {"same": distance(group.returns * 3, advantages), "as much": distance(group.returns * 3, advantages * 3)}
    for claim, found in scaled.items():
        assert (found < UNDER_EPSILON) == (promise.scaled == claim)


@pytest.mark.parametrize(("name", "options", "promise"), PROMISED)
def test_sums(name, options, promise):
    group = random_group(6)
    advantages = baseline(name, group, **options)
    assert (advantages.sum(1).abs().max() < 1e-9) == promise.sums_to_zero
    if name in OVER_TOKENS:
        assert (advantages * group.unit_tokens).sum(OVER_TOKENS[name]).abs().max() < 1e-9


MORE_THAN_RETURNS = ("kl_budget", "value_tracker", "solved")
"""Baselines that replace returns, or compare them with earlier ones: returns of 0 may have advantages."""


@pytest.mark.parametrize(("name", "options", "promise"), PROMISED)
def test_equal_returns(name, options, promise):
    group = random_group(6)
    group.returns[2] = 0.4
    advantages = baseline(name, group, **options)
    assert (advantages[2].abs().max() < 1e-9) == promise.quiet
    nothing = baseline(name, replace(group, returns=torch.zeros_like(group.returns)), **options)
    assert nothing.any() == (name in MORE_THAN_RETURNS and not promise.quiet)
    if name == "unlikeliness":  # equal hits differ by how unlikely they were
        hits = group.counted[2] & (group.unit_tokens[2] > 0)
        for column in range(C):
            kept = hits[:, column]
            likely_first = group.log_confidence[2, kept, column].argsort(descending=True)
            assert (advantages[2, kept, column][likely_first].diff() >= 0).all()


@pytest.mark.parametrize(("name", "options", "promise"), PROMISED)
def test_columns_and_prompts_stay_apart(name, options, promise):
    group = random_group(6)
    advantages = baseline(name, group, **options)
    column, prompt = group.returns.clone(), group.returns.clone()
    column[..., 0] = 0
    prompt[3] = 0
    others = baseline(name, replace(group, returns=column), **options)[..., 1:]
    assert torch.equal(others, advantages[..., 1:]) == promise.apart
    others = baseline(name, replace(group, returns=prompt), **options)[:3]
    assert torch.equal(others, advantages[:3]) == promise.apart


@pytest.mark.parametrize(("name", "options", "_"), PROMISED)
def test_members_of_a_group_have_no_order(name, options, _):
    for size in (5, 6):
        group, order = random_group(size), torch.randperm(size, generator=torch.Generator().manual_seed(4))
        permuted = replace(
            group,
            **{key: getattr(group, key)[:, order] for key in ("returns", "counted", "unit_tokens", "log_confidence")},
            success=group.success[:, order],
            until={key: values[:, order] for key, values in group.until.items()},
            features={key: values[:, order] for key, values in group.features.items()},
        )
        close(baseline(name, permuted, **options), baseline(name, group, **options)[:, order])


@pytest.mark.parametrize(("name", "options", "_"), PROMISED)
def test_what_is_not_counted_gets_nothing_and_does_nothing(name, options, _):
    group = random_group(6)
    advantages = baseline(name, group, **options)
    assert not advantages[~group.counted].any()
    for anything in (99.0, -99.0, math.inf, math.nan):
        until = {name: sums.masked_fill(~group.counted, anything) for name, sums in group.until.items()}
        assert torch.equal(baseline(name, replace(group, until=until), **options), advantages)
    for key in ("returns", "unit_tokens", "log_confidence"):
        for anything in (99.0, -99.0, math.inf, math.nan):
            changed = replace(group, **{key: getattr(group, key).masked_fill(~group.counted, anything)})
            assert torch.equal(baseline(name, changed, **options), advantages)


@pytest.mark.parametrize("name", baselines)
def test_columns_of_which_nothing_is_counted_or_written_stay_finite(name):
    group = random_group(6)
    no_first = replace(group, unit_tokens=group.unit_tokens * torch.tensor([0, 1, 1]))
    nothing_written = replace(group, unit_tokens=torch.zeros_like(group.unit_tokens))
    assert not baseline(name, replace(group, counted=torch.zeros_like(group.counted))).any()
    for changed in (no_first, nothing_written):
        advantages = baseline(name, changed)
        assert advantages.abs().max() < 10
        if name in OVER_TOKENS:
            assert not advantages[..., 0].any()


@pytest.mark.parametrize(("name", "options", "_"), PROMISED)
def test_single_precision_stays(name, options, _):
    group = random_group(6)
    single = replace(
        group,
        **{key: getattr(group, key).float() for key in ("returns", "log_confidence")},
        unit_tokens=group.unit_tokens.long(),
        features={key: values.float() for key, values in group.features.items()},
        until={key: values.float() for key, values in group.until.items()},
    )
    advantages = baseline(name, single, **options)
    assert advantages.dtype == torch.float32
    close(advantages.double(), baseline(name, group, **options), atol=1e-3)


# Identities, limits, and the behaviour of the published code.


def test_where_all_is_counted_group_std_and_group_mean_are_the_lines_of_trl():
    returns = torch.rand(50, 7, 20, generator=torch.Generator().manual_seed(5))
    group = replace(random_group(7), returns=returns, counted=torch.ones_like(returns, dtype=torch.bool))
    centred = returns - returns.mean(dim=1, keepdim=True)
    close(baseline("group_mean", group), centred, atol=1e-6)
    close(baseline("group_std", group), centred / (returns.std(dim=1, keepdim=True) + STD_EPSILON), atol=1e-5)


@pytest.mark.parametrize("size", [2, 3, 6, 7, 8, 12, 64])
def test_equal_rewards_are_exactly_no_signal_in_float32(size):
    """The mean of equal numbers may differ from them by rounding, and the rest would be divided by 1e-4."""
    returns = torch.rand(50, 1, 20, generator=torch.Generator().manual_seed(5)).expand(50, size, 20).clone()
    everywhere = torch.ones_like(returns, dtype=torch.bool)
    group = replace(random_group(size), returns=returns, counted=everywhere)
    for name in ("group_mean", "group_std"):
        assert not baseline(name, group).any()


def one_column(counted):
    """A group under sequence credit, and its rewards in TRL's form: (P G,), nan without a score."""
    group = random_group(6, counted=counted)
    keys = ("returns", "counted", "unit_tokens", "log_confidence")
    group = replace(group, **{key: getattr(group, key)[..., :1] for key in keys})
    return group, group.returns.masked_fill(~group.counted, math.nan).flatten()


@pytest.mark.parametrize("counted", ["all", "some"])
def test_batch_std_is_the_lines_of_trl(counted):
    """GRPOTrainer at scale_rewards="batch"."""
    group, scores = one_column(counted)
    grouped = scores.view(-1, 6).nanmean(dim=1).repeat_interleave(6)
    n = (~scores.isnan()).sum()
    deviation = (((scores - scores.nanmean()) ** 2).nanmean() * n / (n - 1)).sqrt()
    expected = ((scores - grouped) / (deviation + 1e-4)).nan_to_num(nan=0.0)
    close(baseline("batch_std", group).flatten(), expected)


@pytest.mark.parametrize("counted", ["all", "some"])
def test_leave_one_out_is_the_lines_of_trl(counted):
    """RLOOTrainer without normalize_advantages."""
    group, scores = one_column(counted)
    grouped = scores.view(-1, 6)
    n = (~grouped.isnan()).sum(dim=1, keepdim=True)
    others = (grouped.nansum(dim=1, keepdim=True) - grouped) / (n - 1)
    close(baseline("leave_one_out", group).flatten(), (grouped - others).nan_to_num(nan=0.0).flatten())


@pytest.mark.parametrize("size", [5, 6])
def test_a_split_of_equal_weight_is_the_group_mean(size):
    group = random_group(size)
    for metric in METRICS:
        close(baseline("conditional_split", group, metric=metric, mu=0.5), baseline("group_mean", group))


def test_a_metric_without_difference_says_nothing():
    group = random_group(6)
    tied = replace(group, features={"entries": torch.full((P, 6), 20.0)})
    close(baseline("conditional_split", tied, metric="entries", mu=1.0), baseline("group_mean", group))


def test_different_values_of_a_metric_split_an_even_group_as_the_published_code_does():
    generator = torch.Generator().manual_seed(6)
    group, values = random_group(6, counted="all"), torch.rand(P, 6, generator=generator).double()
    advantages = baseline("conditional_split", replace(group, features={"tokens": values}), metric="tokens", alpha=0.9)
    for p in range(P):
        order = values[p].argsort()
        short, long = order[: 6 // 2], order[6 // 2 :]
        r = group.returns[p]
        close(advantages[p, long], 0.9 * r[long] - r[short].mean(0))
        close(advantages[p, short], r[short] - 0.9 * r[long].mean(0))


@pytest.mark.parametrize(
    ("schedule", "progress", "mu"),
    [
        ("first_inter_later_intra", 0.5, 0.75),
        ("first_intra_later_inter", 0.5, 0.25),
        ("cosine_first_inter_later_intra", 0.0, 0.0),
        ("cosine_first_inter_later_intra", 0.1, 0.5),
        ("cosine_first_inter_later_intra", 0.2, 1.0),
        ("cosine_first_inter_later_intra", 0.2 + 0.8 / 6, 0.7),
        ("cosine_first_intra_later_inter", 0.0, 1.0),
        ("cosine_first_intra_later_inter", 0.1, 0.7),
        ("cosine_first_intra_later_inter", 0.2, 0.4),
        ("cosine_first_intra_later_inter", 0.2 + 0.8 / 6, 0.7),
    ],
)
def test_schedules_of_the_split(schedule, progress, mu):
    group = replace(random_group(6), success=torch.arange(P * 6).view(P, 6) % 4 == 0, progress=progress)
    scheduled = baseline("conditional_split", group, schedule=schedule, mu=0.123)
    close(scheduled, baseline("conditional_split", group, mu=mu))


def test_the_cosine_is_the_published_one():
    """150 steps, 30 of warm-up and three cycles; the published warm-up is one step ahead, (step + 1) / 30."""
    group = random_group(6)
    for step in range(150):
        own = 0.6 * step / 30 if step < 30 else 0.3 * (1 + math.cos(math.pi * ((step - 30) % 40) / 40))
        scheduled = replace(group, progress=step / 150)
        advantages = baseline("conditional_split", scheduled, schedule="cosine_first_intra_later_inter")
        close(advantages, baseline("conditional_split", group, mu=1 - own))


def test_limits_of_risk_seeking():
    group = random_group(6)
    close(baseline("risk_seeking", group, beta=1e-7), baseline("group_mean", group), atol=1e-6)
    for beta in (0.1, 50.0, 1e4):
        assert baseline("risk_seeking", group, beta=beta).sum(1).abs().max() < 1e-9
    n = group.counted.sum(1, keepdim=True).double()
    best = group.returns == group.returns.masked_fill(~group.counted, -1).amax(1, keepdim=True)
    shares = n / (best & group.counted).sum(1, keepdim=True).clamp(min=1)
    of_the_best = torch.where(best, shares - 1, -1.0) * group.counted
    close(baseline("risk_seeking", group, beta=1e4) * 1e4, of_the_best)


def test_risk_seeking_keeps_its_digits_in_single_precision():
    group = random_group(6)
    single = replace(group, returns=group.returns.float() + 20)
    close(baseline("risk_seeking", single, beta=1e-4).double(), baseline("group_mean", group), atol=5e-5)
    assert baseline("risk_seeking", single, beta=100.0).isfinite().all()


def test_confidence_towards_zero_leaves_the_group_mean():
    group = random_group(6)
    unlikely = replace(group, log_confidence=torch.full_like(group.log_confidence, -50.0))
    close(baseline("c2gspg", unlikely), baseline("group_mean", group), atol=1e-5)


def test_a_factor_of_the_prompt_is_invisible_under_the_groups_own_deviation():
    """RLEV's value of a prompt (arXiv 2510.20187) cancels under group_std, but not under batch_std."""
    group = random_group(6)
    valued = replace(group, returns=group.returns * torch.tensor([1.0, 1.3, 1.7, 2.0]).double().view(P, 1, 1))

    def difference(name):
        return (baseline(name, valued) - baseline(name, group)).abs().max()

    assert difference("group_std") < 1e-3
    assert difference("group_mean") > 0.1 and difference("batch_std") > 0.1


def test_ordinal_spaces_different_returns_evenly_and_shares_ties():
    counted = torch.ones(1, 5, 1, dtype=torch.bool)
    group = replace(random_group(5), returns=torch.tensor([0.3, 9.0, 0.1, 0.0, 0.2]).view(1, 5, 1), counted=counted)
    assert baseline("ordinal", group).flatten().tolist() == [1, 2, -1, -2, 0]
    one_hit = replace(group, returns=torch.tensor([0.0, 0, 1, 0, 0]).view(1, 5, 1))
    assert baseline("ordinal", one_hit).flatten().tolist() == [-0.5, -0.5, 2, -0.5, -0.5]


def test_rapo_scale_is_group_std_where_every_group_differs():
    group = random_group(6, counted="all")
    group.returns[:, 0] = 2.0
    torch.testing.assert_close(baseline("rapo_scale", group), baseline("group_std", group))
    group.returns[:2] = 1.0
    torch.testing.assert_close(baseline("rapo_scale", group), 2 * baseline("group_std", group))


def test_gpg_is_the_group_mean_where_every_group_differs():
    group = random_group(6, counted="all")
    group.returns[0, :, 1] = torch.arange(6)
    close(baseline("gpg", group), baseline("group_mean", group))
    nonzero = replace(group, returns=group.returns + 1)
    close(baseline("gpg", nonzero, valid="nonzero"), baseline("group_mean", nonzero))


@pytest.mark.parametrize(("width", "anchor"), [(1.0, 3.0), (2.0, 2.4), (3.0, 4.0)])
def test_a_hard_window_keeps_its_members_alone(width, anchor):
    """As the temperature goes to 0, the members nearest to the anchor share the weight of all."""
    group = random_group(8, counted="all")
    group.returns[:] = 0.0
    group.returns[:, 0] = 1.0
    group.unit_tokens[:] = 1
    group.log_confidence[:] = -torch.arange(8.0)[None, :, None] / 8  # bad lists from the likeliest on
    found = baseline("windowed", group, anchor=anchor, width=width, temperature=1e-4)[0, 1:, 0]
    plain = baseline("group_std", group)[0, 1, 0]
    near = sorted(sorted(range(7), key=lambda i: abs(i + 1 - anchor))[: int(width)])
    assert (found < -1e-9).nonzero().squeeze(1).tolist() == near
    close(found[near], (plain * 7 / width).expand(len(near)))


def test_tokens_of_one_score_make_of_the_optimal_baseline_opo_and_of_equal_lists_the_group_mean():
    group = random_group(6, counted="all")
    by_length = replace(group, until={**group.until, "score_norm": group.unit_tokens * 0.3})
    close(baseline("optimal_token", by_length), baseline("opo", group))
    alike = replace(
        group,
        unit_tokens=torch.ones_like(group.unit_tokens),
        until={**group.until, "score_norm": torch.full_like(group.returns, 1.7)},
    )
    close(baseline("optimal_token", alike), baseline("group_mean", group))


def test_the_optimal_baseline_has_the_least_variance():
    """Of all baselines of a column, R - B has the least weighted square sum with these weights."""
    group = random_group(6, counted="all")
    weights = group.until["score_norm"] * (group.unit_tokens > 0)

    def spread(advantages):
        return (weights * advantages.square()).sum(1)

    best = spread(baseline("optimal_token", group))
    for shift in (-0.1, 0.1):
        moved = spread(baseline("optimal_token", group) + shift)
        assert (moved >= best).all() and (moved > best).any()


def test_a_budget_that_nobody_spends_is_group_std():
    group = random_group(6)
    close(baseline("kl_budget", group, budget=100.0), baseline("group_std", group))


def test_a_tracker_of_one_value_is_a_z_score_of_the_batch():
    group = random_group(6, counted="all")
    first = replace(group, **{key: getattr(group, key)[..., :1] for key in ("returns", "counted", "unit_tokens")})
    carried = {
        f"value_tracker/prompt {p}/0/{name}": x for p in range(P) for name, x in (("total", 1.4), ("weight", 2.0))
    }
    found = baselines["value_tracker"].function(replace(first, carried=carried))
    close(found, (first.returns - first.returns.mean()) / (first.returns.std() + 1e-8))


def test_a_tracker_forgets_and_learns():
    """Two rollouts of one prompt, by hand: V = (.5 * 2 + 1) / (.5 * 3 + 3) after returns 1, 1, 0 and then 0, 1, 0."""
    group = random_group(3, counted="all")
    carried = {}
    for returns in ([1.0, 1.0, 0.0], [0.0, 1.0, 0.0]):
        given = replace(
            group,
            returns=torch.tensor(returns, dtype=torch.float64)[None, :, None],
            counted=torch.ones(1, 3, 1, dtype=torch.bool),
            prompts=["one"],
            carried=carried,
        )
        baselines["value_tracker"].function(given, forget=0.5)
    assert carried == {"value_tracker/one/0/total": 2.0, "value_tracker/one/0/weight": 4.5}


def test_lists_of_one_mode_have_the_advantages_of_group_std():
    group = random_group(6)
    for tokens in (0.0, 3.0):
        features = {**group.features, "mode": torch.full_like(group.features["mode"], tokens)}
        close(baseline("by_mode", replace(group, features=features), omega=0.5), baseline("group_std", group))


def test_a_draw_of_modes_favours_lists_without_thoughts():
    group = random_group(4, counted="all")
    group.returns[0, :, 0] = torch.tensor([1.0, 0.0, 0.995, 0.0], dtype=torch.float64)
    group.features["mode"][0] = torch.tensor([5.0, 5.0, 0.0, 0.0])
    plain, raised = (baseline("by_mode", group, gamma=0.0, omega=omega)[0, :, 0] for omega in (0.0, 0.01))
    assert plain[0] > plain[2] and raised[0] < raised[2]
    assert baseline("by_mode", group, gamma=0.0, omega=0.001)[0, 2, 0] == plain[2]  # no draw


def test_lists_of_one_length_make_of_opo_the_group_mean():
    group = random_group(6)
    close(baseline("opo", replace(group, unit_tokens=torch.full((P, 6, C), 7))), baseline("group_mean", group))


def test_reinforce_pp_at_one_column_is_a_z_score_of_tokens():
    group, scores = one_column("all")
    tokens = scores.repeat_interleave(group.unit_tokens.flatten().long())
    close(baseline("reinforce_pp", group).flatten(), (scores - tokens.mean()) / (tokens.var() + 1e-8).sqrt())


def test_max_rl_refuses_negative_returns():
    group = random_group(6)
    with pytest.raises(ValueError, match="non-negative returns, got -0.5"):
        baseline("max_rl", replace(group, returns=group.returns - 0.5))


def test_several_best_are_no_better_than_each_other():
    group = random_group(6, counted="all")
    group.returns[0, :, 0] = torch.tensor([0.0, 3, 1, 3, 0, 0])
    group.returns[1, :, 0] = torch.tensor([0.0, 3, 1, 2, 0, 0])
    advantages = baseline("pass_at_k", group, by_std=False)
    assert not advantages[0, :, 0].any() and advantages[1, :, 0].tolist() == [0, 1, 0, 0, 0, 0]


def test_what_needs_the_rollouts_log_probabilities_says_so():
    needing = {name: baselines[name].needs for name in baselines if baselines[name].needs}
    of_logps = dict.fromkeys(("unlikeliness", "conditional_split", "c2gspg", "windowed"), ("old_logps",))
    others = {
        "effective_rank": ("hidden_states",),
        "optimal_token": ("old_logps", "old_square_sum"),
        "kl_budget": ("divergence",),
        "value_tracker": ("prompts",),
    }
    assert needing == of_logps | others


def test_running_means_of_effective_rank_start_at_0_and_lag_one_update():
    """There is no bonus at first; then the comparison is with 0, then with the update before last (released code)."""
    group = random_group(6, counted="all")
    memory, given = {}, []
    for shift in (1.0, 5.0, -3.0):
        features = {**group.features, **{name: group.features[name] + shift for name in OF_HIDDEN}}
        of_update = replace(group, features=features, carried=memory)
        given.append((of_update, baselines["effective_rank"].function(of_update, ema=0.25)))
    plain = looped("group_std", group, {"epsilon": 1e-6})
    means = [of_update.features["rank_velocity"].mean().item() for of_update, _ in given]
    close(given[0][1], plain)
    assert memory["effective_rank/rank_velocity"] == pytest.approx(0.25 * means[1] + 0.75 * (0.25 * means[0]))
    assert memory["effective_rank/last/rank_velocity"] == pytest.approx(means[2])
    for number, usual in ((1, lambda name: 0.0), (2, lambda name: 0.25 * given[0][0].features[name].mean().item())):
        of_update, found = given[number]
        far = {
            name: ((of_update.features[name] - usual(name)) / (abs(usual(name)) + 1e-8)).clamp(-5, 5)
            for name in OF_HIDDEN
        }
        gate = torch.sigmoid(2 * far["rank_acceleration"])
        phi = gate * far["effective_rank"].tanh() + (1 - gate) * far["rank_velocity"].tanh()
        close(found, plain + torch.minimum(phi.clamp(min=0)[..., None], plain.abs() / 2))
    assert (given[2][1] - plain).abs().max() > 1e-3
