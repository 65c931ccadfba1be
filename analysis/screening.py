"""Which runs can stand beside each other: what only shows when all runs of a folder are known.

Each screen names the runs to leave out. They need what `Run` holds and no scores.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis.reading import Problem, Run, flatten
from rlbench.content import SHOWN
from rlbench.naming import value_text, variant
from rlbench.runs import INPUTS


def screened(runs: Sequence[Run], problems: Sequence[Problem]) -> tuple[list[Run], tuple[Problem, ...]]:
    """The runs that can stand beside each other, and everything to be said: what is left out first, by run.

    Args:
        runs: all that could be read, sorted by name.
        problems: with those that could not.
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


def _by(runs: Sequence[Run], key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    parts: dict[Any, list[Run]] = {}
    for run in runs:
        parts.setdefault(key(run), []).append(run)
    return parts


def _told_apart(runs: Sequence[Run]) -> tuple[list[Run], list[Problem]]:
    """Runs of one label whose settings differ in more than the seed become rows of their own, named by what differs.

    Commands that differ in a setting and say no `variant=` make such runs; so do SFT models of several settings. Where
    the settings of a run are not known, the row stays as it is, for the other screens to judge.

    Returns:
        The runs, in their order, and one notice for each row that was divided.
    """
    renamed: dict[str, Run] = {}
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
        notices.append(
            Problem(
                row[0].name,
                f"the runs of {row[0].result['label']} differ in more than the seed{_difference(row)}, shown as "
                f"{len(rows)} rows: {', '.join(rows)}; variant= gives them names",
                left_out=False,
            )
        )
    return [renamed.get(run.name, run) for run in runs], notices


def _varying(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Keys whose values are not the same in all of these settings, sorted."""
    keys = sorted({key for one in settings.values() for key in one})
    return [key for key in keys if len({json.dumps(one.get(key), sort_keys=True) for one in settings.values()}) > 1]


def _under(run: Run, name: str) -> Run:
    """A run in the row that has this name beside its own."""
    label, before = run.result["label"], run.result.get("variant")
    return replace(
        run,
        result={
            **run.result,
            "label": f"{label}{'-' if '@' in label else '@'}{name}",
            "variant": f"{before}-{name}" if before else name,
        },
    )


def _duplicates(runs: Sequence[Run]) -> list[Problem]:
    """Runs of one label and seed: which of them is meant, only the user knows."""
    problems = []
    for same in _by(runs, lambda run: run.cell).values():
        for run in same if len(same) > 1 else ():
            others = [other for other in same if other is not run]
            problems.append(
                Problem(
                    run.name,
                    f"duplicate cell: {run.result['label']} seed {run.result['seed']} is also in "
                    f"{', '.join(other.name for other in others)}{_difference(same)}; all are left out: move away all "
                    "but one, or give each setting an experiment name of its own",
                )
            )
    return problems


def _mixed_settings(runs: Sequence[Run]) -> list[Problem]:
    """Runs of one label whose settings differ in more than the seed: their mean would be of nothing."""
    problems = []
    for row in _by(runs, lambda run: run.row).values():
        known = [run for run in row if run.identity is not None]
        if any(run.identity != known[0].identity for run in known):
            problems += [
                Problem(
                    run.name,
                    f"the runs of {run.result['label']} differ in more than the seed{_difference(known)}; all are left "
                    "out: give each setting an experiment name of its own",
                )
                for run in row
            ]
    return problems


def _other_protocols(runs: Sequence[Run]) -> list[Problem]:
    """Runs that were judged on other queries, lists or cut-offs than most runs beside them."""
    problems = []
    for group in _by(runs, lambda run: run.group).values():
        counts = Counter(run.protocol for run in group)
        kept = max(counts, key=lambda protocol: (counts[protocol], protocol[2], protocol))
        for run in group:
            if run.protocol != kept:
                problems.append(
                    Problem(
                        run.name,
                        f"judged on {_words(run.protocol)}, but most runs beside it on {_words(kept)}"
                        f"{'' if run.protocol[:3] != kept[:3] else ' that are not the same'}",
                    )
                )
    return problems


def _words(protocol: tuple[Any, ...]) -> str:
    length, cutoffs, queries, _ = protocol
    return f"{queries} samples, lists of {length}, cut-offs {', '.join(map(str, cutoffs))}"


def _difference(runs: Sequence[Run]) -> str:
    """ " (they differ in a.b: 1, 2)" where the settings are known and differ, else ""."""
    flat = [flatten(run.identity) for run in runs if run.identity is not None]
    keys = sorted({key for settings in flat for key in settings})
    parts = []
    for key in keys:
        values = list(dict.fromkeys(_shown(key, settings.get(key)) for settings in flat))
        if len(values) > 1:
            parts.append(f"{key}: {', '.join(values)}")
    return f" (they differ in {'; '.join(parts)})" if parts else ""


def _short(key: str, value: Any) -> str:
    """A setting in the name of a row; a digest of what the run has read by its first digits."""
    return _shown(key, value) if key.startswith(f"{INPUTS}.") else value_text(value)


def _shown(key: str, value: Any) -> str:
    """A setting, or the first digits of a digest of what the run has read."""
    return str(value)[:SHOWN] if key.startswith(f"{INPUTS}.") and value is not None else repr(value)
