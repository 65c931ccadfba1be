"""Reads files made by users. A bad file causes one error that names it. Loads no torch."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rlbench.base.errors import BadInput

BOM = b"\xef\xbb\xbf"
"""UTF-8 byte order mark, which some editors write at the start of a file. It is not part of the text."""

OTHER_FORMATS = {
    b"\x1f\x8b": "is compressed with gzip; unpack it",
    b"BZh": "is compressed with bzip2; unpack it",
    b"\xfd7zXZ\x00": "is compressed with xz; unpack it",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"PAR1": "is parquet, not text",
    b"\xff\xfe\x00\x00": "is UTF-32 text; save it as UTF-8",
    b"\x00\x00\xfe\xff": "is UTF-32 text; save it as UTF-8",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
}
"""First bytes of other formats that users give instead of text, and the message for each. Longer ones come first."""

LOOKED_AT = 4096
"""Number of first bytes in which to look for the NUL bytes of UTF-16 and UTF-32. A multiple of 4."""
LEAST_NULS = 8
"""UTF-16 and UTF-32 have at least one NUL in so many bytes: that of any space, digit or newline. UTF-8 has none."""

NOT_JSON = "not JSON"
TWICE = "a key stands twice in one object; keep one"
"""Kinds of problems of a line of JSON."""

BAD_JSON = (ValueError, RecursionError)
"""Errors of `json.loads`: malformed text, invalid UTF-8, too many digits, or too deep nesting."""

BAD_YAML = (yaml.YAMLError, ValueError, RecursionError, AttributeError, IndexError, KeyError, TypeError)
"""Errors of `yaml.safe_load`: its own, and those of its date and number constructors."""

YAML_VALUES = 100_000
"""Largest number of values in a YAML file with all aliases expanded. A config has a few hundred.

With aliases, ten lines can stand for billions of values. Code that visits all of them would never end.
"""

YAML_DEEP = 5000
"""Largest number of characters that can start a nested level, for the fast loader."""

LONGEST_REASON = 200
"""Maximum number of characters to show of a parser's message."""


def unreachable(place: Path) -> str | None:
    """Why a file or a folder cannot be looked into, such as missing permission or a name that is too long.

    None if it can, or if there is no such place.
    """
    try:
        if place.is_dir():
            os.listdir(place)
            (place / "x").exists()
    except OSError as error:
        return error.strerror or str(error)
    return None


def read_user_bytes(path: Path, name: str = "") -> bytes:
    """Return the content of a file.

    Args:
        path: the file.
        name: name of the file in messages; empty for its path.

    Raises:
        BadInput: if the file is missing, is a folder, or cannot be read.
    """
    name = name or str(path)
    try:
        if path.is_dir():
            raise BadInput(f"{name}: is a folder; give a file")
        if not path.is_file():  # a device or a pipe might never end
            raise BadInput(f"{name}: there is no such file")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror or error}") from error


def _as_text(data: bytes, name: str) -> bytes:
    """Return text bytes without the byte order mark.

    Raises:
        BadInput: if they are in another format.
    """
    for start, words in OTHER_FORMATS.items():
        if data.startswith(start):
            raise BadInput(f"{name} {words}")
    head = data[:LOOKED_AT]
    if head.count(0) * LEAST_NULS > len(head):
        raise BadInput(f"{name} is {_wide(head)} text; save it as UTF-8")
    return data.removeprefix(BOM)


def _wide(head: bytes) -> str:
    """Return whether text without a byte order mark is UTF-16 or UTF-32. Characters of UTF-32 are below 0x110000."""
    of_32 = any(not any(head[high::4]) and max(head[low::4], default=0) <= 0x10 for high, low in ((0, 1), (3, 2)))
    return "UTF-32" if of_32 else "UTF-16"


def text_lines(text: str) -> list[str]:
    """Return the lines of a text without their ends.

    Only \\n and \\r\\n end a line. `str.splitlines` also splits at characters that titles can have, such as U+2028.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


class _TwiceInObject(ValueError):
    """A JSON object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceInObject(ascii(next(key for key in keys if keys.count(key) > 1))[:LONGEST_REASON])
    return found


def read_user_text(path: Path, name: str = "", otherwise: str | None = None) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark.

    Args:
        path, name: as in `read_user_bytes`.
        otherwise: encoding of a file that is not UTF-8; None refuses such a file.

    Raises:
        BadInput: if it cannot be read or is not UTF-8.
    """
    name = name or str(path)
    data = _as_text(read_user_bytes(path, name), name)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if otherwise is not None:
            return data.decode(otherwise)
        raise BadInput(f"{name} is not UTF-8 text (byte {error.start}: {error.reason})") from error


def read_user_json(path: Path, name: str = "", *, distinct_keys: bool = False) -> Any:
    """Return the value in a JSON file.

    Args:
        path, name: as in `read_user_bytes`.
        distinct_keys: whether to refuse an object with a key twice. Otherwise the last value counts.

    Raises:
        BadInput: if it cannot be read or is not JSON.
    """
    name = name or str(path)
    text = read_user_text(path, name)
    try:
        return json.loads(text, object_pairs_hook=_object if distinct_keys else None)
    except _TwiceInObject as error:
        raise BadInput(f"{name}: {TWICE}: {error}") from error
    except BAD_JSON as error:
        raise BadInput(f"{name} is not JSON: {one_line(error)}") from error


def read_user_yaml(path: Path, name: str = "") -> Any:
    """Return the value in a YAML file.

    Args:
        path, name: as in `read_user_bytes`.

    Raises:
        BadInput: if it cannot be read or is not YAML.
    """
    name = name or str(path)
    return parse_yaml(read_user_text(path, name), name)


def parse_yaml(text: str, name: str) -> Any:
    """Parse a text in YAML.

    Args:
        text: the text.
        name: name of the file in messages. They quote nothing of its content.

    Raises:
        BadInput: if it is not YAML, its aliases stand for too many values, a value contains itself, or it holds a lone
            surrogate.
    """
    # The C loader is fast, and crashes the process where mappings or lists are nested some ten thousand deep.
    fast = yaml.__with_libyaml__ and sum(map(text.count, "[{:-?")) < YAML_DEEP
    try:
        loader = (yaml.CSafeLoader if fast else yaml.SafeLoader)(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            # Checked before the values are built, since merge keys (<<) expand aliases.
            if (size := _written_out(node, {}, name)) > YAML_VALUES:
                raise BadInput(
                    f"{name}: its aliases (*name) expand to {size:,} values, but at most {YAML_VALUES:,} are "
                    "allowed; write the values out instead"
                )
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except BadInput:
        raise
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise BadInput(f"{name} is not YAML: {error.problem}{line}") from None
    except BAD_YAML as error:
        raise BadInput(f"{name} is not YAML: {one_line(error)}") from None


_BEGUN = -1


def _written_out(node: Any, known: dict[int, int], name: str) -> int:
    """Count the values of a YAML node with every alias expanded.

    Args:
        node: scalar, sequence or mapping.
        known: counts by the identity of a node; `_BEGUN` while it is being counted.
        name: name of the file in messages.

    Raises:
        BadInput: if the node contains itself or holds a lone surrogate.
    """
    if isinstance(node, yaml.ScalarNode):
        if any("\ud800" <= letter <= "\udfff" for letter in node.value):
            raise BadInput(f"{name} contains half a character (a lone surrogate); write the whole character")
        return 1
    if (found := known.get(id(node))) is not None:
        if found == _BEGUN:
            raise BadInput(f"{name} has a list or mapping that contains itself; write the values out instead")
        return found
    known[id(node)] = _BEGUN
    inner = [one for pair in node.value for one in pair] if isinstance(node, yaml.MappingNode) else node.value
    known[id(node)] = 1 + sum(_written_out(one, known, name) for one in inner)
    return known[id(node)]


def read_user_lines(path: Path, name: str = "") -> Iterator[tuple[int, Any, tuple[str, str] | None]]:
    """Yield line number (from 1), value and problem for each non-empty line of a JSONL file.

    A problem is its kind, `NOT_JSON` or `TWICE`, and a detail. None: the line is sound.

    Args:
        path, name: as in `read_user_bytes`.

    Raises:
        BadInput: if the file cannot be read.
    """
    name = name or str(path)
    for number, line in enumerate(_as_text(read_user_bytes(path, name), name).split(b"\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line.decode("utf-8"), object_pairs_hook=_object), None
            except _TwiceInObject as error:
                yield number, None, (TWICE, str(error))
            except BAD_JSON as error:
                yield number, None, (NOT_JSON, one_line(error))


def one_line(error: BaseException) -> str:
    """Return a parser's message on one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]}..."
