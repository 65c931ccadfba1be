"""Files in the folder --out of a command. A file that the user made or changed is kept. Loads no large package."""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

from rlbench.base.content import file_digest
from rlbench.base.files import new_folder, whole_file, write_json

WRITTEN = ".written.json"
"""File in an output folder with the sha256 of each file that a command wrote there, by name."""
OLDER = "older"
"""Folder below an output folder for files that a command would have replaced or left behind."""


@contextlib.contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; at the end of the block its content replaces `path`.

    A file that is there already is replaced if a command wrote it and nobody has changed it since. Otherwise it is the
    user's, and is moved to `older` and named.

    Raises:
        BadInput: if `path` is a folder.
        OSError: from the block or the disk.
    """
    with whole_file(path) as beside:
        yield beside
        made = file_digest(beside)
        if os.path.lexists(path) and not _is_ours(path, made):
            print(f"{path} was made or changed by someone else; moved to {move_aside(path)}")
    write_json(path.parent / WRITTEN, {**_written(path.parent), path.name: made})


def move_aside(path: Path) -> Path:
    """Move a file to the folder `older` beside it, under a name that is free there. Returns its new place."""
    older = new_folder(path.parent / OLDER, "--out")
    places = (older / (f"{number}-{path.name}" if number else path.name) for number in itertools.count())
    kept = next(place for place in places if not os.path.lexists(place))
    path.rename(kept)
    return kept


def _is_ours(path: Path, made: str) -> bool:
    """Whether nothing is lost if new content with a digest replaces a file."""
    if path.is_symlink() or not path.is_file():
        return False
    return file_digest(path) in (made, _written(path.parent).get(path.name))


def _written(folder: Path) -> dict[str, str]:
    """The digests of the files that commands wrote into a folder; empty if there are none, or no one can tell."""
    file = folder / WRITTEN
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
