"""Judging: verdicts, ranks and counts, against the plain loop and by hand."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import plain_lists
from rlbench.lists import published
from rlbench.lists.catalog import Catalog, MatchingPolicy
from rlbench.lists.relevance import ABSENT, NO_ITEM, VERDICTS, Judge, PublishedJudge, Verdict, make_judge
from tests.conftest import composed
from tests.golden import oracles
from tests.properties.lists import FILMS, films, texts

CATALOG = Catalog([("Alien", 1979), ("Heat", 1995), ("Taken", 2008), ("Jaws", 1975)])
N = 6


def judged(text, truth, seen=(), judge=None):
    """Judge one text."""
    judge = judge or Judge(CATALOG, N)
    return judge(judge.read([text]), [truth], [list(seen)])


def test_verdicts_keep_their_ranks():
    text = "Heat (1995)\nALIEN  (1979)\nAlien (1979)\nNowhere (2000)\nJaws (1975)\nTaken (2008)"
    lists = judged(text, [("Alien", 1979), ("Taken", 2008)], ["jaws"])
    assert lists.names(0) == [
        Verdict.MISS,
        Verdict.HIT,
        Verdict.DUPLICATE,
        Verdict.OUT_OF_CATALOG,
        Verdict.SEEN,
        Verdict.HIT,
    ]
    assert lists.hits.tolist() == [[0, 1, 0, 0, 0, 1]]
    assert lists.items.tolist() == [[1, 0, 0, NO_ITEM, 3, 2]]
    assert lists.truths.tolist() == [[-1, 0, -1, -1, -1, 1]]
    assert lists.present.all() and lists.n_truth.tolist() == [2]


def test_a_truth_outside_the_catalogue_is_no_hit_but_counts():
    lists = judged("Gone (1990)\nHeat (1995)", [("Gone", 1990), ("gone ", 1990), ("Heat", 1995)])
    assert lists.names(0) == [Verdict.OUT_OF_CATALOG, Verdict.HIT]
    assert lists.n_truth.tolist() == [2]
    assert judged("Gone (1990)", [("Gone", 1990)], judge=Judge(Catalog([]), N)).n_truth.tolist() == [1]


def test_a_repeated_seen_film_is_a_duplicate():
    """The first matching verdict applies: out of catalogue, duplicate, seen, hit, miss."""
    text = "Nowhere (2000)\nJaws (1975)\nNowhere (2000)\nJaws (1975)\nHeat (1995)\nHeat (1995)"
    assert judged(text, [("Heat", 1995), ("Jaws", 1975)], ["Jaws"]).names(0) == [
        Verdict.OUT_OF_CATALOG,
        Verdict.SEEN,
        Verdict.OUT_OF_CATALOG,
        Verdict.DUPLICATE,
        Verdict.HIT,
        Verdict.DUPLICATE,
    ]


def test_a_truth_that_a_record_repeats_is_one_truth():
    truth = [("Jaws", 1975), ("jaws ", 1975), ("Heat", 1995), ("Jaws", 1975), ("Alien", 1979)]
    lists = judged("Alien (1979)\nHeat (1995)\nJaws (1975)", truth)
    assert lists.n_truth.tolist() == [3]
    assert lists.truths[0, :3].tolist() == [2, 1, 0]  # numbered without repeats, as union_recall needs


def test_a_remake_outside_the_catalogue_is_another_truth():
    assert judged("Heat (1995)", [("Gone", 1990), ("GONE", 1990), ("Gone", 2012)]).n_truth.tolist() == [2]


def test_a_text_without_token_counts_is_taken_as_finished():
    lists = judged("Heat (1995)", [("Heat", 1995)])
    assert lists.finished.tolist() == [True] and lists.n_tokens.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "shifted"),
    [
        ("Alien (1979)\nHeat (1995)\nJaws (1975)", 0),
        ("Here you go:\nAlien (1979)\nHeat (1995)", 2),
        ("Alien (1979)\nand\nHeat (1995)\nJaws (1975)", 2),
        ("Alien (1979)\nHeat (1995)\nand\nJaws (1975)\nTaken (2008)", 2),
        ("", 0),
    ],
)
def test_entries_below_a_line_without_one_are_shifted(text, shifted):
    assert judged(text, [("Heat", 1995)]).n_shifted.tolist() == [shifted]


def test_the_year_counts_as_far_as_the_policy_says():
    assert judged("Heat (1994)", [("Heat", 1995)]).names(0) == [Verdict.OUT_OF_CATALOG]
    tolerant = Judge(CATALOG.with_policy(MatchingPolicy(("nfkc", "spaces", "casefold"), 1)), N)
    assert judged("Heat (1994)\nHeat (1996)", [("Heat", 1995)], judge=tolerant).names(0) == [
        Verdict.HIT,
        Verdict.DUPLICATE,  # the same film, whichever year is written
    ]
    exact = Judge(CATALOG.with_policy(MatchingPolicy(())), N)
    assert judged("HEAT (1995)", [("Heat", 1995)], judge=exact).names(0) == [Verdict.OUT_OF_CATALOG]


def test_what_is_counted_beside_verdicts():
    text = "My list:\n\nAlien (1979)\nHeat (1995)\n  \n" + "Jaws (1975)\n" * 5 + "bye"
    judge = Judge(CATALOG, N)
    parsed = judge.read([text])
    lists = judge(parsed, [[("Heat", 1995)]], [[]], [44], [False])
    assert (lists.n_entries[0], lists.n_lines[0], lists.n_tokens[0], lists.finished[0]) == (7, 9, 44, False)
    assert lists.n_shifted.tolist() == [6]  # all of the first six are below their rank's line
    assert parsed[0].lines == [2, 3, 5, 6, 7, 8, 9]
    straight = judged("Alien (1979)\nHeat (1995)\nbye", [("Heat", 1995)])
    assert straight.n_shifted.tolist() == [0] and straight.verdicts[0, 2] == ABSENT


def test_the_lax_rule_is_told_apart():
    lists = judged("heat (1996)\nHeat (1998)\nHeat (1995)", [("Heat", 1995)])
    assert lists.lax[0, :3].tolist() == [True, False, True]
    assert lists.names(0) == [Verdict.OUT_OF_CATALOG, Verdict.OUT_OF_CATALOG, Verdict.HIT]


truths = st.lists(films, min_size=1, max_size=5)
seen_titles = st.lists(films.map(lambda film: film[0]), max_size=3)


@given(batch=st.lists(st.tuples(texts, truths, seen_titles), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_batches_against_the_plain_loop(batch):
    catalog = Catalog(FILMS[::2] + FILMS[::5])  # some films occur twice, many are absent
    index = plain_lists.catalog_index(catalog)
    written, relevant, seen = (list(column) for column in zip(*batch, strict=True))
    judge = Judge(catalog, N)
    parsed = judge.read(written)
    lists = judge(parsed, relevant, seen)
    for row, text in enumerate(written):
        read, n_lines = plain_lists.parse(text)
        assert parsed[row].entries == read and lists.n_lines[row] == n_lines
        verdicts, places = plain_lists.judge(read, relevant[row], seen[row], index, N)
        assert [str(verdict) for verdict in lists.names(row)] == verdicts
        assert lists.items[row, : len(places)].tolist() == places
        assert (lists.verdicts[row, len(places) :] == ABSENT).all()
        hit = lists.truths[row][lists.truths[row] >= 0]
        assert len(hit) == len(set(hit.tolist())) == lists.hits[row].sum() <= lists.n_truth[row]


@cache
def published_judge():
    catalog = Catalog(FILMS[::2])
    judge = make_judge(composed("matching=published").matching, catalog, N)
    assert isinstance(judge, PublishedJudge)
    return catalog, judge


@given(text=texts, truth=truths, seen=seen_titles)
@settings(max_examples=150, deadline=None)
def test_the_published_judge_has_the_published_hits(text, truth, seen):
    catalog, judge = published_judge()
    parsed = judge.read([text])
    lists = judge(parsed, [truth], [seen])
    assert parsed[0].entries == published.parse_list(text)
    assert lists.hits[0].tolist() == oracles.training_hits(parsed[0].entries, truth, seen, frozenset(catalog.items), N)
    assert lists.present[0].sum() == min(len(parsed[0].items), N)


@pytest.mark.parametrize("matching", ["casefold", "exact", "tolerant", "fuzzy"])
def test_shipped_policies(matching):
    judge = make_judge(composed(f"matching={matching}").matching, CATALOG, N)
    names = judged("Alien (1979)\nheat (1995)\nTaken (2009)\nJawz (1975)", [("Alien", 1979)], judge=judge).names(0)
    inside = [name != Verdict.OUT_OF_CATALOG for name in names]
    assert (
        inside
        == {
            "casefold": [True, True, False, False],
            "exact": [True, False, False, False],
            "tolerant": [True, True, True, False],
            "fuzzy": [True, True, True, False],  # "jawz" is 75 % of "jaws"
        }[matching]
    )


def test_odd_texts_have_a_defined_judgement():
    odd = [
        "",
        "\n" * 10_000,
        "x" * 1_000_000,
        "Alien (" + " " * 1_000_000,
        "Alien (1979)\n" * 10_000,
        "\x00Alien\x00 (1979)",
        "\u200fAlien\u200e (1979)",
        "1979",
        "(1979)",
        "(1979) (1979)",
        "Alien (0000)",
        "Alien (-1979)",
        "Alien (١٩٧٩)",
        "[1979] [1979]",
        "**** (1979)",
        '"" (1979)',
    ]
    judge = Judge(CATALOG, N)
    parsed = judge.read(odd)
    lists = judge(parsed, [[("Alien", 1979)]] * len(odd), [[]] * len(odd))
    found = [read.items[:2] for read in parsed]
    assert found[:4] == [[]] * 4 and len(parsed[4].items) == 10_000
    assert found[5:] == [
        [("\x00Alien\x00", 1979)],
        [("\u200fAlien\u200e", 1979)],
        [],
        [],
        [("(1979)", 1979)],
        [("Alien", 0)],
        [],
        [],
        [("[1979]", 1979)],
        [],
        [],
    ]
    assert lists.hits.sum(axis=1).tolist() == [0, 0, 0, 0, 1] + [0] * 11
    assert np.isin(lists.verdicts, [ABSENT, *range(len(VERDICTS))]).all()


def test_no_lists_at_all():
    judge = Judge(CATALOG, N)
    parsed = judge.read([])
    lists = judge(parsed, [], [])
    assert len(lists) == 0 and parsed == [] and lists.hits.shape == (0, N)


def test_published_matches_say_which_truth():
    """Recall of several lists together needs this, because lists may hit different truths."""
    judge = make_judge(composed("matching=published").matching, CATALOG, N)
    truth = [("Heat", 1996), ("Jaws", 1975), ("Heat", 1995)]
    parsed = judge.read(["Jaws (1975)\nHeat (1995)", "Heat (1995)\nHeat (1995)"])
    lists = judge(parsed, [truth] * 2, [[]] * 2)
    assert lists.truths[:, :2].tolist() == [[1, 2], [2, 0]]
    assert lists.n_truth.tolist() == [3, 3]
