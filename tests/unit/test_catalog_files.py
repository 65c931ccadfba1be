"""Catalogue files: three forms, and everything that is refused."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from rlbench.data.catalog_files import integer_year, read_catalog
from rlbench.errors import BadInput
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


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_pickle_of_any_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "c.pkl"
    path.write_bytes(pickle.dumps(FILMS, protocol=protocol))
    catalog, notices = read_catalog(path)
    assert catalog.films == FILMS
    assert notices == []


def test_reads_json(tmp_path: Path) -> None:
    catalog, notices = read_catalog(write(tmp_path, "c.json", FILMS))
    assert catalog.films == FILMS
    assert notices == []


def test_reads_csv_with_other_columns_quotes_and_byte_order_mark(tmp_path: Path) -> None:
    text = '\ufeffyear,genre,title\n1995,crime,Heat\n2001,romance,Amélie\n1999,drama,"Girl, Interrupted"\n'
    catalog, notices = read_catalog(write(tmp_path, "c.csv", text))
    assert catalog.films == FILMS
    assert notices == []


@pytest.mark.parametrize("name", ["c.pkl", "c.json"])
def test_string_years_are_converted_and_counted(tmp_path: Path, name: str) -> None:
    catalog, notices = read_catalog(write(tmp_path, name, [("Heat", "1995"), ("Alien", 1979), ("Jaws", " 1975")]))
    assert catalog.films == [("Heat", 1995), ("Alien", 1979), ("Jaws", 1975)]
    assert notices == [f"catalogue {name}: 2 years given as strings were converted"]


def test_a_year_without_four_digits_is_kept_and_told(tmp_path: Path) -> None:
    catalog, notices = read_catalog(write(tmp_path, "c.json", [["The Wall", 201], ["Heat", 1995]]))
    assert ("The Wall", 201) in catalog
    assert len(notices) == 1
    assert "1 years have not four digits" in notices[0]
    assert "The Wall (201)" in notices[0]


def test_all_bad_entries_are_named_at_once(tmp_path: Path) -> None:
    rows = [["Heat", 1995], ["Alien", "late 70s"], ["", 1980], ["Jaws"], [None, 1990], ["Up", 2009.0], ["Big", True]]
    message = refusal(write(tmp_path, "c.json", rows))
    assert "entry 1: the year is no integer: ['Alien', 'late 70s']" in message
    assert "entry 2: the title is no text or empty" in message
    assert "entry 3: no pair of title and year: ['Jaws']" in message
    assert "entry 4: the title is no text or empty" in message
    assert "entry 5: the year is no integer" in message
    assert "entry 6: the year is no integer" in message


def test_many_problems_of_one_kind_are_counted(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "c.json", [["Heat", "x"]] * 40))
    assert message.count("entry") == 5
    assert "35 more: the year is no integer" in message


def test_csv_problems_name_the_line(tmp_path: Path) -> None:
    assert "line 3: the year is no integer" in refusal(write(tmp_path, "c.csv", "title,year\nHeat,1995\nAlien,\n"))
    assert "column year is missing" in refusal(write(tmp_path, "d.csv", "title,released\nHeat,1995\n"))
    assert "line 2: the year is no integer" in refusal(write(tmp_path, "e.csv", "title,year\nHeat\n"))


@pytest.mark.parametrize("name", ["c.pkl", "c.json", "c.csv"])
def test_an_empty_catalogue_is_refused(tmp_path: Path, name: str) -> None:
    assert "empty" in refusal(write(tmp_path, name, "title,year\n" if name == "c.csv" else []))


def test_missing_file_and_unknown_ending(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "c.pkl")
    assert ".pkl, .json, .csv" in refusal(write(tmp_path, "c.txt", "Heat"))


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
    assert "refused as a pickle: it asks for" in refusal(write(tmp_path, "c.pkl", payload))


@pytest.mark.parametrize("payload", [{"Heat": 1995}, {("Heat", 1995)}, "Heat", None, 3])
def test_a_pickle_that_is_no_list_is_refused(tmp_path: Path, payload: object) -> None:
    message = refusal(write(tmp_path, "c.pkl", payload))
    assert "expected a list" in message or "asks for" in message


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps(FILMS)[:-10], b"\x80\x05]\x94(e", b"I1\nI2\n"])
def test_broken_pickles_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "c.pkl"
    path.write_bytes(data)
    assert "refused as a pickle" in refusal(path)


@pytest.mark.parametrize("name", ["c.json", "c.csv"])
def test_text_that_is_no_utf8_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"title,year\nAm\xe9lie,2001\n")
    refusal(path)


def test_integer_year() -> None:
    assert [integer_year(value) for value in (1999, "1999", " 1999 ", "0201")] == [1999, 1999, 1999, 201]
    assert [integer_year(value) for value in (True, None, 1999.0, "", "19.99", "MCM", "-5")] == [None] * 7


def test_the_published_catalogue() -> None:
    catalog, notices = read_catalog(shared_data("reddit_v2", "gt_catalog.pkl"))
    assert len(catalog) == 7404
    assert ("10 things i hate about you", 1999) in catalog
    assert len(notices) == 1
    assert notices[0].endswith("The Wall (201)")
