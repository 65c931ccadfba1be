"""Checks that the files and folders named in a config can be read or written. Loads no torch."""

import os
import tempfile
from pathlib import Path

from rlbench.base.files import is_disk_full
from rlbench.config.names import check_names, folders_to_write, odd_path
from rlbench.config.schema import Config


def check_places(config: Config, *, to_write: bool) -> list[str]:
    """Return one sentence per problem with the folders to write to, and with folder names. Leaves nothing behind.

    Args:
        to_write: whether files will be written there. A finished run needs no write access.
    """
    found = check_names(config)
    for key, folder in folders_to_write(config).items():
        is_read_only = key == "runtime.data_cache" and Path(folder).is_dir()  # it then gives what it holds
        if said := _unusable(key, folder, to_write and not is_read_only):
            found.append(said)
    return found


def _unusable(key: str, folder: str, to_write: bool) -> str:
    """Return why a folder does not exist and cannot be created, or "" if it exists or can be."""
    if odd_path(folder):  # which `check_names` reports
        return ""
    path = Path(folder)
    nearest = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        said = "it is not a folder" if nearest == path else f"{nearest} is not a folder"
        return f"{key} = {folder}: {said}; choose another place, or move it away"
    if to_write and not os.access(nearest, os.W_OK | os.X_OK):
        return (
            f"{key} = {folder}: you have no permission to write to {nearest}; choose another place, or change its "
            "permissions"
        )
    if to_write and (reason := _no_new_folder(nearest)):
        return f"{key} = {folder}: no folder can be created in {nearest} ({reason}); choose another place"
    return ""


def _no_new_folder(place: Path) -> str:
    """Return why no folder can be created in an existing one, such as /proc, or "". A full disk is reported later."""
    try:
        tempfile.TemporaryDirectory(prefix=".rlbench-", dir=place).cleanup()
    except OSError as error:
        return "" if is_disk_full(error) else (error.strerror or "").lower()
    return ""
