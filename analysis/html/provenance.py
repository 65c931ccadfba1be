"""Provenance of a group's numbers: code, versions, machines, data, dates, and the commands behind the runs."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from analysis.collection.origins import Origin, by_versions, files
from analysis.html.grid import Head, folded, grid, lines, section, text
from analysis.html.markup import Html, breakable, join, tag
from analysis.html.rows import Look
from analysis.render.numbers import counted
from rlbench.base.program import run_words


def provenance(found: Mapping[str, Origin], looks: Sequence[Look], report: str) -> Html:
    """The section on provenance; `report` is the command that creates the page."""
    values = [*found.values()]
    facts: list[tuple[str, Html]] = [
        ("Code", _each(_commit(one) for one in values)),
        ("Python, torch, TRL", _each(_versions(one) for one in values)),
        ("Hardware", _each(one.hardware or "not recorded" for one in values)),
        ("Data", _each(one.data or "not recorded" for one in values)),
        ("Runs made", join(_dates(values))),
    ]
    packages = sorted({name for one in values for name in one.versions})
    versions = [
        [text(tag("code", name), name), text(", ".join(sorted({one.versions.get(name, "–") for one in values})))]
        for name in packages
    ]
    heads = [Head("Package", number=False), Head("Version", number=False)]
    table = grid("versions-table", "Versions that results hang on", heads, versions)
    return section(
        "provenance",
        "Provenance",
        tag("dl", [join(tag("dt", name), tag("dd", value)) for name, value in facts], class_="facts"),
        tag("h3", "To make it again"),
        tag("p", "The runs, and then this page. Runs that are done are skipped.", class_="note"),
        *_commands(found, looks),
        command_block(report),
        folded(f"Versions of packages ({len(packages)})", table) if packages else None,
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


def _versions(one: Origin) -> str:
    known = [f"{name} {one.versions[name]}" for name in ("python", "torch", "trl") if name in one.versions]
    return ", ".join(known) or "not recorded"


def _dates(values: Sequence[Origin]) -> str:
    started = [one.started for one in values if one.started]
    ended = [one.ended for one in values if one.ended]
    if not started or not ended:
        return "not recorded"
    first, last = (moment[:16].replace("T", " ") for moment in (min(started), max(ended)))
    return f"{first} to {last} UTC"


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
        return [command_block(one)]
    each = [_in_one(own) for own in by_row.values() if own]
    return [folded(f"Commands, one a row ({len(each)})", command_block("\n".join(each)))]


def command_block(command: str) -> Html:
    """A command, with a button that copies it."""
    return tag("pre", tag("code", command), class_="command")


def row_command(found: Mapping[str, Origin], runs: Sequence[str]) -> str:
    """The command that makes the runs of a row again, or one line for each run; "" if no run recorded its command."""
    return _in_one([_arguments(found[run].command) for run in runs if found[run].command])


def _in_one(runs: Sequence[Mapping[str, str]]) -> str:
    """One command for all runs if there is one, else one line for each."""
    return (combined(runs) if runs else None) or "\n".join(" ".join(_line(one)) for one in runs)


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
