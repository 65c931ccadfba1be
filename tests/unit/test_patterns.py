"""Patterns of lists, each on lists that are known."""

import numpy as np
import pytest

from rlbench.evaluation.patterns import PATTERNS
from tests.unit.test_rewards import COUNTS, FACTS, LISTS, N, judged

TITLES = [
    ["Alien", "Aliens", "Up"],
    ["The Thing", "Thing from Another World", "Up"],
    [],
    ["Toy Story", "Toy Story 2", "Heat"],
    ["Heat", "Heat", "Up"],  # a repeat is no franchise
    ["Up", "Heat", "Upgrade"],
]


def verdicts_of(text):
    return [rank.split(":")[0] for rank in text.split()]


@pytest.mark.parametrize(
    ("name", "verdict"), [("copies_seen", "seen"), ("repeats", "duplicate"), ("invents", "out_of_catalog")]
)
def test_patterns_of_verdicts(name, verdict):
    found = PATTERNS[name](judged(), FACTS, TITLES)
    assert found.tolist() == [verdict in verdicts_of(text) for text, *_ in LISTS]


def test_patterns_of_length():
    entries = [row[2] for row in LISTS]
    assert PATTERNS["too_short"](judged(), FACTS, TITLES).tolist() == [n < N for n in entries]
    assert PATTERNS["too_long"](judged(), FACTS, TITLES).tolist() == [n > N for n in entries]


def test_franchises():
    found = PATTERNS["franchise_run"](judged(), FACTS, TITLES)
    assert found.tolist() == [False, True, False, True, False, False]


def slow_correlation(films):
    """Spearman's correlation between place and popularity."""
    values = [COUNTS[film] for film in films]
    places = [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]
    return np.corrcoef(places, range(len(places)))[0, 1]


def test_popular_first():
    orders = [(4, 0, 2, 6, 1), (1, 6, 2, 0, 4), (4, 2, 0, 1, 6), (2, 3, 2), (4, 0)]
    lists = judged([(" ".join(f"miss:{film}" for film in films), 1, len(films), len(films), 9) for films in orders])
    found = PATTERNS["popular_first"](lists, FACTS, [[]] * len(orders)).tolist()
    assert found == [slow_correlation(films) <= -0.5 if len(films) >= 3 and len({COUNTS[f] for f in films}) > 1 else
                     False for films in orders]  # fmt: skip
    assert found[:2] == [True, False] and found[3:] == [False, False]


def test_every_pattern_is_tested_here():
    assert set(PATTERNS) == {
        "copies_seen", "repeats", "invents", "popular_first", "franchise_run", "too_short", "too_long",
    }  # fmt: skip
