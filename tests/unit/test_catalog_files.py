"""Catalogue files: three formats, and all refusals."""

import json
import os
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlbench.base.errors import BadInput
from rlbench.data import catalog_files
from rlbench.data.catalog_files import integer_year, read_catalog
from rlbench.lists.entries import read_line
from tests.helpers import shared_data

FILMS = [("Heat", 1995), ("Amélie", 2001), ("Girl, Interrupted", 1999)]


def write(folder: Path, name: str, rows: object) -> Path:
    path = folder / name
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text(str(rows), encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read_catalog(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def refusal_of(folder: Path, data: bytes) -> str:
    (folder / "raw.pkl").write_bytes(data)
    return refusal(folder / "raw.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_pickle_of_any_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "c.pkl"
    path.write_bytes(pickle.dumps(FILMS, protocol=protocol))
    catalog, notices = read_catalog(path)
    assert catalog.items == FILMS
    assert notices == []


def test_reads_json(tmp_path: Path) -> None:
    catalog, notices = read_catalog(write(tmp_path, "c.json", FILMS))
    assert catalog.items == FILMS
    assert notices == []


def test_reads_csv_with_other_columns_quotes_and_byte_order_mark(tmp_path: Path) -> None:
    text = '\ufeffyear,genre,title\n1995,crime,Heat\n2001,romance,Amélie\n1999,drama,"Girl, Interrupted"\n'
    catalog, notices = read_catalog(write(tmp_path, "c.csv", text))
    assert catalog.items == FILMS
    assert notices == []


@pytest.mark.parametrize("name", ["c.pkl", "c.json"])
def test_string_years_are_converted_and_counted(tmp_path: Path, name: str) -> None:
    catalog, notices = read_catalog(write(tmp_path, name, [("Heat", "1995"), ("Alien", 1979), ("Jaws", " 1975")]))
    assert catalog.items == [("Heat", 1995), ("Alien", 1979), ("Jaws", 1975)]
    assert notices == [f"catalogue {name}: 2 years given as strings were converted"]


def test_a_year_without_four_digits_is_kept_and_told(tmp_path: Path) -> None:
    catalog, notices = read_catalog(write(tmp_path, "c.json", [["The Wall", 201], ["Heat", 1995]]))
    assert ("The Wall", 201) in catalog
    assert len(notices) == 1
    assert "1 years do not have four digits" in notices[0]
    assert "The Wall (201)" in notices[0]


def test_all_bad_entries_are_named_at_once(tmp_path: Path) -> None:
    rows = [["Heat", 1995], ["Alien", "late 70s"], ["", 1980], ["Jaws"], [None, 1990], ["Up", 2009.0], ["Big", True]]
    message = refusal(write(tmp_path, "c.json", rows))
    assert "entry 1: the year is not an integer: ['Alien', 'late 70s']" in message
    assert "entry 2: the title is empty or not text" in message
    assert "entry 3: not a pair of title and year: ['Jaws']" in message
    assert "entry 4: the title is empty or not text" in message
    assert "entry 5: the year is not an integer" in message
    assert "entry 6: the year is not an integer" in message


def test_many_problems_of_one_kind_are_counted(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "c.json", [["Heat", "x"]] * 40))
    assert message.count("entry") == 5
    assert "35 more: the year is not an integer" in message


def test_csv_problems_name_the_line(tmp_path: Path) -> None:
    assert "line 3: the year is not an integer" in refusal(write(tmp_path, "c.csv", "title,year\nHeat,1995\nAlien,\n"))
    assert "column year is missing" in refusal(write(tmp_path, "d.csv", "title,released\nHeat,1995\n"))
    assert "line 2: the year is not an integer" in refusal(write(tmp_path, "e.csv", "title,year\nHeat\n"))


@pytest.mark.parametrize("name", ["c.pkl", "c.json", "c.csv"])
def test_an_empty_catalogue_is_refused(tmp_path: Path, name: str) -> None:
    assert "empty" in refusal(write(tmp_path, name, "title,year\n" if name == "c.csv" else []))


def test_missing_file_and_unknown_ending(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "c.pkl")
    assert ".pkl, .json, .csv" in refusal(write(tmp_path, "c.xml", "Heat"))


class Malice:
    """Unpickles by running a command."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_a_command_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    payload = [("Heat", 1995), Malice(f"touch {marker}")]
    path = tmp_path / "c.pkl"
    path.write_bytes(pickle.dumps(payload, protocol=protocol))
    assert f"{os.system.__module__}.system" in refusal(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists(), "the payload is harmless, so the test shows nothing"


@pytest.mark.parametrize("payload", [[("Heat", np.int64(1995))], [("Heat", Path("x"))], [print], [complex(1, 2)]])
def test_any_global_is_refused(tmp_path: Path, payload: list) -> None:
    assert "refused as a pickle: it imports" in refusal(write(tmp_path, "c.pkl", payload))


@pytest.mark.parametrize("payload", ["Heat", 3, ("Heat", 1995), ()])
def test_a_pickle_that_is_no_list_is_refused(tmp_path: Path, payload: object) -> None:
    assert f"expected a list of (title, year), got a {type(payload).__name__}" in refusal(
        write(tmp_path, "c.pkl", payload)
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("value", "made"),
    [
        (1995.0, "a float"),
        (None, "None"),
        (True, "a bool"),
        ({}, "a dict"),
        ({"year": 1995}, "a dict"),
        ({1995}, "a set"),
        (frozenset({1995}), "a frozenset"),
        (b"1995", "bytes"),
        (bytearray(b"1995"), "a bytearray"),
        (1j, "builtins.complex"),
        (2**64, "an integer of 65 bits"),
        (-(2**3000), "an integer of 3001 bits"),
    ],
)
def test_a_pickle_of_other_types_is_refused_by_their_name(
    tmp_path: Path, value: object, made: str, protocol: int
) -> None:
    path = tmp_path / "c.pkl"
    path.write_bytes(pickle.dumps([("Heat", 1995), ("Alien", value)], protocol=protocol))
    message = refusal(path)
    assert "refused as a pickle: it " in message
    if "imports" not in message:  # old protocols create sets, bytes and the like by calling a module's function
        assert f"it contains {made} (byte " in message
        assert "after the text 'Alien')" in message


def instructions(*parts: bytes) -> bytes:
    """A pickle of protocol 4 with these instructions."""
    return b"\x80\x04" + b"".join(parts) + b"."


TEXT = b"\x8c\x04Heat"
TRICKS = {
    "persistent id": (instructions(b"]", TEXT, b"Q", b"a"), "it contains an object kept outside the file"),
    "persistent id as text": (instructions(b"]", b"Pheat\n", b"a"), "it contains an object kept outside the file"),
    "extension code": (instructions(b"]", b"\x82\x01", b"a"), "it contains an object of Python's extension registry"),
    "global": (instructions(b"cos\nsystem\n", TEXT, b"\x85R"), "it imports os.system"),
    "instance": (instructions(b"(", TEXT, b"ios\nsystem\n"), "it imports os.system"),
    "object": (instructions(b"(cos\nsystem\n", TEXT, b"o"), "it imports os.system"),
    "names from the memo": (instructions(b"\x8c\x02os\x94", TEXT, b"h\x00\x8c\x06system\x93"), "it imports os.system"),
    "call": (instructions(TEXT, b")R"), "it uses the instruction REDUCE"),
    "new object": (instructions(TEXT, b")\x81"), "it uses the instruction NEWOBJ"),
    "state": (instructions(b"]", b"}b"), "it contains a dict"),
    "state of a list": (instructions(b"]", TEXT, b"b"), "it uses the instruction BUILD"),
    "buffer": (instructions(b"\x97"), "it uses the instruction NEXT_BUFFER"),
    "bool as integer": (instructions(b"]I01\na"), "it contains a bool"),
    "discarding": (instructions(b"]", TEXT, b"0"), "it uses the instruction POP"),
    "doubling": (instructions(b"]2"), "it uses the instruction DUP"),
    "room for four thousand million objects": (
        instructions(b"]r\xff\xff\xff\xff"),
        "it gives an object the memo number 4294967295",
    ),
    "room by text": (instructions(b"]p99999999999\n"), "it gives an object the memo number 99999999999"),
    "integer of a million bytes": (instructions(b"\x8b", struct.pack("<i", 10**6), b"\x7f" * 10**6), "7999999 bits"),
    "text longer than the file": (instructions(b"\x8d", struct.pack("<Q", 2**40), b"Heat"), "bytes"),
    "list in itself": (instructions(b"]\x94h\x00a"), "entry 0: not a pair of title and year: [[[...]]]"),
    "nested": (instructions(b"]" * 100_001, b"a" * 100_000), "entry 0: not a pair of title and year: [[[...]]]"),
    "appending to a tuple": (instructions(b")", TEXT, b"a"), "refused as a pickle"),
}


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_are_refused_by_name(tmp_path: Path, name: str) -> None:
    data, expected = TRICKS[name]
    assert expected in refusal_of(tmp_path, data)


def test_a_pickle_that_would_unfold_to_billions_is_refused_at_once(tmp_path: Path) -> None:
    tower = ("Heat", 1995)
    for _ in range(200):
        tower = (tower, tower, tower, tower)  # type: ignore[assignment]
    message = refusal(write(tmp_path, "c.pkl", [tower] * 3))
    assert "entry 0: not a pair of title and year" in message
    assert len(message) < 2000


def test_a_refused_pickle_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_files, "_PlainUnpickler", None)
    for data in (pickle.dumps([1.5]), instructions(TEXT, b")R"), instructions(b"]r\xff\xff\xff\xff")):
        assert "refused as a pickle" in refusal_of(tmp_path, data)


def test_the_unpickler_alone_takes_nothing_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_files, "_check_instructions", lambda data: None)
    assert "it imports" in refusal(write(tmp_path, "c.pkl", [Malice("false")]))
    assert "it imports os.system" in refusal_of(tmp_path, instructions(b"(", TEXT, b"ios\nsystem\n"))


def test_the_instructions_told_apart_exist() -> None:
    known = {instruction.name for instruction in pickletools.opcodes}
    assert known >= catalog_files._ALLOWED | catalog_files._GLOBALS | set(catalog_files._REFUSED)
    assert not catalog_files._ALLOWED & (catalog_files._GLOBALS | set(catalog_files._REFUSED))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
    changes=st.lists(st.tuples(st.integers(0, 80), st.binary(max_size=3)), max_size=4),
)
def test_a_damaged_pickle_is_read_or_refused(tmp_path: Path, protocol: int, changes: list[tuple[int, bytes]]) -> None:
    data = pickle.dumps(FILMS, protocol=protocol)
    for place, piece in changes:
        data = data[:place] + piece + data[place + len(piece) :]
    path = tmp_path / "c.pkl"
    path.write_bytes(data)
    try:
        catalog, _ = read_catalog(path)
    except BadInput:
        return
    assert all(type(title) is str and type(year) is int for title, year in catalog.items)


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps(FILMS)[:-10], b"\x80\x05]\x94(e", b"I1\nI2\n"])
def test_broken_pickles_are_refused(tmp_path: Path, data: bytes) -> None:
    assert "refused as a pickle" in refusal_of(tmp_path, data)


def test_lists_in_lists_of_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    for depth in (100, 900, 100_000):
        path.write_text("[" * depth + "]" * depth)
        refusal(path)


@pytest.mark.parametrize("year", ["9" * 5000, "1" * 10])
def test_a_string_with_too_many_digits_is_no_year(tmp_path: Path, year: str) -> None:
    assert "entry 0: the year is not an integer" in refusal(write(tmp_path, "c.json", [["Heat", year]]))


def test_half_characters_are_refused(tmp_path: Path) -> None:
    assert "entry 0: the title contains half a character" in refusal(write(tmp_path, "c.json", [["He\ud83dat", 1995]]))


def test_a_csv_field_may_hold_any_white_space(tmp_path: Path) -> None:
    text = 'title,year\n"The\nThing",1982\nThe\u2028Fog,1980\n'
    catalog, _ = read_catalog(write(tmp_path, "c.csv", text))
    assert catalog.items == [("The\nThing", 1982), ("The\u2028Fog", 1980)]
    assert ("the thing", 1982) in catalog


def test_a_csv_field_that_never_ends_is_refused(tmp_path: Path) -> None:
    assert "is not CSV" in refusal(write(tmp_path, "c.csv", 'title,year\n"' + "x" * 200_000))


@pytest.mark.parametrize("name", ["c.json", "c.csv"])
def test_text_that_is_no_utf8_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"title,year\nAm\xe9lie,2001\n")
    refusal(path)


def test_integer_year() -> None:
    assert [integer_year(value) for value in (1999, "1999", " 1999 ", "0201")] == [1999, 1999, 1999, 201]
    assert [integer_year(value) for value in (True, None, 1999.0, "", "19.99", "MCM", "-5")] == [None] * 7


def test_odd_entries_are_kept_and_told(tmp_path: Path) -> None:
    rows = [["Heat", "1995"], ["HEAT ", 1995], ["Dune", 2021], ["Dune", 2020], ["Big", 0], ["\u200b", -1]]
    catalog, notices = read_catalog(write(tmp_path, "c.json", rows))
    assert len(catalog) == 6
    assert notices == [
        "catalogue c.json: 1 years given as strings were converted",
        *[f"catalogue c.json: {sentence}" for sentence in catalog.report()],
    ]
    kinds = [
        "1 films equal an earlier film",
        "1 titles belong to several films at most 2",
        "2 years do not have four",
        "1 titles are empty",
    ]
    assert all(notice.startswith(kind) for notice, kind in zip(catalog.report(), kinds, strict=True))


def test_the_published_catalogue() -> None:
    catalog, notices = read_catalog(shared_data("reddit_v2", "gt_catalog.pkl"))
    assert len(catalog) == 7404
    assert ("10 things i hate about you", 1999) in catalog
    remakes, corrupt = notices
    assert "36 titles belong to several films at most 2 years apart" in remakes
    assert "1 years do not have four digits" in corrupt
    assert corrupt.endswith("The Wall (201)")
    years: dict[str, Any] = {}
    for title, year in catalog.items:
        years.setdefault(title, set()).add(year)
    assert sum(len(of_title) > 1 for of_title in years.values()) == 230


def test_every_film_of_the_published_catalogue_can_be_named():
    """Every film can be named bare and in every decoration, except one whose year has three digits."""
    catalog, _ = read_catalog(shared_data("reddit_v2", "gt_catalog.pkl"))
    for form in (
        "{} ({})",
        "7. {} ({})",
        "- {} ({})",
        '"{}" ({})',
        "**{} ({})**",
        "* **{}** ({}) - a classic",
        "{} [{}]",
    ):
        lost = [film for film in catalog.items if read_line(form.format(*film)) != film]
        assert lost == [("The Wall", 201)], form


def test_lines_of_text_end_at_newlines_only(tmp_path: Path) -> None:
    names = ["Dune\u2028II", "Emma\x85", "So\x0blaris", "It"]
    file = tmp_path / "c.txt"
    file.write_text("\r\n".join(names) + "\n", encoding="utf-8", newline="")
    assert [title for title, _ in read_catalog(file, with_years=False)[0].items] == [name.strip() for name in names]


@pytest.mark.parametrize("name", ["c.json", "c.jsonl"])
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, name: str) -> None:
    one = '{"title": "Heat", "year": 1995, "title": "Alien"}'
    (tmp_path / name).write_text(one if name == "c.jsonl" else f"[{one}]")
    with pytest.raises(BadInput, match=f"{name}.*a key stands twice in one object; keep one: 'title'"):
        read_catalog(tmp_path / name)
