"""Numbers of a table from runs and a spec.

Every metric is estimated by itself, so that a number is the same in every table that shows it, whatever stands beside.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import statistics
from analysis.collect import Collection, Problem
from analysis.statistics import Scores
from analysis.tables import marks, select
from analysis.tables.compare import LEVEL, Side, against_baselines, best_holds, comparison_notes
from analysis.tables.model import (
    MISSING,
    ONE_SEED,
    SPENT,
    STOPPED,
    UNEQUAL,
    Cell,
    Column,
    Made,
    Row,
    Table,
    Value,
    Versus,
)
from analysis.tables.numbers import many, metric_title, share
from analysis.tables.scores import row_scores, samples_digest, share_of
from analysis.tables.select import Folder, Lookup, Part, as_text
from analysis.tables.spec import VALUES, ColumnSpec, TableSpec, Where, read_spec
from rlbench.errors import BadInput, nearest

ROWS_HELD = 64
"""Rows whose scores are in memory at a time; those of others are read again where they are needed."""

SFT: Where = {"label": ("sft",)}
"""The baseline that specs name by `sft`."""

ACCURACY = ("recall", "ndcg", "hit_rate", "mrr", "map", "pass", "union_recall", "published_")
"""How metrics begin of which more is better, so that there is a best row."""


@dataclass(frozen=True)
class Shown:
    """A column with what made it.

    Attributes:
        column: as in the table.
        spec: of it.
        to: which row it is to; None for a column that compares nothing.
    """

    column: Column
    spec: ColumnSpec
    to: Where | None = None


def build_table(group: Collection, *, resamples: int = statistics.RESAMPLES) -> Table:
    """The comparison table (specs/comparison.yaml) of one group of runs (`Collection.groups`), which holds a run."""
    return build([Folder("", group)], read_spec(Path("comparison")), resamples=resamples)


def build(
    folders: Sequence[Folder],
    spec: TableSpec,
    *,
    problems: Sequence[Problem] = (),
    resamples: int = statistics.RESAMPLES,
) -> Table:
    """The table that a spec makes of runs.

    Args:
        folders: folders of runs; at least one run in all.
        problems: of these folders; those that leave a run out are named in the notes.

    Raises:
        BadInput: where the spec names what the runs do not have, or no run fits it.
    """
    return _Builder(folders, spec, resamples).table(problems)


class _Builder:
    """What the parts of a table share while it is built."""

    def __init__(self, folders: Sequence[Folder], spec: TableSpec, resamples: int):
        self.folders, self.spec, self.resamples = folders, spec, resamples
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
        self.against: dict[tuple[str, str], dict[int, Versus]] = {}

    # What is asked for.

    def metrics(self, names: Sequence[str], said: str) -> list[str]:
        """Metrics with their cut-offs filled in."""
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

    def _columns(self) -> list[Shown]:
        shown = []
        for i, spec in enumerate(self.spec.columns):
            said = f"columns[{i}]"
            if spec.kind == "value":
                header = spec.header or VALUES.get(spec.of, spec.of)
                shown.append(Shown(Column(spec.of, header, "value", spec.of, digits=_digits(spec)), spec))
                continue
            to = spec.to or self.spec.baseline
            if spec.kind != "metric" and to is None:
                raise BadInput(f"{said}: '{spec.kind}' needs `to`, or a baseline of the spec: which row it is to")
            metrics = self.metrics([spec.of], said)
            for metric in metrics:
                column = self._column(metric, spec, to if spec.kind != "metric" else None)
                if spec.header and len(metrics) > 1:
                    column = replace(column, header=f"{spec.header}@{metric.partition('@')[2]}")
                shown.append(Shown(column, spec, to if spec.kind != "metric" else None))
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
        """The name of the baseline's rows; in words of the spec where they have several, or there is none."""
        found = {part.name for part in self._baselines(to).values()}
        return found.pop() if len(found) == 1 else " ".join(as_text(v) for values in to.values() for v in values)

    def _baselines(self, to: Where) -> dict[str, Part]:
        """Group to the row that others are compared with; groups without one are absent."""
        if repr(to) not in self.baselines:
            found = {group: select.baseline_of(self.lookup, parts, to) for group, parts in self.groups.items()}
            self.baselines[repr(to)] = {group: part for group, part in found.items() if part is not None}
        return self.baselines[repr(to)]

    # Scores.

    def _sides(self) -> dict[int, Side]:
        """Every row that has metrics of the table."""
        wanted = [each.column.of for each in self.shown if each.column.kind != "value"]
        wanted = list(dict.fromkeys([*wanted, *self.compared]))
        sides = {}
        for part in self.parts:
            names = self._metrics_of(part, wanted)
            load = partial(self.loaded, part.id, names)
            sides[part.id] = Side(part.id, part.group, part.name, part.label, self._marks(part), names, load)
        return sides

    def _metrics_of(self, part: Part, wanted: Sequence[str]) -> tuple[str, ...]:
        """Those of some metrics that all runs of a row have.

        Raises:
            BadInput: where one is of the whole split.
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
        """Raises BadInput where rows of a group were not judged on the same samples."""
        problems = []
        for group, parts in self.groups.items():
            runs = pd.concat([part.runs for part in parts])
            kinds: dict[str, list[str]] = {}
            for cell, some in runs.groupby(["source", *select.CELL[:-1]], sort=True):
                queries = self.folders[int(some["source"].iloc[0])].collection.queries
                kinds.setdefault(samples_digest(queries, str(some["run"].iloc[0])), []).append(
                    "/".join(map(str, cell[1:]))
                )
            if len(kinds) > 1:
                under = f" under {group}" if group else ""
                found = " and ".join(", ".join(dict.fromkeys(cells)) for cells in kinds.values())
                problems.append(
                    f"rows{under} were judged on different samples: {found}; name in group_by what tells them apart, "
                    "or keep one with `where`"
                )
        if problems:
            raise BadInput(*problems)

    def _load(self, place: int, metrics: Sequence[str]) -> Scores:
        """Scores of the row with this id."""
        part = self.parts[place]
        seeds = tuple(int(seed) for seed in part.runs["seed"])
        if self.spec.split == "validation":
            values = part.runs[[f"validation.{metric}" for metric in metrics]].to_numpy(float)
            return Scores(values[:, None], np.zeros(1, int), seeds)
        found = [row_scores(self.folders[source].collection.queries, runs, metrics) for source, runs in part.by_source]
        contexts = self.contexts.setdefault(part.group, found[0].contexts)
        of_seed = {seed: values for one in found for seed, values in zip(one.seeds, one.values, strict=True)}
        return Scores(np.stack([of_seed[seed] for seed in seeds]), contexts, seeds)

    # Marks.

    def _rl(self, parts: Sequence[Part]) -> pd.DataFrame:
        """Runs of the RL rows of a group, with the rows' names for labels."""
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
        wanted = self.spec.seeds or tuple(int(seed) for seed in self.rl[part.group]["seed"])
        return tuple(sorted(set(wanted) - {int(seed) for seed in part.runs["seed"]}))

    def _stops(self, part: Part) -> tuple[tuple[int, int], ...]:
        """(seed, update) of the runs that stopped early."""
        stopped = part.runs[part.runs["stopped_update"].notna()]
        return tuple((int(seed), int(step)) for seed, step in stopped[["seed", "stopped_update"]].to_numpy())

    # The table.

    def table(self, problems: Sequence[Problem]) -> Table:
        """Put it together."""
        rows = [self._row(part) for part in self.parts]
        rows, tests = self._bold(rows)
        kept = [
            each.column
            for each in self.shown
            if each.column.kind == "value" or any(row.cells[each.column.key] is not None for row in rows)
        ]
        baseline = self._baseline_name(self.spec.baseline) if self.spec.baseline else ""
        comparisons = [
            versus for metric in self.compared for versus in self._against(self.spec.baseline or {}, metric).values()
        ]
        title = select.filled(self.spec.title, self._title_word)
        return Table(
            title=title,
            key="-".join("".join(c if c.isascii() and c.isalnum() else " " for c in self._key()).split()),
            cutoffs=self.cutoffs,
            columns=tuple(kept),
            rows=tuple(rows),
            notes=tuple(self._notes(rows, kept, tests, problems)),
            headline=self.compared[0] if self.compared else "",
            baseline=baseline,
            comparisons=tuple(comparisons),
            comparison_notes=tuple(
                comparison_notes(comparisons, baseline, self.spec.split, self.resamples) if comparisons else ()
            ),
            method=self.spec.method,
        )

    def _title_word(self, key: str) -> str:
        values = self.lookup.values(self.runs, key)
        return " / ".join(select.word(self.spec.names, key, value) for value in values)

    def _key(self) -> str:
        return " ".join(" ".join(sorted(set(map(str, self.runs[key])))) for key in ("experiment", "dataset", "model"))

    def _row(self, part: Part) -> Row:
        first, side = part.first, self.sides[part.id]
        rl = part.stage == "rl"
        cells = {each.column.key: self._cell(part, side, each) for each in self.shown}
        means = {each.column.of: cells[each.column.key] for each in self.shown if each.column.kind == "mean"}
        headline = self._against(self.spec.baseline or {}, self.compared[0]).get(part.id) if self.compared else None
        return Row(
            name=part.name,
            label=part.label,
            group=part.group,
            stage=part.stage,
            algorithm=str(first["algorithm"]) if rl else "",
            reward=str(first["reward"]) if rl else "",
            experiment=str(first["experiment"]),
            dataset=str(first["dataset"]),
            model=str(first["model"]),
            made=self._made(part),
            cells=cells,
            metrics={metric: cell for metric, cell in means.items() if isinstance(cell, Cell)},
            difference=headline.difference if headline is not None else None,
            spent={key: float(part.runs[key].mean()) for key in SPENT},
            missing=self._missing(part),
            stopped=tuple(seed for seed, _ in self._stops(part)),
            marks=self._marks(part),
            against={
                each.column.key: self._made(base)
                for each in self.shown
                if each.to is not None and (base := self._baselines(each.to).get(part.group)) is not None
            },
        )

    def _made(self, part: Part) -> tuple[Made, ...]:
        return tuple(
            Made(str(run["run"]), self.folders[int(run["source"])].name, int(run["seed"]), str(run["hash"]))
            for _, run in part.runs.iterrows()
        )

    def _cell(self, part: Part, side: Side, shown: Shown) -> Value:
        column = shown.column
        if column.kind == "value":
            return self._value(part, column.of)
        if shown.to is not None:
            versus = self._against(shown.to, column.of).get(part.id)
            if versus is None:
                return None
            if column.kind == "improvement":
                return versus.improvement
            return replace(versus.difference, p=versus.p_holm)
        if column.of not in side.metrics:
            return None
        scores = side.metric(column.of)
        if self.spec.split == "validation" and len(scores.seeds) == 1:
            return Cell(float(scores.values.mean()))
        if column.kind == "iqm":
            return share_of(statistics.iqm_interval([scores], resamples=self.resamples), 0)
        return share_of(statistics.mean_interval(scores, resamples=self.resamples), 0)

    def _value(self, part: Part, name: str) -> Value:
        """Mean over the runs of a number, else the different values."""
        if name == "seeds":
            return float(len(part.runs)) if part.trained else None
        values = [self.lookup.value(run, name) for _, run in part.runs.iterrows()]
        if all(value is None for value in values):
            return None
        if name in part.runs.columns and all(isinstance(value, int | float) for value in values):
            return float(np.mean([float(value) for value in values]))
        return ", ".join(dict.fromkeys(as_text(value) for value in values))

    def _against(self, to: Where, metric: str) -> dict[int, Versus]:
        """Trained rows by id against the baseline of their group."""
        key = (repr(to), metric)
        if key not in self.against:
            pairs = [
                (self.sides[part.id], self.sides[base.id])
                for group, base in self._baselines(to).items()
                for part in self.groups[group]
                if part.trained and part.id != base.id and self._both_have(part, base, metric)
            ]
            self.against[key] = against_baselines(pairs, metric, resamples=self.resamples) if pairs else {}
        return self.against[key]

    def _both_have(self, part: Part, base: Part, metric: str) -> bool:
        return all(metric in self.sides[one.id].metrics for one in (part, base))

    def _bold(self, rows: Sequence[Row]) -> tuple[list[Row], int | None]:
        """Rows with the best of each column marked where that holds, and over how many tests it was corrected.

        None where no column can have a best row.
        """
        columns = [each.column for each in self.shown if _has_best(each)]
        tests: dict[tuple[int, str], tuple[Scores, Scores]] = {}
        for parts in self.groups.values():
            for column in columns:
                pair = self._best_two([part for part in parts if part.stage == "rl"], rows, column)
                if pair is not None:
                    best, second = pair
                    tests[best.id, column.key] = (best.metric(column.of), second.metric(column.of))
        holds, count = best_holds(tests, resamples=self.resamples)
        marked = [
            replace(row, bold=frozenset(key for place, key in holds if place == part.id))
            for row, part in zip(rows, self.parts, strict=True)
        ]
        return marked, count if columns else None

    def _best_two(self, parts: Sequence[Part], rows: Sequence[Row], column: Column) -> tuple[Side, Side] | None:
        """The two best rows of a column, where they can be compared: budgets equal, two seeds or more."""
        means = {part.id: cell.mean for part in parts if isinstance(cell := rows[part.id].cells[column.key], Cell)}
        if len(means) < 2:
            return None
        best, second = sorted(means, key=lambda place: (-means[place], place))[:2]
        if min(len(rows[best].seeds), len(rows[second].seeds)) < 2:
            return None
        if len(marks.budgets(pd.concat([self.parts[place].runs for place in (best, second)]))) > 1:
            return None
        return self.sides[best], self.sides[second]

    # Notes.

    def _notes(
        self, rows: Sequence[Row], columns: Sequence[Column], tests: int | None, problems: Sequence[Problem]
    ) -> list[str]:
        stages = {row.stage for row in rows}
        notes = [*self._judged_notes(columns)]
        if "oracle" in stages:
            notes.append("oracle: the best possible list under the preferences that made the data, hence the ceiling.")
        if "rl" in stages:
            notes += self._baseline_notes(columns)
            notes.append(marks.checkpoint_note(self.runs))
            if tests is not None:
                over = f", corrected by Holm over the {many(tests, 'such difference')} of this table" if tests else ""
                notes.append(
                    "Bold: the best RL row of a column, only where its paired difference to the second best holds "
                    f"(p below {share(LEVEL, 2)}{over}), both have two seeds or more and equal budgets"
                    + ("." if any(row.bold for row in rows) else "; that holds in no column.")
                )
        if any(column.kind == "value" and column.of in SPENT for column in columns):
            notes.append("Updates, time and tokens are means per run of the row's own stage.")
        if any(ONE_SEED in row.marks for row in rows):
            notes.append(
                marks.ONE_SEED_NOTE if self.spec.split == "test" else f"{ONE_SEED} One seed: no interval can be given."
            )
        notes += self._marked_notes(rows)
        notes += [f"No finished run is there for: {'; '.join(self.absent)}."] if self.absent else []
        if left_out := [(problem.run, problem.reason) for problem in problems if problem.left_out]:
            notes.append(marks.left_out_note(left_out))
        return notes

    def _judged_notes(self, columns: Sequence[Column]) -> list[str]:
        estimates = [column for column in columns if column.kind != "value"]
        if self.spec.split == "validation":
            how = "one number a run, so that intervals (95 %) are over seeds alone, and need two of them"
            return [f"Validation split at the checkpoint of each run: {how}."] if estimates else []
        said: dict[str, list[str]] = {}
        for group, parts in self.groups.items():
            contexts = self.contexts.get(group)
            if contexts is not None:
                runs = pd.concat([part.runs for part in parts])
                text = marks.judged("Test", len(contexts), int(contexts.max()) + 1, runs)
                said.setdefault(text, []).append(group)
        several = len(said) > 1
        notes = [f"{text} ({'; '.join(groups)})." if several else f"{text}." for text, groups in said.items()]
        shapes = {column.interval for column in estimates}
        words = {"brackets": "Brackets", "plus_minus": "±"}
        if how := " and ".join(words[shape] for shape in words if shape in shapes):
            half = " (±: half its width)" if "plus_minus" in shapes else ""
            joined = f"{how}: {marks.intervals_text(self.resamples)}{half}."
            notes = [*notes[:-1], f"{notes[-1]} {joined}"] if notes else []
        if any(column.kind == "iqm" for column in estimates):
            notes.append("IQM: interquartile mean of the run scores; of fewer than four runs it is their mean.")
        return notes

    def _baseline_notes(self, columns: Sequence[Column]) -> list[str]:
        """What differences are, for every row that some are to."""
        notes = []
        wanted = {repr(each.to): each for each in self.shown if each.to is not None}
        for each in wanted.values():
            to = each.to or {}
            found, title = self._baselines(to), metric_title(each.column.of)
            if to == SFT or {part.stage for part in found.values()} == {"sft"}:
                notes.append(marks.sft_note(self.runs, title))
                continue
            name = self._baseline_name(to)
            lacking = [group for group in self.groups if group not in found]
            under = f" under {'; '.join(lacking)}" if found and lacking else ""
            if found:
                notes.append(
                    f"Δ to {name}: paired difference on the same contexts; seeds pair where both rows have the same."
                )
            if lacking:
                notes.append(f"There is no finished run of {name}{under}, so no difference to it can be given.")
        if any(column.p for column in columns):
            notes.append("p of a difference: that of its interval, corrected by Holm over the rows of its column.")
        if any(column.kind == "improvement" for column in columns):
            notes.append("P(above): probability that a run of the row scores higher than one of the other row.")
        return notes

    def _marked_notes(self, rows: Sequence[Row]) -> list[str]:
        notes = []
        for group in self.groups:
            if any(UNEQUAL in row.marks for row in rows if row.group == group):
                notes.append(marks.unequal_note(self.rl[group], group))
        if lacking := [(_full_name(row), row.missing) for row in rows if row.missing]:
            notes.append(marks.missing_note(lacking))
        stops = [
            (_full_name(row), self._stops(part)) for row, part in zip(rows, self.parts, strict=True) if row.stopped
        ]
        return notes + ([marks.stopped_note(stops)] if stops else [])


def _full_name(row: Row) -> str:
    return f"{row.name} ({row.group})" if row.group else row.name


def _digits(spec: ColumnSpec) -> int:
    return spec.digits if spec.digits is not None else 2 if spec.kind == "improvement" else 3


def _has_best(shown: Shown) -> bool:
    if shown.column.kind != "mean":
        return False
    return shown.column.of.startswith(ACCURACY) if shown.spec.bold is None else shown.spec.bold


@dataclass(frozen=True)
class Profile:
    """A trained row's scores on one metric.

    Attributes:
        name, label, group, stage, algorithm, reward: as of a `Row`.
        scores: one metric.
    """

    name: str
    label: str
    group: str
    stage: str
    algorithm: str
    reward: str
    scores: Scores


def profile_scores(folders: Sequence[Folder], spec: TableSpec) -> dict[str, list[Profile]]:
    """Metric of the spec's profiles to the trained rows of the table that have it, group after group."""
    columns = tuple(ColumnSpec("metric", metric) for metric in spec.profiles)
    builder = _Builder(folders, replace(spec, columns=columns, comparisons=(), split="test"), resamples=1)
    return {
        metric: [
            Profile(
                part.name,
                part.label,
                part.group,
                part.stage,
                str(part.first["algorithm"]),
                str(part.first["reward"]),
                side.metric(metric),
            )
            for part in builder.parts
            if part.trained and metric in (side := builder.sides[part.id]).metrics
        ]
        for metric in builder.metrics(spec.profiles, "profiles")
    }
