"""Compute the numbers of a table from runs and a spec.

Each metric is estimated separately, so a number is the same in every table that shows it.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import statistics
from analysis.collection import Collection
from analysis.problems import Problem
from analysis.render.numbers import Interval, words
from analysis.tables import compare, marks, select
from analysis.tables.compare import Family, Found, Side
from analysis.tables.model import MARKS, SPENT, Column, Lead, Made, Row, Table, Value, Versus
from analysis.tables.prepare import Asked, Prepared
from analysis.tables.scores import share_of, split_sizes
from analysis.tables.select import Folder, Part, as_text
from analysis.tables.spec import TableSpec, Where, read_spec
from rlbench.lists.metric_catalogue import metric_of, metric_title


def build_table(group: Collection, *, resamples: int = statistics.RESAMPLES) -> Table:
    """The comparison table (specs/comparison.yaml) of one non-empty group of runs (`Collection.groups`)."""
    return build([Folder("", group)], read_spec(Path("comparison")), resamples=resamples)


def build(
    folders: Sequence[Folder],
    spec: TableSpec,
    *,
    problems: Sequence[Problem] = (),
    resamples: int = statistics.RESAMPLES,
) -> Table:
    """Build the table that a spec describes; its notes name the excluded runs among the problems.

    Args:
        folders: folders of runs, with at least one run in total.

    Raises:
        BadInput: if the spec names something that the runs lack, or no run matches it.
    """
    return _Builder(folders, spec, resamples).table(problems)


CLONE = "clone_of"
"""Column of the run table that only clones have."""
Compared = tuple[str, str, int]
"""A comparison: its baseline as text, its metric, and the id of its row."""


class _Builder(Prepared):
    """Numbers, marks and notes of a table."""

    def __init__(self, folders: Sequence[Folder], spec: TableSpec, resamples: int):
        super().__init__(folders, spec)
        self.resamples = resamples
        self.best = [each.column for each in self.shown if self._has_best(each)]
        self.against, self.bold, self.leads, self.family = self._compare()

    def table(self, problems: Sequence[Problem]) -> Table:
        """Assemble the table."""
        rows = [self._row(part) for part in self.parts]
        rows += self._overall(rows) if self.spec.overall else []
        kept = [
            each.column
            for each in self.shown
            if each.column.kind == "value" or any(row.cells[each.column.key] is not None for row in rows)
        ]
        baseline = self._baseline_name(self.spec.baseline) if self.spec.baseline else ""
        comparisons = [
            versus
            for metric in self.compared
            for part in self.parts
            if (versus := self._against(self.spec.baseline or {}, metric, part)) is not None
        ]
        return Table(
            title=select.filled(self.spec.title, self._title_word),
            key=self._key(),
            cutoffs=self.cutoffs,
            columns=tuple(kept),
            rows=tuple(rows),
            notes=tuple(self._notes(rows, kept, problems)),
            headline=self.compared[0] if self.compared else "",
            baseline=baseline,
            comparisons=tuple(comparisons),
            comparison_notes=tuple(self._comparison_notes(comparisons, baseline) if comparisons else ()),
            leads=tuple(self.leads),
            family=self._family_note(),
            method=self.spec.method,
        )

    def _title_word(self, key: str) -> str:
        values = self.lookup.values(self.runs, key)
        return " / ".join(select.word(self.spec.names, key, value) for value in values)

    def _key(self) -> str:
        words = [word for key in ("experiment", "dataset", "model") for word in sorted(set(map(str, self.runs[key])))]
        return "-".join(re.findall("[A-Za-z0-9]+", " ".join(words)))

    def _row(self, part: Part) -> Row:
        first, rl = part.first, part.stage == "rl"
        cells = {each.column.key: self._cell(part, each) for each in self.shown}
        means = {each.column.of: cells[each.column.key] for each in self.shown if each.column.kind == "mean"}
        headline = self._against(self.spec.baseline or {}, self.compared[0], part) if self.compared else None
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
            metrics={metric: cell for metric, cell in means.items() if isinstance(cell, Interval)},
            difference=headline.difference if headline is not None else None,
            spent={key: float(part.runs[key].mean()) for key in SPENT},
            missing=self._missing(part),
            stops=self._stops(part),
            marks=self._marks(part),
            bold=frozenset(self.bold.get(part.id, ())),
            against={
                each.column.key: self._made(base)
                for each in self.shown
                if each.to is not None and (base := self._baselines(each.to).get(part.group)) is not None
            },
        )

    def _overall(self, rows: Sequence[Row]) -> list[Row]:
        """One row over all groups for each RL row name that occurs exactly once under every heading."""
        named: dict[str, list[Part]] = {}
        for part in self.parts:
            if part.stage == "rl":
                named.setdefault(part.name, []).append(part)
        found = []
        for parts in named.values():
            if {part.group for part in parts} != set(self.groups) or len(parts) != len(self.groups):
                continue
            made = [rows[part.id] for part in parts]
            found.append(
                replace(
                    made[0],
                    group=self.spec.overall,
                    made=tuple(run for row in made for run in row.made),
                    cells={each.column.key: self._overall_cell(parts, each) for each in self.shown},
                    metrics={},
                    difference=None,
                    spent={key: float(np.mean([row.spent[key] for row in made])) for key in SPENT},
                    missing=(),
                    stops=(),
                    marks=tuple(mark for mark in MARKS if any(mark in row.marks for row in made)),
                    bold=frozenset(),
                    against={
                        key: tuple(run for row in made for run in row.against.get(key, ())) for key in made[0].against
                    },
                )
            )
        return found

    def _overall_cell(self, parts: Sequence[Part], shown: Asked) -> Value:
        column = shown.column
        if column.kind == "value" and column.of == "seeds":
            return float(sum(len(part.runs) for part in parts))
        if any(column.of not in self.sides[part.id].metrics for part in parts):
            return None
        scores = [self.sides[part.id].metric(column.of) for part in parts]
        if column.kind == "iqm":
            return compare.overall_iqm(scores, resamples=self.resamples)
        if column.kind != "improvement" or shown.to is None:
            return None
        found = self._baselines(shown.to)
        bases = [found[part.group] for part in parts if part.group in found]
        if len(bases) < len(parts) or any(base.name == parts[0].name for base in bases):
            return None
        return compare.improvement(scores, [self.sides[base.id].metric(column.of) for base in bases])

    def _made(self, part: Part) -> tuple[Made, ...]:
        return tuple(
            Made(str(run["run"]), self.folders[int(run["source"])].name, int(run["seed"]), str(run["hash"]))
            for _, run in part.runs.iterrows()
        )

    def _cell(self, part: Part, shown: Asked) -> Value:
        column, side = shown.column, self.sides[part.id]
        if column.kind == "value":
            return self._value(part, column.of)
        if shown.to is not None:
            versus = self._against(shown.to, column.of, part)
            if versus is None:
                return None
            if column.kind == "improvement":
                return versus.improvement
            return replace(versus.difference, p=versus.p_holm)
        if column.of not in side.metrics:
            return None
        scores = side.metric(column.of)
        if self.spec.split == "validation" and len(scores.seeds) == 1:
            return Interval(float(scores.values.mean()))
        if column.kind == "iqm":
            return share_of(statistics.iqm_interval([scores], resamples=self.resamples), 0)
        return share_of(statistics.mean_interval(scores, resamples=self.resamples), 0)

    def _value(self, part: Part, name: str) -> Value:
        """Mean over runs if the value is a number in the run table, else the distinct values as text."""
        if name == "seeds":
            return float(len(part.runs)) if part.trained else None
        values = [self.lookup.value(run, name) for _, run in part.runs.iterrows()]
        if all(value is None for value in values):
            return None
        if name in part.runs.columns and all(isinstance(value, int | float) for value in values):
            return float(np.mean([float(value) for value in values]))
        return ", ".join(dict.fromkeys(as_text(value) for value in values))

    def _against(self, to: Where, metric: str, part: Part) -> Versus | None:
        """The comparison of a trained row with the baseline of its group."""
        return self.against.get((repr(to), metric, part.id))

    def _compare(self) -> tuple[dict[Compared, Versus], dict[int, set[str]], list[Lead], Family]:
        """All comparisons, the bold columns by row id, the leading rows, and the family of tests."""
        tested = [(self.spec.baseline or {}, metric) for metric in self.compared]
        tested += [(each.to, each.column.of) for each in self.shown if each.to is not None and each.column.p]
        wanted = tested + [(each.to, each.column.of) for each in self.shown if each.to is not None]
        found: dict[Compared, Found] = {}
        for to, metric in wanted:
            for row, base in self._pairs(to, metric):
                key = (repr(to), metric, row.id)
                if key not in found:
                    reason = compare.untested(row, base) or ("" if (to, metric) in tested else "shown, not tested")
                    found[key] = compare.find(row, base, metric, reason, resamples=self.resamples)
        leads = []
        for parts in self.groups.values():
            for column in self.best:
                sides = self._rl_sides(parts, column)
                lead = compare.find_lead(sides, column.key, column.of, resamples=self.resamples)
                leads += [lead] if lead is not None else []
        family = compare.correct(list(found.values()), leads)
        against = {
            key: compare.versus_of(one, family.versus.get(i), family) for i, (key, one) in enumerate(found.items())
        }
        led = [compare.lead_of(one, family.best.get(i), family) for i, one in enumerate(leads)]
        bold: dict[int, set[str]] = {}
        for before, after in zip(leads, led, strict=True):
            if after.holds:
                bold.setdefault(before.leader.id, set()).add(after.column)
        return against, bold, led, family

    def _pairs(self, to: Where, metric: str) -> list[tuple[Side, Side]]:
        """Pairs of a trained row and the baseline of its group, where both have the metric."""
        return [
            (self.sides[part.id], self.sides[base.id])
            for group, base in self._baselines(to).items()
            for part in self.groups[group]
            if part.trained and part.id != base.id and all(metric in self.sides[one.id].metrics for one in (part, base))
        ]

    def _rl_sides(self, parts: Sequence[Part], column: Column) -> list[Side]:
        """RL rows with the metric of a column."""
        sides = [self.sides[part.id] for part in parts if part.stage == "rl"]
        return [side for side in sides if column.of in side.metrics]

    # Notes.

    def _notes(self, rows: Sequence[Row], columns: Sequence[Column], problems: Sequence[Problem]) -> list[str]:
        stages = {row.stage for row in rows}
        notes = self._judged_notes(columns)
        if "oracle" in stages:
            notes.append(
                "oracle: the best possible lists under the preferences that made the data. No method can score higher."
            )
        if names := words([row.name for row in rows if row.stage == "baseline"]):
            notes.append(
                f"Classical baselines, without a language model: {names}. Their settings were chosen on validation. "
                "They are shown and not tested."
            )
        if {"external", "rl"} & stages:
            notes += self._baseline_notes(columns)
        if "external" in stages:
            notes.append("Lists from elsewhere: " + words([row.name for row in rows if row.stage == "external"]) + ".")
        if "rl" in stages:
            notes.append(marks.checkpoint_note(self.runs))
            if self.best:
                notes.append(
                    "Bold: the RL row with the highest mean of a column, if it is shown to be above every RL row with "
                    "three seeds or more and its budget" + ("." if self.bold else "; that holds in no column.")
                )
            if self.family.size or self.compared or self.best:
                notes.append(self._family_note())
        if any(column.kind == "value" and column.of in SPENT for column in columns):
            notes.append("Updates, time and tokens are means per run of the row's own stage.")
        if CLONE in self.runs and (clones := self.runs[self.runs[CLONE].notna()]).size:
            notes.append(marks.clone_note(clones))
        notes += marks.row_notes(rows, self.rl, self.spec.split)
        if self.absent:
            notes.append(f"There is no finished run for: {'; '.join(self.absent)}.")
        return notes + marks.left_out_notes(problems)

    def _judged_notes(self, columns: Sequence[Column]) -> list[str]:
        estimates = [column for column in columns if column.kind != "value"]
        if self.spec.split == "validation":
            how = "one number per run. Intervals (95 %) are over seeds only and need two seeds"
            return [f"Validation split at the checkpoint of each run: {how}."] if estimates else []
        said: dict[str, list[str]] = {}
        for group, parts in self.groups.items():
            if group in self.contexts:
                runs = pd.concat([part.runs for part in parts])
                queries = self.folders[int(runs["source"].iloc[0])].collection.queries
                text = marks.judged("Test", split_sizes(queries, str(runs["run"].iloc[0])), runs)
                said.setdefault(text, []).append(group)
        notes = [f"{text} ({'; '.join(groups)})." if len(said) > 1 else f"{text}." for text, groups in said.items()]
        shapes = {column.interval for column in estimates}
        words = {"brackets": "Brackets", "plus_minus": "± (half the width)"}
        how = " and ".join(words[shape] for shape in words if shape in shapes)
        if how and notes:
            notes[-1] += f" {how}: {marks.intervals_text(self.resamples)}."
        if any(column.kind == "iqm" for column in estimates):
            notes.append("IQM: interquartile mean of the run scores. For fewer than four runs it is their mean.")
        return notes

    def _baseline_notes(self, columns: Sequence[Column]) -> list[str]:
        """Notes on the meaning of differences, one for every baseline."""
        notes = []
        for to, metric in {repr(each.to): (each.to, each.column.of) for each in self.shown if each.to}.values():
            found, title = self._baselines(to), metric_title(metric)
            if to == select.SFT and not found and (self.runs["stage"] == "sft").any():
                notes.append("There is no one SFT row to compare with: name one as the baseline.")
            elif to == select.SFT or {part.stage for part in found.values()} == {"sft"}:
                notes.append(marks.sft_note(self.runs, title))
            else:
                name = self._baseline_name(to)
                if found:
                    notes.append(f"Δ to {name}: paired difference on the same contexts. {marks.PAIRING}")
                if lacking := [group for group in self.groups if group not in found]:
                    under = f" under {'; '.join(lacking)}" if found else ""
                    notes.append(f"There is no finished run of {name}{under}, so no difference to it can be given.")
        if any(column.p for column in columns):
            notes.append(
                "p of a difference: p of its interval, corrected as stated below. There is none without a verdict."
            )
        if any(column.kind == "improvement" for column in columns):
            notes.append("P(above): probability that a run of the row scores higher than one of the other row.")
        return notes

    def _comparison_notes(self, comparisons: Sequence[Versus], baseline: str) -> list[str]:
        notes = marks.comparison_notes(comparisons, baseline, self.spec.split, self.resamples, self._family_note())
        bases = self._baselines(self.spec.baseline or {}).values()
        if any(part.stage == "sft" and len(part.runs) == 1 for part in bases):
            notes.append(marks.checkpoint_baseline_note(baseline))
        return notes + marks.permutation_notes(comparisons)

    def _family_note(self) -> str:
        tested = [each.to for each in self.shown if each.to is not None and each.column.p]
        tested += [self.spec.baseline or {}] if self.compared else []
        return marks.family_note(self.family, " and ".join(dict.fromkeys(map(self._baseline_name, tested))))

    def _has_best(self, shown: Asked) -> bool:
        """Whether a column may have a bold row (`ColumnSpec.bold`)."""
        column = shown.column
        if column.kind != "mean":
            return False
        if shown.spec.bold is not None:
            return shown.spec.bold
        return metric_of(column.of).is_accuracy and (not self.compared or column.of in self.compared)
