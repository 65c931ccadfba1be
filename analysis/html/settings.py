"""Settings in which the trained rows differ, and settings that they share."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.collection import Collection
from analysis.html.grid import GridCell, Head, folded, grid, lines, section
from analysis.html.markup import Html, breakable, tag
from analysis.html.rows import Look, name_cell
from analysis.render.numbers import counted

ABSENT = "–"
NAMING = ("algorithm.evidence", "algorithm.paper", "algorithm.title", "reward.title")
"""Settings that only describe. They are shown, but do not count as differences."""


def differing(settings: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """Keys in which rows differ (a missing key is a value of its own), and the settings that all share, by key."""
    keys = sorted({key for one in settings.values() for key in one})
    written = {key: [shown(one[key]) if key in one else None for one in settings.values()] for key in keys}
    differ = [key for key in keys if len(set(written[key])) > 1]
    first = next(iter(settings.values()), {})
    return differ, {key: first[key] for key in keys if key not in differ}


def shown(value: Any) -> str:
    """A setting as one line of YAML."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def config_differences(group: Collection, looks: Sequence[Look]) -> Html:
    """The section on settings."""
    trained = [look for look in looks if look.stage == "rl"]
    known = {look.label: [group.settings[run] for run in look.runs if run in group.settings] for look in trained}
    settings = {label: found[0] for label, found in known.items() if found}
    content: list[Html] = []
    if unknown := [look.name for look in trained if look.label not in settings]:
        content.append(tag("p", f"Not known (no identity.json): {', '.join(unknown)}.", class_="warn"))
    if not settings:
        content.append(tag("p", "No trained row has settings to compare."))
        return section("settings", "Settings", *content)
    differ, shared = differing(settings)
    named_only = [key for key in differ if key in NAMING or key.rpartition(".")[2] == "name"]
    real = [key for key in differ if key not in named_only]
    looked = [look for look in trained if look.label in settings]
    if len(looked) > 1:
        told = f"The rows differ in {counted(len(real), 'setting')} beside seeds, and share {len(shared)}."
        content.append(tag("p", f"{told} – : the row has no such setting.", class_="note"))
    if real:
        content.append(_table("settings-table", "Settings in which rows differ", looked, settings, real))
    if named_only:
        names = _table("naming-table", "Names and sources", looked, settings, named_only)
        content.append(folded(f"Names and sources of these ({len(named_only)})", names))
    listed = [
        tag("span", tag("code", breakable(key)), " ", tag("b", breakable(shown(value))))
        for key, value in shared.items()
    ]
    content.append(folded(f"Settings that all rows share ({len(shared)})", lines(listed, class_="settings")))
    return section("settings", "Settings", *content)


def _table(
    name: str, caption: str, looks: Sequence[Look], settings: Mapping[str, Mapping[str, Any]], keys: Sequence[str]
) -> Html:
    heads = [Head("Row", number=False), *(Head(breakable(key), number=False) for key in keys)]
    rows = [[name_cell(look), *(_value(settings[look.label], key) for key in keys)] for look in looks]
    return grid(name, caption, heads, rows)


def _value(settings: Mapping[str, Any], key: str) -> GridCell:
    if key not in settings:
        return GridCell(ABSENT, kind="absent")
    value = settings[key]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return GridCell(breakable(shown(value)), float(value) if number else shown(value))
