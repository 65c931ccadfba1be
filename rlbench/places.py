"""Whether the files and folders that a config names can be read or written. Loads no torch."""

import os
from pathlib import Path

from rlbench.config import Config
from rlbench.names import check_names


def check_places(config: Config, *, to_write: bool) -> list[str]:
    """What is wrong with `runs_dir`, `cache_dir` and names of folders, one sentence a problem; nothing is made.

    Args:
        to_write: whether something will be written there, which a finished run does not need.
    """
    places = {"runs_dir": config.runs_dir, "cache_dir": config.cache_dir}
    return check_names(config) + [said for key, folder in places.items() if (said := _unusable(key, folder, to_write))]


def _unusable(key: str, folder: str, to_write: bool) -> str:
    """Why a folder is not there and cannot be made; "" where it is or can be."""
    if not folder.strip() or "\0" in folder:
        return f"{key} = {folder!r} names no folder; give one, such as {key}=runs"
    path = Path(folder)
    nearest = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        said = "it is no folder" if nearest == path else f"{nearest} is no folder"
        return f"{key} = {folder}: {said}; name another place, or move it away"
    if to_write and not os.access(nearest, os.W_OK | os.X_OK):
        return f"{key} = {folder}: you may not write to {nearest}; name another place, or change its permissions"
    return ""
