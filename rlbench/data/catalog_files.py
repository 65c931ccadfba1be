"""Catalogues in files: a pickled list, JSON or CSV of (title, year).

A pickle can run code while it is loaded, so only one that holds nothing but lists, tuples, strings and integers is
read: the unpickler used here knows no name of any module, and what comes out is checked like the other forms.
"""

import csv
import io
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from rlbench.catalog import Catalog
from rlbench.data.record import Film
from rlbench.data.validation import EXAMPLES, Finding, report
from rlbench.errors import BadInput

SUFFIXES = (".pkl", ".json", ".csv")

_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
)
"""What the unpickler raises on bytes that are no (whole) pickle."""


def integer_year(value: object) -> int | None:
    """The year as int, from an int or a string of digits; None where it is neither."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*", value):
        return int(value)
    return None


def read_catalog(path: str | Path) -> tuple[Catalog, list[str]]:
    """Read a catalogue: .pkl (list of (title, year)), .json (list of [title, year]) or .csv (columns title, year).

    Returns:
        The catalogue, in the file's order, and notices: how many years were strings, which have not four digits.

    Raises:
        BadInput: no such file, an unknown ending, a malformed file, a pickle that names anything of a module, or
            entries without a title or an integer year (all at once).
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise BadInput(f"catalogue {path}: the file's ending must be one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise BadInput(f"catalogue {path}: there is no such file")
    read = {".pkl": _read_pickle, ".json": _read_json, ".csv": _read_csv}[path.suffix]
    rows = read(path)
    where, unit = f"catalogue {path}", {".csv": "line"}.get(path.suffix, "entry")
    problems = report(where, _problems(rows), unit)
    if not rows:
        problems = [f"{where}: it is empty"]
    if problems:
        raise BadInput(*problems)
    films: list[Film] = [(title, int(year)) for _, (title, year) in rows]
    return Catalog(films), _notices(path, rows, films)


def _problems(rows: list[tuple[int, Any]]) -> Iterator[Finding]:
    for number, row in rows:
        if not isinstance(row, list | tuple) or len(row) != 2:
            yield number, "no pair of title and year", repr(row)
            continue
        title, year = row
        if not isinstance(title, str) or not title.strip():
            yield number, "the title is no text or empty", repr(row)
        if integer_year(year) is None:
            yield number, "the year is no integer", repr(row)


def _notices(path: Path, rows: list[tuple[int, Any]], films: list[Film]) -> list[str]:
    notices = []
    if path.suffix != ".csv":  # in a CSV every year is text
        converted = sum(isinstance(year, str) for _, (_, year) in rows)
        if converted:
            notices.append(f"catalogue {path.name}: {converted} years given as strings were converted")
    corrupt = [film for film in films if not 1000 <= film[1] <= 9999]
    if corrupt:
        examples = ", ".join(f"{title} ({year})" for title, year in corrupt[:EXAMPLES])
        notices.append(
            f"catalogue {path.name}: {len(corrupt)} years have not four digits, so no list can name these films; "
            f"kept as they are: {examples}"
        )
    return notices


class _PlainUnpickler(pickle.Unpickler):
    """Builds lists, tuples, strings, numbers and the like; anything that a module would have to provide is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _read_pickle(path: Path) -> list[tuple[int, Any]]:
    try:
        rows = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except _BROKEN_PICKLE as error:
        raise BadInput(
            f"catalogue {path}: refused as a pickle: {error}; only a list of (title, year) of built-in types is read. "
            "Where you trust the file, convert it to .json or .csv"
        ) from error
    return _numbered(path, rows)


def _read_json(path: Path) -> list[tuple[int, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # malformed JSON, or bytes that are no UTF-8
        raise BadInput(f"catalogue {path}: no JSON: {error}") from error
    return _numbered(path, rows)


def _numbered(path: Path, rows: Any) -> list[tuple[int, Any]]:
    if not isinstance(rows, list):
        raise BadInput(f"catalogue {path}: it holds a {type(rows).__name__}, expected a list of (title, year)")
    return list(enumerate(rows))


def _read_csv(path: Path) -> list[tuple[int, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadInput(f"catalogue {path}: no UTF-8: {error}") from error
    reader = csv.DictReader(lines)
    missing = {"title", "year"} - set(reader.fieldnames or ())
    if missing:
        raise BadInput(f"catalogue {path}: column {' and '.join(sorted(missing))} is missing in {reader.fieldnames}")
    return [(reader.line_num, (row["title"], row["year"])) for row in reader]
