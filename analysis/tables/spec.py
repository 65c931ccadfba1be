"""Table specs in YAML; docs/tables.md lists every key.

`read_spec` reports all problems at once. `build` checks what depends on runs: whether a metric, setting or row exists.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rlbench.base.errors import BadInput, nearest
from rlbench.base.user_files import read_user_yaml
from rlbench.lists.metric_catalogue import metric_title

SPECS = Path(__file__).parents[1] / "specs"
"""Folder of the specs shipped with the harness."""

SPLITS = ("test", "validation")
STATISTICS = ("mean", "iqm")
INTERVALS = ("brackets", "plus_minus", "none")
KINDS = ("metric", "difference", "improvement", "value")
"""A column has exactly one of these keys: what it shows."""

VALUES = {
    "seeds": "Seeds",
    **{
        name: metric_title(name)
        for name in ("updates", "prompts", "completions", "generated_tokens", "trained_tokens", "seconds")
    },
    "checkpoint_step": "Checkpoint",
}
"""Values that a column may name by a single word, with their headers."""

MOST_DIGITS = 6

Where = Mapping[str, tuple[Any, ...]]
"""Column of the run table, or setting, to the accepted values."""


@dataclass(frozen=True)
class RowSpec:
    """Rows that one entry selects.

    Attributes:
        where: runs to select; all keys must match. Rows follow the order of the values.
        name: as shown; `{column}` is replaced by the row's value. "" means the shared stage's name, or
            "{algorithm} · {reward}" for an RL row.
        order: columns to sort by, after the order of `where`; a leading "-" sorts in descending order.
    """

    where: Where
    name: str = ""
    order: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnSpec:
    """A column, or several columns if the metric ends in @all.

    Attributes:
        kind: one of KINDS.
        of: metric, with the suffix @<K>, @all or @largest if it has cut-offs; for a value: column or setting.
        statistic: for a metric: mean or iqm (over the row's runs).
        to: baseline row of a difference or an improvement; None for the spec's baseline.
        header: as shown; "" for a title built from the metric.
        digits: number of decimals; None means 3, or 2 for an improvement.
        interval: brackets, plus_minus or none.
        p: whether a difference shows its p.
        bold: whether the best RL row may be bold; None means only for compared accuracy metrics, or for all accuracy
            metrics if the spec compares none.
    """

    kind: str
    of: str
    statistic: str = "mean"
    to: Where | None = None
    header: str = ""
    digits: int | None = None
    interval: str = "brackets"
    p: bool = False
    bold: bool | None = None


@dataclass(frozen=True)
class TableSpec:
    """A table.

    Attributes:
        title: as shown; `{column}` is replaced by the column's values.
        rows, columns: in display order.
        split: test or validation. Validation has one number per run, so its intervals cover seeds only.
        group_by: columns of the run table or settings. Runs with equal values share a heading, and only rows under one
            heading are compared.
        names: column to value to display name. Groups follow this order.
        baseline: the row that others are compared with; one under each heading.
        comparisons: metrics of the second table, spelled as in `columns`; the first is the table's headline.
        profiles: metrics of the performance-profile figure.
        seeds: seeds that every RL row should have; empty for the seeds of any RL row under its heading.
        method: header of the column of row names.
        overall: heading of a final group over all groups, with interquartile means and probabilities of improvement.
            Rows with the same name are pooled. "" for none.
    """

    title: str
    rows: tuple[RowSpec, ...]
    columns: tuple[ColumnSpec, ...]
    split: str = "test"
    group_by: tuple[str, ...] = ()
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    baseline: Where | None = None
    comparisons: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    method: str = "Method"
    overall: str = ""


def read_spec(path: Path) -> TableSpec:
    """Read a spec from a file, or by the name of one shipped with the harness.

    Raises:
        BadInput: lists every problem if the file cannot be read or the spec is invalid.
    """
    shipped = SPECS / f"{path.name}.yaml"
    file = shipped if not path.exists() and path.parent == Path() and shipped.exists() else path
    if not file.is_file():
        known = sorted(spec.stem for spec in SPECS.glob("*.yaml"))
        close = nearest(path.stem, known)
        raise BadInput(f"--spec {path}: there is no such file.{close} Specs by name: {', '.join(known)}")
    return parse_spec(read_user_yaml(file), str(file))


def parse_spec(content: Any, source: str) -> TableSpec:
    """Parse the content of a YAML spec; `source` names it in messages."""
    reader = _Reader(source)
    spec = reader.table(content)
    if reader.problems:
        raise BadInput(*reader.problems)
    return spec


class _Reader:
    """Reads a spec and collects problems. The result is valid only if there are none."""

    def __init__(self, source: str):
        self.source = source
        self.problems: list[str] = []

    def table(self, content: Any) -> TableSpec:
        spec = self._mapping(content, "the spec", [each.name for each in fields(TableSpec)])
        for key in ("title", "rows", "columns"):
            if key not in spec:
                self._say(f"{key} is missing")
        rows, columns = (self._list(spec.get(key, []), key) for key in ("rows", "columns"))
        for key, entries in (("rows", rows), ("columns", columns)):
            if key in spec and not entries:
                self._say(f"{key} is empty")
        table = TableSpec(
            title=self._text(spec.get("title", ""), "title"),
            rows=tuple(self._row(entry, f"rows[{i}]") for i, entry in enumerate(rows)),
            columns=tuple(self._column(entry, f"columns[{i}]") for i, entry in enumerate(columns)),
            split=self._one_of(spec.get("split", "test"), "split", SPLITS),
            group_by=self._texts(spec.get("group_by", []), "group_by"),
            names=self._names(spec.get("names", {})),
            baseline=self._where_or_label(spec["baseline"], "baseline") if "baseline" in spec else None,
            comparisons=self._texts(spec.get("comparisons", []), "comparisons"),
            profiles=self._texts(spec.get("profiles", []), "profiles"),
            seeds=self._seeds(spec.get("seeds", [])),
            method=self._text(spec.get("method", "Method"), "method"),
            overall=self._text(spec.get("overall", ""), "overall"),
        )
        if table.comparisons and "baseline" not in spec:
            self._say("comparisons needs a baseline: which row all others are compared with")
        return table

    def _say(self, problem: str) -> None:
        self.problems.append(f"{self.source}: {problem}")

    def _mapping(self, content: Any, where: str, known: list[str] | None = None) -> dict[str, Any]:
        if not self._is(dict, content, where, "be a mapping"):
            return {}
        bad = [key for key in content if not isinstance(key, str)]
        for key in bad:
            self._say(f"{where} has the key {key!r}, which is no text")
        for key in content:
            if known is not None and key not in bad and key not in known:
                self._say(f"{where} has no key '{key}'.{nearest(key, known)} Known: {', '.join(known)}")
        return {key: value for key, value in content.items() if key not in bad}

    def _is(self, kind: type, content: Any, where: str, must: str) -> bool:
        """Whether the content is of a kind; if not, a problem says what it must do."""
        fits = isinstance(content, kind)
        if not fits:
            self._say(f"{where} must {must}, not {_shown(content)}")
        return fits

    def _list(self, content: Any, where: str) -> list[Any]:
        return content if self._is(list, content, where, "be a list") else []

    def _text(self, content: Any, where: str) -> str:
        return content if self._is(str, content, where, "be text") else ""

    def _truth(self, content: Any, where: str) -> bool:
        return self._is(bool, content, where, "be true or false") and content

    def _texts(self, content: Any, where: str) -> tuple[str, ...]:
        """One text, or a list of texts."""
        if isinstance(content, str):
            return (content,)
        return tuple(self._text(entry, f"{where}[{i}]") for i, entry in enumerate(self._list(content, where)))

    def _one_of(self, content: Any, where: str, known: tuple[str, ...]) -> str:
        if content not in known:
            close = nearest(content, list(known)) if isinstance(content, str) else ""
            self._say(f"{where} is {_shown(content)}, which is none of {', '.join(known)}.{close}".rstrip())
        return str(content)

    def _names(self, content: Any) -> dict[str, dict[str, str]]:
        renamed = self._mapping(content, "names")
        found: dict[str, dict[str, str]] = {}
        for column, values in renamed.items():
            known = values if self._is(dict, values, f"names.{column}", "map values to words") else {}
            found[column] = {str(value): self._text(name, f"names.{column}.{value}") for value, name in known.items()}
        return found

    def _where(self, content: Any, where: str) -> Where:
        found = {}
        for key, values in self._mapping(content, where).items():
            several = values if isinstance(values, list) else [values]
            if not several:
                self._say(f"{where}.{key} is an empty list, which no run fits")
            if any(isinstance(value, dict | list) for value in several):
                self._say(f"{where}.{key} must be a value or a list of values, not {_shown(values)}")
            found[key] = tuple(several)
        if isinstance(content, dict) and not content:
            self._say(f"{where} is empty: say which runs, e.g. {{stage: rl}}")
        return found

    def _where_or_label(self, content: Any, where: str) -> Where:
        """A mapping, or just the label of a row."""
        return {"label": (content,)} if isinstance(content, str) else self._where(content, where)

    def _row(self, content: Any, where: str) -> RowSpec:
        row = self._mapping(content, where, [each.name for each in fields(RowSpec)])
        if isinstance(content, dict) and "where" not in row:
            self._say(f"{where} lacks `where`: say which runs, e.g. {{stage: rl}}")
        return RowSpec(
            where=self._where(row["where"], f"{where}.where") if "where" in row else {},
            name=self._text(row.get("name", ""), f"{where}.name"),
            order=self._texts(row.get("order", []), f"{where}.order"),
        )

    def _column(self, content: Any, where: str) -> ColumnSpec:
        if isinstance(content, str):
            content = {"value" if content in VALUES else "metric": content}
        known = [*KINDS, *(each.name for each in fields(ColumnSpec) if each.name not in ("kind", "of"))]
        column = self._mapping(content, where, known)
        kinds = [key for key in KINDS if key in column]
        if len(kinds) != 1 and isinstance(content, dict):
            self._say(f"{where} needs one of {', '.join(KINDS)}; it has {' and '.join(kinds) or 'none'}")
        kind = kinds[0] if kinds else "value"
        fitting = {
            "metric": ("statistic", "digits", "interval", "bold"),
            "difference": ("to", "digits", "interval", "p"),
            "improvement": ("to", "digits", "interval"),
            "value": ("digits",),
        }[kind]
        for key in column:
            if key in known and key not in (*KINDS, "header", *fitting):
                self._say(f"{where}.{key} means nothing beside '{kind}'; it may have {', '.join(fitting)}")
        digits = column.get("digits")
        if digits is not None and (type(digits) is not int or not 0 <= digits <= MOST_DIGITS):
            self._say(f"{where}.digits is {_shown(digits)}; it must be a whole number from 0 to {MOST_DIGITS}")
        return ColumnSpec(
            kind=kind,
            of=self._text(column.get(kind, ""), f"{where}.{kind}"),
            statistic=self._one_of(column.get("statistic", "mean"), f"{where}.statistic", STATISTICS),
            to=self._where_or_label(column["to"], f"{where}.to") if "to" in column else None,
            header=self._text(column.get("header", ""), f"{where}.header"),
            digits=digits,
            interval=self._one_of(column.get("interval", "brackets"), f"{where}.interval", INTERVALS),
            p=self._truth(column.get("p", False), f"{where}.p"),
            bold=self._truth(column["bold"], f"{where}.bold") if "bold" in column else None,
        )

    def _seeds(self, content: Any) -> tuple[int, ...]:
        """A list of seeds, or the number of seeds starting at 0."""
        if type(content) is int and content > 0:
            return tuple(range(content))
        if isinstance(content, list) and all(type(seed) is int for seed in content):
            return tuple(sorted(set(content)))
        self._say(f"seeds is {_shown(content)}; it must be a list of seeds, or how many there are from 0 on")
        return ()


def _shown(content: Any) -> str:
    return "nothing" if content is None else repr(content)
