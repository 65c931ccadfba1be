"""Rows of a sweep: cells that differ are different rows, and no two of them share a run directory.

A row is named by algorithm and reward. What else a sweep varies becomes the row's variant, as in a search
(`rlbench.naming`). A setting that is no part of a run's identity makes no rows: two of its values would be one run.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, Quote, QuotedString

from rlbench.config import Config
from rlbench.errors import BadInput
from rlbench.naming import value_text, variant
from rlbench.runs import Run, differing_keys

NEVER_NAMED = (
    *("algorithm", "reward", "seed", "dataset", "model", "experiment", "experiment_name", "runs_dir", "stage"),
    "variant",
)
"""Keys that never become a variant: they are in a run's path by themselves."""


@dataclass(frozen=True)
class Swept:
    """What a sweep varies.

    Attributes:
        keys: those with several values (with their +, where they have one).
        naming: those of them that are said in the names of rows; None where the cells at hand decide (`naming_keys`).
    """

    keys: tuple[str, ...]
    naming: tuple[str, ...] | None = None

    def of(self, overrides: Sequence[str]) -> dict[str, str]:
        """The values of these keys in a cell's overrides, where Hydra's sweeper writes each key once."""
        texts = dict(override.split("=", 1) for override in overrides if "=" in override)
        return {key: texts[key] for key in self.keys}


NOTHING_SWEPT = Swept(())


def swept(overrides: Sequence[Override]) -> Swept:
    """What the overrides of a command vary."""
    lists = [override for override in overrides if override.is_sweep_override() and override.is_discrete_sweep()]
    return Swept(tuple(each.get_key_element() for each in lists if len(set(each.sweep_string_iterator())) > 1))


@dataclass(frozen=True)
class Planned:
    """A cell before it is known whether it is a run of its own.

    Attributes:
        config: of the cell.
        run: the directory of its last stage.
        values: of the keys that the sweep varies, as its overrides have them.
    """

    config: Config
    run: Run
    values: Mapping[str, str]

    def apart(self, other: "Planned") -> list[str]:
        """Swept keys whose values differ."""
        return [key for key, value in self.values.items() if value != other.values.get(key)]

    @property
    def place(self) -> tuple[Any, ...]:
        """What two cells share that are one run; names that the user sweeps tell them apart all the same."""
        return self.config.group_dir, self.run.stage, self.run.hash, self.values.get("variant")


def naming_keys(cells: Sequence[Planned]) -> tuple[str, ...]:
    """The swept keys that rows must be named by: two of its values, all else equal, give one row two settings.

    A variant that refers to the key tells rows apart by itself, and so does a start of RL, or a group of methods that
    sets the algorithm.
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
    """The variant of a cell: the one that it was given, and its values of these keys; "" for neither."""
    if cell.run.stage != "rl" or not naming:
        return cell.config.variant
    settings = asdict(cell.config)
    values = {key: _value(settings, key.lstrip("+"), cell.values[key]) for key in naming}
    return "-".join(part for part in (cell.config.variant, variant(values)) if part)


def _value(config: Mapping[str, Any], key: str, text: str) -> str:
    """The value of a key as one text for one value; of a group the name of its option, which the override says."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return text
        node = node[part]
    return text if isinstance(node, Mapping) and not text.startswith("{") else value_text(node)


def override_of(name: str) -> str:
    """The override that gives a cell its variant."""
    return f"variant={QuotedString(name, Quote.single).with_quotes()}"


def one_each(cells: Sequence[Planned]) -> tuple[list[int], list[str]]:
    """(places of the cells that are runs of their own, what to say of the others).

    Raises:
        BadInput: where a swept key makes no difference to any run, or one row would hold several settings.
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
    """Swept keys by which cells differ that are one run, where the key makes no difference anywhere in the sweep."""
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
        f"{key.lstrip('+')} is swept, but it is no part of what a run computes: cells that differ in it alone would be "
        "one run in one directory. Give it one value, or start a command for each with an experiment_name of its own"
        for key in sorted(suspects - effective)
    ]


def _notes(twins: Sequence[tuple[Planned, Planned]]) -> list[str]:
    """One sentence for each kind of cells that are the same run as another, though their settings differ."""
    counts = Counter((one.run.stage, tuple(one.apart(other))) for one, other in twins)
    return [
        f"{count} of the cells {'is' if count == 1 else 'are'} the same {stage} run as another one, which does not "
        f"depend on {' or '.join(key.lstrip('+') for key in keys)} there: it is made once"
        for (stage, keys), count in counts.items()
    ]


def _same_row(cells: Sequence[Planned]) -> list[str]:
    """Rows whose cells differ in more than the seed; those of shared stages the analysis tells apart."""
    first: dict[tuple[Path, str], Planned] = {}
    found: dict[str, list[str]] = {}
    for cell in cells:
        if cell.run.stage == "rl":
            before = first.setdefault((cell.config.group_dir, cell.run.label), cell)
            own, other = ({k: v for k, v in one.run.identity.items() if k != "seed"} for one in (cell, before))
            if differing := differing_keys(other, own):
                found.setdefault(cell.run.label, []).extend(differing)
    return [
        f"cells of the row {label} differ in more than the seed ({'; '.join(dict.fromkeys(keys))}): give each a name "
        "with variant="
        for label, keys in found.items()
    ]
