"""How a teacher's answers are read: what is accepted, what is repaired and counted, and what is a problem."""

import pytest

from rlbench.teacher.answers import TeacherAnswer
from rlbench.teacher.reading import Form, read_description, read_list, read_rating_line, read_ratings

FILMS, BOOKS = Form(True), Form(False)
CANDIDATES = [("Heat", 1995), ("Alien", 1979), ("2001: A Space Odyssey", 1968)]


def test_a_list_as_it_was_asked_for_needs_no_repair() -> None:
    reading = read_list(TeacherAnswer("Heat (1995)\nAlien (1979)\nUp (2009)"), FILMS, 3, 3)
    assert reading.response == "Heat (1995)\nAlien (1979)\nUp (2009)" and not reading.repairs


def test_simple_repairs_of_lists_are_counted() -> None:
    text = (
        "<think>Up (2009)?</think>\nHere you are:\n\n1. Heat (1995)\n2. **Alien (1979)**\n3. Heat (1995)\n4. Up (2009)"
    )
    reading = read_list(TeacherAnswer(text), FILMS, 2, 2)
    assert reading.response == "Heat (1995)\nAlien (1979)"
    assert reading.repairs == {
        "thoughts removed": 1,
        "lines left out": 1,
        "repeats left out": 1,
        "past the last rank": 1,
    }


@pytest.mark.parametrize("text", ['["Heat (1995)", "Alien (1979)"]', '```json\n["Heat (1995)",\n"Alien (1979)"]\n```'])
def test_a_json_list_of_names_is_read(text: str) -> None:
    reading = read_list(TeacherAnswer(text), FILMS, 2, 2)
    assert reading.response == "Heat (1995)\nAlien (1979)" and reading.repairs["JSON list"] == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (TeacherAnswer(""), "empty"),
        (TeacherAnswer(" \n"), "empty"),
        (TeacherAnswer("<think>I wonder"), "empty"),
        (TeacherAnswer("Heat (1995)\nAlien (19", "length"), "truncated"),
        (TeacherAnswer("Heat (1995)", "length"), "truncated"),
        (TeacherAnswer("Heat", "length"), "truncated"),
        (TeacherAnswer("I'm sorry, but I can't help with that."), "refusal"),
        (TeacherAnswer("", refusal="no"), "refusal"),
        (TeacherAnswer("Heat (1995)\nAlien (1979)", "content_filter"), "refusal"),
        (TeacherAnswer("Heat\nAlien"), "unreadable"),
        (TeacherAnswer("Heat (1995)\nHeat (1995)"), "too short"),
        (TeacherAnswer("Heat (1995)\nAl\ud800en (1979)"), "broken text"),
    ],
)
def test_unusable_lists(answer: TeacherAnswer, kind: str) -> None:
    reading = read_list(answer, FILMS, 2, 2)
    assert reading.response is None and reading.kind == kind and reading.problem


def test_a_shorter_list_is_accepted_only_on_request() -> None:
    assert read_list(TeacherAnswer("Heat (1995)\nUp (2009)"), FILMS, 3, 2).response == "Heat (1995)\nUp (2009)"
    assert "only 2 different" in read_list(TeacherAnswer("Heat (1995)\nUp (2009)"), FILMS, 3, 3).problem


def test_a_title_that_begins_like_a_refusal_is_a_title() -> None:
    assert (
        read_list(TeacherAnswer("Sorry to Bother You (2018)\nSorry, Wrong Number (1948)"), FILMS, 2, 2).response
        is not None
    )


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("Heat (1995)####2", 2),
        ("1. Heat (1995) #### -1", -1),
        ("Heat (1995)####+1", 1),
        ("Heat (1995)####−2", -2),
        ("Heat (1995): 0", 0),
        ("| Heat (1995) | 1 |", None),
        ("Heat (1995)####3", "wrong"),
        ("Heat (1995)####", None),
        ("Heat (1995)####-", None),
        ("Heat (1995) -2", None),  # may mean 2 or -2
        ("Heat (1995) - 2", None),
        ("Heat (1995)####1.5", None),
        ("Heat (1995)####good", None),
        ("Heat####2", None),
    ],
)
def test_lines_of_ratings(line: str, level: int | str | None) -> None:
    read = read_rating_line(line, FILMS)
    if level is None:
        assert read is None
    else:
        assert read is not None and read[0].endswith("Heat (1995)")
        assert read == (read[0], None if level == "wrong" else level)


def test_ratings_are_put_in_the_order_of_the_candidates() -> None:
    text = "2001: a space odyssey (1968)####1\nUp (2009)####2\nALIEN (1979)####-2\nHeat (1995)####0\nThat is all."
    reading = read_ratings([TeacherAnswer(text)], FILMS, CANDIDATES)
    assert reading.response == "Heat (1995)####0\nAlien (1979)####-2\n2001: A Space Odyssey (1968)####1"
    assert reading.repairs == {"ratings of other items left out": 1, "lines left out": 1}


def test_ratings_that_are_missing_or_wrong_are_asked_for_again_and_added() -> None:
    first = TeacherAnswer("Heat (1995)####2\nAlien (1979)####7")
    reading = read_ratings([first], FILMS, CANDIDATES)
    assert reading.response is None and reading.kind == "incomplete"
    assert (
        reading.problem.endswith("\nAlien (1979)\n2001: A Space Odyssey (1968)")
        and "1 ratings are not" in reading.problem
    )
    second = TeacherAnswer("Alien (1979)####-1\n2001: A Space Odyssey (1968)####0")
    assert read_ratings([first, second], FILMS, CANDIDATES).response == (
        "Heat (1995)####2\nAlien (1979)####-1\n2001: A Space Odyssey (1968)####0"
    )


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (TeacherAnswer(""), "empty"),
        (TeacherAnswer("I cannot rate these."), "refusal"),
        (TeacherAnswer("They are all good."), "unreadable"),
        (TeacherAnswer("Heat (1995)####2\nAlien (1979)####-", "length"), "truncated"),
    ],
)
def test_unusable_ratings(answer: TeacherAnswer, kind: str) -> None:
    reading = read_ratings([answer], FILMS, CANDIDATES)
    assert reading.response is None and reading.kind == kind and reading.problem


def test_descriptions() -> None:
    text = "Sure!\n**Keywords:** crime, *heist*,\n cat and mouse\n\n**Plot:** Two men\nmeet."
    reading = read_description(TeacherAnswer(text))
    assert reading.response == "Keywords: crime, *heist*, cat and mouse\nPlot: Two men meet."
    assert reading.repairs == {"lines left out": 1}
    kinds = {
        "UNKNOWN": "unknown",
        "unknown.": "unknown",
        "Plot: Two men meet.": "unreadable",
        "Keywords: crime": "unreadable",
        "Keywords:\nPlot: x": "unreadable",
        "I'm sorry, I can't.": "refusal",
        "": "empty",
    }
    assert {text: read_description(TeacherAnswer(text)).kind for text in kinds} == kinds
    assert read_description(TeacherAnswer("Keywords: a\nPlot: b\nand th", "length")).kind == "truncated"


def test_items_without_years() -> None:
    reading = read_list(TeacherAnswer("Here you are:\n1. Dune\n2. Emma\n3. Dune"), BOOKS, 2, 2)
    assert reading.response == "Dune\nEmma" and reading.repairs == {"lines left out": 1, "repeats left out": 1}
    books = [("Dune", None), ("1984", None), ("Area: 51", None)]
    reading = read_ratings([TeacherAnswer("dune####1\n1984####-2\nArea: 51")], BOOKS, books)
    assert reading.kind == "incomplete" and reading.problem.endswith("\nArea: 51")
    again = TeacherAnswer("Area: 51####2")
    assert read_ratings([TeacherAnswer("dune####1\n1984####-2"), again], BOOKS, books).response == (
        "Dune####1\n1984####-2\nArea: 51####2"
    )
