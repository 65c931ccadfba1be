"""Atomic writing of files and folders, and messages for a full disk.

Content is written under a temporary name, synced to disk (fsync) and renamed. After a kill or a crash, either the old
or the new content is there. Importing this module loads no torch.
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

from rlbench.base.errors import BadInput

PARTIAL = ".partial"
"""Suffix of unfinished files. `clear_partial` removes those left by a killed process."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Disk full, user quota exceeded, or file too large."""

TORCH_WRITES = ("PytorchStreamWriter failed writing", "unexpected pos ", "iostream error")
"""Texts of the RuntimeError that `torch.save` raises for a failed write. It omits the system's reason."""


SYNCS_AT_ONCE = 8


class DiskFull(OSError):
    """A run could not write. The message names the file, the free space, and what to do."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; at the end of the block its content replaces `path`.

    Raises:
        BadInput: if `path` is a folder.
        OSError: from the block or the disk. `path` is then unchanged and the temporary file removed.
    """
    if path.is_dir():
        raise BadInput(f"{path} is a folder, but a file is needed there: move it away")
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


def leads_outside(path: Path, folder: Path) -> bool:
    """Return whether a path is a symbolic link to a target outside a folder."""
    return path.is_symlink() and not path.resolve().is_relative_to(folder.resolve())


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to an OSError raised in the block."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def overwrite(path: Path, text: str) -> None:
    """Write into the existing file and its disk block. Works on a full disk, where a second file does not fit."""
    with path.open("r+", encoding="utf-8") as file:
        file.write(text)
        file.truncate()


def write_text(path: Path, text: str) -> None:
    """Write atomically: readers see either the old or the complete new file."""
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON with sorted keys, atomically. NaN is refused."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def partial_folder(path: Path) -> Path:
    """Return the temporary folder in which to write `path` before `publish` moves it into place."""
    return path.with_name(f".{path.name}{PARTIAL}")


def publish(made: Path, path: Path) -> None:
    """Sync a finished folder to disk and move it to `path`, replacing what is there."""
    with ThreadPoolExecutor(SYNCS_AT_ONCE) as pool:  # the file system commits its journal once for all waiting threads
        list(pool.map(sync, [*made.rglob("*"), made]))
    if path.exists():
        drop(path)
    os.replace(made, path)
    sync(path.parent)


def drop(folder: Path) -> None:
    """Remove a folder or file. It is renamed first, so that a partly deleted folder is never read as complete."""
    beside = folder.with_name(f".{folder.name}.dropped{PARTIAL}")
    beside.unlink() if beside.is_file() else shutil.rmtree(beside, ignore_errors=True)
    os.replace(folder, beside)
    if beside.is_dir():
        shutil.rmtree(beside)
    else:
        beside.unlink()


def clear_partial(folder: Path) -> None:
    """Remove unfinished files directly in a folder (not in subfolders), left by processes that have ended."""
    for path in folder.glob(f".*{PARTIAL}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Sync a file, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _refused_if_impossible(folder: Path, named: str) -> Iterator[None]:
    """Turn an error of creating something in a folder into BadInput; a full disk keeps its error."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        reason = "it is a file" if isinstance(error, FileExistsError) else (error.strerror or "").lower()
        raise BadInput(f"{named} = {folder}: the folder cannot be created ({reason}); choose another one") from error


def new_folder(folder: Path, named: str) -> Path:
    """Create a folder for results, with the folders above it.

    Args:
        named: what gave its name, for example `--out`.

    Raises:
        BadInput: if a file has that name, or the folder cannot be created there.
    """
    with _refused_if_impossible(folder, named):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def held(lock: Path) -> Iterator[None]:
    """Allow one process at a time into the block. The lock is released when the process ends.

    The file is opened for appending. Otherwise a link in its place would empty the file that it points to.

    Raises:
        BadInput: if the file cannot be created.
    """
    new_folder(lock.parent, "folder")
    with _refused_if_impossible(lock.parent, "folder"):
        file = lock.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def size_of(folder: Path) -> int:
    """Return the bytes that the files below a folder take on disk, counting partly filled blocks in full."""
    found = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(max(of_file.st_size, of_file.st_blocks * 512) for of_file in found)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or its cause, reports a full disk.

    Python and pandas raise OSError with the system's error number. Rust libraries (safetensors, tokenizers) put that
    number into the text of their own exception. torch's writer gives no reason.
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
    """Return the exception to raise for an error for which `is_disk_full` holds.

    Args:
        error: the original error.
        folder: the folder being written. It or one of its parents exists.
        what: the file or folder that could not be written, used if the error does not name it.
    """
    if isinstance(error, DiskFull):
        return error
    why = str(error).splitlines()[0]
    if isinstance(error, OSError):
        what, why = str(error.filename or what), str(error.strerror)
    return DiskFull(
        f"no room to write {what} ({why}): only {megabytes(free_bytes(folder))} were free on its disk. {ADVICE}"
    )


ADVICE = (
    "Free some space or raise the quota, then run the same command again: it continues from the last checkpoint. A "
    "smaller trainer.rl.keep_checkpoints needs less space."
)


def free_bytes(folder: Path) -> int:
    """Return the bytes available to the user on the disk of a folder or of its nearest existing parent."""
    return shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.2f} MB"
