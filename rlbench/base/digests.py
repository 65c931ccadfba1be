"""Lists with size and sha256 of files that are read again later, so that damage is noticed.

A `files.json` is in each checkpoint, saved or cached model, round of preferences, and finished run. It contains a
digest of itself, so damage to the list is noticed too. Importing this module loads no torch.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlbench.base.errors import BadInput
from rlbench.base.files import write_text
from rlbench.base.records import Damaged

LIST_FILE = "files.json"
"""{"files": {path below the folder: entry}, "logs": {name: entry}, "sha256": digest of both}."""
BLOCK = 1 << 20

Entries = Mapping[str, Mapping[str, Any]]
"""Path to {"bytes": n, "sha256": digest}."""


def entry(path: Path, size: int | None = None) -> dict[str, Any]:
    """Return size in bytes and sha256 of a file, or of its first `size` bytes."""
    digest, left = hashlib.sha256(), path.stat().st_size if size is None else size
    found = left
    with path.open("rb") as file:
        while left and (block := file.read(min(BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return {"bytes": found - left, "sha256": digest.hexdigest()}


def seal(folder: Path, paths: Iterable[Path] | None = None, logs: Iterable[Path] = ()) -> None:
    """Write the list of a folder.

    Args:
        folder: folder of the list.
        paths: listed files below the folder; None lists every file.
        logs: files elsewhere that only grow. The list stores their current content.
    """
    own = folder / LIST_FILE
    named = (path for path in folder.rglob("*") if path.is_file() and path != own) if paths is None else paths
    content: dict[str, Any] = {"files": {path.relative_to(folder).as_posix(): entry(path) for path in sorted(named)}}
    content["logs"] = {path.name: entry(path) for path in sorted(logs)}
    _write(folder, content)


def add(folder: Path, path: Path) -> None:
    """Add a file to the list of its folder.

    Raises:
        Damaged: if the list is damaged.
    """
    files, logs = (read_list(folder, part) if (folder / LIST_FILE).exists() else {} for part in ("files", "logs"))
    _write(folder, {"files": {**files, path.name: entry(path)}, "logs": logs})


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    write_text(folder / LIST_FILE, json.dumps({**content, "sha256": own_digest(content)}, indent=1) + "\n")


def own_digest(content: Mapping[str, Any]) -> str:
    """Return the sha256 of an object as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_list(folder: Path, part: str = "files") -> Entries:
    """Return a part of a folder's list: `files` or `logs`.

    Raises:
        Damaged: if the list is missing or has changed.
    """
    path = folder / LIST_FILE
    if not path.is_file():
        raise Damaged(f"{LIST_FILE} is missing")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise Damaged(f"{LIST_FILE} cannot be read") from None
    if not isinstance(content, dict) or content.pop("sha256", None) != own_digest(content):
        raise Damaged(f"{LIST_FILE} has changed since it was written")
    entries = content.get(part)
    if not isinstance(entries, dict) or not all(is_entry(name, wanted) for name, wanted in entries.items()):
        raise Damaged(f"{LIST_FILE} has no valid list of files under '{part}'")
    return entries


def is_entry(name: str, wanted: object) -> bool:
    """Whether this is the entry of a file below the folder, with its size and digest."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not isinstance(wanted, dict):
        return False
    return type(wanted.get("bytes")) is int and wanted["bytes"] >= 0 and isinstance(wanted.get("sha256"), str)


def difference(path: Path, name: str, wanted: Mapping[str, Any], *, grows: bool = False) -> str:
    """Describe how a file differs from its entry, or return "".

    Args:
        path: the file.
        name: name in the message.
        wanted: its entry.
        grows: whether more data may have been appended.
    """
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if size < wanted["bytes"] or (size > wanted["bytes"] and not grows):
        return f"{name} has {size} bytes instead of {wanted['bytes']}"
    return "" if entry(path, wanted["bytes"]) == wanted else f"{name} has changed since it was written"


def damage(folder: Path) -> str:
    """Describe the first damaged file of a folder, or return "" if all match its list."""
    try:
        listed = read_list(folder)
    except Damaged as error:
        return str(error)
    return next((words for name, wanted in listed.items() if (words := difference(folder / name, name, wanted))), "")


def check_cached(folder: Path) -> None:
    """Compare a cache folder with its list.

    Raises:
        BadInput: if a file has changed.
    """
    if wrong := damage(folder):
        raise BadInput(f"{folder} is damaged: {wrong}. Remove it and run the same command again; it will be rebuilt")


_checked: dict[Path, tuple[tuple[str, int, int], ...]] = {}


def check_model(folder: Path) -> None:
    """Compare a model's files with their list, once per process. A folder without a list passes.

    Raises:
        BadInput: if a file has changed.
    """
    if not (folder / LIST_FILE).exists():
        return
    found = ((path, path.stat()) for path in sorted(folder.rglob("*")))
    state = tuple((path.name, stat.st_size, stat.st_mtime_ns) for path, stat in found)
    if _checked.get(folder) == state:
        return
    if wrong := damage(folder):
        run = folder.parent if (folder.parent / "STATUS").exists() else folder
        raise BadInput(
            f"the model in {folder} is damaged: {wrong}. To rebuild it, move {run} away and repeat the command that "
            f"made it. If you changed the model on purpose, copy it elsewhere without {LIST_FILE}"
        )
    _checked[folder] = state
