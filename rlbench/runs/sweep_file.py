"""`sweep.json` of an experiment: the cells of its sweeps, so that `analysis.status` finds cells that never started."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlbench.base import digests
from rlbench.base.errors import BadInput
from rlbench.base.files import read_object, write_json

SWEEP_FILE = "sweep.json"
"""File in an experiment's folder: {"cells": {folder below it: {"command": [...], "updates": n}}, "sha256": digest}."""


def read_cells(path: Path) -> dict[str, Any]:
    """Return the cells of a `SWEEP_FILE`: directory below its folder to {"command": [...], "updates": n}.

    Raises:
        BadInput: if it is damaged.
    """
    remedy = "move it away, and the commands of its sweeps write it anew"
    content = read_object(path, remedy)
    if content.pop("sha256", None) != digests.own_digest(content):
        raise BadInput(f"{path} is damaged, it has another content than was written: {remedy}")
    cells = content.get("cells")
    if not isinstance(cells, dict):
        raise BadInput(f"{path} is damaged, it has no 'cells': {remedy}")
    for name, cell in cells.items():
        below = Path(name)
        if below.is_absolute() or ".." in below.parts or not isinstance(cell, dict) or not _is_cell(cell):
            raise BadInput(f"{path} is damaged, '{name}' is no cell in it: {remedy}")
    return cells


def write_cells(path: Path, cells: Mapping[str, Any]) -> None:
    """Write a `SWEEP_FILE` with its digest."""
    content = {"cells": dict(cells)}
    write_json(path, content | {"sha256": digests.own_digest(content)})


def _is_cell(cell: Mapping[str, Any]) -> bool:
    command = cell.get("command")
    words = isinstance(command, list) and all(isinstance(word, str) for word in command)
    return words and isinstance(cell.get("updates"), int)
