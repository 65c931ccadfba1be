"""Names the rows of a sweep, so that different cells are different rows and never share a run directory.

A row is named by algorithm and reward. Other swept settings become the row's variant, as in a search
(`rlbench.config.row_names`). A setting outside a run's identity makes no rows, because all its values would be the same
run.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, Quote, QuotedString

from rlbench.base.errors import BadInput
from rlbench.config.row_names import value_text, variant
from rlbench.config.schema import Config
from rlbench.runs.directory import Run
from rlbench.runs.identity import differing_keys

NEVER_NAMED = (
    *("algorithm", "reward", "seed", "dataset", "model", "experiment", "experiment_name", "runs_dir", "stage"),
    "variant",
)
"""Keys that never become part of a variant, because the run's path already contains them."""


@dataclass(frozen=True)
class Swept:
    """What a sweep varies.

    Attributes:
        keys: keys with several values, including a leading + if given.
        naming: the keys that appear in row names; None if the cells decide (`naming_keys`).
    """

    keys: tuple[str, ...]
    naming: tuple[str, ...] | None = None

    def of(self, overrides: Sequence[str]) -> dict[str, str]:
        """Return the values of these keys in a cell's overrides. Hydra's sweeper writes each key once."""
        texts = dict(override.split("=", 1) for override in overrides if "=" in override)
        return {key: texts[key] for key in self.keys}


NOTHING_SWEPT = Swept(())


def swept(overrides: Sequence[Override]) -> Swept:
    """Return what the overrides of a command vary."""
    lists = [override for override in overrides if override.is_sweep_override() and override.is_discrete_sweep()]
    return Swept(tuple(each.get_key_element() for each in lists if len(set(each.sweep_string_iterator())) > 1))


@dataclass(frozen=True)
class Planned:
    """A cell before duplicates are removed.

    Attributes:
        config: its config.
        run: the directory of its last stage.
        values: values of the swept keys, as in its overrides.
    """

    config: Config
    run: Run
    values: Mapping[str, str]

    def apart(self, other: "Planned") -> list[str]:
        """Return the swept keys whose values differ."""
        return [key for key, value in self.values.items() if value != other.values.get(key)]

    @property
    def place(self) -> tuple[Any, ...]:
        """Key that is equal for cells that are the same run. A swept `variant` separates them in any case."""
        return self.config.group_dir, self.run.stage, self.run.hash, self.values.get("variant")


def naming_keys(cells: Sequence[Planned]) -> tuple[str, ...]:
    """Return the swept keys that row names must contain.

    A key is needed if two of its values, all else equal, would put two settings into one row. It is not needed if a
    variant refers to it, or if the row name already reflects it (start of RL, or a method group that sets the
    algorithm).
    """
    found = []
    for key in cells[0].values if cells else ():
        hashes: dict[tuple[Any, ...], set[str]] = {}
        for cell in cells:
            if cell.run.stage == "rl":
                rest = tuple(value for name, value in cell.values.items() if name != key)
                hashes.setdefault((cell.config.group_dir, cell.run.label, rest), set()).add(cell.run.hash)
        if key.lstrip("+") not in NEVER_NAMED and any(len(of_row) > 1 for of_row in hashes.values()):
            found.append(key)
    return tuple(found)


def named(cell: Planned, naming: Sequence[str]) -> str:
    """Return the variant of a cell: its given variant plus its values of these keys, or ""."""
    if cell.run.stage != "rl" or not naming:
        return cell.config.variant
    settings = asdict(cell.config)
    values = {key: _value(settings, key.lstrip("+"), cell.values[key]) for key in naming}
    return "-".join(part for part in (cell.config.variant, variant(values)) if part)


def _value(config: Mapping[str, Any], key: str, text: str) -> str:
    """Return a key's value as text, equal for equal values; for a config group, its option in the override."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return text
        node = node[part]
    return text if isinstance(node, Mapping) and not text.startswith("{") else value_text(node)


def override_of(name: str) -> str:
    """Return the override that sets a cell's variant."""
    return f"variant={QuotedString(name, Quote.single).with_quotes()}"


def one_each(cells: Sequence[Planned]) -> tuple[list[int], list[str]]:
    """Return the positions of cells that are separate runs, and notes about the others.

    Raises:
        BadInput: if a swept key does not affect any run, or if one row would contain several settings.
    """
    first: dict[tuple[Any, ...], int] = {}
    for number, cell in enumerate(cells):
        first.setdefault(cell.place, number)
    kept = sorted(first.values())
    twins = [(cells[first[cell.place]], cell) for cell in cells]
    twins = [
        (one, other) for one, other in twins if replace(one.config, variant="") != replace(other.config, variant="")
    ]
    if problems := _without_effect(cells, twins) + _same_row([cells[number] for number in kept]):
        raise BadInput(*problems)
    return kept, _notes(twins)


def _without_effect(cells: Sequence[Planned], twins: Sequence[tuple[Planned, Planned]]) -> list[str]:
    """Report swept keys that have no effect anywhere in the sweep although cells differ in them."""
    suspects = {key for one, other in twins if one.run.stage == "rl" for key in one.apart(other)}
    effective = set()
    for key in suspects:
        hashes: dict[tuple[Any, ...], set[str]] = {}
        for cell in cells:
            rest = tuple(value for name, value in cell.values.items() if name != key)
            hashes.setdefault((cell.config.group_dir, rest), set()).add(cell.run.hash)
        if any(len(found) > 1 for found in hashes.values()):
            effective.add(key)
    return [
        f"{key.lstrip('+')} is swept, but it does not affect what a run computes, so cells that differ only in it "
        "would be the same run in the same directory. Give it one value, or start one command per value, each with "
        "its own experiment_name"
        for key in sorted(suspects - effective)
    ]


def _notes(twins: Sequence[tuple[Planned, Planned]]) -> list[str]:
    """Return one sentence per kind of cells that are the same run as another despite different settings."""
    counts = Counter((one.run.stage, tuple(one.apart(other))) for one, other in twins)
    return [
        f"{count} of the cells {'is' if count == 1 else 'are'} the same {stage} run as another cell, because that "
        f"run does not depend on {' or '.join(key.lstrip('+') for key in keys)}; it is made once"
        for (stage, keys), count in counts.items()
    ]


def _same_row(cells: Sequence[Planned]) -> list[str]:
    """Report rows whose cells differ in more than the seed. The analysis separates shared stages by itself."""
    first: dict[tuple[Path, str], Planned] = {}
    found: dict[str, list[str]] = {}
    for cell in cells:
        if cell.run.stage == "rl":
            before = first.setdefault((cell.config.group_dir, cell.run.label), cell)
            own, other = ({k: v for k, v in one.run.identity.items() if k != "seed"} for one in (cell, before))
            if differing := differing_keys(other, own):
                found.setdefault(cell.run.label, []).extend(differing)
    return [
        f"cells of the row {label} differ in more than the seed ({'; '.join(dict.fromkeys(keys))}); give each its "
        "own name with variant="
        for label, keys in found.items()
    ]
