"""Content of files and values as sha256. Loads nothing else of the package."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHOWN = 12
"""Digits of a digest that a message shows."""

_of_files: dict[Path, str] = {}


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_digest(path: Path) -> str:
    """`file_digest`, read once a process: what a process has started with stays what it goes on with."""
    key = path.resolve()
    if key not in _of_files:
        _of_files[key] = file_digest(key)
    return _of_files[key]


def combined(parts: Mapping[str, Any]) -> str:
    """sha256 (hex) of named parts; their order does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def forget() -> None:
    """Read every file again from now on."""
    _of_files.clear()
