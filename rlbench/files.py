"""Files and folders that are there whole or not at all, and what to say where the disk is full.

What is written is made beside its place, sent to the disk (fsync) and renamed into place, so that a process killed at
any moment, and a machine that goes down, leave the old content or the new one. Importing this module loads no torch.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rlbench.errors import BadInput

PARTIAL = ".partial"
"""End of the names of what is being written; what a killed process left of it, `clear_partial` removes."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk is full, the user's quota is used up, or the file is larger than may be."""

TORCH_WRITES = ("PytorchStreamWriter failed writing", "unexpected pos ", "iostream error")
"""How `torch.save` says that a write failed: in a RuntimeError without the system's reason."""


SYNCS_AT_ONCE = 8


class DiskFull(OSError):
    """A run could not write; its text names what, how much was free, and what to do."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what is there at the end of the block takes the place of `path`.

    Raises:
        BadInput: where `path` is a folder.
        OSError: from the block or from the disk; `path` is as it was, and nothing is left beside it.
    """
    if path.is_dir():
        raise BadInput(f"{path} is a folder, and a file belongs there: move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with naming(path):
            yield beside
            sync(beside)
            os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let a failure of the system in the block name the file or folder that was written."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def overwrite(path: Path, text: str) -> None:
    """Write into a file itself, in the block that it has: for a disk without room for another."""
    with path.open("r+", encoding="utf-8") as file:
        file.write(text)
        file.truncate()


def write_text(path: Path, text: str) -> None:
    """Write beside and rename: a reader sees the old file or the whole new one."""
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """`write_text` of indented JSON with sorted keys; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: the file.
        remedy: what the user can do where it is damaged.

    Raises:
        BadInput: where it is missing, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path} is missing: {remedy}") from None
    except (ValueError, RecursionError, IsADirectoryError):
        raise BadInput(f"{path} is damaged, it cannot be read as JSON: {remedy}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path} is damaged, it holds no JSON object: {remedy}")
    return content


def partial_folder(path: Path) -> Path:
    """Where the folder `path` is written before `publish` puts it into place."""
    return path.with_name(f".{path.name}{PARTIAL}")


def publish(made: Path, path: Path) -> None:
    """Send a finished folder to the disk and give it the name `path`, in place of what may be there."""
    with ThreadPoolExecutor(SYNCS_AT_ONCE) as pool:  # a file system writes its journal once for all who wait for it
        list(pool.map(sync, [*made.rglob("*"), made]))
    if path.exists():
        drop(path)
    os.replace(made, path)
    sync(path.parent)


def drop(folder: Path) -> None:
    """Remove a folder, or a file in its place: first its name, so that nobody takes what is left for the whole."""
    beside = folder.with_name(f".{folder.name}.dropped{PARTIAL}")
    beside.unlink() if beside.is_file() else shutil.rmtree(beside, ignore_errors=True)
    os.replace(folder, beside)
    if beside.is_dir():
        shutil.rmtree(beside)
    else:
        beside.unlink()


def clear_partial(folder: Path) -> None:
    """Remove what was being written in a folder, not below it, by processes that are gone."""
    for path in folder.glob(f".*{PARTIAL}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Send a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def held(lock: Path) -> Iterator[None]:
    """Let one process at a time into the block; the lock goes with the process."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def size_of(folder: Path) -> int:
    """Bytes that the files below a folder take on the disk, its blocks being filled or not."""
    found = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(max(of_file.st_size, of_file.st_blocks * 512) for of_file in found)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or what it was raised from, says that there was no room to write.

    Python, pandas and the standard library raise OSError with the system's number; libraries in Rust (safetensors,
    tokenizers) write that number into the text of an exception of their own; torch's writer names no reason.
    """
    if error is None or isinstance(error, DiskFull):
        return error is not None
    text = str(error)
    return (
        (isinstance(error, OSError) and error.errno in NO_SPACE)
        or any(f"(os error {number})" in text for number in NO_SPACE)
        or (isinstance(error, RuntimeError) and any(words in text for words in TORCH_WRITES))
        or is_disk_full(error.__cause__)
    )


def disk_full(error: BaseException, folder: Path, what: str) -> DiskFull:
    """What to raise where `is_disk_full`.

    Args:
        error: what was raised.
        folder: where was written; it or a folder above it exists.
        what: the file or folder that could not be written, where the error itself does not name it.
    """
    if isinstance(error, DiskFull):
        return error
    why = str(error).splitlines()[0]
    if isinstance(error, OSError):
        what, why = str(error.filename or what), str(error.strerror)
    return DiskFull(f"no room to write {what} ({why}): {megabytes(free_bytes(folder))} were free on its disk. {ADVICE}")


ADVICE = (
    "Free some space, or raise the quota, and give the same command again: it goes on from the last checkpoint. "
    "With a smaller trainer.rl.keep_checkpoints it needs less."
)


def free_bytes(folder: Path) -> int:
    """Bytes that a user may still write on the disk of a folder, or of the nearest folder above it that exists."""
    return shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.2f} MB"
