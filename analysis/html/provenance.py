"""Provenance of a group's numbers: code, versions, machines, data, dates, and the commands behind the runs."""

import shlex
from collections import Counter
from collections.abc import Collection as Names
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from analysis.collection import Collection
from analysis.html.grid import Head, folded, grid, lines, section, text
from analysis.html.markup import Html, breakable, join, tag
from analysis.html.rows import Look
from analysis.render.numbers import counted, words
from rlbench.base.program import run_words
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


def provenance(found: Mapping[str, Origin], looks: Sequence[Look], report: str) -> Html:
    """The section on provenance.

    Args:
        found: origin of each run.
        report: the command that creates the page.
    """
    values = [*found.values()]
    facts: list[tuple[str, Html]] = [
        ("Code", _each(_commit(one) for one in values)),
        ("Python, torch, TRL", _each(_versions(one, ("python", "torch", "trl")) for one in values)),
        ("Hardware", _each(one.hardware or "not recorded" for one in values)),
        ("Data", _each(one.data or "not recorded" for one in values)),
        ("Runs made", join(_dates(values))),
    ]
    packages = sorted({name for one in values for name in one.versions})
    versions = [
        [text(tag("code", name), name), text(", ".join(sorted({one.versions.get(name, "–") for one in values})))]
        for name in packages
    ]
    return section(
        "provenance",
        "Provenance",
        tag("dl", [join(tag("dt", name), tag("dd", value)) for name, value in facts], class_="facts"),
        tag("h3", "To make it again"),
        tag("p", "The runs, and then this page. Runs that are done are skipped.", class_="note"),
        *_commands(found, looks),
        tag("pre", tag("code", report)),
        folded(
            f"Versions of packages ({len(packages)})",
            grid(
                "versions-table",
                "Versions that results hang on",
                [Head("Package", number=False), Head("Version", number=False)],
                versions,
            ),
        )
        if packages
        else None,
        _runs_by_versions(found),
    )


def _runs_by_versions(found: Mapping[str, Origin]) -> Html | None:
    """Every run with its versions; None if no versions differ."""
    parts = by_versions(found)
    rows = [[text(versions, versions), text(breakable(run), run)] for versions, runs in parts for run in runs]
    heads = [Head("Versions that differ", number=False), Head("Run", number=False)]
    table = grid("runs-by-versions", "Which runs were made with which versions", heads, rows)
    return folded(f"Runs by versions ({len(rows)})", table) if rows else None


def _each(values: Any) -> Html:
    """The distinct values, with their number of runs if there are several."""
    counts = Counter(values)
    several = len(counts) > 1
    shown = [
        join(breakable(value), f" ({counted(count, 'run')})" if several else None)
        for value, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return shown[0] if len(shown) == 1 else lines(shown)


def _commit(one: Origin) -> str:
    if not one.commit:
        return one.copy or "not recorded"
    if not one.dirty:
        return f"commit {one.commit[:12]}"
    named = f" ({files(one.changed)})" if one.changed else ""
    return f"commit {one.commit[:12]} with changes that are not committed{named}"


def files(names: Names[str]) -> str:
    """The first files by name, and the number of further files."""
    shown = sorted(names)[:NAMED]
    more = [f"{counted(len(names) - NAMED, 'more file')}"] if len(names) > NAMED else []
    return words([*shown, *more])


def _versions(one: Origin, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {one.versions[name]}" for name in names if name in one.versions) or "not recorded"


def _dates(values: Sequence[Origin]) -> str:
    started = [one.started for one in values if one.started]
    ended = [one.ended for one in values if one.ended]
    if not started or not ended:
        return "not recorded"
    return f"{_minute(min(started))} to {_minute(max(ended))} UTC"


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


OWN = ("hydra.mode=", "runs_dir=", "runtime.", "tracker")
"""Prefixes of arguments that do not affect results."""


def _commands(found: Mapping[str, Origin], looks: Sequence[Look]) -> list[Html]:
    """One command if it reproduces exactly these runs, else the commands of each row."""
    by_row = {
        look.label: [_arguments(found[run].command) for run in look.runs if found[run].command]
        for look in looks
        if look.stage == "rl"
    }
    every = [arguments for own in by_row.values() for arguments in own]
    if not every:
        return [tag("p", "No trained run recorded its command.")]
    one = combined(every)
    if one is not None:
        return [tag("pre", tag("code", one))]
    each = [combined(own) or "\n".join(" ".join(_line(one)) for one in own) for own in by_row.values() if own]
    return [folded(f"Commands, one a row ({len(each)})", tag("pre", tag("code", "\n".join(each))))]


def _arguments(command: Sequence[str]) -> dict[str, str]:
    """Settings of a run's command, by key, without `-m` and settings of that machine."""
    settings = [word for word in command if "=" in word and not word.startswith(OWN)]
    return {key: value for key, _, value in (word.partition("=") for word in settings)}


def combined(runs: Sequence[Mapping[str, str]]) -> str | None:
    """A sweep command whose product of values gives exactly these runs; None if there is none."""
    keys = list(dict.fromkeys(key for one in runs for key in one))
    if any(key not in one for one in runs for key in keys):
        return None
    values = {key: list(dict.fromkeys(one[key] for one in runs)) for key in keys}
    wanted = {tuple(one[key] for key in keys) for one in runs}
    if set(product(*values.values())) != wanted:
        return None
    swept = [key for key in keys if len(values[key]) > 1]
    settings = [f"{key}={','.join(values[key])}" for key in keys]
    return " ".join([*run_words(), *(["-m"] if swept else []), *map(shlex.quote, settings)])


def _line(one: Mapping[str, str]) -> list[str]:
    return [*run_words(), *(shlex.quote(f"{key}={value}") for key, value in one.items())]
