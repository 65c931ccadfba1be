"""Select the runs of a table and group them into rows, by looking up the spec's values in run table and settings."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.collection import Collection
from analysis.collection.stages import row_name, stage_place
from analysis.tables.spec import RowSpec, TableSpec, Where
from rlbench.base.errors import BadInput, nearest
from rlbench.runs.record import STAGES

CELL = ("experiment", "dataset", "model", "label")
"""Columns that all runs of a row have in common."""

SFT: Where = {"label": ("sft",)}
"""The baseline that a spec calls `sft`."""

PLACEHOLDER = re.compile(r"{([^{}]*)}")


@dataclass(frozen=True)
class Folder:
    """Runs of one folder; its name is as the user gave it, or "" if it is the only one."""

    name: str
    collection: Collection


@dataclass(frozen=True)
class Part:
    """The runs of one row.

    Attributes:
        id: index of the row in the table.
        group: values of `group_by`, as shown.
        runs: lines of the run table, by seed; `source` is the index of the folder.
    """

    id: int
    group: str
    name: str
    runs: pd.DataFrame

    @property
    def by_source(self) -> list[tuple[int, pd.DataFrame]]:
        """The runs grouped by source folder."""
        places = list(dict.fromkeys(int(place) for place in self.runs["source"]))
        return [(place, self.runs[self.runs["source"] == place]) for place in places]

    @cached_property
    def first(self) -> pd.Series:
        """The first run."""
        return self.runs.iloc[0]

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        return tuple(int(seed) for seed in self.runs["seed"])

    @property
    def label(self) -> str:
        return str(self.first["label"])

    @property
    def stage(self) -> str:
        return str(self.first["stage"])

    @property
    def trained(self) -> bool:
        return self.stage in ("sft", "external", "rl")


class Lookup:
    """Values of runs by the name of a run-table column or a setting.

    A setting may be named as in the config (trainer.rl.num_iterations), as in identity.json (rl.num_iterations), or by
    any suffix that is unique (num_iterations).
    """

    def __init__(self, folders: Sequence[Folder]):
        frames = [source.collection.runs.assign(source=i) for i, source in enumerate(folders)]
        self.runs = pd.concat([frame for frame in frames if not frame.empty] or frames[:1], ignore_index=True)
        self._settings = [source.collection.settings for source in folders]
        self._keys = sorted({key for settings in self._settings for run in settings.values() for key in run})
        self._columns = [column for column in self.runs.columns if column != "source"]
        self._found: dict[str, tuple[bool, str]] = {}

    def resolve(self, name: str, said: str) -> str:
        """Resolve a name. Returns "" on success, else a message; `said` is the place in the spec that uses the name."""
        if name in self._columns:
            self._found[name] = (True, name)
            return ""
        fitting = [key for key in self._keys if key == name] or [
            key for key in self._keys if key.endswith(f".{name}") or name.endswith(f".{key}")
        ]
        if len(fitting) == 1:
            self._found[name] = (False, fitting[0])
            return ""
        if fitting:
            return f"{said}: '{name}' may be {' or '.join(fitting)}; write out which"
        return f"{said}: runs have no column and no setting '{name}'.{nearest(name, [*self._columns, *self._keys])}"

    def value(self, run: pd.Series, name: str) -> Any:
        """The value of a resolved name, or None if the run has none."""
        column, key = self._found[name]
        if not column:
            return self._settings[int(run["source"])].get(run["run"], {}).get(key)
        value = run[key]
        if isinstance(value, np.generic):
            value = value.item()
        return None if isinstance(value, float) and math.isnan(value) else value

    def values(self, runs: pd.DataFrame, name: str) -> list[Any]:
        """The distinct values of runs, in order of first occurrence."""
        return list({as_text(value): value for value in (self.value(run, name) for _, run in runs.iterrows())}.values())


def as_text(value: Any) -> str:
    """A value as text: true, null, 1e-05, [5, 10]."""
    return value if isinstance(value, str) else json.dumps(list(value) if isinstance(value, tuple) else value)


def same(value: Any, wanted: Any) -> bool:
    """Whether a run's value equals the one in a spec, as a number or as text."""
    one, other = as_text(value), as_text(wanted)
    return one == other or (not math.isnan(number := as_number(value)) and number == as_number(wanted))


def as_number(value: Any) -> float:
    """A number, or text that is a number (YAML reads 1e-5 as text); NaN for anything else, including booleans."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan


def fits(lookup: Lookup, run: pd.Series, where: Where) -> bool:
    """Whether a run matches every key, with one of its values."""
    return all(any(same(lookup.value(run, key), wanted) for wanted in values) for key, values in where.items())


def check_join(lookup: Lookup, folders: Sequence[Folder]) -> None:
    """Check that several folders can be combined.

    Raises:
        BadInput: if two folders have the same cell and seed, or a row's runs in several folders differ in more than
            the seed.
    """
    problems = []
    for cell, runs in lookup.runs.groupby(list(CELL), sort=True):
        if runs["source"].nunique() == 1:
            continue
        where = "/".join(map(str, cell))
        for seed, twins in runs.groupby("seed"):
            if len(twins) > 1:
                found = ", ".join(f"{folders[i].name}/{run}" for i, run in twins[["source", "run"]].to_numpy())
                problems.append(f"{where} seed {seed} is there more than once: {found}; name one of the folders")
        kinds = {
            json.dumps(folders[i].collection.settings.get(run), sort_keys=True)
            for i, run in zip(runs["source"], runs["run"], strict=True)
        }
        if len(kinds) > 1:
            names = ", ".join(folders[i].name for i in sorted(runs["source"].unique()))
            problems.append(
                f"the runs of {where} in {names} differ in more than the seed: give one of them an experiment name "
                "of its own"
            )
    if problems:
        raise BadInput(*problems)


def named_values(spec: TableSpec) -> list[tuple[str, str]]:
    """Every column or setting that a spec names, with its place in the spec."""
    found = [(key, f"group_by: {key}") for key in spec.group_by]
    found += [(key, "names") for key in spec.names]
    for i, row in enumerate(spec.rows):
        found += [(key, f"rows[{i}].where") for key in row.where]
        found += [(key.removeprefix("-"), f"rows[{i}].order") for key in row.order]
        found += [(key, f"rows[{i}].name") for key in PLACEHOLDER.findall(row.name)]
    for i, column in enumerate(spec.columns):
        found += [(key, f"columns[{i}].to") for key in column.to or {}]
        found += [(column.of, f"columns[{i}].value")] if column.kind == "value" and column.of != "seeds" else []
    found += [(key, "baseline") for key in spec.baseline or {}]
    return found + [(key, "title") for key in PLACEHOLDER.findall(spec.title)]


def parts(lookup: Lookup, spec: TableSpec) -> tuple[list[Part], list[str]]:
    """The rows of a table, ordered by group, and the parts of the spec that match no run.

    A run belongs to the first row entry that it matches.
    """
    runs = lookup.runs
    entry_of = [
        next((i for i, row in enumerate(spec.rows) if fits(lookup, run, row.where)), -1) for _, run in runs.iterrows()
    ]
    groups = [tuple(as_text(lookup.value(run, key)) for key in spec.group_by) for _, run in runs.iterrows()]
    chosen = [place for place, entry in enumerate(entry_of) if entry >= 0]
    headings = _headings({groups[place] for place in chosen}, spec)
    found: list[Part] = []
    for group in headings:
        cells: dict[tuple[Any, ...], list[int]] = {}
        for place in chosen:
            if groups[place] == group:
                cells.setdefault((entry_of[place], *runs.iloc[place][list(CELL)]), []).append(place)
        rows = [(entry, runs.iloc[places].sort_values("seed", kind="stable")) for (entry, *_), places in cells.items()]
        rows.sort(key=lambda row: (row[0], *_place(lookup, row[1], spec.rows[row[0]])))
        for name, (_, part) in zip(_names(lookup, spec, rows), rows, strict=True):
            found.append(Part(len(found), headings[group], name, part))
    return found, _absent(lookup, spec, set(entry_of))


def _absent(lookup: Lookup, spec: TableSpec, found: set[int]) -> list[str]:
    """Row entries, and values in them, that match no run. Entries for stages are skipped: a sweep may lack a stage."""
    absent = []
    for i, row in enumerate(spec.rows):
        if set(row.where) == {"stage"} and set(row.where["stage"]) <= set(STAGES):
            continue
        if i not in found:
            absent.append(in_words(row.where))
            continue
        for key, values in row.where.items():
            known = lookup.values(lookup.runs, key)
            absent += [in_words({key: (value,)}) for value in values if not any(same(one, value) for one in known)]
    return absent


def in_words(where: Where) -> str:
    """A condition in words: algorithm grpo or gspo, reward dcg."""
    return ", ".join(f"{key} {' or '.join(map(as_text, values))}" for key, values in where.items())


def suggestions(lookup: Lookup, spec: TableSpec) -> list[str]:
    """The condition of each row entry, with suggestions for values that no run has."""
    told = []
    for row in spec.rows:
        close = ""
        for key, values in row.where.items():
            known = [as_text(value) for value in lookup.values(lookup.runs, key)]
            close += "".join(nearest(as_text(value), known) for value in values if as_text(value) not in known)
        told.append(f"{in_words(row.where)}.{close}" if close else in_words(row.where))
    return told


def _headings(groups: Set[tuple[str, ...]], spec: TableSpec) -> dict[tuple[str, ...], str]:
    """Group to its heading, ordered by `names`, then numbers by size, then text. Headings omit keys that do not
    vary."""
    varying = [i for i in range(len(spec.group_by)) if len({group[i] for group in groups}) > 1]
    orders = [list(spec.names.get(key, {})) for key in spec.group_by]

    def place(group: tuple[str, ...]) -> list[tuple[int, tuple[int, float, str]]]:
        return [
            (order.index(value) if value in order else len(order), natural(value))
            for order, value in zip(orders, group, strict=True)
        ]

    return {
        group: ", ".join(spec.names.get(spec.group_by[i], {}).get(group[i], group[i]) for i in varying)
        for group in sorted(groups, key=place)
    }


def natural(value: Any) -> tuple[int, float, str]:
    """Sort key: numbers by size, then text."""
    number = as_number(value)
    return (1, 0.0, as_text(value)) if math.isnan(number) else (0, number, "")


def _place(lookup: Lookup, part: pd.DataFrame, row: RowSpec) -> tuple[Any, ...]:
    """Sort key of a row among the rows of its entry."""
    first = part.iloc[0]
    by_values = tuple(
        next(i for i, wanted in enumerate(values) if same(lookup.value(first, key), wanted))
        for key, values in row.where.items()
    )
    by_order = []
    for key in row.order:
        name = key.removeprefix("-")
        values = [lookup.value(run, name) for _, run in part.iterrows()]
        numbers = [as_number(value) for value in values]
        if all(math.isnan(number) for number in numbers):
            by_order.append(natural(values[0]))
        else:
            mean = float(np.nanmean(numbers))
            by_order.append((0, -mean if key.startswith("-") else mean, ""))
    own = ("algorithm", "reward") if first["stage"] == "rl" else ()
    place = stage_place(str(first["stage"]), str(first["label"]))
    return (by_values, tuple(by_order), place, *(str(first[key]) for key in (*own, *CELL)))


def _names(lookup: Lookup, spec: TableSpec, rows: Sequence[tuple[int, pd.DataFrame]]) -> list[str]:
    """Names of the rows (entry, runs) of one group. Equal names are extended by a value in which their runs differ."""
    firsts = [part.iloc[0] for _, part in rows]
    names = [_name(lookup, spec, spec.rows[entry], first) for (entry, _), first in zip(rows, firsts, strict=True)]
    for key in ("experiment", "model", "dataset", "label"):
        for name in {name for name in names if names.count(name) > 1}:
            places = [i for i, other in enumerate(names) if other == name]
            if len({firsts[i][key] for i in places}) > 1:
                for i in places:
                    names[i] = f"{name}, {firsts[i][key]}"
    return names


def _name(lookup: Lookup, spec: TableSpec, row: RowSpec, run: pd.Series) -> str:
    if not row.name:
        return row_name(run, partial(word, spec.names))
    return filled(row.name, lambda key: word(spec.names, key, lookup.value(run, key)))


def filled(template: str, words: Callable[[str], str]) -> str:
    """A template with each {column} replaced by `words(column)`."""
    return PLACEHOLDER.sub(lambda match: words(match.group(1)), template)


def word(names: Mapping[str, Mapping[str, str]], key: str, value: Any) -> str:
    """Display name of a value of a column."""
    text = as_text(value)
    return names.get(key, {}).get(text, text)


def baseline_of(lookup: Lookup, group: Sequence[Part], where: Where) -> Part | None:
    """The one row of a group that matches, or None.

    `sft` means the row with that label, else the group's only SFT row.

    Raises:
        BadInput: if several rows match.
    """
    found = [part for part in group if fits(lookup, part.first, where)]
    if not found and where == SFT:
        of_stage = [part for part in group if part.stage == "sft"]
        return of_stage[0] if len(of_stage) == 1 else None
    if len(found) > 1:
        names = ", ".join(part.name for part in found)
        heading = f" under {group[0].group}" if group[0].group else ""
        raise BadInput(f"baseline {in_words(where)}: several rows fit{heading} ({names}); name one of them")
    return found[0] if found else None
