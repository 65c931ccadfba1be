"""`rlbench.lists.published` equals the published code to the last digit, including its known oddities."""

import json
import math
import random
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlbench.data.catalog_files import read_catalog
from rlbench.lists import published
from rlbench.lists.entries import Entry
from tests.golden import oracles
from tests.golden.figures import MEMBERSHIP, Case, Film, golden_folder, membership, read_cases, read_membership
from tests.helpers import shared_data

DECORATIONS: dict[str, Callable[[Film], str]] = {
    "bare": lambda film: f"{film[0]} ({film[1]})",
    "numbered": lambda film: f"12. {film[0]} ({film[1]})",
    "numbered with a bracket": lambda film: f"7) {film[0]} ({film[1]})",
    "hyphen": lambda film: f"- {film[0]} ({film[1]})",
    "star and remark": lambda film: f"* {film[0]} ({film[1]}) - a great film",
    "heading": lambda film: f"# {film[0]} ({film[1]})",
    "all bold": lambda film: f"**{film[0]} ({film[1]})**",
    "numbered, bold title": lambda film: f"3. **{film[0]}** ({film[1]})",
    "emphasis": lambda film: f"_{film[0]}_ ({film[1]})",
    "quoted": lambda film: f'"{film[0]}" ({film[1]})',
    "spaces": lambda film: f"  {film[0]}   ({film[1]})  ",
}


def real_films() -> set[Film]:
    """The published catalogue. Skips if it is not available."""
    return set(read_catalog(shared_data("reddit_v2", "gt_catalog.pkl"))[0].items)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return read_cases(golden_folder())


@pytest.fixture(scope="module")
def films_of_case(cases: list[Case]) -> list[set[Film]]:
    """Films of each case that are in the catalogue, from the file of positions or else from the catalogue."""
    file = golden_folder() / MEMBERSHIP
    return read_membership(cases, file) if file.exists() else [real_films()] * len(cases)


def ours(case: Case, films: set[Film]) -> dict[str, Any]:
    """The outputs of a case by name."""
    entries = published.parse_list(case.completion)
    sample = (entries, case.ground_truth, case.seen_titles, films)
    hits = oracles.training_hits(*sample, case.list_length)
    return {
        "parsed": [(entry.title, entry.year) for entry in entries],
        "hits": hits,
        "reward_exp_inf": oracles.reward_exp_inf(hits),
        "reward_log_decay": oracles.reward_log_decay(hits),
        "recall_ndcg": {k: oracles.recall_ndcg(*sample, k) for k in case.recall_ndcg},
    }


def assert_equal_figures(cases: list[Case], films: list[set[Film]]) -> None:
    differences = [
        f"case {case.number}, {field}:\n  ours   {value}\n  theirs {getattr(case, field)}"
        for case, of_case in zip(cases, films, strict=True)
        for field, value in ours(case, of_case).items()
        if value != getattr(case, field)
    ]
    assert not differences, f"{len(differences)} differences, the first:\n" + "\n".join(differences[:3])


def test_every_figure_is_equal(cases: list[Case], films_of_case: list[set[Film]]) -> None:
    assert cases
    assert_equal_figures(cases, films_of_case)


def test_the_positions_are_those_of_the_catalogue(cases: list[Case]) -> None:
    """The whole catalogue gives the same figures and positions as the file of positions."""
    films = real_films()
    assert_equal_figures(cases, [films] * len(cases))
    file = golden_folder() / MEMBERSHIP
    if file.exists():
        assert membership(cases, films) == json.loads(file.read_text(encoding="utf-8"))


def test_metrics_of_many_samples(cases: list[Case], films_of_case: list[set[Film]]) -> None:
    """All cut-offs at once. The cases' catalogues may be joined, because a film is in all of them or in none."""
    lists = [published.parse_list(case.completion) for case in cases]
    truths, seen = [case.ground_truth for case in cases], [case.seen_titles for case in cases]
    cutoffs = sorted(cases[0].recall_ndcg)
    for truncate_first in (False, True):
        table = published.ranking_metrics(
            lists, truths, seen, set().union(*films_of_case), cutoffs, truncate_first=truncate_first
        )
        assert list(table) == [f"{name}@{k}" for k in cutoffs for name in ("recall", "ndcg")]
        for i, films in enumerate(films_of_case):
            for k in cutoffs:
                single = oracles.recall_ndcg(lists[i], truths[i], seen[i], films, k, truncate_first)
                assert (table[f"recall@{k}"][i], table[f"ndcg@{k}"][i]) == single
                if truncate_first:
                    assert single[0] <= cases[i].recall_ndcg[k][0]


@pytest.mark.parametrize("name", DECORATIONS)
def test_the_catalogue_survives_the_parser(name: str) -> None:
    """Every film except the corrupt one is parsed correctly, whatever surrounds it."""
    lost = [film for film in real_films() if published.parse_line(DECORATIONS[name](film)) != film]
    assert lost == [("The Wall", 201)]


def test_a_year_in_square_brackets_or_none_is_no_entry() -> None:
    films = real_films()
    assert not [film for film in films if published.parse_line(film[0])]
    assert not [film for film in films if published.parse_line(f"{film[0]} [{film[1]}]")]


@pytest.mark.parametrize(
    ("line", "film"),
    [
        ("12 Angry Men (1957)", ("12 Angry Men", 1957)),
        ("12. 12 Angry Men (1957)", ("12 Angry Men", 1957)),
        ("11.22.63 (2016)", ("11.22.63", 2016)),
        ("9 (2009)", ("9", 2009)),
        ("1917 (2019)", ("1917", 2019)),
        ("2001: A Space Odyssey (1968)", ("2001: A Space Odyssey", 1968)),
        ("$9.99 (2008)", ("$9.99", 2008)),
        ("...And Justice for All (1979)", ("...And Justice for All", 1979)),
        ("'71 (2014)", ("'71", 2014)),
        ('"\'71" (2014)', ("'71", 2014)),
        ("“Amélie” (2001)", ("Amélie", 2001)),
        ('1. "**Heat**" (1995)', ("Heat", 1995)),
        ("**1. Heat (1995)**", ("Heat", 1995)),
        ("**1.** Heat (1995)", ("Heat", 1995)),
        ("B*A*P*S (1997)", ("B*A*P*S", 1997)),
        ("[Rec]² (2009)", ("[Rec]²", 2009)),
        ("Birdman or (The Unexpected Virtue of Ignorance) (2014)", ("Birdman or", 2014)),
        ("Heat (1995) and Ronin (1998)", ("Heat", 1995)),
        ("Heat (0000)\r", ("Heat", 0)),
        ("\u200fHeat (1995)", ("\u200fHeat", 1995)),
        ("He\0at (1995)", ("He\0at", 1995)),
        ("(1984)", None),
        ("1. (1984)", None),
        ("** (1984)", None),
        ("(2012) (2009)", None),
        ("Heat [1995]", None),
        ("Heat (995)", None),
        ("Heat (19955)", None),
        ("Heat 1995", None),
        ("Here are my picks:", None),
        ("", None),
    ],
)
def test_lines(line: str, film: Film | None) -> None:
    assert published.parse_line(line) == film


def test_lines_are_counted_from_zero() -> None:
    text = "Here you are:\n\nHeat (1995)\n\nRonin (1998)\n"
    assert published.parse_list(text) == [Entry("Heat", 1995, 2), Entry("Ronin", 1998, 4)]
    assert published.parse_list("") == published.parse_list("\n\n") == []


@pytest.mark.parametrize("piece", [" ", "(", "(a", "*", "#", "9", "9. ", "a ", '"', "(1995)", "( ", "\t*_", "\0"])
def test_long_lines_are_read_in_linear_time(piece: str) -> None:
    start = time.perf_counter()
    for text in (piece, f"1. {piece}", f"a {piece}"):
        published.parse_list(text * (10**6 // len(text)))
        published.parse_list(text * (10**6 // len(text)) + " (1995)")
    assert time.perf_counter() - start < 2


def test_any_text_is_read() -> None:
    generator = random.Random(0)
    alphabet = "a7 *_#-\"'“.()[]1995\n\r\0\u200f\u2028é✓"
    for _ in range(300):
        text = "".join(generator.choices(alphabet, k=80)) + " (1995)"
        for entry in published.parse_list(text):
            assert re.search(r"\(\d{4}\)", text.split("\n")[entry.line])
    assert len(published.parse_list("Heat (1995)\n" * 10_000)) == 10_000


# The known oddities, worked out by hand.

A, B, C, D = ("Alien", 1979), ("Brazil", 1985), ("Casablanca", 1942), ("Dune", 2021)
FILMS = {A, B, C, D}


def listed(*films: Film) -> list[Entry]:
    return [Entry(*film, line=line) for line, film in enumerate(films)]


def made_up(n: int) -> list[Film]:
    return [(f"Made Up {i}", 2000) for i in range(n)]


def test_one_hit_of_four_truths_has_full_ndcg() -> None:
    """The ideal list has only as many films as survive."""
    truths = [A, B, C, D]
    assert oracles.recall_ndcg(listed(A), truths, [], FILMS, 20) == (0.25, 1.0)
    assert oracles.recall_ndcg(listed(*made_up(2), A), truths, [], FILMS, 20) == (0.25, 1.0)


def test_later_entries_move_up() -> None:
    ranked = listed(*made_up(4), B, A)
    assert oracles.recall_ndcg(ranked, [A], [], FILMS, 5) == (1.0, 1 / math.log2(3))
    assert oracles.recall_ndcg(ranked, [A], ["Brazil"], FILMS, 5) == (1.0, 1.0)
    assert oracles.recall_ndcg(ranked, [A], [], FILMS, 5, truncate_first=True) == (0.0, 0.0)
    assert oracles.recall_ndcg(ranked, [A], [], FILMS, 6, truncate_first=True) == (1.0, 1 / math.log2(3))


def test_truncated_first_the_ideal_list_is_shorter_too() -> None:
    ranked = listed(*made_up(4), A, B)
    assert oracles.recall_ndcg(ranked, [A, C], [], FILMS, 5) == (0.5, 1 / (1 + 1 / math.log2(3)))
    assert oracles.recall_ndcg(ranked, [A, C], [], FILMS, 5, truncate_first=True) == (0.5, 1.0)


def test_two_truths_may_share_one_entry() -> None:
    films = {("Emma.", 2020)}
    truths = [("Emma.", 2020), ("Emma.", 2018)]
    assert oracles.recall_ndcg(listed(("Emma.", 2020)), truths, [], films, 5) == (0.5, 1.0)
    assert oracles.training_hits(listed(("Emma.", 2020), ("Emma.", 2020)), truths, [], films, 3) == [1, 1, 0]


def test_evaluation_minds_case_training_does_not() -> None:
    ranked = listed(A)
    assert oracles.training_hits(ranked, [("  ALIEN ", 1981)], [], FILMS, 1) == [1]
    assert oracles.training_hits(ranked, [("Alien", 1982)], [], FILMS, 1) == [0]
    assert oracles.recall_ndcg(ranked, [("ALIEN", 1979)], [], FILMS, 5) == (0.0, 0.0)
    assert oracles.recall_ndcg(ranked, [("Alien", 1981)], [], FILMS, 5) == (1.0, 1.0)
    assert oracles.recall_ndcg(ranked, [("Alien", 1982)], [], FILMS, 5) == (0.0, 0.0)


def test_training_keeps_ranks_and_uses_truths_up() -> None:
    ranked = listed(*made_up(1), A, A, B, ("alien", 1979), D)
    assert oracles.training_hits(ranked, [A, B], ["Brazil"], FILMS, 5) == [0, 1, 0, 0, 0]
    assert oracles.training_hits(ranked, [A, A, D], ["brazil"], FILMS, 6) == [0, 1, 1, 0, 0, 1]


def test_the_nearest_truth_is_used_up() -> None:
    films = {("Emma.", year) for year in (2018, 2020, 2022)}
    truths = [("Emma.", 2022), ("Emma.", 2020)]
    assert oracles.training_hits(listed(("Emma.", 2020), ("Emma.", 2022)), truths, [], films, 2) == [1, 1]
    assert oracles.training_hits(listed(("Emma.", 2020), ("Emma.", 2018)), truths, [], films, 2) == [1, 0]


def test_a_catalogue_of_string_years_makes_every_reward_zero() -> None:
    strings: Any = {(title, str(year)) for title, year in FILMS}
    assert oracles.training_hits(listed(A, B), [A, B], [], strings, 2) == [0, 0]
    assert oracles.recall_ndcg(listed(A, B), [A, B], [], strings, 5) == (0.0, 0.0)


def test_rewards_of_a_perfect_list() -> None:
    returns = oracles.reward_log_decay([1] * 20)
    assert [returns[k - 1] for k in (1, 5, 10, 20)] == pytest.approx([7.0403, 4.479, 2.786, 0.2277], abs=5e-4)
    assert oracles.reward_log_decay([0, 1]) == [1 / np.log2(3)] * 2 == pytest.approx([0.6309] * 2, abs=5e-5)
    assert oracles.reward_exp_inf([0, 1]) == [0.0, 1.0]
    assert oracles.reward_log_decay([]) == oracles.reward_exp_inf([]) == []


def test_nothing_to_find_is_zero() -> None:
    assert oracles.recall_ndcg([], [A], [], FILMS, 5) == (0.0, 0.0)
    assert oracles.recall_ndcg(listed(A), [], [], FILMS, 5) == (0.0, 0.0)
    assert published.ranking_metrics([], [], [], FILMS, [5])["ndcg@5"].shape == (0,)
    with pytest.raises(ValueError, match="zip"):
        published.ranking_metrics([[]], [], [], FILMS, [5])


def test_segments_count_newlines() -> None:
    """An entry as two tokens, "Title (Year" and ")\\n"; the last has no newline; then EOS."""
    twenty = [0, 1] * 19 + [0, 0]
    assert max(oracles.segment_of_tokens([*twenty, 0])) + 1 == 20
    assert max(oracles.segment_of_tokens([*twenty[:-1], 1, 0])) + 1 == 21
    assert max(oracles.segment_of_tokens([*[0, 1] * 19, 0])) + 1 == 20
    assert oracles.segment_of_tokens([0, 1, 0, 2, 0]) == [0, 0, 1, 1, 3]
    assert oracles.segment_of_tokens([]) == []
