"""Settings and provenance of a run as columns of the run table."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.collection.reading import Unusable, flatten, is_text, read_json
from analysis.collection.sources import read_config
from rlbench.base.errors import BadInput
from rlbench.runs.attempts import attempts as starts

MANIFEST = ("git", "versions", "hardware", "data", "prompt_sha256", "plugins", "processes", "strategy")
"""Keys of manifest.json that become columns. The list of all installed packages stays in the run directory."""


def settings_and_provenance(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Columns of a run, and notes on files that could not be read. A missing file gives no columns.

    Columns are `config.<key>` (config.yaml), `identity.<key>` (identity.json, the input of the run's hash),
    `git.<key>`, `versions.<package>`, `hardware.<key>`, `data.<key>`, ... and `command` (manifest.json), `started` of
    the first attempt and `ended` of the last.
    """
    columns: dict[str, Any] = {}
    odd = []
    if (path / "config.yaml").exists():
        try:
            columns |= {f"config.{key}": value for key, value in read_config(path).items()}
        except BadInput as error:
            odd += [f"its settings are not in the run table: {problem}" for problem in error.problems]
    identity, problem = _object(path / "identity.json")
    columns |= {f"identity.{key}": value for key, value in flatten(identity).items()}
    odd += problem
    manifest, problem = _object(path / "manifest.json")
    columns |= flatten({key: manifest[key] for key in MANIFEST if key in manifest})
    odd += problem
    if isinstance(command := manifest.get("command"), list):
        columns["command"] = shlex.join(map(str, command))
    return columns | _times(path / "attempts"), odd


def _object(file: Path) -> tuple[Mapping[str, Any], list[str]]:
    """The object in a JSON file, and a note if it could not be read."""
    if not file.exists():
        return {}, []
    try:
        return read_json(file), []
    except Unusable as error:
        return {}, [f"{file.name} is not in the run table: {error}"]


def _times(attempts: Path) -> dict[str, Any]:
    """Start of the first attempt and end of the last, in UTC."""
    made = [attempt.read() for attempt in starts(attempts.parent) if attempt.begun]
    if not made:
        return {}
    times = {"started": made[0].get("started"), "ended": made[-1].get("ended")}
    return {name: time for name, time in times.items() if is_text(time)}
