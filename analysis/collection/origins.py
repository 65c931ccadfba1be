"""Origin of runs: code, versions, machine, data, dates and command, from manifests and attempts."""

from collections import Counter
from collections.abc import Collection as Names
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from analysis.collection.collection import Collection
from analysis.render.numbers import counted, first_words
from rlbench.base.records import Damaged
from rlbench.runs.attempts import attempts
from rlbench.runs.record import MANIFEST, Hardware, Manifest

NAMED = 8
"""Maximum number of files named in one sentence; further files are only counted."""
OF_VERSIONS = "versions."
"""Prefix of the lines on versions in an attempt's `changed`."""


@dataclass(frozen=True)
class Origin:
    """Content of one run's manifest.json and attempts, as far as they exist.

    Attributes:
        commit: commit of the code; "" without git.
        copy: version and digest of an installed copy of the code, which has no commit; "" for a checkout.
        dirty: whether the code differed from the commit.
        changed: files that differed; empty if the manifest does not list them.
        versions: versions of the packages that affect results.
        changes: versions that differed in an earlier attempt, one line each.
        hardware: machine, CPU and GPUs in words.
        data: name and digest of the data.
        started, ended: UTC times of the first start and the last end; "" if unknown.
        command: the command that started the run.
    """

    commit: str = ""
    copy: str = ""
    dirty: bool = False
    changed: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    hardware: str = ""
    data: str = ""
    started: str = ""
    ended: str = ""
    command: tuple[str, ...] = ()


def origin(run: Path) -> Origin:
    """Read the origin of one run from its directory."""
    facts = [attempt.read() for attempt in attempts(run)]
    manifest: Manifest = {}
    with suppress(FileNotFoundError, Damaged):  # the collection already reports a damaged manifest
        manifest = MANIFEST.load(run)
    git, data = manifest.get("git") or {}, manifest.get("data", {})
    return Origin(
        commit=git.get("commit") or "",
        copy=f"version {git['version']} ({git['sha256'][:12]})" if "version" in git and "sha256" in git else "",
        dirty=bool(git.get("dirty")),
        changed=tuple(git.get("changed") or ()),
        versions=manifest.get("versions", {}),
        changes=tuple(
            line.removeprefix(OF_VERSIONS)
            for one in facts
            for line in one.get("changed", [])
            if line.startswith(OF_VERSIONS)
        ),
        hardware=_hardware(manifest.get("hardware", {})),
        data=f"{data.get('name')} (sha256 {data['sha256'][:12]}…)" if data.get("sha256") else "",
        started=min((time for one in facts if (time := one.get("started"))), default=""),
        ended=max((time for one in facts if (time := one.get("ended"))), default=""),
        command=tuple(manifest.get("command", ())),
    )


def _hardware(hardware: Hardware) -> str:
    gpus = Counter(hardware.get("gpus", []))
    parts = [name for name in (hardware.get("cpu"), hardware.get("machine")) if name][:1]
    parts += [counted(hardware["threads"], "thread")] if "threads" in hardware else []
    parts += [f"{count} × {name}" for name, count in sorted(gpus.items())] or ["no GPU"]
    return ", ".join(parts)


def origins(group: Collection, folder: Path) -> dict[str, Origin]:
    """The origin of each run of a group."""
    return {str(run): origin(folder / str(run)) for run in group.runs["run"]}


def by_versions(found: Mapping[str, Origin]) -> list[tuple[str, list[str]]]:
    """The versions that differ between runs, with their runs, fewest runs first; empty if none differ.

    A package counts if two runs recorded different versions of it.

    Args:
        found: origin of each run.
    """
    recorded: dict[str, set[str]] = {}
    for one in found.values():
        for name, value in one.versions.items():
            recorded.setdefault(name, set()).add(value)
    differ = sorted(name for name, values in recorded.items() if len(values) > 1)
    runs: dict[str, list[str]] = {}
    for run, one in found.items() if differ else ():
        versions = ", ".join(f"{name} {one.versions.get(name, 'not recorded')}" for name in differ)
        runs.setdefault(versions, []).append(run)
    return sorted(runs.items(), key=lambda part: (len(part[1]), part[0]))


def short(run: str) -> str:
    """Row, seed and hash of a run: the last parts of its directory."""
    return "/".join(Path(run).parts[-2:])


def files(names: Names[str]) -> str:
    """The first files by name, and the number of further files."""
    return first_words(sorted(names), NAMED, "file")
