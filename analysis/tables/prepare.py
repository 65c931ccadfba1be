"""Prepare a table before numbers are computed: the rows, columns and scores that a spec selects from runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.statistics import Scores
from analysis.tables import marks, select
from analysis.tables.compare import Side
from analysis.tables.model import BUDGET, MISSING, ONE_SEED, STOPPED, UNEQUAL, Column
from analysis.tables.scores import row_scores, samples_digest
from analysis.tables.select import Folder, Lookup, Part, as_text
from analysis.tables.spec import VALUES, ColumnSpec, TableSpec, Where
from rlbench.base.errors import BadInput, nearest
from rlbench.lists.metric_catalogue import metric_title

ROWS_HELD = 64
"""Number of rows whose scores stay in memory; others are read again when needed."""


@dataclass(frozen=True)
class Asked:
    """A column with the entry of the spec that defines it, and its baseline; None if it compares nothing."""

    column: Column
    spec: ColumnSpec
    to: Where | None = None


class Prepared:
    """Rows, columns and scores of a table, checked against the runs.

    Raises:
        BadInput: if the spec names something that the runs lack, or no run matches it.
    """

    def __init__(self, folders: Sequence[Folder], spec: TableSpec):
        self.folders, self.spec = folders, spec
        self.lookup = Lookup(folders)
        wanted = [*select.named_values(spec), ("algorithm", "rows"), ("reward", "rows")]
        if wrong := [problem for name, said in wanted if (problem := self.lookup.resolve(name, said))]:
            raise BadInput(*dict.fromkeys(wrong))
        select.check_join(self.lookup, folders)
        self.parts, self.absent = select.parts(self.lookup, spec)
        if not self.parts:
            raise BadInput(
                "no run fits any of the rows: "
                + ("; ".join(select.suggestions(self.lookup, spec)) or "there is no run of these stages")
            )
        self.runs = pd.concat([part.runs for part in self.parts], ignore_index=True)
        self.cutoffs = tuple(sorted({k for cutoffs in self.runs["cutoffs"] for k in cutoffs}))
        self.groups: dict[str, list[Part]] = {}
        for part in self.parts:
            self.groups.setdefault(part.group, []).append(part)
        self.baselines: dict[str, dict[str, Part]] = {}
        self.rl = {group: self._rl(parts) for group, parts in self.groups.items()}
        self.unequal = {group: marks.unequal_budgets(runs) for group, runs in self.rl.items()}
        self.compared = self.metrics(spec.comparisons, "comparisons")
        self.shown = self._columns()
        self.contexts: dict[str, NDArray[np.int64]] = {}
        self.loaded = lru_cache(maxsize=ROWS_HELD)(self._load)
        if spec.split == "test":
            self._check_samples()
        self.sides = self._sides()

    # Metrics and columns.

    def metrics(self, names: Sequence[str], said: str) -> list[str]:
        """Metrics with @all and @largest replaced by the runs' cut-offs.

        Raises:
            BadInput: lists the metrics that no run has; `said` is their place in the spec.
        """
        found: list[str] = []
        for name in names:
            stem, at, k = name.partition("@")
            if at and k in ("all", "largest"):
                cutoffs = self.cutoffs if k == "all" else self.cutoffs[-1:]
                found += [f"{stem}@{cutoff}" for cutoff in cutoffs]
            else:
                found.append(name)
        prefix = f"{self.spec.split}."
        known = [column.removeprefix(prefix) for column in self.runs.columns if column.startswith(prefix)]
        if unknown := [name for name in found if name not in known]:
            raise BadInput(
                *(
                    f"{said}: no run has the metric '{name}' on {self.spec.split}.{nearest(name, known)} "
                    f"There are: {', '.join(sorted(known))}"
                    for name in unknown
                )
            )
        return list(dict.fromkeys(found))

    def _columns(self) -> list[Asked]:
        shown = []
        for i, spec in enumerate(self.spec.columns):
            said = f"columns[{i}]"
            if spec.kind == "value":
                header = spec.header or VALUES.get(spec.of, spec.of)
                shown.append(Asked(Column(spec.of, header, "value", spec.of, digits=_digits(spec)), spec))
                continue
            to = None if spec.kind == "metric" else spec.to or self.spec.baseline
            if spec.kind != "metric" and to is None:
                raise BadInput(f"{said}: '{spec.kind}' needs `to`, or a baseline of the spec: which row it is to")
            metrics = self.metrics([spec.of], said)
            for metric in metrics:
                column = self._column(metric, spec, to)
                if spec.header and len(metrics) > 1:
                    column = replace(column, header=f"{spec.header}@{metric.partition('@')[2]}")
                shown.append(Asked(column, spec, to))
        keys = [each.column.key for each in shown]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise BadInput(*(f"columns: '{key}' is there more than once" for key in twice))
        return shown

    def _column(self, metric: str, spec: ColumnSpec, to: Where | None) -> Column:
        title = metric_title(metric)
        key, header = metric, title
        base = self._baseline_name(to) if to is not None else ""
        word = "_".join(as_text(value) for values in (to or {}).values() for value in values)
        kind = "mean"
        if spec.kind == "difference":
            key, header, kind = f"{metric}_minus_{word}", f"Δ {title} to {base}", "difference"
        elif spec.kind == "improvement":
            key, header, kind = f"{metric}_beats_{word}", f"P({title} above {base})", "improvement"
        elif spec.statistic == "iqm":
            key, header, kind = f"{metric}_iqm", f"{title} (IQM)", "iqm"
        return Column(key, spec.header or header, kind, metric, word, _digits(spec), interval=spec.interval, p=spec.p)

    def _baseline_name(self, to: Where) -> str:
        """Name of the baseline rows; the spec's values if the rows have several names or do not exist."""
        found = {part.name for part in self._baselines(to).values()}
        return found.pop() if len(found) == 1 else " ".join(as_text(v) for values in to.values() for v in values)

    def _baselines(self, to: Where) -> dict[str, Part]:
        """Group to its baseline row. Groups without one are absent."""
        if repr(to) not in self.baselines:
            found = {group: select.baseline_of(self.lookup, parts, to) for group, parts in self.groups.items()}
            self.baselines[repr(to)] = {group: part for group, part in found.items() if part is not None}
        return self.baselines[repr(to)]

    # Scores.

    def _sides(self) -> dict[int, Side]:
        """Every row by id, with those metrics of the table that it has."""
        wanted = [each.column.of for each in self.shown if each.column.kind != "value"]
        wanted = list(dict.fromkeys([*wanted, *self.compared]))
        sides = {}
        for part in self.parts:
            names = self._metrics_of(part, wanted)
            spent = {tuple(map(int, one)) for one in part.runs[list(BUDGET)].to_numpy()}
            sides[part.id] = Side(
                id=part.id,
                group=part.group,
                name=part.name,
                label=part.label,
                stage=part.stage,
                seeds=part.seeds,
                budgets=frozenset(spent if part.stage == "rl" else ()),
                marks=self._marks(part),
                metrics=names,
                load=partial(self.loaded, part.id, names),
            )
        return sides

    def _metrics_of(self, part: Part, wanted: Sequence[str]) -> tuple[str, ...]:
        """The wanted metrics that all runs of a row have.

        Raises:
            BadInput: for a metric of the whole split, which single samples do not have.
        """
        prefix = self.spec.split
        has = part.runs.reindex(columns=[f"{prefix}.{name}" for name in wanted]).notna().all(axis=0)
        found = tuple(name for name in wanted if has[f"{prefix}.{name}"])
        if prefix == "test":
            for source, runs in part.by_source:
                known = self.folders[source].collection.queries.metrics(list(runs["run"]))
                if whole := [name for name in found if name not in known]:
                    raise BadInput(
                        *(
                            f"'{name}' is of the split as a whole and not of single samples, so that it has no "
                            f"interval over contexts: show it by {{value: test.{name}}}"
                            for name in whole
                        )
                    )
        return found

    def _check_samples(self) -> None:
        """Raise BadInput if rows of a group were scored on different samples."""
        problems = []
        for group, parts in self.groups.items():
            runs = pd.concat([part.runs for part in parts])
            kinds: dict[str, list[str]] = {}
            for (_, *cell), some in runs.groupby(["source", *select.CELL[:-1]], sort=True):
                queries = self.folders[int(some["source"].iloc[0])].collection.queries
                digest = samples_digest(queries, str(some["run"].iloc[0]))
                kinds.setdefault(digest, []).append("/".join(map(str, cell)))
            if len(kinds) > 1:
                found = " and ".join(", ".join(dict.fromkeys(cells)) for cells in kinds.values())
                problems.append(
                    f"rows{f' under {group}' if group else ''} were judged on different samples: {found}; name in "
                    "group_by what tells them apart, or keep one with `where`"
                )
        if problems:
            raise BadInput(*problems)

    def _load(self, place: int, metrics: Sequence[str]) -> Scores:
        """Scores of the row with this id."""
        part = self.parts[place]
        seeds = part.seeds
        if self.spec.split == "validation":
            values = part.runs[[f"validation.{metric}" for metric in metrics]].to_numpy(float)
            return Scores(values[:, None], np.zeros(1, int), seeds)
        found = [row_scores(self.folders[source].collection.queries, runs, metrics) for source, runs in part.by_source]
        contexts = self.contexts.setdefault(part.group, found[0].contexts)
        of_seed = {seed: values for one in found for seed, values in zip(one.seeds, one.values, strict=True)}
        return Scores(np.stack([of_seed[seed] for seed in seeds]), contexts, seeds)

    # Marks.

    def _rl(self, parts: Sequence[Part]) -> pd.DataFrame:
        """Runs of the RL rows of a group, with row names as labels."""
        found = [part.runs.assign(label=part.name) for part in parts if part.stage == "rl"]
        return pd.concat(found, ignore_index=True) if found else self.runs.iloc[:0]

    def _marks(self, part: Part) -> tuple[str, ...]:
        found = {
            ONE_SEED: part.trained and len(part.runs) == 1,
            UNEQUAL: part.stage == "rl" and part.name in self.unequal[part.group],
            MISSING: bool(self._missing(part)),
            STOPPED: bool(self._stops(part)),
        }
        return tuple(mark for mark, there in found.items() if there)

    def _missing(self, part: Part) -> tuple[int, ...]:
        if part.stage != "rl":
            return ()
        wanted = self.spec.seeds or [int(seed) for seed in self.rl[part.group]["seed"]]
        return tuple(sorted(set(wanted) - {int(seed) for seed in part.runs["seed"]}))

    def _stops(self, part: Part) -> tuple[tuple[int, int], ...]:
        """(seed, update) of the runs that stopped early."""
        stopped = part.runs[part.runs["stopped_update"].notna()]
        return tuple((int(seed), int(step)) for seed, step in stopped[["seed", "stopped_update"]].to_numpy())


def _digits(spec: ColumnSpec) -> int:
    return spec.digits if spec.digits is not None else 2 if spec.kind == "improvement" else 3
