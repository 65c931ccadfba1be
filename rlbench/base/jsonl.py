"""JSONL files that a running run appends to and truncates to its checkpoint when it resumes."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlbench.base.errors import BadInput
from rlbench.base.files import naming, write_text

Row = Mapping[str, Any]


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, or none if it does not exist. A truncated last line is skipped.

    Raises:
        BadInput: if the file is a folder; or names the first line that is not a JSON object.
    """
    if not file.exists():
        return []
    if file.is_dir():
        raise BadInput(f"{file} is a folder, but a file is needed there: move it away")
    # A kill may have truncated the last line within a character.
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [_row(file, number, line) for number, line in enumerate(lines, start=1)]


def _row(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise BadInput(f"{file} is damaged: line {number} is not a JSON object. Restore the file from a backup")
    return row


def append_rows(file: Path, rows: Sequence[Row]) -> None:
    """Append rows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file), file.open("a", encoding="utf-8") as opened:
        opened.write(_lines(rows))


def keep_rows(file: Path, wanted: Callable[[Row], bool]) -> None:
    """Remove unwanted rows and a truncated last line. The file is rewritten only if something changes."""
    kept = _lines([row for row in read_rows(file) if wanted(row)])
    if file.exists() and file.read_text(encoding="utf-8", errors="replace") != kept:
        write_text(file, kept)


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
