"""Reward terms, success rules and combiners against slow loops, and the identities stated in their papers."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rlbench.lists.item_facts import ItemFacts, percentiles
from rlbench.lists.relevance import ABSENT, VERDICTS, JudgedLists, Verdict
from rlbench.objective.inputs import Group
from rlbench.objective.pieces import baselines
from rlbench.rewards.combine import COMBINERS, FACTORS, mean_of_power, moderate_difficulty, solve_rate
from rlbench.rewards.returns import tail_returns
from rlbench.rewards.scorer import score
from rlbench.rewards.success import SUCCESS, check_success, success
from rlbench.rewards.terms import SCALES, TERMS, check_terms, list_term, of_lists_alone, term_options
from tests.conftest import composed

N = 6
COUNTS = [5, 0, 2, 2, 9, 0, 1]
YEARS = [1999, 1950, 2010, 2010, 2024, 1980, 201]
FACTS = ItemFacts(np.array(COUNTS), np.array(YEARS))
ROOT = Path(__file__).parents[2]
REWARDS = sorted((ROOT / "conf/reward").glob("*.yaml"))

# One list per row: verdict and film of each rank ("-": none), n_truth, entries, lines, tokens.
LISTS = [
    ("hit:0 miss:1 out_of_catalog:- seen:2 duplicate:0 hit:3", 4, 6, 6, 60),
    ("miss:4 hit:6", 1, 2, 5, 90),
    ("", 2, 0, 0, 1),
    ("hit:1 hit:2 hit:3 hit:4 hit:5 hit:6", 9, 11, 11, 100),
    ("out_of_catalog:- out_of_catalog:- miss:1 duplicate:1 duplicate:1 duplicate:1", 3, 7, 8, 101),
    ("duplicate:0 seen:0 miss:5 hit:5 miss:6", 1, 5, 6, 81),
]


def judged(rows=LISTS, n=N):
    """Return JudgedLists for rows in the form of LISTS."""
    ranks = [[rank.split(":") for rank in row[0].split()] for row in rows]
    verdicts = np.full((len(rows), n), ABSENT, dtype=np.int8)
    films = np.full((len(rows), n), -1)
    for i, of_row in enumerate(ranks):
        for k, (verdict, film) in enumerate(of_row):
            verdicts[i, k] = VERDICTS.index(Verdict(verdict))
            films[i, k] = -1 if film == "-" else int(film)
    n_truth, n_entries, n_lines, n_tokens = (np.array([row[j] for row in rows], dtype=np.int64) for j in (1, 2, 3, 4))
    return JudgedLists(
        verdicts=verdicts,
        items=films,
        truths=np.full_like(films, -1),
        lax=films >= 0,
        n_truth=n_truth,
        n_entries=n_entries,
        n_lines=n_lines,
        n_shifted=np.zeros_like(n_entries),
        n_tokens=n_tokens,
        finished=np.ones(len(rows), dtype=np.bool_),
    )


def slow_ranks(worth):
    """Return (B, N) from worth(verdict, film or None, rank from 1, n_truth), with 0 for absent ranks."""
    table = [[0.0] * N for _ in LISTS]
    for i, (text, n_truth, *_) in enumerate(LISTS):
        for k, rank in enumerate(text.split()):
            verdict, film = rank.split(":")
            table[i][k] = float(worth(verdict, None if film == "-" else int(film), k + 1, n_truth))
    return np.array(table)


NAMED = [film for film, count in enumerate(COUNTS) if count]


def among_named(values, film):
    """Percentile of any film relative to the films that a training truth names."""
    smaller = sum(values[other] < values[film] for other in NAMED)
    equal = sum(values[other] == values[film] for other in NAMED)
    return (smaller + equal / 2) / len(NAMED)


def rare(film):
    return 1 - among_named(COUNTS, film)


def recency(film):
    return among_named(YEARS, film)


def ideal(n_truth):
    return sum(1 / math.log2(k + 1) for k in range(1, min(n_truth, N) + 1))


COSTS = {"hit": 2.0, "miss": -0.1, "out_of_catalog": -3.0, "seen": -1.0, "duplicate": -1.0}
RANK_TERMS = {
    "relevance": ({}, lambda v, f, k, t: v == "hit"),
    "dcg": ({}, lambda v, f, k, t: (v == "hit") / math.log2(k + 1)),
    "ndcg_share": ({}, lambda v, f, k, t: (v == "hit") / math.log2(k + 1) / ideal(t)),
    "recall_share": ({}, lambda v, f, k, t: (v == "hit") / t),
    "in_catalog": ({}, lambda v, f, k, t: v != "out_of_catalog"),
    "out_of_catalog": ({}, lambda v, f, k, t: v == "out_of_catalog"),
    "duplicate": ({}, lambda v, f, k, t: v == "duplicate"),
    "seen": ({}, lambda v, f, k, t: v == "seen"),
    "verdict_cost": ({"hit": 2.0, "miss": -0.1, "out_of_catalog": -3.0}, lambda v, f, k, t: COSTS[v]),
    "popularity": ({}, lambda v, f, k, t: 0 if f is None else among_named(COUNTS, f)),
    "novelty": ({}, lambda v, f, k, t: rare(f) if v in ("hit", "miss") else 0),
    "novelty of hits": ({"among": "hits"}, lambda v, f, k, t: rare(f) if v == "hit" else 0),
    "value": ({}, lambda v, f, k, t: 1 + rare(f) if v == "hit" else 0),
    "value, bounded": ({"alpha": 3.0}, lambda v, f, k, t: 1 + min(3 * rare(f), 1) if v == "hit" else 0),
    "value of recency": (
        {"of": "recency", "alpha": 0.5},
        lambda v, f, k, t: 1 + 0.5 * recency(f) if v == "hit" else 0,
    ),
}


@pytest.mark.parametrize("case", RANK_TERMS)
def test_rank_terms_against_a_loop(case):
    options, worth = RANK_TERMS[case]
    term = TERMS[case.split(",")[0].split(" ")[0]]
    values = term.function(judged(), FACTS, **options)
    assert term.scope == "rank"
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, slow_ranks(worth), rtol=1e-14)


def hits_of(text):
    return [k for k, rank in enumerate(text.split(), 1) if rank.startswith("hit")]


def gain_of(text):
    return sum(1 / math.log2(k + 1) for k in hits_of(text))


def overlong(tokens):
    if tokens <= 80:
        return 0.0
    return (80 - tokens) / 20 if tokens <= 100 else -1.0


def inside(text):
    verdicts = [rank.split(":")[0] for rank in text.split()]
    return sum(v != "out_of_catalog" for v in verdicts) / len(verdicts) if verdicts else 0.0


LIST_TERMS = {
    "recall": ({}, lambda text, truth, entries, lines, tokens: len(hits_of(text)) / truth),
    "ndcg": ({}, lambda text, truth, entries, lines, tokens: gain_of(text) / ideal(truth)),
    "list_dcg": ({}, lambda text, truth, entries, lines, tokens: gain_of(text)),
    "hit_rate": ({}, lambda text, truth, entries, lines, tokens: bool(hits_of(text))),
    "in_catalog_share": ({}, lambda text, truth, entries, lines, tokens: inside(text)),
    "format": ({}, lambda text, truth, entries, lines, tokens: entries / lines if lines else 0),
    "length": ({}, lambda text, truth, entries, lines, tokens: 1 if entries == N else -abs(entries - N) / N),
    "tokens": ({"normaliser": 50.0}, lambda text, truth, entries, lines, tokens: tokens / 50),
    "soft_overlong": (
        {"max_tokens": 100, "cache": 20},
        lambda text, truth, entries, lines, tokens: overlong(tokens),
    ),
    "ndcg_steps": (
        {"full": 0.9, "part": 0.4, "part_value": 0.25},
        lambda text, truth, entries, lines, tokens: steps(gain_of(text) / ideal(truth)),
    ),
    "recommendable_at_least": (
        {"share": 0.5},
        lambda text, truth, entries, lines, tokens: new_entries(text) >= 0.5,
    ),
}


def steps(ndcg):
    if ndcg >= 0.9:
        return 1.0
    return 0.25 if ndcg >= 0.4 else 0.0


def new_entries(text):
    verdicts = [rank.split(":")[0] for rank in text.split()]
    return sum(v in ("hit", "miss") for v in verdicts) / len(verdicts) if verdicts else 0.0


@pytest.mark.parametrize("name", LIST_TERMS)
def test_list_terms_against_a_loop(name):
    options, worth = LIST_TERMS[name]
    values = TERMS[name].function(judged(), FACTS, **options)
    assert TERMS[name].scope == "list"
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, [float(worth(*row)) for row in LISTS], rtol=1e-14)


def test_every_term_is_tested_here():
    """Those that ask the policy are tested in test_asking_terms.py."""
    assert {case.split(",")[0].split(" ")[0] for case in RANK_TERMS} | set(LIST_TERMS) == set(of_lists_alone())


def test_a_name_stands_for_one_term():
    def dcg(lists, facts):
        return lists.hits.sum(axis=1)

    with pytest.raises(ValueError, match="two terms are called 'dcg'"):
        list_term()(dcg)
    assert TERMS["dcg"].scope == "rank"


def options_of(name):
    return {"tokens": {"normaliser": 7.0}, "soft_overlong": {"max_tokens": 9, "cache": 3}}.get(name, {})


rows = st.lists(
    st.tuples(
        st.lists(
            st.sampled_from(["hit:0", "miss:1", "seen:2", "duplicate:0", "out_of_catalog:-", "hit:3"]), max_size=N
        ).map(" ".join),
        st.integers(N, 30),
        st.integers(0, 100),
        st.integers(0, 100),
        st.integers(0, 3000),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=30, deadline=None)
@given(rows)
def test_every_term_is_finite_and_of_its_scope_and_nothing_where_a_list_ends(rows):
    lists = judged(rows)
    for name, term in of_lists_alone().items():
        values = term.function(lists, FACTS, **options_of(name))
        assert np.isfinite(values).all()
        assert term.signed or (values >= 0).all()
        if term.scope == "rank":
            assert values.shape == (len(rows), N)
            assert (values[~lists.present] == 0).all()
        else:
            assert values.shape == (len(rows),)


def test_facts():
    assert FACTS.popularity.sum() == pytest.approx(1)
    assert FACTS.popularity[4] == 9 / 19
    np.testing.assert_allclose(FACTS.popularity_percentile, [among_named(COUNTS, i) for i in range(7)])
    np.testing.assert_allclose(FACTS.recency_percentile, [recency(i) for i in range(7)])
    threes = np.array([3, 3, 3])
    assert percentiles(threes, threes).tolist() == [0.5] * 3  # no film is more popular than another
    assert percentiles(np.array([2, 3, 4]), threes).tolist() == [0, 0.5, 1]
    assert percentiles(threes, np.zeros(0, np.int64)).tolist() == [0, 0, 0]
    empty = ItemFacts(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert empty.popularity_percentile.shape == (0,)
    assert (TERMS["popularity"].function(judged([("out_of_catalog:-", 1, 1, 1, 9)]), empty) == 0).all()
    assert ItemFacts(np.zeros(2, np.int64), np.array([1, 2])).popularity.tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"counts and years must be \(C,\)"):
        ItemFacts(np.array([1, 2]), np.array([1999]))
    with pytest.raises(ValueError, match="item 1: count -2"):
        ItemFacts(np.array([1, -2]), np.array([1999, 1999]))


def gains_of(name, **options):
    return torch.from_numpy(TERMS[name].function(judged(), FACTS, **options))


def test_identities_of_returns():
    relevance, dcg = gains_of("relevance"), gains_of("dcg")
    assert torch.equal(tail_returns(relevance, 0.0), relevance)  # exp_inf is exp_Γ at Γ -> inf
    assert torch.allclose(tail_returns(relevance, 1e-12), relevance, atol=1e-11)
    hits_from_k_on = relevance.flip(1).cumsum(1).flip(1)
    assert torch.equal(tail_returns(relevance, 1.0), hits_from_k_on)  # exp_1
    at_rank_1 = tail_returns(dcg, 1.0)[:, 0]
    np.testing.assert_allclose(at_rank_1.numpy(), TERMS["list_dcg"].function(judged(), FACTS), rtol=1e-14)


def test_log_decay_of_a_perfect_list():
    """The paper's numbers for N = 20: DCG@20 = 7.0403, tails 4.479 (k=5), 2.786 (k=10), .2277 (k=20)."""
    perfect = judged([(" ".join(f"hit:{i % 7}" for i in range(20)), 20, 20, 20, 1)], 20)
    returns = tail_returns(torch.from_numpy(TERMS["dcg"].function(perfect, FACTS)), 1.0)[0]
    assert returns[0].item() == pytest.approx(7.0403, abs=5e-5)
    assert [returns[k - 1].item() for k in (5, 10, 20)] == pytest.approx([4.479, 2.786, 0.2277], abs=5e-4)


def slow_returns(gains, gamma):
    """Eqs. 8 and 9, written out."""
    n = gains.size(1)
    return torch.stack([sum(gamma ** (j - k) * gains[:, j] for j in range(k, n)) for k in range(n)], dim=1)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 1.0])
def test_returns_follow_their_definition(gamma):
    gains = torch.rand(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tail_returns(gains, gamma), slow_returns(gains, gamma), atol=1e-12, rtol=0)


def test_gamma_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="gamma"):
        tail_returns(torch.ones(1, 2), 1.5)


@pytest.mark.parametrize(
    ("of_ranks", "of_list"), [("ndcg_share", "ndcg"), ("recall_share", "recall"), ("dcg", "list_dcg")]
)
def test_shares_sum_to_what_is_reported(of_ranks, of_list):
    np.testing.assert_allclose(
        gains_of(of_ranks).sum(dim=1).numpy(), TERMS[of_list].function(judged(), FACTS), rtol=1e-14
    )


def normaliser(name, group_size):
    """Return a function (B, C) -> (B, C) that applies a baseline of the package."""

    def normalise(returns):
        grouped = returns.reshape(-1, group_size, returns.size(1))
        looked_at = torch.ones_like(grouped, dtype=torch.bool)
        group = Group(
            grouped,
            looked_at,
            torch.ones_like(grouped),
            torch.zeros_like(grouped),
            looked_at[:, :, 0],
            features={},
            progress=0.0,
        )
        return baselines[name].function(group).reshape(returns.shape)

    return normalise


def test_a_value_of_a_prompt_cancels_under_group_std_and_a_value_of_a_film_does_not():
    normalise = normaliser("group_std", 2)
    hits = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 1, 0], [1, 1, 0]], dtype=torch.float64)
    of_prompt = torch.tensor([1.3, 1.3, 2, 2], dtype=torch.float64)[:, None]
    assert torch.allclose(normalise(of_prompt * hits), normalise(hits), atol=1e-4)
    lists = judged([("hit:0 miss:1", 2, 2, 2, 9), ("hit:4 miss:2", 2, 2, 2, 9)])
    assert normalise(torch.from_numpy(lists.hits)).abs().max() == 0
    assert normalise(torch.from_numpy(TERMS["value"].function(lists, FACTS))).abs().max() > 0.5


def test_alp_is_composed_of_a_term_a_scale_and_a_weight():
    beta, n, group_size = 0.3, 64.0, 3
    lists = judged()
    correct = success(lists, np.zeros(len(lists)), "any_hit", 0.0)
    scale = solve_rate(torch.from_numpy(correct), group_size)
    penalty = -beta * torch.from_numpy(TERMS["tokens"].function(lists, FACTS, normaliser=n)) * scale
    for i, (_, _, _, _, tokens) in enumerate(LISTS):
        group = [bool(hits_of(row[0])) for row in LISTS[i // 3 * 3 : i // 3 * 3 + 3]]
        p_solved = sum(group) / 3
        assert penalty[i].item() == pytest.approx(-beta * tokens * max(p_solved, 1 / 3) / n, rel=1e-14)


def test_safe_rank_penalises_an_entry_at_its_own_rank_alone():
    """Safe-Rank-GRPO's published code: hit_k - 1 if rank k is unsafe, and 1 or -|n - N| / N for all ranks."""
    reward = composed("reward=safe_rank").reward
    lists = judged()
    values = {name: TERMS[name].function(lists, FACTS) for name in reward.terms}
    weight = {name: term["weight"] for name, term in reward.terms.items()}
    own = tail_returns(
        torch.from_numpy(sum(weight[name] * values[name] for name in ("relevance", "seen"))), reward.gamma
    )
    found = own + weight["length"] * torch.from_numpy(values["length"])[:, None]
    n = lists.hits.shape[1]
    assert values["seen"].any()
    for i in range(len(lists)):
        entries = int(lists.n_entries[i])
        count = 1.0 if entries == n else -abs(entries - n) / n
        for k in range(n):
            unsafe = lists.of_verdict("seen")[i, k]
            assert found[i, k].item() == pytest.approx(lists.hits[i, k] - (1.0 if unsafe else 0.0) + count)


def test_solve_rate_is_at_least_one_success():
    rate = solve_rate(torch.tensor([False] * 4 + [True, False, True, True]), 4)
    assert rate.tolist() == [0.25] * 4 + [0.75] * 4


def test_moderate_difficulty_against_its_formula():
    factors = moderate_difficulty(torch.tensor([False] * 4 + [True] * 4 + [True, False, False, True]), 4)
    assert factors.tolist() == pytest.approx([0.0] * 8 + [1.0] * 4)
    quarter = moderate_difficulty(torch.tensor([True, False, False, False]), 4)
    assert quarter.tolist() == pytest.approx([math.exp(-(0.25**2) / (2 * (1 / 6) ** 2))] * 4)
    assert tuple(FACTORS) == SCALES


# -- totals


def test_totals_and_features_by_hand():
    """One rank term and one list term together, on LISTS."""
    reward = composed("reward=relevance").reward
    reward.terms = {"relevance": {"weight": 2.0}, "length": {"weight": -0.5}}
    batch = score(judged(), FACTS, reward)
    hits, lengths = [2, 1, 0, 6, 0, 1], [1.0, -4 / 6, -1.0, -5 / 6, -1 / 6, -1 / 6]
    assert batch.totals.tolist() == pytest.approx([2 * h - 0.5 * s for h, s in zip(hits, lengths, strict=True)])
    assert batch.gains[:, 0].sum(1).tolist() == hits and batch.gains[:, 1].abs().sum() == 0
    assert batch.scores[:, 1].tolist() == pytest.approx(lengths) and batch.scores[:, 0].abs().sum() == 0
    features = {name: values.tolist() for name, values in batch.named_features().items()}
    assert features["tokens"] == [60, 90, 1, 100, 101, 81] and features["entries"] == [6, 2, 0, 11, 7, 5]
    assert features["in_catalog"] == pytest.approx([5 / 6, 1, 0, 1, 4 / 6, 1])
    assert features["duplicates"] == pytest.approx([1 / 6, 0, 0, 0, 3 / 6, 1 / 5])

    def mean_percentile(*films):
        return sum(among_named(COUNTS, film) for film in films) / len(films)

    # The mean is over entries in the catalogue, not over all entries.
    assert features["popularity"] == pytest.approx(
        [mean_percentile(0, 1, 2, 0, 3), mean_percentile(4, 6), 0]
        + [mean_percentile(1, 2, 3, 4, 5, 6), mean_percentile(1, 1, 1, 1), mean_percentile(0, 0, 5, 5, 6)]
    )


def test_defaults_of_verdict_cost():
    costs = TERMS["verdict_cost"].function(judged(), FACTS)
    assert costs[0].tolist() == [1.0, 0.0, -1.25, -1.0, -1.0, 1.0] and costs[2].tolist() == [0.0] * N
    costs = TERMS["verdict_cost"].function(judged(), FACTS, seen=-2.0, duplicate=-3.0)
    assert costs[0].tolist() == [1.0, 0.0, -1.25, -2.0, -3.0, 1.0]


# -- success


@pytest.mark.parametrize(
    ("rule", "values"), [("recall_at_least", [0.5]), ("ndcg_at_least", [1 / math.log2(3)]), ("total_at_least", [0.5])]
)
def test_a_value_at_the_threshold_is_a_success_and_one_clearly_below_is_not(rule, values):
    lists = judged([("miss:0 hit:1", 2 if rule == "recall_at_least" else 1, 2, 2, 9)])
    totals = np.array(values)
    for distance, expected in ((0.0, True), (1e-12, True), (1e-6, False), (1e-3, False)):
        assert success(lists, totals, rule, values[0] + distance).tolist() == [expected]


@pytest.mark.parametrize(
    ("rule", "threshold", "expected"),
    [
        ("any_hit", 0.0, [1, 1, 0, 1, 0, 1]),
        ("first_hit", 0.0, [1, 0, 0, 1, 0, 0]),
        ("all_hits", 0.0, [0, 1, 0, 1, 0, 1]),  # row 3: six ranks can hold only six of nine truths
        ("recall_at_least", 0.5, [1, 1, 0, 1, 0, 1]),
        ("recall_at_least", 1.0, [0, 1, 0, 0, 0, 1]),
        ("ndcg_at_least", 1.0, [0, 0, 0, 1, 0, 0]),
        ("ndcg_at_least", 0.6, [0, 1, 0, 1, 0, 0]),
        ("total_at_least", 0.3, [0, 0, 1, 1, 1, 1]),
    ],
)
def test_success(rule, threshold, expected):
    totals = np.array([-1.0, 0.2, 0.1 + 0.2, 0.3 - 1e-16, 0.3, 7.0])
    correct = success(judged(), totals, rule, threshold)
    assert correct.dtype == np.bool_
    assert correct.tolist() == [bool(value) for value in expected]
    assert check_success(rule, threshold) == []


def test_wrong_success():
    assert check_success("any_hits", 0.0) == [
        f"success.rule = 'any_hits' is unknown; known: {', '.join(SUCCESS)}. Did you mean 'any_hit'?"
    ]
    assert "no effect with success.rule = 'any_hit'" in check_success("any_hit", 0.5)[0]
    assert "(0, 1]" in check_success("recall_at_least", 0.0)[0]
    assert "(0, 1]" in check_success("ndcg_at_least", 1.5)[0]
    assert "finite" in check_success("total_at_least", math.nan)[0]
    assert check_success("total_at_least", -3.0) == []


# -- combiners

DTYPES = [torch.float32, torch.float64]


def random_returns(terms, columns, dtype, batch=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, terms, columns, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", COMBINERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 5])
def test_combiners_keep_shape_and_dtype(name, dtype, columns):
    weights = torch.tensor([0.5, 1.0, 2.0], dtype=dtype)
    returns = random_returns(3, columns, dtype)
    before = returns.clone()
    advantages = COMBINERS[name](returns, weights, normaliser("group_std", 4), 0.5)
    assert advantages.shape == (12, columns)
    assert advantages.dtype == dtype
    assert advantages.isfinite().all()
    assert torch.equal(returns, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_term_of_weight_1_is_bit_for_bit_the_baseline(dtype):
    returns = random_returns(1, 5, dtype)
    normalise = normaliser("group_std", 4)
    advantages = COMBINERS["sum_then_normalise"](returns, torch.ones(1, dtype=dtype), normalise, 1.0)
    assert torch.equal(advantages, normalise(returns[:, 0]))


def test_sum_then_normalise_against_a_loop():
    returns, weights = random_returns(3, 2, torch.float64), torch.tensor([1.0, -0.5, 3.0], dtype=torch.float64)
    advantages = COMBINERS["sum_then_normalise"](returns, weights, normaliser("group_mean", 4), 1.0)
    for start in range(0, 12, 4):
        for column in range(2):
            sums = [
                sum(w * r for w, r in zip(weights, returns[i, :, column], strict=True)) for i in range(start, start + 4)
            ]
            for i in range(4):
                assert advantages[start + i, column].item() == pytest.approx((sums[i] - sum(sums) / 4).item())


def mean_and_std(values):
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def slow_gdpo(rewards, weights, group_size):
    """TRL 1.16's normalize_then_sum on rewards[i][m], written out: unbiased std, epsilon 1e-4."""
    sums = [0.0] * len(rewards)
    for m, weight in enumerate(weights):
        for start in range(0, len(rewards), group_size):
            mean, std = mean_and_std([rewards[i][m] for i in range(start, start + group_size)])
            for i in range(start, start + group_size):
                sums[i] += weight * (rewards[i][m] - mean) / (std + 1e-4)
    mean, std = mean_and_std(sums)
    return [(value - mean) / (std + 1e-4) for value in sums]


def test_normalise_then_sum_is_gdpo_as_trl_has_it():
    returns = random_returns(3, 1, torch.float64, seed=4)
    returns[:4, 1] = 0.5  # a term that is constant in one group
    weights = [1.0, -0.5, 2.0]
    advantages = COMBINERS["normalise_then_sum"](
        returns, torch.tensor(weights, dtype=torch.float64), normaliser("group_std", 4), 1.0
    )
    expected = slow_gdpo(returns[:, :, 0].tolist(), weights, 4)
    np.testing.assert_allclose(advantages[:, 0].numpy(), expected, rtol=1e-12)


def test_normalise_then_sum_scales_all_ranks_alike():
    returns = torch.zeros(16, 2, 3, dtype=torch.float64)
    returns[:, 0, 0] = torch.tensor([1.0, 0.0] * 8)  # every group varies at rank 1
    returns[0, 1, 1] = 1.0  # one group varies at rank 2, none at rank 3
    advantages = COMBINERS["normalise_then_sum"](
        returns, torch.ones(2, dtype=torch.float64), normaliser("group_std", 2), 1.0
    )
    assert advantages[0, 0].item() == pytest.approx(advantages[0, 1].item(), rel=1e-9)
    assert advantages[:, 2].abs().max() < 1e-12
    assert advantages.std().item() == pytest.approx(1, abs=1e-3)


def test_normalise_then_sum_of_one_completion_is_nothing():
    advantages = COMBINERS["normalise_then_sum"](torch.ones(1, 2, 1), torch.ones(2), lambda returns: returns, 1.0)
    assert advantages.tolist() == [[0.0]]


@pytest.mark.parametrize("power", [-50.0, -2.0, -1.0, -0.01, 0.01, 0.5, 1.0, 2.0, 50.0])
def test_power_mean_against_its_formula(power):
    values, weights = random_returns(3, 2, torch.float64) + 0.05, torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    mean = mean_of_power(values, weights, power)
    for i in range(12):
        for column in range(2):
            shares = [w / 8 for w in (1, 2, 5)]
            terms = [share * value.item() ** power for share, value in zip(shares, values[i, :, column], strict=True)]
            assert mean[i, column].item() == pytest.approx(sum(terms) ** (1 / power), rel=1e-11)


def test_power_mean_and_its_limits():
    values, weights = random_returns(3, 2, torch.float64) + 0.05, torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    geometric = (values ** (weights / 8)[:, None]).prod(dim=1)
    for power in (0.0, 1e-300, -1e-9, 1e-7, -1e-7):
        assert torch.allclose(mean_of_power(values, weights, power), geometric, rtol=1e-6)
    assert torch.allclose(mean_of_power(values, weights, math.inf), values.amax(dim=1), rtol=1e-14)
    assert torch.allclose(mean_of_power(values, weights, -math.inf), values.amin(dim=1), rtol=1e-14)
    assert torch.allclose(mean_of_power(values, weights, 5000.0), values.amax(dim=1), rtol=1e-3)
    normalise = normaliser("group_mean", 4)
    assert torch.equal(
        COMBINERS["power_mean"](values, weights, normalise, 0.0), normalise(mean_of_power(values, weights, 0.0))
    )


@pytest.mark.parametrize("power", [-math.inf, -2.0, 0.0, 1.0, math.inf])
def test_a_zero_in_the_power_mean(power):
    values = torch.tensor([0.0, 0.5])[None, :, None]
    mean = mean_of_power(values, torch.tensor([0.5, 0.5]), power).item()
    assert mean == pytest.approx({1.0: 0.25, math.inf: 0.5}.get(power, 0.0))
    assert mean_of_power(values, torch.tensor([0.0, 0.5]), power).item() == pytest.approx(0.5)  # a term with weight 0


def test_the_power_mean_refuses_what_it_has_no_meaning_for():
    with pytest.raises(ValueError, match="got -0.25"):
        mean_of_power(torch.tensor([[[0.5], [-0.25]]]), torch.ones(2), 1.0)
    with pytest.raises(ValueError, match=r"got \[1.0, -1.0\]"):
        mean_of_power(torch.ones(1, 2, 1), torch.tensor([1.0, -1.0]), 1.0)
    with pytest.raises(ValueError, match="not all 0"):
        mean_of_power(torch.ones(1, 2, 1), torch.zeros(2), 1.0)


# -- configuration


def wrong(**terms):
    return check_terms(terms)


def test_wrong_terms_are_all_reported():
    assert check_terms({}) == [f"terms is empty; known: {', '.join(TERMS)}"]
    problems = wrong(relevence={"weight": 1.0}, value={"weight": 1.0, "alfa": 1.0}, dcg={}, recall=2.0)
    assert problems[0].startswith("terms.relevence is unknown; known: relevance, dcg")
    assert problems[0].endswith("Did you mean 'relevance'?")
    assert problems[1] == ("terms.value.alfa is unknown; known: weight, scaled_by, alpha, of. Did you mean 'alpha'?")
    assert problems[2] == "terms.dcg.weight is missing"
    assert problems[3] == "terms.recall = 2.0 must be a section with a weight and the term's options"
    assert len(problems) == 4


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, "1", None, True, [1.0]])
def test_weights_are_finite_numbers(weight):
    assert wrong(relevance={"weight": weight}) == [f"terms.relevance.weight = {weight!r} must be a finite number"]


@pytest.mark.parametrize(
    ("name", "option", "given", "wanted"),
    [
        ("value", "alpha", -1.0, "a finite number of at least 0"),
        ("value", "alpha", math.nan, "a finite number of at least 0"),
        ("value", "alpha", "1", "a finite number of at least 0"),
        ("value", "of", "price", "one of rarity, recency"),
        ("verdict_cost", "seen", math.inf, "a finite number"),
        ("verdict_cost", "seen", False, "a finite number"),
        ("tokens", "normaliser", 0.0, "a finite number above 0"),
        ("soft_overlong", "cache", 0, "a positive whole number"),
        ("soft_overlong", "max_tokens", 100.5, "a positive whole number"),
        ("novelty", "among", 3, "one of recommendable, hits"),
    ],
)
def test_options_are_of_their_type_and_range(name, option, given, wanted):
    terms = {name: {"weight": 1.0, **options_of(name), option: given}}
    assert check_terms(terms) == [f"terms.{name}.{option} = {given!r} must be {wanted}"]


def test_an_option_without_a_default_must_be_given():
    assert wrong(soft_overlong={"weight": 1, "cache": 5}) == [
        "terms.soft_overlong.max_tokens is missing; it must be a positive whole number"
    ]


def test_scaled_by():
    tokens = {"weight": -1.0, "normaliser": 100}
    assert wrong(tokens={**tokens, "scaled_by": "solve_rate"}) == []
    assert wrong(tokens={**tokens, "scaled_by": None}, dcg={"weight": 1, "scaled_by": None}) == []
    assert wrong(tokens={**tokens, "scaled_by": "solverate"}) == [
        "terms.tokens.scaled_by = 'solverate' is unknown; known: solve_rate, moderate, null. Did you mean 'solve_rate'?"
    ]
    assert "only terms of lists" in wrong(dcg={"weight": 1, "scaled_by": "solve_rate"})[0]


@pytest.mark.parametrize("path", REWARDS, ids=lambda path: path.stem)
def test_shipped_rewards(path):
    generation = {"max_new_tokens": 100}
    composed = OmegaConf.create({"generation": generation, "reward": yaml.safe_load(path.read_text())})
    reward = OmegaConf.to_container(composed, resolve=True)["reward"]
    assert list(reward) == ["name", "title", "gamma", "terms", "combine", "power", "success"]
    assert reward["name"] == path.stem
    assert check_terms(reward["terms"]) == []
    assert check_success(**reward["success"]) == []
    assert reward["combine"] in COMBINERS
    for name, term in reward["terms"].items():
        if TERMS[name].needs:
            continue
        values = TERMS[name].function(judged(), FACTS, **term_options(term))
        assert values.any(), f"{name} is nothing for every list"
        if reward["combine"] == "power_mean":
            assert (values >= 0).all() and term["weight"] >= 0


def test_the_schema_side_loads_no_torch():
    code = "import sys, rlbench.rewards.terms, rlbench.rewards.success; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
