"""Decide which runs can be compared, from checks that need all runs of a folder.

Each check names the runs to exclude. It needs only `FinishedRun`, no scores.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis.collection.reading import FinishedRun
from analysis.problems import Problem
from rlbench.base.content import SHOWN
from rlbench.base.nested import flatten
from rlbench.config.row_names import value_text, variant
from rlbench.runs.identity import INPUTS


def screened(runs: Sequence[FinishedRun], problems: Sequence[Problem]) -> tuple[list[FinishedRun], tuple[Problem, ...]]:
    """The runs that can be compared, and all problems: excluded runs first, sorted by run.

    Args:
        runs: all readable runs, sorted by name.
        problems: problems of the other runs.
    """
    kept, said = _told_apart(runs)
    found = [*problems, *said]
    for screen in (_duplicates, _mixed_settings, _other_protocols):
        refused = screen(kept)
        found += refused
        names = {problem.run for problem in refused}
        kept = [run for run in kept if run.name not in names]
    found += [Problem(run.name, notice, left_out=False) for run in kept for notice in run.notices]
    return kept, tuple(sorted(found, key=lambda problem: (not problem.left_out, problem.run)))


def _by(runs: Sequence[FinishedRun], key: Callable[[FinishedRun], Any]) -> dict[Any, list[FinishedRun]]:
    parts: dict[Any, list[FinishedRun]] = {}
    for run in runs:
        parts.setdefault(key(run), []).append(run)
    return parts


def _told_apart(runs: Sequence[FinishedRun]) -> tuple[list[FinishedRun], list[Problem]]:
    """Split runs with one label whose settings differ in more than the seed into rows named by the difference.

    Such runs come from commands that change a setting without `variant=`, and from SFT models with different settings.
    If the settings of a run are unknown, its row is not split; the other checks decide.

    Returns:
        The runs, in order, and one notice per split row.
    """
    renamed: dict[str, FinishedRun] = {}
    notices = []
    for row in _by(runs, lambda run: run.row).values():
        known = {run.name: flatten(run.identity) for run in row if run.identity is not None}
        keys = _varying(known) if len(known) == len(row) else []
        if not keys or "schema" in keys:
            continue
        for run in row:
            name = variant({key: _short(key, known[run.name].get(key)) for key in keys})
            renamed[run.name] = _under(run, name)
        rows = list(dict.fromkeys(renamed[run.name].result["label"] for run in row))
        notice = (
            f"the runs of {row[0].result['label']} differ in more than the seed{_difference(row)}, shown as "
            f"{len(rows)} rows: {', '.join(rows)}; variant= gives them names"
        )
        notices.append(Problem(row[0].name, notice, left_out=False))
    return [renamed.get(run.name, run) for run in runs], notices


def _varying(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sorted keys whose values differ between these settings."""
    keys = sorted({key for one in settings.values() for key in one})
    return [key for key in keys if len({json.dumps(one.get(key), sort_keys=True) for one in settings.values()}) > 1]


def _under(run: FinishedRun, name: str) -> FinishedRun:
    """A run moved to the row with this name appended to its label and variant."""
    label, before = run.result["label"], run.result.get("variant")
    return replace(
        run,
        result={
            **run.result,
            "label": f"{label}{'-' if '@' in label else '@'}{name}",
            "variant": f"{before}-{name}" if before else name,
        },
    )


def _duplicates(runs: Sequence[FinishedRun]) -> list[Problem]:
    """Problems of runs with the same label and seed. Only the user knows which one is meant."""
    problems = []
    for same in _by(runs, lambda run: run.cell).values():
        for run in same if len(same) > 1 else ():
            others = ", ".join(other.name for other in same if other is not run)
            reason = (
                f"duplicate cell: {run.result['label']} seed {run.result['seed']} is also in {others}"
                f"{_difference(same)}; all are left out: move away all but one, or give each setting an experiment "
                "name of its own"
            )
            problems.append(Problem(run.name, reason))
    return problems


def _mixed_settings(runs: Sequence[FinishedRun]) -> list[Problem]:
    """Problems of runs with one label whose settings differ in more than the seed, so their mean is meaningless."""
    problems = []
    for row in _by(runs, lambda run: run.row).values():
        known = [run for run in row if run.identity is not None]
        if any(run.identity != known[0].identity for run in known):
            reason = (
                f"the runs of {row[0].result['label']} differ in more than the seed{_difference(known)}; all are left "
                "out: give each setting an experiment name of its own"
            )
            problems += [Problem(run.name, reason) for run in row]
    return problems


def _other_protocols(runs: Sequence[FinishedRun]) -> list[Problem]:
    """Problems of runs scored on other queries, list lengths or cut-offs than most runs of their group."""
    problems = []
    for group in _by(runs, lambda run: run.group).values():
        counts = Counter(run.protocol for run in group)
        kept = max(counts, key=lambda protocol: (counts[protocol], protocol[2], protocol))
        for run in (one for one in group if one.protocol != kept):
            other = " that are not the same" if run.protocol[:3] == kept[:3] else ""
            reason = f"judged on {_words(run.protocol)}, but most runs beside it on {_words(kept)}{other}"
            problems.append(Problem(run.name, reason))
    return problems


def _words(protocol: tuple[Any, ...]) -> str:
    length, cutoffs, queries, _ = protocol
    return f"{queries} samples, lists of {length}, cut-offs {', '.join(map(str, cutoffs))}"


def _difference(runs: Sequence[FinishedRun]) -> str:
    """ " (they differ in a.b: 1, 2)" if the known settings differ, else ""."""
    flat = [flatten(run.identity) for run in runs if run.identity is not None]
    keys = sorted({key for settings in flat for key in settings})
    parts = []
    for key in keys:
        values = list(dict.fromkeys(_shown(key, settings.get(key)) for settings in flat))
        if len(values) > 1:
            parts.append(f"{key}: {', '.join(values)}")
    return f" (they differ in {'; '.join(parts)})" if parts else ""


def _short(key: str, value: Any) -> str:
    """A setting as part of a row name; for a digest of the run's inputs, its first digits."""
    return _shown(key, value) if key.startswith(f"{INPUTS}.") else value_text(value)


def _shown(key: str, value: Any) -> str:
    """A setting, or the first digits of a digest of the run's inputs."""
    return str(value)[:SHOWN] if key.startswith(f"{INPUTS}.") and value is not None else repr(value)
