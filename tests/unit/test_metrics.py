"""Metrics against ir-measures, against loops that follow their definitions, and against exhaustive enumeration."""

import math
from fractions import Fraction
from itertools import combinations

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlbench.lists.metrics import (
    calibration,
    dcg,
    discounts,
    gini,
    ideal_dcg,
    list_metrics,
    ndcg,
    pass_at_k,
    pool_metrics,
    ranking_metrics,
    recall,
    reliability,
    union_recall,
)
from rlbench.lists.relevance import ABSENT, DUPLICATE, HIT, MISS, NO_ITEM, OUT_OF_CATALOG, SEEN, JudgedLists

EXACT = {"rtol": 0, "atol": 1e-12}
QUERIES, N, CUTOFFS = 300, 12, [1, 3, 5, 10, 12, 20]


# Accuracy


@pytest.fixture(scope="module")
def judged_by_ir_measures():
    """Random lists of 0..N films, truths of 1..30 of 50 films, and their metrics from ir-measures."""
    rng = np.random.default_rng(0)
    hits, n_truth, qrels, run = np.zeros((QUERIES, N)), np.zeros(QUERIES, dtype=np.int64), [], []
    for query in range(QUERIES):
        truth = set(rng.choice(50, size=rng.integers(1, 31), replace=False).tolist())
        ranked = rng.permutation(50)[: rng.integers(0, N + 1)].tolist()
        hits[query, : len(ranked)] = [film in truth for film in ranked]
        n_truth[query] = len(truth)
        qrels += [ir_measures.Qrel(str(query), str(film), 1) for film in truth]
        run += [ir_measures.ScoredDoc(str(query), str(film), float(-rank)) for rank, film in enumerate(ranked)]
    families = {
        "recall": ir_measures.R,
        "ndcg": ir_measures.nDCG,
        "hit_rate": ir_measures.Success,
        "mrr": ir_measures.RR,
        "map": ir_measures.AP,
    }
    names = {family @ k: f"{name}@{k}" for name, family in families.items() for k in CUTOFFS}
    expected = {name: np.full(QUERIES, np.nan) for name in names.values()}
    for value in ir_measures.iter_calc(list(names), qrels, run):
        expected[names[value.measure]][int(value.query_id)] = value.value
    return hits, n_truth, expected


def test_ranking_metrics_agree_with_ir_measures(judged_by_ir_measures):
    hits, n_truth, expected = judged_by_ir_measures
    assert (n_truth > N).any() and (hits.sum(axis=1) == 0).any()
    ours = ranking_metrics(hits, n_truth, CUTOFFS)
    assert ours.keys() == expected.keys()
    for name, values in ours.items():
        np.testing.assert_allclose(values, expected[name], err_msg=name, **EXACT)


def test_single_functions_are_those_of_the_table(judged_by_ir_measures):
    hits, n_truth, _ = judged_by_ir_measures
    table = ranking_metrics(hits, n_truth, CUTOFFS)
    for k in CUTOFFS:
        np.testing.assert_array_equal(recall(hits, n_truth, k), table[f"recall@{k}"])
        np.testing.assert_array_equal(ndcg(hits, n_truth, k), table[f"ndcg@{k}"])
        np.testing.assert_array_equal(dcg(hits, k) / ideal_dcg(n_truth, k), table[f"ndcg@{k}"])


def test_a_list_by_hand():
    """Hits at ranks 2 and 5 of 5, with three relevant films."""
    table = {
        name: values.item()
        for name, values in ranking_metrics(np.array([[0.0, 1.0, 0.0, 0.0, 1.0]]), np.array([3]), [1, 2, 5, 9]).items()
    }
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert table == pytest.approx(
        {
            **{"recall@1": 0, "ndcg@1": 0, "hit_rate@1": 0, "mrr@1": 0, "map@1": 0},
            **{"recall@2": 1 / 3, "ndcg@2": (1 / math.log2(3)) / (1 + 1 / math.log2(3)), "hit_rate@2": 1},
            **{"mrr@2": 1 / 2, "map@2": 1 / 6, "recall@5": 2 / 3, "hit_rate@5": 1, "mrr@5": 1 / 2},
            **{"ndcg@5": (1 / math.log2(3) + 1 / math.log2(6)) / ideal, "map@5": (1 / 2 + 2 / 5) / 3},
            **{"recall@9": 2 / 3, "hit_rate@9": 1, "mrr@9": 1 / 2},
            **{"ndcg@9": (1 / math.log2(3) + 1 / math.log2(6)) / ideal, "map@9": (1 / 2 + 2 / 5) / 3},
        },
        abs=1e-12,
    )


def test_a_perfect_list_is_worth_exactly_1():
    """True even with more relevant films than ranks; only recall and MAP count the films beyond the list."""
    table = ranking_metrics(np.ones((3, 20)), np.array([20, 21, 50]), [20])
    for name in ("ndcg@20", "hit_rate@20", "mrr@20"):
        assert table[name].tolist() == [1.0, 1.0, 1.0]
    for name in ("recall@20", "map@20"):
        assert table[name].tolist() == [1.0, 20 / 21, 0.4]


def test_cutoff_beyond_the_list():
    hits = np.array([[1.0, 0.0]])
    assert recall(hits, np.array([4]), 5) == pytest.approx([0.25])
    assert ndcg(hits, np.array([4]), 5) == pytest.approx([1 / (1 / np.log2(np.arange(2, 6))).sum()])  # 4 relevant films


def test_discounts_and_ideal():
    assert discounts(3) == pytest.approx([1, 1 / math.log2(3), 0.5])
    assert ideal_dcg(np.array([1, 2, 7]), 2) == pytest.approx([1, 1 + 1 / math.log2(3), 1 + 1 / math.log2(3)])
    assert ideal_dcg(np.array([20]), 20) == pytest.approx([7.0403], abs=5e-5)  # the paper's DCG@20 of a perfect list


NAN = float("nan")


@pytest.mark.parametrize(
    ("hits", "n_truth", "cutoffs", "message"),
    [
        ([[1.0], [0.0]], [1, 0], [1], "query 1: n_truth must be at least 1"),
        ([[1.0], [0.0], [NAN]], [1, 1, 1], [1], "query 2: hits must be 0 or 1"),
        ([[0.0], [0.5]], [1, 1], [1], "query 1: hits must be 0 or 1"),
        ([[0.0, 0.0], [1.0, 1.0]], [1, 1], [1], "query 1: more hits than relevant items"),
        ([[1.0]], [1], [1, 0], r"cut-offs must be at least 1, got \[0\]"),
        ([[1.0]], [1], [-3], r"cut-offs must be at least 1, got \[-3\]"),
        ([[1.0]], [1, 1], [1], r"got \(1, 1\) and \(2,\)"),
        ([1.0], [1], [1], r"got \(1,\) and \(1,\)"),
        ([[]], [1], [1], r"got \(1, 0\) and \(1,\)"),
    ],
)
def test_what_ranking_metrics_refuse(hits, n_truth, cutoffs, message):
    with pytest.raises(ValueError, match=message):
        ranking_metrics(np.array(hits), np.array(n_truth), cutoffs)
    for function in (recall, ndcg):
        with pytest.raises(ValueError, match=message):
            function(np.array(hits), np.array(n_truth), cutoffs[-1])


def test_what_dcg_refuses():
    with pytest.raises(ValueError, match="cut-offs"):
        dcg(np.ones((1, 1)), 0)
    with pytest.raises(ValueError, match="cut-offs"):
        ideal_dcg(np.array([1]), 0)
    with pytest.raises(ValueError, match="query 1: n_truth"):
        ideal_dcg(np.array([1, 0]), 5)


@st.composite
def judged_hits(draw):
    """Draw hits (Q, N), n_truth (Q,) and cut-offs, some beyond N."""
    n_queries, n = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    cells = draw(st.lists(st.integers(0, 1), min_size=n_queries * n, max_size=n_queries * n))
    hits = np.array(cells, dtype=np.float64).reshape(n_queries, n)
    missed = draw(st.lists(st.integers(0, 12), min_size=n_queries, max_size=n_queries))
    return hits, np.maximum(hits.sum(axis=1).astype(np.int64) + missed, 1), list(range(1, n + 3))


@given(judged_hits())
def test_ranking_metrics_lie_in_0_1_and_recall_grows_with_k(case):
    hits, n_truth, cutoffs = case
    table = ranking_metrics(hits, n_truth, cutoffs)
    for name, values in table.items():
        assert ((values >= 0) & (values <= 1 + 1e-12)).all(), name
    for family in ("recall", "hit_rate", "mrr", "map"):
        steps = np.diff(np.stack([table[f"{family}@{k}"] for k in cutoffs]), axis=0)
        assert (steps >= -1e-12).all(), family


@given(judged_hits(), st.randoms(use_true_random=False))
def test_a_query_does_not_depend_on_the_others(case, random):
    hits, n_truth, cutoffs = case
    order = list(range(len(hits)))
    random.shuffle(order)
    together, shuffled = ranking_metrics(hits, n_truth, cutoffs), ranking_metrics(hits[order], n_truth[order], cutoffs)
    alone = ranking_metrics(hits[-1:], n_truth[-1:], cutoffs)
    for name, values in together.items():
        np.testing.assert_array_equal(shuffled[name], values[order])
        np.testing.assert_array_equal(alone[name], values[-1:])


@given(judged_hits(), st.data())
def test_a_hit_that_moves_up_never_costs(case, data):
    hits, n_truth, cutoffs = case
    upper, lower = (data.draw(st.integers(0, hits.shape[1] - 1)) for _ in range(2))
    upper, lower = min(upper, lower), max(upper, lower)
    moved = hits.copy()
    swap = (hits[:, upper] == 0) & (hits[:, lower] == 1)
    moved[swap, upper], moved[swap, lower] = 1.0, 0.0
    before, after = ranking_metrics(hits, n_truth, cutoffs), ranking_metrics(moved, n_truth, cutoffs)
    for name in before:
        assert (after[name] >= before[name] - 1e-12).all(), name
    for name in (f"ndcg@{hits.shape[1]}", f"map@{hits.shape[1]}"):
        assert (after[name][swap] > before[name][swap]).all(), name


# Form of lists


def judged(verdicts, films=None, truths=None, n_truth=None, **counts):
    """JudgedLists from rows of codes. By default each present rank inside the catalogue has its own film."""
    verdicts = np.array(verdicts, dtype=np.int8)
    b, n = verdicts.shape
    inside = ~np.isin(verdicts, [ABSENT, OUT_OF_CATALOG])
    n_present = (verdicts != ABSENT).sum(axis=1)
    defaults = {
        "lax": inside,
        "n_entries": n_present,
        "n_lines": n_present,
        "n_shifted": np.zeros(b, np.int64),
        "n_tokens": np.zeros(b, np.int64),
        "finished": np.ones(b, np.bool_),
    }
    return JudgedLists(
        verdicts=verdicts,
        items=np.where(inside, np.arange(b * n).reshape(b, n), NO_ITEM) if films is None else np.array(films),
        truths=np.full((b, n), -1) if truths is None else np.array(truths),
        n_truth=np.full(b, n) if n_truth is None else np.array(n_truth),
        **{name: np.array(counts.get(name, value)) for name, value in defaults.items()},
    )


def random_lists(seed, n_queries=200, n=6, n_films=40):
    """Draw lists of 0..n ranks with all verdicts, overflow, stray lines and shifted entries."""
    rng = np.random.default_rng(seed)
    length = rng.integers(0, n + 1, size=n_queries)
    present = np.arange(n) < length[:, None]
    verdicts = np.where(present, rng.integers(0, 5, size=(n_queries, n)), ABSENT)
    inside = present & (verdicts != OUT_OF_CATALOG)
    n_entries = np.where(length == n, length + rng.integers(0, 3, size=n_queries), length)
    return judged(
        verdicts,
        films=np.where(inside, rng.integers(0, n_films, size=(n_queries, n)) ** 2 // n_films, NO_ITEM),
        lax=present & (rng.random((n_queries, n)) < 0.6),
        n_entries=n_entries,
        n_lines=n_entries + rng.integers(0, 3, size=n_queries),
        n_shifted=rng.integers(0, length + 1),
        n_tokens=rng.integers(1, 90, size=n_queries),
        finished=rng.random(n_queries) < 0.5,
    )


def slow_list_metrics(lists, row):
    """The definitions of docs/metrics.md for one list."""
    n = lists.verdicts.shape[1]
    names = [code for code in lists.verdicts[row].tolist() if code != ABSENT]
    entries, lines = int(lists.n_entries[row]), int(lists.n_lines[row])

    def share(count):
        return count / len(names) if names else 0.0

    return {
        "in_catalog": share(sum(code != OUT_OF_CATALOG for code in names)),
        "in_catalog_lax": share(sum(lists.lax[row, : len(names)].tolist())),
        "duplicates": share(names.count(DUPLICATE)),
        "seen": share(names.count(SEEN)),
        "list_length": float(entries),
        "eos": 1.0 if lists.finished[row] else 0.0,
        "overflow": 1.0 if entries > n else 0.0,
        "exact_length": 1.0 if entries == n else 0.0,
        "parse_failures": (lines - entries) / lines if lines else 0.0,
        "misaligned": share(int(lists.n_shifted[row])),
        "completion_tokens": float(lists.n_tokens[row]),
    }


def test_list_metrics_against_the_loop():
    lists = random_lists(1)
    table = list_metrics(lists)
    for row in range(len(lists)):
        assert {name: values[row] for name, values in table.items()} == pytest.approx(
            slow_list_metrics(lists, row), abs=1e-12
        )


def test_list_metrics_by_hand():
    lists = judged(
        [
            [HIT, OUT_OF_CATALOG, DUPLICATE, MISS],
            [SEEN, ABSENT, ABSENT, ABSENT],
            [ABSENT] * 4,
            [ABSENT] * 4,
        ],
        lax=[[True, True, True, True], [False] * 4, [False] * 4, [False] * 4],
        n_entries=[6, 1, 0, 0],
        n_lines=[8, 1, 0, 3],
        n_shifted=[2, 1, 0, 0],
        n_tokens=[50, 9, 1, 20],
        finished=[False, True, True, False],
    )
    assert {name: values.tolist() for name, values in list_metrics(lists).items()} == {
        "in_catalog": [0.75, 1.0, 0.0, 0.0],
        "in_catalog_lax": [1.0, 0.0, 0.0, 0.0],
        "duplicates": [0.25, 0.0, 0.0, 0.0],
        "seen": [0.0, 1.0, 0.0, 0.0],
        "list_length": [6.0, 1.0, 0.0, 0.0],
        "eos": [0.0, 1.0, 1.0, 0.0],
        "overflow": [1.0, 0.0, 0.0, 0.0],
        "exact_length": [0.0, 0.0, 0.0, 0.0],
        "parse_failures": [0.25, 0.0, 0.0, 1.0],
        "misaligned": [0.5, 1.0, 0.0, 0.0],
        "completion_tokens": [50.0, 9.0, 1.0, 20.0],
    }


def test_a_whole_list_has_exact_length():
    assert list_metrics(judged([[MISS, HIT]]))["exact_length"].tolist() == [1.0]


# Metrics over all lists together.


def slow_pool_metrics(lists, n_films, film_counts, first):
    recommended, popularity, novelty = [0] * n_films, [], []
    total = sum(film_counts)
    for row in np.flatnonzero(first):
        films = [film for film in lists.items[row].tolist() if film != NO_ITEM]
        for film in films:
            recommended[film] += 1
        if films:
            popularity.append(sum(film_counts[film] / total for film in films) / len(films))
            bits = [-math.log2((film_counts[film] + 1) / (total + n_films)) for film in films]
            novelty.append(sum(bits) / len(films))
    hits = lists.verdicts == HIT
    return {
        **{f"rank_hit_rate@{k + 1}": sum(hits[:, k].tolist()) / len(hits) for k in range(hits.shape[1])},
        "coverage": sum(count > 0 for count in recommended) / n_films,
        "gini": slow_gini(recommended),
        "popularity": sum(popularity) / len(popularity),
        "novelty": sum(novelty) / len(novelty),
    }


def slow_gini(counts):
    """Half the mean absolute difference, relative to the mean."""
    mean = sum(counts) / len(counts)
    return sum(abs(a - b) for a in counts for b in counts) / len(counts) ** 2 / (2 * mean)


@pytest.mark.parametrize("seed", [0, 1])
def test_pool_metrics_against_the_loop(seed):
    rng = np.random.default_rng(seed)
    lists = random_lists(seed)
    film_counts, first = rng.integers(0, 30, size=45), rng.random(len(lists)) < 0.7
    ours = pool_metrics(lists, 45, film_counts, first)
    assert ours == pytest.approx(slow_pool_metrics(lists, 45, film_counts.tolist(), first), abs=1e-12)


def test_pool_metrics_by_hand():
    """Three samples, the first two with the same list: films 0, 0, 1 and film 2.

    Truths name film 0 twice, film 1 once.
    """
    lists = judged(
        [[HIT, DUPLICATE, MISS], [MISS, DUPLICATE, HIT], [OUT_OF_CATALOG, HIT, ABSENT]],
        films=[[0, 0, 1], [0, 0, 1], [NO_ITEM, 2, NO_ITEM]],
    )
    assert pool_metrics(lists, 4, np.array([2, 1, 0, 1]), np.array([True, False, True])) == pytest.approx(
        {
            "rank_hit_rate@1": 1 / 3,
            "rank_hit_rate@2": 1 / 3,
            "rank_hit_rate@3": 1 / 3,
            "coverage": 3 / 4,
            "gini": (-3 * 0 - 1 * 1 + 1 * 1 + 3 * 2) / (4 * 4),
            "popularity": ((0.5 + 0.5 + 0.25) / 3 + 0) / 2,
            "novelty": ((2 * math.log2(8 / 3) + math.log2(8 / 2)) / 3 + math.log2(8)) / 2,
        },
        abs=1e-12,
    )


def test_lists_without_a_film_of_the_catalogue_leave_the_averages_alone():
    lists = judged([[HIT, MISS], [OUT_OF_CATALOG, ABSENT]], films=[[1, 2], [NO_ITEM, NO_ITEM]])
    counts, everyone = np.array([0, 3, 1]), np.array([True, True])
    assert pool_metrics(lists, 3, counts, everyone)["popularity"] == pytest.approx(0.5)
    nothing = pool_metrics(lists, 3, counts, np.array([False, True]))
    assert [nothing[name] for name in ("coverage", "gini", "popularity", "novelty")] == [0.0, 0.0, 0.0, 0.0]


def test_without_training_truths_no_film_is_popular_and_all_are_as_novel():
    table = pool_metrics(judged([[MISS, MISS]], films=[[0, 1]]), 8, np.zeros(8, np.int64), np.array([True]))
    assert table["popularity"] == 0.0
    assert table["novelty"] == pytest.approx(3.0)  # bits for one film in eight


@pytest.mark.parametrize(
    ("n_films", "film_counts", "first", "message"),
    [
        (2, [1, 1], [True], "item 2"),
        (3, [1, 1], [True], "shape"),
        (3, [1, 1, 1], [False], "first must mark"),
        (3, [1, 1, 1], [True, True], "first must mark"),
    ],
)
def test_what_pool_metrics_refuse(n_films, film_counts, first, message):
    with pytest.raises(ValueError, match=message):
        pool_metrics(judged([[MISS, MISS]], films=[[0, 2]]), n_films, np.array(film_counts), np.array(first))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any))
def test_gini_against_its_definition(counts):
    assert gini(np.array(counts)) == pytest.approx(slow_gini(counts), abs=1e-12)


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_gini_at_its_ends(n_films, count):
    assert gini(np.full(n_films, count)) == 0.0
    assert gini(np.eye(1, n_films, n_films // 2, dtype=np.int64)[0] * count) == pytest.approx(1 - 1 / n_films)
    assert gini(np.zeros(n_films, np.int64)) == 0.0


# Several lists per query.


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_list(n):
    for k in range(1, n + 1):
        shares = [np.mean([min(chosen) < c for chosen in combinations(range(n), k)]) for c in range(n + 1)]
        np.testing.assert_allclose(pass_at_k(np.arange(n + 1), n, k), shares, **EXACT)


def test_pass_at_k_of_many_lists():
    """The binomials overflow a float. The result is exactly 1 if fewer than k lists are wrong."""
    n, k = 5000, 200
    n_correct = np.array([0, 1, 30, 400, n - k, n - k + 1, n])
    exact = [float(1 - Fraction(math.comb(n - c, k), math.comb(n, k))) for c in n_correct.tolist()]
    np.testing.assert_allclose(pass_at_k(n_correct, n, k), exact, **EXACT)
    assert pass_at_k(n_correct, n, k)[-2:].tolist() == [1.0, 1.0]
    assert pass_at_k(np.array([0]), n, k).tolist() == [0.0]


@pytest.mark.parametrize(
    ("n_correct", "k", "message"),
    [([1], 0, "k must lie in 1..4"), ([1], 5, "k must lie in 1..4"), ([4, 5], 2, "query 1"), ([-1], 2, "query 0")],
)
def test_what_pass_at_k_refuses(n_correct, k, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(np.array(n_correct), 4, k)


@st.composite
def sampled_truths(draw):
    """Draw truths (Q, n, N), each at most once per list, and n_truth (Q,)."""
    n_queries, n, length = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    truths, n_truth = np.full((n_queries, n, length), -1), np.zeros(n_queries, dtype=np.int64)
    for query in range(n_queries):
        n_truth[query] = draw(st.integers(1, 5))
        for sample in range(n):
            hit = draw(st.lists(st.integers(0, n_truth[query] - 1), unique=True, max_size=length))
            truths[query, sample, : len(hit)] = hit
            draw(st.randoms(use_true_random=False)).shuffle(truths[query, sample])
    return truths, n_truth


def slow_union_recall(of_query, n_truth, k):
    """Mean recall of the union over all choices of k lists."""
    hit = [{truth for truth in of_list.tolist() if truth >= 0} for of_list in of_query]
    return np.mean([len(set().union(*chosen)) / n_truth for chosen in combinations(hit, k)])


@settings(deadline=None)
@given(sampled_truths())
def test_union_recall_against_every_choice(case):
    truths, n_truth = case
    n = truths.shape[1]
    values = [union_recall(truths, n_truth, k) for k in range(1, n + 1)]
    for k, of_k in enumerate(values, start=1):
        slow = [slow_union_recall(*query, k) for query in zip(truths, n_truth, strict=True)]
        np.testing.assert_allclose(of_k, slow, **EXACT)
    np.testing.assert_allclose(values[0], (truths >= 0).sum(axis=2).mean(axis=1) / n_truth, **EXACT)
    assert (np.diff(np.stack(values), axis=0) >= -1e-12).all()


def test_union_recall_of_one_truth_is_pass_at_k():
    truths = np.array([[[0], [-1], [0], [-1], [-1]], [[-1]] * 5])
    for k in range(1, 6):
        np.testing.assert_allclose(
            union_recall(truths, np.array([1, 1]), k), pass_at_k(np.array([2, 0]), 5, k), **EXACT
        )


def test_a_list_counts_once_for_a_truth_that_it_names_twice():
    assert union_recall(np.array([[[0, 0], [-1, -1]]]), np.array([1]), 1).tolist() == [0.5]


@pytest.mark.parametrize(
    ("truths", "n_truth", "k", "message"),
    [
        ([[[0]], [[1]]], [1, 1], 1, "query 1: truths must be"),
        ([[[0]], [[-2]]], [1, 1], 1, "query 1: truths must be"),
        ([[[-1]], [[-1]]], [1, 0], 1, "query 1: n_truth"),
        ([[[0]]], [1], 2, "k must lie in 1..1"),
        ([[[0]]], [1, 1], 1, r"got \(1, 1, 1\) and \(2,\)"),
    ],
)
def test_what_union_recall_refuses(truths, n_truth, k, message):
    with pytest.raises(ValueError, match=message):
        union_recall(np.array(truths), np.array(n_truth), k)


# Calibration


def slow_reliability(confidence, hits, present, bins):
    """Rows (ranks, confidence, hits) per bin; bin m is ((m - 1) / bins, m / bins], and bin 1 includes 0."""
    table = np.zeros((bins, 3))
    for value, hit, there in zip(confidence.flat, hits.flat, present.flat, strict=True):
        if there:
            m = next(m for m in range(1, bins + 1) if value <= m / bins)
            table[m - 1] += [1, value, hit]
    return table


@pytest.mark.parametrize("bins", [1, 7, 10])
def test_calibration_against_the_loop(bins):
    rng = np.random.default_rng(bins)
    shape = (60, 5)
    confidence = np.where(rng.random(shape) < 0.5, rng.random(shape) ** 2, rng.integers(0, bins + 1, shape) / bins)
    hits, present = (rng.random(shape) < 0.4).astype(np.float64), rng.random(shape) < 0.8
    confidence[~present] = np.nan
    table = slow_reliability(confidence, hits, present, bins)
    ours = reliability(confidence, hits, present, bins)
    assert ours.n_ranks.tolist() == table[:, 0].tolist()
    filled = table[:, 0] > 0
    np.testing.assert_allclose(ours.confidence[filled], table[filled, 1] / table[filled, 0], **EXACT)
    np.testing.assert_allclose(ours.hit_share[filled], table[filled, 2] / table[filled, 0], **EXACT)
    assert calibration(confidence, hits, present, bins) == pytest.approx(
        {
            "ece": sum(abs(row[1] - row[2]) for row in table) / present.sum(),
            "brier": sum((confidence[i] - hits[i]) ** 2 for i in zip(*np.nonzero(present), strict=True))
            / present.sum(),
        },
        abs=1e-12,
    )


def test_bins_are_closed_on_the_right():
    confidence = np.array([[0.0, 0.1, 0.3, 0.7, 1.0]])
    table = reliability(confidence, np.zeros((1, 5)), np.ones((1, 5), np.bool_), 10)
    assert table.n_ranks.tolist() == [2, 0, 1, 0, 0, 0, 1, 0, 0, 1]
    assert table.confidence[[1, 3]].tolist() == [0.0, 0.0]


def test_calibration_by_hand():
    """Two ranks at 0.8 with one hit, and one at 0.25 without. The absent rank does not count."""
    confidence, hits = np.array([[0.8, 0.8], [0.25, NAN]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    table = calibration(confidence, hits, np.array([[True, True], [True, False]]))
    assert table == pytest.approx({"ece": (2 * 0.3 + 0.25) / 3, "brier": (0.04 + 0.64 + 0.0625) / 3})


def test_calibration_of_no_rank_is_empty():
    assert calibration(np.full((2, 3), NAN), np.zeros((2, 3)), np.zeros((2, 3), np.bool_)) == {}


@pytest.mark.parametrize(
    ("confidence", "hits", "bins", "message"),
    [
        ([[0.5], [1.1]], [[0.0], [0.0]], 10, "query 1: confidence"),
        ([[0.5], [-0.1]], [[0.0], [0.0]], 10, "query 1: confidence"),
        ([[NAN], [0.5]], [[0.0], [0.0]], 10, "query 0: confidence"),
        ([[0.5], [0.5]], [[0.0], [2.0]], 10, "query 1: hits"),
        ([[0.5], [0.5]], [[0.0], [0.0]], 0, "bins"),
        ([[0.5, 0.5]], [[0.0], [0.0]], 10, "must be"),
    ],
)
def test_what_calibration_refuses(confidence, hits, bins, message):
    with pytest.raises(ValueError, match=message):
        calibration(np.array(confidence), np.array(hits), np.ones((2, 1), np.bool_), bins)
