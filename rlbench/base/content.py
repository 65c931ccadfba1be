"""sha256 digests of files and values. Imports nothing else from the package."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHOWN = 12
"""Number of digest digits shown in messages."""

_of_files: dict[Path, str] = {}


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_digest(path: Path) -> str:
    """Return `file_digest`, computed once per process, so that a process keeps the digest it started with."""
    key = path.resolve()
    if key not in _of_files:
        _of_files[key] = file_digest(key)
    return _of_files[key]


def combined(parts: Mapping[str, Any]) -> str:
    """Return the sha256 of named parts, in hex; their order does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def forget() -> None:
    """Read every file again at its next use."""
    _of_files.clear()
