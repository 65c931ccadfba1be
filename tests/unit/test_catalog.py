"""The catalogue's look-up under matching policies, against a slow search through every film."""

import pickle
import re
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz

from rlbench.lists import catalog as module
from rlbench.lists.catalog import (
    CASEFOLD,
    LOOSE,
    NORMALISERS,
    NOT_FOUND,
    Catalog,
    MatchingPolicy,
    normalise,
)
from rlbench.lists.items import Item
from tests.helpers import shared_data

EXACT = MatchingPolicy(())
POLICIES = {"exact": EXACT, "casefold": CASEFOLD, "loose": LOOSE}
FILMS = [("Heat", 1995), ("The Thing", 1982), ("The Thing", 2011), ("Amélie", 2001), ("Heat", 1986)]

titles = st.one_of(
    st.text(max_size=12),
    # Few letters, for titles that are often equal or nearly equal, and the words and characters that the rules use.
    st.lists(st.sampled_from(["the", "The ", "a", " A", "an", ",", " ", "é", "e", "E", "\u200f", "\t", "!", "x"])).map(
        "".join
    ),
)
years = st.integers(1990, 1996)
films = st.lists(st.tuples(st.text("aAbé ", max_size=4), years), max_size=8)
policies = st.builds(
    MatchingPolicy,
    st.sampled_from([policy.normalisers for policy in POLICIES.values()]),
    st.integers(0, 4),
    st.one_of(st.none(), st.sampled_from([1, 40, 50, 66.6, 75, 80, 100])),
)


def slow_find(films: list[Item], policy: MatchingPolicy, title: str, year: int) -> int:
    """The rules of `Catalog.find`, word for word."""
    wanted = policy.normalise(title)
    near = [
        (fuzz.ratio(wanted, policy.normalise(other)), abs(known - year), known, index)
        for index, (other, known) in enumerate(films)
        if abs(known - year) <= policy.year_tolerance
    ]
    same = [row for row in near if policy.normalise(films[row[3]][0]) == wanted]
    if not same and policy.fuzzy_threshold is not None:
        same = [row for row in near if row[0] >= policy.fuzzy_threshold]
    return min(same, key=lambda row: (-row[0], *row[1:]))[3] if same else NOT_FOUND


def find_title(catalog: Catalog, title: str) -> int:
    return int(catalog.find_titles([title])[0])


def slow_find_title(catalog: Catalog, title: str) -> int:
    """The rules of `Catalog.find_titles`, word for word."""
    normal = catalog.policy.normalise
    wanted, threshold = normal(title), catalog.policy.fuzzy_threshold
    scored = [
        (normal(other) != wanted, -fuzz.ratio(wanted, normal(other)), number, other)
        for other, number in zip([t for t, _ in catalog.items], catalog.title_ids.tolist(), strict=True)
    ]
    found = [row for row in scored if not row[0] or (threshold is not None and -row[1] >= threshold)]
    return min(found)[2] if found else NOT_FOUND


@pytest.mark.parametrize("name", NORMALISERS)
@given(title=titles)
def test_a_step_applied_again_changes_nothing(name: str, title: str) -> None:
    once = NORMALISERS[name](title)
    assert NORMALISERS[name](once) == once


@pytest.mark.parametrize("name", NORMALISERS)
@given(title=titles.filter(str.strip))
def test_no_step_empties_a_title(name: str, title: str) -> None:
    assert NORMALISERS[name](title).strip()


@pytest.mark.parametrize(
    ("name", "title", "expected"),
    [
        ("nfkc", "Ａｌｉｅｎ\u00b3 ﬁlm", "Alien3 film"),
        ("spaces", " \tThe\n Thing\u3000 ", "The Thing"),
        ("casefold", "STRASSE Straße", "strasse strasse"),
        ("accents", "Amélie à Zürich, Łódź", "Amelie a Zurich, Łodz"),
        ("accents", "\u0301", "\u0301"),
        ("punctuation", "M*A*S*H: Face/Off — Ocean’s $5 №1", "MASH FaceOff  Oceans 5 1"),
        ("punctuation", "!!!", "!!!"),
        ("punctuation", "? !", "? !"),
        ("articles", "Matrix, The", "Matrix"),
        ("articles", "the Matrix", "Matrix"),
        ("articles", "  An Education", "Education"),
        ("articles", "A The , the,A ", "The "),
        ("articles", "Matrix ,THE", "Matrix "),
        ("articles", "Plan A", "Plan A"),
        ("articles", "Theatre", "Theatre"),
        ("articles", "The", "The"),
        ("articles", "The The", "The"),
        ("articles", "The ", "The "),
        ("articles", ", The", ", The"),
        ("invisible", "\u200fHe\u200bat\u202e\u2066\x00\ufeff\u00ad", "Heat"),
        ("invisible", "The\tThing\r\n", "The Thing  "),
        ("invisible", "\x00\u200b", "\x00\u200b"),
    ],
)
def test_what_each_step_does(name: str, title: str, expected: str) -> None:
    assert NORMALISERS[name](title) == expected


@given(titles)
def test_casefold_is_what_titles_were_always_compared_by(title: str) -> None:
    expected = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", title)).strip().casefold()
    assert CASEFOLD.normalise(title) == normalise(title) == expected


def test_exact_changes_nothing() -> None:
    assert EXACT.normalise(" The\u200b Thing ") == " The\u200b Thing "
    assert Catalog(FILMS, EXACT).find("the thing", 1982) == NOT_FOUND


@pytest.mark.parametrize(
    "titles",
    [
        ["Matrix, The", "The Matrix", "matrix", "\u200eTHE  MATRIX!", "mátrix"],
        ["Spider-Man", "spiderman", "The Spider\u00adman"],
        ["Ocean's Eleven", "Ocean’s Eleven", "oceans eleven"],
    ],
)
def test_what_loose_takes_for_one(titles: list[str]) -> None:
    assert len({LOOSE.normalise(title) for title in titles}) == 1


def test_steps_are_applied_in_their_order() -> None:
    assert MatchingPolicy(("articles", "punctuation")).normalise("Matrix, The") == "Matrix"
    assert MatchingPolicy(("punctuation", "articles")).normalise("Matrix, The") == "Matrix The"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalisers": ("nfkc", "stemming", "soundex")}, "unknown normalisers stemming, soundex; known: nfkc,"),
        ({"normalisers": (), "year_tolerance": -1}, "year_tolerance"),
        *[({"normalisers": (), "fuzzy_threshold": value}, "fuzzy_threshold") for value in (0, -1, 100.5, float("nan"))],
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MatchingPolicy(**options)


@settings(max_examples=300)
@given(films, policies, st.lists(st.tuples(st.text("aAbé ", max_size=5), years), min_size=1, max_size=5))
def test_find_equals_going_through_all_films(films: list[Item], policy: MatchingPolicy, asked: list[Item]) -> None:
    catalog = Catalog(films, policy)
    expected = [slow_find(films, policy, *film) for film in asked]
    assert catalog.find_all(asked).tolist() == expected
    assert [catalog.find(*film) for film in asked] == expected, "the second time from memory"
    assert [film in catalog for film in asked] == [index != NOT_FOUND for index in expected]
    for title, _ in asked:
        assert find_title(catalog, title) == slow_find_title(catalog, title)


@given(st.lists(st.tuples(titles, st.integers()), max_size=8), policies)
def test_every_film_is_found_as_itself_or_its_equal(films: list[Item], policy: MatchingPolicy) -> None:
    catalog = Catalog(films, policy)
    for (title, year), title_id in zip(films, catalog.title_ids, strict=True):
        found, its_year = catalog.items[catalog.find(title, year)]
        assert (policy.normalise(found), its_year) == (policy.normalise(title), year)
        assert find_title(catalog, title) == title_id
        assert catalog.has_lax(title, year)


@given(films, policies, st.text("aAbé ", max_size=5), years)
def test_tolerance_and_threshold_change_no_exact_find(
    films: list[Item], policy: MatchingPolicy, title: str, year: int
) -> None:
    strict = Catalog(films, MatchingPolicy(policy.normalisers)).find(title, year)
    if strict != NOT_FOUND:
        assert Catalog(films, policy).find(title, year) == strict


@given(films, policies, st.text("aAbé ", max_size=5), years)
def test_a_threshold_of_100_is_equality(films: list[Item], policy: MatchingPolicy, title: str, year: int) -> None:
    equal = Catalog(films, MatchingPolicy(policy.normalisers, policy.year_tolerance))
    fuzzy = equal.with_policy(MatchingPolicy(policy.normalisers, policy.year_tolerance, 100))
    assert fuzzy.find(title, year) == equal.find(title, year)
    assert find_title(fuzzy, title) == find_title(equal, title)


@pytest.mark.parametrize(
    ("tolerance", "film", "index"),
    [
        (0, ("heat ", 1995), 0),
        (0, ("heat", 1994), NOT_FOUND),
        (1, ("heat", 1994), 0),
        (9, ("heat", 1986), 4),
        (9, ("heat", 1991), 0),
        (9, ("heat", 1990), 4),
        (20, ("the thing", 1996), 1),
        (20, ("the thing", 1997), 2),
        (0, ("amelie", 2001), NOT_FOUND),
    ],
)
def test_the_nearest_year_is_meant(tolerance: int, film: Item, index: int) -> None:
    assert Catalog(FILMS, MatchingPolicy(CASEFOLD.normalisers, tolerance)).find(*film) == index


def test_of_two_years_as_near_the_older_is_meant() -> None:
    assert Catalog([("Up", 2010), ("Up", 2008)], MatchingPolicy((), 1)).find("Up", 2009) == 1


def test_of_equal_films_the_first_is_meant() -> None:
    catalog = Catalog([("Up", 1), ("HEAT", 1995), ("heat", 1995)])
    assert [catalog.find(title, 1995) for title in ("Heat", "heat")] == [1, 1]
    assert catalog.title_ids.tolist() == [0, 1, 1]
    assert catalog.with_policy(MatchingPolicy(CASEFOLD.normalisers, 0, 80)).find("heatt", 1995) == 1


def test_similar_titles() -> None:
    catalog = Catalog([("Aliens", 1986), ("Alien", 1979), ("Alien 3", 1992)], MatchingPolicy(("casefold",), 1, 80))
    assert catalog.find("allien", 1979) == 1
    assert catalog.find("allien", 1985) == 0, "films outside the tolerance are no candidates"
    assert catalog.find("alien", 1986) == 0
    assert catalog.find("alien", 1999) == NOT_FOUND
    assert catalog.find("gremlins", 1986) == NOT_FOUND
    assert catalog.items[[1, 0, 2].index(find_title(catalog, "Allien"))] == ("Aliens", 1986)


def test_of_titles_as_similar_the_nearer_year_then_the_first_is_meant() -> None:
    catalog = Catalog([("Hear", 1990), ("Heal", 1991), ("Head", 1991)], MatchingPolicy((), 1, 50))
    assert catalog.find("Heat", 1991) == 1
    assert find_title(catalog, "Heat") == 0


def test_title_ids() -> None:
    catalog = Catalog(FILMS)
    assert catalog.title_ids.tolist() == [0, 1, 1, 2, 0]
    assert catalog.title_ids.dtype == np.int64
    assert [find_title(catalog, title) for title in ("HEAT", "the thing", "amélie", "thing")] == [0, 1, 2, NOT_FOUND]


@pytest.mark.parametrize("policy", POLICIES.values())
def test_the_lax_look_up_knows_no_policy(policy: MatchingPolicy) -> None:
    catalog = Catalog([("The  Thing", 1982), ("STRASSE", 2000)], policy)
    assert [year for year in range(1975, 1990) if catalog.has_lax(" the THING ", year)] == list(range(1980, 1985))
    assert not catalog.has_lax("thing", 1982)
    assert not catalog.has_lax("straße", 2000), "lower case is no case folding"


def test_with_policy_leaves_the_catalogue_as_it_was() -> None:
    catalog = Catalog(FILMS)
    loose = catalog.with_policy(LOOSE)
    assert (len(loose), loose.items, loose.policy) == (5, FILMS, LOOSE)
    assert loose.find("thing", 1982) == 1
    assert catalog.find("thing", 1982) == NOT_FOUND
    assert catalog.policy == CASEFOLD


ODD = [("", 0), ("\x00", 1995), (" ", -5), ("\ud800", 1995), ("x" * 10**4, 1995), ("\u200b", 10**5000), ("He\x00at", 1)]


@pytest.mark.parametrize(
    "policy", [*POLICIES.values(), MatchingPolicy(LOOSE.normalisers, 2, 90), MatchingPolicy((), 10**30, 100)]
)
def test_odd_films_have_a_defined_place(policy: MatchingPolicy) -> None:
    catalog = Catalog([*FILMS, *ODD], policy)
    assert [catalog.find(*film) for film in ODD] == list(range(len(FILMS), len(FILMS) + len(ODD)))
    assert (
        Catalog(FILMS, policy).find_all([("", -1), ("\x00" * 300, 0), ("y" * 300, 10**5000)]).tolist()
        == [NOT_FOUND] * 3
    )
    assert all(sentence.isprintable() and len(sentence) < 500 for sentence in catalog.report())


def test_titles_of_a_megabyte() -> None:
    fuzzy = MatchingPolicy(LOOSE.normalisers, 0, 85)
    catalog = Catalog([*FILMS, ("x" * 10**6, 1995)], fuzzy)
    assert catalog.find("X" * 10**6, 1995) == len(FILMS)
    assert catalog.find("heatt", 1995) == 0
    assert Catalog(FILMS, fuzzy).find("a, the " * 150_000, 1995) == NOT_FOUND


@pytest.mark.parametrize("policy", [EXACT, LOOSE, MatchingPolicy((), 1, 50)])
def test_an_empty_catalogue_finds_nothing(policy: MatchingPolicy) -> None:
    catalog = Catalog([], policy)
    assert (len(catalog), catalog.find("Heat", 1995), find_title(catalog, "Heat")) == (0, NOT_FOUND, NOT_FOUND)
    assert catalog.title_ids.shape == (0,)
    assert (catalog.find_all([]).tolist(), catalog.report()) == ([], [])


def test_what_is_remembered_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 10)
    catalog = Catalog([(str(number), number) for number in range(50)])
    asked = [(str(number), number) for number in range(60)] * 2 + [("x" * 10_000, 1)]
    assert catalog.find_all(asked).tolist() == [*range(50), *[NOT_FOUND] * 10] * 2 + [NOT_FOUND]
    assert 0 < len(catalog._found) <= 10
    assert ("x" * 10_000, 1) not in list(catalog._found)


def test_a_title_is_normalised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog(FILMS)
    calls: list[str] = []

    def nfkc(title: str) -> str:
        calls.append(title)
        return title

    monkeypatch.setitem(NORMALISERS, "nfkc", nfkc)
    for _ in range(3):
        assert catalog.find_all([("HEAT", 1995), ("Gone", 1)]).tolist() == [0, NOT_FOUND]
        assert find_title(catalog, "HEAT") == 0
    assert calls == ["HEAT", "Gone", "HEAT"]


def test_a_catalogue_can_be_sent_to_another_process() -> None:
    catalog = Catalog(FILMS, MatchingPolicy(LOOSE.normalisers, 1, 80))
    catalog.find("Heat", 1995)
    copy = pickle.loads(pickle.dumps(catalog))
    assert copy.items == FILMS
    assert [copy.find(*film) for film in FILMS] == [0, 1, 2, 3, 4]


def test_a_sound_catalogue_reports_nothing() -> None:
    assert Catalog(FILMS).report() == []


def test_report_counts_and_names() -> None:
    films = [
        ("Heat", 1995),
        ("HEAT", 1995),
        ("Dune", 2021),
        ("Dune", 2020),
        ("Dune", 1984),
        ("Wall", 201),
        ("\x00", 1999),
    ]
    assert Catalog(films).report() == [
        "1 films equal an earlier film under the matching policy, so they can never be matched: "
        "HEAT (1995) = "
        "Heat (1995)",
        "1 titles belong to several films at most 2 years apart, which this tolerance cannot tell apart: "
        "Dune "
        "(2020) and Dune (2021)",
        "1 years do not have four digits, so no list can name these films; they stay in the catalogue: Wall (201)",
        "1 titles are empty, so no list can name these films; they stay in the catalogue: '\\x00' (1999)",
    ]
    assert "equal an earlier" not in " ".join(Catalog(films, EXACT).report())


def test_report_follows_the_policy_s_tolerance_and_names_three() -> None:
    films = [(f"Film {number}", year) for number in range(9) for year in (1990, 1996)]
    assert Catalog(films).report() == []
    (sentence,) = Catalog(films, MatchingPolicy((), 6)).report()
    assert sentence.startswith("9 titles belong to several films at most 6 years apart")
    assert sentence.count(" and ") == 3


def test_the_published_catalogue_under_every_policy() -> None:
    films = pickle.loads(shared_data("reddit_v2", "gt_catalog.pkl").read_bytes())
    for policy, n_titles, n_repeats in ((EXACT, 7147, 0), (CASEFOLD, 7147, 0), (LOOSE, 7070, 22)):
        catalog = Catalog(films, policy)
        assert len(set(catalog.title_ids.tolist())) == n_titles
        assert sum(found != index for index, found in enumerate(catalog.find_all(films).tolist())) == n_repeats
        assert all(catalog.has_lax(*film) for film in films)


def test_loads_no_torch() -> None:
    code = "import sys, rlbench.lists.catalog; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_equal_title_within_the_tolerance_beats_a_similar_one_of_the_year():
    films = Catalog([("Heat", 1995), ("Heats", 1996)], MatchingPolicy(("casefold",), 1, 80.0))
    assert films.find("heat", 1996) == 0 and films.find("heats", 1995) == 1
    assert films.find("heatz", 1996) == 0  # nearer to heat (8 of 9 letters) than to heats (8 of 10)
    assert films.find("heatz", 1990) == -1
