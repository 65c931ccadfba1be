"""Files that a user has made, read so that a bad one ends in one sentence that names it. Loads no torch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rlbench.errors import BadInput

BOM = b"\xef\xbb\xbf"
"""Mark of UTF-8 that some editors write at the start of a file; it is no part of the text."""

OTHER_FORMATS = {
    b"\x1f\x8b": "is compressed with gzip; unpack it",
    b"BZh": "is compressed with bzip2; unpack it",
    b"\xfd7zXZ\x00": "is compressed with xz; unpack it",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"PAR1": "is parquet, not text",
    b"\xff\xfe": "is text in UTF-16; save it in UTF-8",
    b"\xfe\xff": "is text in UTF-16; save it in UTF-8",
}
"""First bytes of files that people give in place of text, and what to say of them."""

BAD_JSON = (ValueError, RecursionError)
"""What `json.loads` raises: malformed text, bytes that are no UTF-8, too many digits; or lists in lists in lists."""

BAD_YAML = (yaml.YAMLError, ValueError, RecursionError, AttributeError, IndexError, KeyError, TypeError)
"""What `yaml.safe_load` raises: besides its own errors, whatever its makers of dates and numbers raise."""

LONGEST_REASON = 200
"""Characters of a parser's own words that are shown."""


def read_user_bytes(path: Path, name: str = "") -> bytes:
    """The content of a file.

    Args:
        path: the file.
        name: what messages call it; its path where this is empty.

    Raises:
        BadInput: where it is missing, is a folder, or cannot be read.
    """
    name = name or str(path)
    try:
        if path.is_dir():
            raise BadInput(f"{name}: it is a folder; name a file")
        if not path.is_file():  # a device or a pipe might never end
            raise BadInput(f"{name}: there is no such file")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{name}: it cannot be read: {error.strerror or error}") from error


def _as_text(data: bytes, name: str) -> bytes:
    """The bytes of a text without its mark.

    Raises:
        BadInput: where they are those of another format.
    """
    for start, words in OTHER_FORMATS.items():
        if data.startswith(start):
            raise BadInput(f"{name}: it {words}")
    return data.removeprefix(BOM)


def read_user_text(path: Path, name: str = "") -> str:
    """The text of a file in UTF-8, with or without a mark at its start.

    Args:
        path, name: as in `read_user_bytes`.

    Raises:
        BadInput: where it cannot be read or is not UTF-8.
    """
    name = name or str(path)
    data = _as_text(read_user_bytes(path, name), name)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}: it is not text in UTF-8 (byte {error.start}: {error.reason})") from error


def read_user_json(path: Path, name: str = "") -> Any:
    """What a JSON file holds.

    Args:
        path, name: as in `read_user_bytes`.

    Raises:
        BadInput: where it cannot be read or is not JSON.
    """
    name = name or str(path)
    text = read_user_text(path, name)
    try:
        return json.loads(text)
    except BAD_JSON as error:
        raise BadInput(f"{name}: it is not JSON: {one_line(error)}") from error


def read_user_yaml(path: Path, name: str = "") -> Any:
    """What a YAML file holds.

    Args:
        path, name: as in `read_user_bytes`.

    Raises:
        BadInput: where it cannot be read or is not YAML.
    """
    name = name or str(path)
    text = read_user_text(path, name)
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise BadInput(f"{name} is not YAML: {error.problem}{line}") from error
    except BAD_YAML as error:
        raise BadInput(f"{name} is not YAML: {one_line(error)}") from error


def read_user_lines(path: Path, name: str = "") -> Iterator[tuple[int, Any, str]]:
    """The lines of a JSONL file that are not empty: number from 1 on, value, and "" or what is wrong with the line.

    Args:
        path, name: as in `read_user_bytes`.

    Raises:
        BadInput: where the file cannot be read.
    """
    name = name or str(path)
    for number, line in enumerate(_as_text(read_user_bytes(path, name), name).splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line.decode("utf-8")), ""
            except BAD_JSON as error:
                yield number, None, one_line(error)


def one_line(error: BaseException) -> str:
    """A parser's own words on one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]}..."
