"""JSON files with a declared form: one declaration for the code that writes them and the code that reads them.

A form is a `TypedDict` whose annotations say which values are valid. Keys that it does not name are ignored, so that
later versions may add some. Imports no torch.
"""

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    NotRequired,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from rlbench.base.errors import BadInput
from rlbench.base.files import write_json
from rlbench.base.jsonl import append_rows, keep_rows, read_rows
from rlbench.base.user_files import BAD_JSON, one_line

NESTED = 100
"""Largest nesting depth of a record. Real ones have about ten levels."""
SHOWN = 40
"""Number of characters of an invalid value that a message shows."""
PUT_BACK = "restore it from a backup, or move the run directory away"
"""Remedy for a damaged file of a run that nothing writes anew."""


class Damaged(Exception):
    """A file that cannot be used. The message says why."""


@dataclass(frozen=True)
class Values:
    """Valid values of a field or an option: `accepts` checks a value, `wanted` describes them in messages."""

    wanted: str
    accepts: Callable[[Any], bool]


def is_finite(value: object) -> bool:
    """Whether a value is a number that fits a float. True and False are not numbers."""
    if type(value) is float:
        return math.isfinite(value)
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_whole(value: object) -> bool:
    """Whether a value is a non-negative integer that fits into 64 bits. True and False are not numbers."""
    return type(value) is int and 0 <= value < 2**63


def is_text(value: object) -> bool:
    """Whether a value is text that can be written: it has no lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_number(value: object) -> bool:
    """Whether a value is a measured number: finite, NaN or infinite."""
    return type(value) is float or is_finite(value)


def is_deep(content: Any) -> bool:
    """Whether lists and objects are nested deeper than `NESTED` levels."""
    level = [content]
    for _ in range(NESTED):
        inner = [value for one in level for value in (one.values() if isinstance(one, dict) else one)]
        level = [value for value in inner if isinstance(value, dict | list)]
    return bool(level)


Text = Annotated[str, Values("text", is_text)]
Whole = Annotated[int, Values("a whole number", is_whole)]
Finite = Annotated[float, Values("a finite number", is_finite)]
Number = Annotated[float, Values("a number", is_number)]

Check = Callable[[Any], bool]


@cache
def check_of(kind: Any) -> Check:
    """Return a function that says whether a JSON value is of a kind: a form, or the annotation of a field."""
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and hasattr(kind, "__required_keys__"):
        return _check_of_form(kind)
    if origin is Annotated:
        return next(part.accepts for part in args if isinstance(part, Values))
    if origin in (Union, UnionType):
        checks = [check_of(part) for part in args]
        return lambda value: any(check(value) for check in checks)
    if origin is list:
        of_item = check_of(args[0])
        return lambda value: isinstance(value, list) and all(map(of_item, value))
    if origin is dict:
        of_value = check_of(args[1])
        return lambda value: isinstance(value, dict) and all(map(of_value, value.values()))
    if kind is Any:
        return lambda value: True
    return lambda value: isinstance(value, kind)


def _check_of_form(form: Any) -> Check:
    """`check_of` for a form. It checks every line of long files, so it is a plain loop."""
    wanted = [(key, check_of(kind), key in form.__required_keys__) for key, kind in fields_of(form).items()]

    def check(value: Any) -> bool:
        if type(value) is not dict:
            return False
        for key, is_kind, needed in wanted:
            if key in value:
                if not is_kind(value[key]):
                    return False
            elif needed:
                return False
        return True

    return check


@cache
def fields_of(form: Any) -> dict[str, Any]:
    """Return the fields of a form: key to the annotation of its value."""
    hints = get_type_hints(form, include_extras=True)
    return {key: get_args(hint)[0] if get_origin(hint) is NotRequired else hint for key, hint in hints.items()}


def problems_of(kind: Any, value: Any, at: str = "") -> tuple[list[str], list[str]]:
    """Return what is wrong with a JSON value: missing keys, and one clause per value of another kind.

    Args:
        kind: as in `check_of`.
        value: the value.
        at: dotted key of the value.
    """
    if check_of(kind)(value):
        return [], []
    if get_origin(kind) in (Union, UnionType) and isinstance(value, dict):  # an object or null
        return problems_of(next(part for part in get_args(kind) if part is not type(None)), value, at)
    lacking: list[str] = []
    if isinstance(value, dict) and hasattr(kind, "__required_keys__"):
        fields = fields_of(kind)
        needed = [key for key in fields if key in kind.__required_keys__ and value.get(key) is None]
        lacking = [key for key in needed if key not in value or not check_of(fields[key])(None)]
        inside = {key: of_key for key, of_key in fields.items() if key in value and key not in lacking}
    elif isinstance(value, dict) and get_origin(kind) is dict:
        inside = dict.fromkeys(value, get_args(kind)[1])
    else:
        return [], [f"{at} {_shown(value)}, which is {_not_of(kind)}"]
    dot = f"{at}." if at else ""
    parts = [problems_of(of_key, value[key], f"{dot}{key}") for key, of_key in inside.items()]
    missing = [f"{dot}{key}" for key in lacking] + [key for found, _ in parts for key in found]
    return missing, [clause for _, found in parts for clause in found]


def _not_of(kind: Any) -> str:
    """Return "not a whole number" or "none of a, b" for the annotation of a field."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " and ".join(_not_of(part) for part in args)
    if origin is Annotated:
        wanted = next(part.wanted for part in args if isinstance(part, Values))
        return f"none{wanted[3:]}" if wanted.startswith("one of") else f"not {wanted}"
    words = {bool: "true or false", str: "text", type(None): "null", list: "a list", dict: "an object"}
    return f"not {words.get(origin or kind, 'an object')}"


def _shown(value: object) -> str:
    words = ascii(value)
    return words if len(words) <= SHOWN else f"{words[:SHOWN]}..."


def checked(form: Any, content: dict[str, Any], keys: Sequence[str] = ()) -> None:
    """Check an object against a form.

    Args:
        form: the form.
        content: the object.
        keys: the only keys to check, all of them needed; empty for the whole form.

    Raises:
        Damaged: names the missing keys and the values of another kind.
    """
    kinds = {"": form} if not keys else {key: fields_of(form)[key] for key in keys}
    missing: list[str] = []
    wrong: list[str] = []
    for key, kind in kinds.items():
        if key and content.get(key) is None and not check_of(kind)(None):
            missing.append(key)
        else:
            lacking, odd = problems_of(kind, content.get(key) if key else content, key)
            missing, wrong = missing + lacking, wrong + odd
    if missing or wrong:
        lacks = [f"lacks {', '.join(missing)}"] if missing else []
        raise Damaged("; ".join([*lacks, *(f"has {clause}" for clause in wrong)]))


def load_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Keys are interned, so that keys shared by many files are stored once.

    Raises:
        FileNotFoundError: if there is no such file.
        Damaged: if it is not a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=lambda pairs: {sys.intern(key): value for key, value in pairs})
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise Damaged("is a folder, but a file is needed there") from None
    except OSError as error:
        raise Damaged(f"cannot be read ({error.strerror})") from None
    except BAD_JSON as error:
        raise Damaged(f"is not JSON ({one_line(error)})") from None
    if not isinstance(content, dict):
        raise Damaged("is not a JSON object")
    return content


def load_record(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, as `load_object`, if it can be shown and written again.

    Raises:
        FileNotFoundError: if there is no such file.
        Damaged: if it is not a JSON object, or one that is nested too deeply or holds a lone surrogate.
    """
    content = load_object(path)
    if is_deep(content):
        raise Damaged(f"is nested more than {NESTED} levels deep")
    if not is_text(json.dumps(content, ensure_ascii=False)):
        raise Damaged("contains half a character (a lone surrogate)")
    return content


@contextlib.contextmanager
def refused(path: Path, remedy: str) -> Iterator[None]:
    """Turn a missing or damaged file into BadInput that names it and says what to do."""
    try:
        yield
    except FileNotFoundError:
        raise BadInput(f"{path} is missing; {remedy}") from None
    except Damaged as error:
        raise BadInput(f"{path} is damaged: it {error}; {remedy}") from None


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """Return the object in a JSON file that has no form.

    Args:
        path: the file.
        remedy: what the user can do if the file is damaged.

    Raises:
        BadInput: if the file is missing or damaged.
    """
    with refused(path, remedy):
        return load_object(path)


Form = TypeVar("Form")


@dataclass(frozen=True)
class RecordFile(Generic[Form]):
    """A file with one JSON object.

    Attributes:
        name: name of the file in its folder.
        form: the form of the object.
    """

    name: str
    form: type[Form]

    def write(self, folder: Path, content: Form) -> None:
        """Write the file atomically."""
        write_json(folder / self.name, content)

    def load(self, folder: Path, *keys: str) -> Form:
        """Return the object.

        Args:
            folder: the folder of the file.
            keys: the only keys to check, all of them needed; none for the whole form.

        Raises:
            FileNotFoundError: if there is no such file.
            Damaged: if the file is damaged, lacks a key, or has a value of another kind. The message is a clause whose
                subject is the file.
        """
        content = load_record(folder / self.name)
        checked(self.form, content, keys)
        return cast(Form, content)

    def read(self, folder: Path, remedy: str, *keys: str) -> Form:
        """Return the object, as `load`.

        Args:
            remedy: what the user can do if the file is damaged.

        Raises:
            BadInput: names the file, what is wrong with it, and the remedy.
        """
        with refused(folder / self.name, remedy):
            return self.load(folder, *keys)


@dataclass(frozen=True)
class RowsFile(Generic[Form]):
    """A file with one JSON object per line, to which a running run appends.

    Attributes:
        name: name of the file in its folder.
        form: the form of a line.
        one: a line in messages.
    """

    name: str
    form: Any
    one: str

    def append(self, folder: Path, rows: Sequence[Form]) -> None:
        append_rows(folder / self.name, cast(Sequence[Mapping[str, Any]], rows))

    def keep(self, folder: Path, wanted: Callable[[Form], bool]) -> None:
        """Remove unwanted rows and a truncated last line. The file is rewritten only if something changes."""
        keep_rows(folder / self.name, cast(Callable[[Mapping[str, Any]], bool], wanted))

    def read(self, folder: Path, remedy: str) -> list[Form]:
        """Return the rows; none without the file. A truncated last line is skipped.

        Raises:
            BadInput: if a line has another form.
        """
        file, is_one = folder / self.name, check_of(self.form)
        rows = read_rows(file)
        for number, row in enumerate(rows, start=1):
            if not is_one(row):
                raise BadInput(f"{file} is damaged: line {number} is not a {self.one}; {remedy}")
        return cast(list[Form], rows)

    def load(self, folder: Path) -> list[Form]:
        """Return the rows of a file that is complete; none without the file.

        Raises:
            Damaged: if a line has another form, or is truncated.
        """
        file, is_one = folder / self.name, check_of(self.form)
        try:
            lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else [""]
        except IsADirectoryError:
            raise Damaged("is a folder, but a file is needed there") from None
        except UnicodeDecodeError as error:
            raise Damaged(f"is not UTF-8 text ({error})") from None
        rows = []
        for number, line in enumerate(lines if lines[-1] else lines[:-1], start=1):
            try:
                row = json.loads(line)
            except BAD_JSON:
                row = None
            if not is_one(row):
                raise Damaged(f"is damaged: line {number} is not a {self.one}")
            rows.append(row)
        return rows
