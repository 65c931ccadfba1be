"""Settings and provenance of a run as columns of the run table."""

import shlex
from pathlib import Path
from typing import Any

from analysis.collection.sources import read_config
from rlbench.base.errors import BadInput
from rlbench.base.nested import flatten
from rlbench.base.records import Damaged, RecordFile
from rlbench.runs.attempts import attempts
from rlbench.runs.record import IDENTITY, MANIFEST, SETTINGS

IN_TABLE = ("git", "versions", "hardware", "data", "prompt_sha256", "plugins", "processes", "strategy")
"""Keys of manifest.json that become columns. The list of all installed packages stays in the run directory."""


def settings_and_provenance(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Columns of a run, and notes on files that could not be read. A missing file gives no columns.

    Columns are `config.<key>` (config.yaml), `identity.<key>` (identity.json, the input of the run's hash),
    `git.<key>`, `versions.<package>`, `hardware.<key>`, `data.<key>`, ... and `command` (manifest.json), `started` of
    the first attempt and `ended` of the last.
    """
    columns: dict[str, Any] = {}
    odd = []
    if (path / SETTINGS).exists():
        try:
            columns |= {f"config.{key}": value for key, value in read_config(path).items()}
        except BadInput as error:
            odd += [f"its settings are not in the run table: {problem}" for problem in error.problems]
    identity, problem = _object(path, IDENTITY)
    columns |= {f"identity.{key}": value for key, value in flatten(identity).items()}
    odd += problem
    manifest, problem = _object(path, MANIFEST)
    columns |= flatten({key: manifest[key] for key in IN_TABLE if key in manifest})
    odd += problem
    if "command" in manifest:
        columns["command"] = shlex.join(manifest["command"])
    return columns | _times(path), odd


def _object(path: Path, file: RecordFile[Any]) -> tuple[dict[str, Any], list[str]]:
    """The object in a file, and a note if it could not be read."""
    try:
        return file.load(path), []
    except FileNotFoundError:
        return {}, []
    except Damaged as error:
        return {}, [f"{file.name} is not in the run table: it {error}"]


def _times(path: Path) -> dict[str, Any]:
    """Start of the first attempt and end of the last, in UTC."""
    made = [attempt.read() for attempt in attempts(path) if attempt.begun]
    if not made:
        return {}
    times = {"started": made[0].get("started"), "ended": made[-1].get("ended")}
    return {name: time for name, time in times.items() if time is not None}
