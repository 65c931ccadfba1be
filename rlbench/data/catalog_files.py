"""Catalogues in files: text, CSV, JSON, JSON Lines, Parquet or a pickled list, with or without years.

A pickle is a program and can run code while it loads. So its instructions are read first, without executing them. A
file is refused if any of them is not needed for lists, tuples, strings and integers. The unpickler that then executes
them cannot import any name. The result is checked like the other formats.
"""

import csv
import io
import pickle
import pickletools
import re
import reprlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from rlbench.base.errors import BadInput
from rlbench.base.user_files import read_user_bytes, read_user_json, read_user_lines, read_user_text, text_lines
from rlbench.data.checks import Finding, report
from rlbench.lists.catalog import Catalog
from rlbench.lists.items import WITHOUT_YEARS, Item, plural

SUFFIXES = (".pkl", ".json", ".csv", ".txt", ".jsonl", ".parquet")

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
"""Errors that the unpickler raises on bytes that are not a complete pickle."""

_GLOBALS = {"GLOBAL", "STACK_GLOBAL", "INST"}
"""Instructions that import a name from a module. The unpickler stops at the first and reports the name."""
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}
_TEXT = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"}
_INTEGER = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
_OTHER = {"PROTO", "FRAME", "MARK", "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "STOP"}
_LIST = {"EMPTY_LIST", "LIST", "APPEND", "APPENDS"}
_TUPLE = {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_ALLOWED = _MEMO | _TEXT | _INTEGER | _OTHER | _LIST | _TUPLE
_REFUSED = {
    "NONE": "None",
    **dict.fromkeys(["NEWTRUE", "NEWFALSE"], "a bool"),
    **dict.fromkeys(["FLOAT", "BINFLOAT"], "a float"),
    **dict.fromkeys(["DICT", "EMPTY_DICT"], "a dict"),
    "EMPTY_SET": "a set",
    "FROZENSET": "a frozenset",
    **dict.fromkeys(["BINBYTES", "SHORT_BINBYTES", "BINBYTES8"], "bytes"),
    "BYTEARRAY8": "a bytearray",
    **dict.fromkeys(["PERSID", "BINPERSID"], "an object kept outside the file"),
    **dict.fromkeys(["EXT1", "EXT2", "EXT4"], "an object of Python's extension registry"),
}
"""Objects that a user is likely to meet, by the instruction that makes them. Others are reported by instruction."""
_LONGEST_INTEGER = 64  # bits
_LONGEST_YEAR = 9  # digits

_SURROGATE = re.compile(r"[\ud800-\udfff]")

_shown = reprlib.Repr()
_shown.maxlevel = 2
_shown.maxstring = _shown.maxother = 80


def integer_year(value: object) -> int | None:
    """The year as int, from an int or a string of up to 9 digits; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 10**_LONGEST_YEAR else None
    if isinstance(value, str) and re.fullmatch(rf"\s*\d{{1,{_LONGEST_YEAR}}}\s*", value):
        return int(value)
    return None


def read_catalog(path: str | Path, with_years: bool = True, noun: str = "film") -> tuple[Catalog, list[str]]:
    """Read a catalogue.

    A .txt file has one item per line, "Title (Year)" or the title. A .csv or .parquet file has the columns title and
    year. A .json file is a list, and a .jsonl file has one value per line: an object with title and year, a pair of
    them, or a name as in a .txt file. A .pkl file is a list of such pairs or names.

    Args:
        path: the file.
        with_years: whether items have years. If not, years may be missing and are left out, and equal titles are
            merged.
        noun: what an item is, for notices.

    Returns:
        The catalogue, in the file's order, and notices: the numbers of years given as strings and of merged items, and
        `Catalog.report`.

    Raises:
        BadInput: no such file, an unknown ending, a malformed file, a pickle that holds anything but lists, tuples,
            strings and integers, or entries without a title or an integer year (all at once).
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise BadInput(f"catalogue {path}: the file name must end in one of {', '.join(SUFFIXES)}")
    readers: dict[str, Callable[[Path], list[tuple[int, Any]]]] = {
        ".pkl": _read_pickle,
        ".json": _read_json,
        ".csv": partial(_read_csv, with_years=with_years),
        ".txt": _read_text,
        ".jsonl": _read_lines,
        ".parquet": partial(_read_parquet, with_years=with_years),
    }
    rows = [(number, _pair(row, with_years)) for number, row in readers[path.suffix](path)]
    where = f"catalogue {path}"
    unit = {".csv": "line", ".txt": "line", ".jsonl": "line", ".parquet": "row"}.get(path.suffix, "entry")
    problems = report(where, _problems(rows, with_years), unit)
    if not rows:
        problems = [f"{where}: the catalogue is empty"]
    if problems:
        raise BadInput(*problems)
    items: list[Item] = [(title, int(year) if with_years else None) for _, (title, year) in rows]
    notices = _repairs(path, rows) if with_years else []
    if not with_years and (merged := len(items) - len(set(items))):
        items = list(dict.fromkeys(items))
        notices.append(f"{merged} {plural(noun)} equal an earlier one without their years, and were merged with it")
    catalog = Catalog(items)
    return catalog, [f"catalogue {path.name}: {notice}" for notice in notices + catalog.report(noun)]


NAME_WITH_YEAR = re.compile(rf"(.*\S)\s*\(([0-9]{{1,{_LONGEST_YEAR}}})\)\s*", re.DOTALL)
"""Title (Year)."""


def _pair(row: Any, with_years: bool) -> Any:
    """An object or a name as a pair of title and year; anything else as it is."""
    if isinstance(row, dict):
        return row.get("title"), row.get("year")
    if isinstance(row, str):
        named = NAME_WITH_YEAR.fullmatch(row) if with_years else None
        return (named[1], int(named[2])) if named else (row, None)
    return row


def _problems(rows: list[tuple[int, Any]], with_years: bool) -> Iterator[Finding]:
    for number, row in rows:
        if not isinstance(row, list | tuple) or len(row) != 2:
            yield number, "not a pair of title and year", _shown.repr(row)
            continue
        title, year = row
        if not isinstance(title, str) or not title.strip():
            yield number, "the title is empty or not text", _shown.repr(row)
        elif _SURROGATE.search(title):
            yield number, "the title contains half a character (a lone surrogate)", _shown.repr(row)
        if with_years and year is None:
            yield number, f"the year is not an integer, but missing; add it, or set {WITHOUT_YEARS}", _shown.repr(title)
        elif with_years and integer_year(year) is None:
            yield number, "the year is not an integer", _shown.repr(row)


def _repairs(path: Path, rows: list[tuple[int, Any]]) -> list[str]:
    """Repairs that were made: years given as strings. In a CSV every year is text, so none is reported."""
    converted = sum(isinstance(year, str) for _, (_, year) in rows) if path.suffix != ".csv" else 0
    return [f"{converted} years given as strings were converted"] if converted else []


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that cannot import names."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it imports {module}.{name}")


def _check_instructions(data: bytes) -> None:
    """Refuse a pickle with an instruction that lists, tuples, strings and integers do not need. Builds no object.

    Raises:
        pickle.UnpicklingError: names the object that the instruction makes and its position, as a byte and the text
            before it.
        ValueError: the bytes are not a pickle.
    """
    text = None
    for instruction, argument, position in pickletools.genops(data):
        if instruction.name in _GLOBALS:
            return
        fault = _fault(instruction.name, argument, len(data))
        if fault:
            after = "" if text is None else f", after the text {_shown.repr(text)}"
            raise pickle.UnpicklingError(f"{fault} (byte {position}{after})")
        if instruction.name in _TEXT:
            text = argument


def _fault(name: str, argument: Any, size: int) -> str | None:
    """The problem of one instruction in a pickle of `size` bytes; None if there is none."""
    if name not in _ALLOWED:
        return f"it contains {_REFUSED[name]}" if name in _REFUSED else f"it uses the instruction {name}"
    if isinstance(argument, bool):  # the oldest protocols write True as the integer 01
        return "it contains a bool"
    if name in _INTEGER and argument.bit_length() > _LONGEST_INTEGER:
        return f"it contains an integer of {argument.bit_length()} bits"
    if name in _MEMO and argument > size:  # the unpickler allocates memory for all numbers up to this one
        return f"it gives an object the memo number {argument}"
    return None


def _read_pickle(path: Path) -> list[tuple[int, Any]]:
    data = read_user_bytes(path, f"catalogue {path}")
    try:
        _check_instructions(data)
        rows = _PlainUnpickler(io.BytesIO(data)).load()
    except _BROKEN_PICKLE as error:
        raise BadInput(
            f"catalogue {path}: refused as a pickle: {error}; a pickled catalogue may contain only lists, tuples, "
            "strings and integers, as a list of (title, year). If you trust the file, convert it to .json or .csv"
        ) from error
    return _numbered(path, rows)


def _read_json(path: Path) -> list[tuple[int, Any]]:
    return _numbered(path, read_user_json(path, f"catalogue {path}", distinct_keys=True))


def _numbered(path: Path, rows: Any) -> list[tuple[int, Any]]:
    if not isinstance(rows, list):
        raise BadInput(f"catalogue {path}: expected a list of (title, year), got a {type(rows).__name__}")
    return list(enumerate(rows))


def _read_text(path: Path) -> list[tuple[int, Any]]:
    lines = text_lines(read_user_text(path, f"catalogue {path}"))
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _read_lines(path: Path) -> list[tuple[int, Any]]:
    rows, findings = [], []
    for number, row, wrong in read_user_lines(path, f"catalogue {path}"):
        rows.append((number, row))
        if wrong:
            findings.append((number, *wrong))
    if findings:
        raise BadInput(*report(f"catalogue {path}", findings, "line"))
    return rows


def _read_parquet(path: Path, with_years: bool) -> list[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    read_user_bytes(path, f"catalogue {path}")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(f"catalogue {path} is not parquet: {str(error).splitlines()[0]}") from error
    missing = [name for name in ("title", "year")[: 1 + with_years] if name not in table.column_names]
    if missing:
        raise BadInput(
            f"catalogue {path}: column {' and '.join(missing)} is missing in {_shown.repr(table.column_names)}"
        )
    kept = [name for name in ("title", "year") if name in table.column_names]
    return list(enumerate(table.select(kept).to_pylist()))


def _read_csv(path: Path, with_years: bool) -> list[tuple[int, Any]]:
    needed = {"title", "year"} if with_years else {"title"}
    reader = csv.DictReader(io.StringIO(read_user_text(path, f"catalogue {path}"), newline=""), strict=True)
    rows: list[tuple[int, Any]] = []
    findings: list[Finding] = []
    start = 1
    try:
        missing = needed - set(reader.fieldnames or ())
        if missing:
            columns = " and ".join(sorted(missing))
            raise BadInput(f"catalogue {path}: column {columns} is missing in {_shown.repr(reader.fieldnames)}")
        start = reader.line_num + 1
        for row in reader:
            rows.append((reader.line_num, (row["title"], row.get("year"))))
            if any(cell.strip() for cell in row.get(None, [])):  # type: ignore[call-overload]
                too_many = "there are more cells than columns; put quotes around a title with a comma"
                findings.append((reader.line_num, too_many, _shown.repr(row[None])))  # type: ignore[index]
            start = reader.line_num + 1
    except csv.Error as error:
        findings.append(
            (
                start,
                "the row is not CSV; quotes may be unclosed, or a quote inside a quoted cell not be doubled",
                str(error),
            )
        )
    if findings:
        raise BadInput(*report(f"catalogue {path}", findings, "line"))
    return rows
