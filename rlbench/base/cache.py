"""Folders with content that can be made again: made once, shared by all processes, and checked before each use.

A folder is written under a temporary name and renamed, by one process at a time. Its files are listed with their
digests (`rlbench.base.digests`). A folder that is damaged or incomplete is made again. A cache that cannot be written
still gives what it holds. Loads no torch.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rlbench.base.content import file_digest
from rlbench.base.digests import own_digest, read_list, seal
from rlbench.base.errors import BadInput
from rlbench.base.files import disk_full, drop, held, is_disk_full, partial_folder, publish, write_text
from rlbench.base.records import Damaged

PACKAGE = Path(__file__).parents[1]
SETTLED = 2.0
"""Seconds after its last change from which on a file's digest is remembered. Two changes within one tick of the file
system's clock leave the same times, so the state of a file that has just changed proves nothing."""
MEMORY = "digests.json"
"""{path: [state, sha256]} of files whose digest is known."""

Tell = Callable[[str], None]
"""Shows a sentence to the user."""


@cache
def code_digest(*parts: str) -> str:
    """Return the sha256 (hex) of source files of the package.

    Args:
        parts: files, or folders with all Python and CSV files below, relative to the package.
    """
    files: list[Path] = []
    for part in parts:
        place = PACKAGE / part
        files += [place] if place.is_file() else [f for f in sorted(place.rglob("*")) if f.suffix in (".py", ".csv")]
    found = [[file.relative_to(PACKAGE).as_posix(), file_digest(file)] for file in files]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


class CannotStore(Exception):
    """Content that the cache cannot hold. The message says why."""


@dataclass(frozen=True)
class Cache:
    """A folder of such folders.

    Attributes:
        root: the folder; created when needed.
        tell: shows what the cache does.
        show: whether to draw progress bars.
    """

    root: Path
    tell: Tell
    show: bool = False

    def digest(self, path: Path) -> str:
        """Return the sha256 (hex) of a file. It is read again only if its size, times or inode have changed."""
        known = self._remembered()
        state, key = _state(path), str(path.resolve())
        if key in known and known[key][0] == state:
            return known[key][1]
        found = file_digest(path)
        settled = time.time() - max(path.stat().st_mtime, path.stat().st_ctime) > SETTLED
        if settled and _state(path) == state:
            self._remember(key, state, found)
        return found

    def _remembered(self) -> dict[str, Any]:
        try:
            known = json.loads((self.root / MEMORY).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or damaged: the files are read again
            return {}
        sound = isinstance(known, dict) and known.pop("sha256", None) == own_digest(known)
        return known if sound else {}

    def _remember(self, key: str, state: list[int], digest: str) -> None:
        # A digest that cannot be stored is no error: the file is only read again the next time.
        with contextlib.suppress(OSError, BadInput), held(self.root / f".{MEMORY}.lock"):
            known = {**self._remembered(), key: [state, digest]}
            known = {path: entry for path, entry in known.items() if os.path.exists(path)}
            write_text(self.root / MEMORY, json.dumps({**known, "sha256": own_digest(known)}))

    def damage(self, folder: Path) -> str:
        """Describe the first file of a folder that differs from the folder's list, or return ""."""
        try:
            listed = read_list(folder)
        except Damaged as error:
            return str(error)
        for name, wanted in listed.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != wanted["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {wanted['bytes']}"
            if self.digest(path) != wanted["sha256"]:
                return f"{name} has changed since it was written"
        return ""

    def folder(self, name: str, what: str, make: Callable[[Path], None]) -> Path:
        """Return a complete folder of the cache. It is made if it is not there or damaged.

        Processes that need the same folder at the same time wait for the one that makes it.

        Args:
            name: its path below the root.
            what: what it holds, for messages.
            make: fills an empty folder, given its temporary path.

        Raises:
            CannotStore: it is not there, and the cache cannot be written.
            DiskFull: there is no room for it.
        """
        path = self.root / name
        if path.is_dir() and not self.damage(path):
            return path
        with contextlib.ExitStack() as lock:
            try:
                self._make_way(path.parent)
                lock.enter_context(held(path.with_name(f".{path.name}.lock")))
                self._make_way(path)
            except (BadInput, OSError) as error:
                raise CannotStore(f"{self.root} cannot be written ({_reason(error)})") from error
            if path.is_dir():
                wrong = self.damage(path)
                if not wrong:  # another process has made it in the meantime
                    return path
                self.tell(f"data cache: {what} in {path} is damaged ({wrong}); making it again")
            beside = partial_folder(path)
            try:
                if beside.exists():
                    self.tell(f"data cache: {what} in {path} was not finished; making it again")
                    drop(beside)
                beside.mkdir(parents=True)
                make(beside)
                seal(beside)
                publish(beside, path)
            except BaseException as error:
                if beside.exists():
                    drop(beside)
                if is_disk_full(error):
                    raise disk_full(error, self.root, str(path)) from error
                raise
        return path

    def _make_way(self, folder: Path) -> None:
        """Remove files and dangling links that stand where the cache needs this folder or one above it."""
        for place in reversed([folder, *folder.parents]):
            if place != self.root and place.is_relative_to(self.root) and os.path.lexists(place) and not place.is_dir():
                self.tell(f"data cache: {place} is no folder; making it again")
                place.unlink(missing_ok=True)

    def fact(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a value that JSON can hold. It is computed once and then read from its file.

        Args:
            name: path of the file below the root. It names everything that the value depends on.
            compute: returns the value.
        """
        path = self.root / name
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["sha256"] == own_digest({"value": known["value"]}):
                return known["value"]
            self.tell(f"data cache: {path} is damaged; making it again")
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError):
            self.tell(f"data cache: {path} cannot be read; making it again")
        value = compute()
        try:
            self._make_way(path.parent)
            if path.is_dir():
                drop(path)
            write_text(path, json.dumps({"value": value, "sha256": own_digest({"value": value})}))
        except OSError as error:
            self.tell(f"data cache: {path} is not stored, because it cannot be written ({_reason(error)})")
        return value


def bytes_of(folder: Path) -> int:
    """Return the size of the listed files of a complete folder."""
    return sum(entry["bytes"] for entry in read_list(folder).values())


def key_of(parts: Iterable[Any]) -> str:
    """Return a name (16 hex digits) for values that JSON can hold."""
    return hashlib.sha256(json.dumps(list(parts), sort_keys=True).encode()).hexdigest()[:16]


def _reason(error: BadInput | OSError) -> str:
    """The system's reason for an error, in small letters. `held` raises BadInput from the system's error."""
    of_system = error if isinstance(error, OSError) else error.__cause__
    return (isinstance(of_system, OSError) and of_system.strerror or str(of_system)).lower()


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
