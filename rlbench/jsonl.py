"""Files of one JSON object a line that a run appends to while it goes on, and takes back to where it resumes from."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlbench.errors import BadInput
from rlbench.files import naming, write_text

Row = Mapping[str, Any]


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, none where there is no file; a last line that a kill cut short is left out.

    Raises:
        BadInput: where a line holds no JSON object; names it.
    """
    if not file.exists():
        return []
    # A kill may have cut the last line within a character.
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [_row(file, number, line) for number, line in enumerate(lines, start=1)]


def _row(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise BadInput(f"{file} is damaged: line {number} holds no JSON object. Put the file back from a copy")
    return row


def append_rows(file: Path, rows: Sequence[Row]) -> None:
    """Add rows at the end."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file), file.open("a", encoding="utf-8") as opened:
        opened.write(_lines(rows))


def keep_rows(file: Path, wanted: Callable[[Row], bool]) -> None:
    """Rewrite the file where something in it is not wanted, or its last line is cut short."""
    kept = _lines([row for row in read_rows(file) if wanted(row)])
    if file.exists() and file.read_text(encoding="utf-8", errors="replace") != kept:
        write_text(file, kept)


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
