"""A table of the paper next to our runs: levels, gains over SFT, and the order of methods."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis import statistics
from analysis.collection import Collection
from analysis.papers.reported import (
    BESIDE,
    EXPERIMENTS,
    MODELS,
    SMALLEST,
    TITLES,
    ReportedRow,
    read_rows,
    standard_error,
)
from analysis.papers.runs import read_groups, runs_of, settings_notes, shared
from analysis.papers.verdicts import NO_RUN, TOO_FEW_SEEDS, Level, level, sign
from analysis.problems import Problem
from analysis.render.numbers import Interval
from analysis.statistics import Scores
from analysis.tables.compare import FEWEST_SEEDS
from analysis.tables.scores import cell_of, one_metric, row_scores, share_of
from rlbench.base.errors import BadInput

if TYPE_CHECKING:
    from rlbench.launching.recorded import RecordedCell

METRICS = tuple(f"{name}@{k}" for name in ("recall", "ndcg") for k in (5, 10, 15, 20))
"""Columns of the paper's tables."""

PROTOCOL = "published_"
"""Prefix of metrics under the published evaluation's rules, which produced the reported numbers."""

METRIC_COLUMN = {"recall": 0, "ndcg": 1}
"""Indices of the headline metrics in the scores of `Ours`. They come first."""


def _column(metric: str) -> int:
    return METRIC_COLUMN[metric.split("@")[0]]


@dataclass(frozen=True)
class Ours:
    """Our results for one reported row.

    Attributes:
        scores: scores on the metrics, in order.
        estimate: their means.
        trained: whether the row is a trained model.
    """

    scores: Scores
    estimate: statistics.Estimate
    trained: bool

    @property
    def seeds(self) -> int:
        return len(self.scores.seeds)


@dataclass(frozen=True)
class TableEntry:
    """One row: a method on a backbone.

    Attributes:
        backbone, method: as in the table.
        reported: numbers of the reported row; for a row of our own, of the reported row next to it.
        cell: cell that runs it, for one seed; None for a system that this project does not run.
        ours: our results; None without runs.
    """

    backbone: str
    method: str
    reported: Mapping[str, float]
    cell: "RecordedCell | None" = None
    ours: Ours | None = None

    @property
    def title(self) -> str:
        return TITLES.get(self.method, self.method)

    @property
    def seeds(self) -> int:
        return self.ours.seeds if self.ours else 0


@dataclass(frozen=True)
class Contrast:
    """A difference between two rows of one backbone.

    Attributes:
        better, worse: the rows; for a gain, `worse` is SFT.
        metric: metric of our difference; `reported_metric` is that of the reported difference.
        reported: reported better - worse.
        clear: whether the reported difference exceeds 1.96 of its own standard errors.
        ours: our better - worse; None if a row has no runs.
        p: corrected over all contrasts of the table with enough seeds for a verdict; None for the others.
    """

    better: TableEntry
    worse: TableEntry
    metric: str
    reported_metric: str
    reported: float
    clear: bool
    ours: Interval | None
    p: float | None
    verdict: str

    @property
    def relative(self) -> tuple[float, Interval | None]:
        """The reported difference and ours, each relative to the worse row's number."""
        reported = self.reported / self.worse.reported[self.reported_metric]
        if self.ours is None or self.worse.ours is None:
            return reported, None
        base = float(self.worse.ours.estimate.mean[_column(self.metric)])
        if base <= 0:
            return reported, None
        return reported, Interval(self.ours.mean / base, self.ours.low / base, self.ours.high / base)


@dataclass(frozen=True)
class TableComparison:
    """The complete comparison with one table.

    Attributes:
        name: folder in experiments/.
        twin: mini, redial or None.
        metrics: our metrics, headline metrics first.
        entries: rows in the paper's order, each followed by our own rows next to it.
        elsewhere: reported rows of systems that are not run here.
        levels: level of each (entry, metric) with runs; empty for a twin.
        gains, orderings: contrasts with SFT, and between methods.
        problems: problems of runs.
        notes: notes on runs.
    """

    name: str
    twin: str | None
    metrics: tuple[str, ...]
    entries: tuple[TableEntry, ...]
    elsewhere: tuple[ReportedRow, ...]
    levels: Mapping[tuple[int, str], Level]
    gains: tuple[Contrast, ...]
    orderings: tuple[Contrast, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    @property
    def any_runs(self) -> bool:
        return any(entry.ours for entry in self.entries)

    def score(self, entry: TableEntry, metric: str) -> Interval | None:
        """Our number for a row; None without runs or without the metric."""
        if entry.ours is None or metric not in self.metrics:
            return None
        return share_of(entry.ours.estimate, self.metrics.index(metric))


def compare(
    name: str, twin: str | None = None, runs: Path | None = None, *, resamples: int = statistics.RESAMPLES
) -> TableComparison:
    """Compare runs with a reported table.

    Args:
        name: folder in experiments/.
        twin: mini, redial, or None for the paper's own scale.
        runs: folder of runs; None for the folder that the sweep writes to.

    Raises:
        BadInput: if there is no such table or folder, or it has runs of several experiments.
    """
    from rlbench.launching.recorded import recorded_cells  # imported here because it loads Hydra

    rows = read_rows(EXPERIMENTS / name / "expected.csv")
    cells = recorded_cells(name, twin or "sweep")
    entries = _entries(rows, cells, twin)
    groups, problems = read_groups(runs, cells)
    notes: list[str] = []
    metrics: tuple[str, ...] = ()
    if groups:
        entries, metrics, problems, notes = _with_runs(entries, groups, problems, resamples)
    dataset = rows[0].dataset
    levels = {
        (index, metric): _level(entry.ours, metrics.index(metric), dataset, metric, entry.reported[metric])
        for index, entry in enumerate(entries)
        for metric in (METRICS if twin is None else ())
        if entry.ours and metric in metrics and metric in entry.reported
    }
    contrasts = _contrasts(entries, metrics, dataset, resamples)
    return TableComparison(
        name,
        twin,
        metrics,
        tuple(entries),
        elsewhere=tuple(row for row in rows if not row.backbone),
        levels=levels,
        gains=tuple(one for one in contrasts if one.worse.method == "sft"),
        orderings=tuple(one for one in contrasts if one.worse.method != "sft"),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _entries(rows: Sequence[ReportedRow], cells: "Sequence[RecordedCell]", twin: str | None) -> list[TableEntry]:
    """Rows that the sweep's cells produce, in the paper's order, each followed by our own rows next to it."""
    by_key: dict[tuple[str, str], RecordedCell] = {}
    for cell in cells:
        model = cell.config.model.name
        by_key.setdefault((model, cell.choices.get("method", "")), cell)
        for stage in ("zero_shot", "sft"):
            by_key.setdefault((model, stage), shared(cell, stage))
    found = []
    for row in rows:
        if not row.backbone or (twin and row.backbone != SMALLEST):
            continue
        model = cells[0].config.model.name if twin else MODELS[row.backbone]
        for method in (row.method, *(own for own, beside in BESIDE.items() if beside == row.method)):
            made = by_key.get((model, method))
            if made is not None or method == row.method:
                found.append(TableEntry(row.backbone, method, row.values, made))
    return found


def _with_runs(
    entries: Sequence[TableEntry], groups: Mapping[str, Collection], problems: Sequence[Problem], resamples: int
) -> tuple[list[TableEntry], tuple[str, ...], list[Problem], list[str]]:
    """The entries with our results, the metrics, problems of runs, and notes."""
    cutoffs = sorted(next(iter(groups.values())).runs.iloc[0]["cutoffs"])
    top = cutoffs[-1]
    headline = [f"recall@{top}", f"ndcg@{top}"]
    metrics = (*headline, *(f"{m}@{k}" for m in ("recall", "ndcg") for k in cutoffs if f"{m}@{k}" not in headline))
    found, left_out = list(entries), list(problems)
    others: list[str] = []
    first: Scores | None = None
    for index, entry in enumerate(entries):
        group = groups.get(entry.cell.config.experiment_name) if entry.cell else None
        if entry.cell is None or group is None:
            continue
        part, refused, differing = runs_of(entry.cell, group)
        left_out += refused
        others += differing
        if part.empty:
            continue
        scores = row_scores(group.queries, part, [PROTOCOL + metric for metric in metrics])
        first = first or scores
        if not np.array_equal(first.contexts, scores.contexts):
            raise BadInput(f"runs of {entry.method} were judged on other samples than those of other rows")
        estimate = statistics.mean_interval(scores, resamples=resamples)
        found[index] = replace(entry, ours=Ours(scores, estimate, entry.cell.config.stage != "zero_shot"))
    return found, metrics, left_out, settings_notes(others)


def _level(ours: Ours, column: int, dataset: str, metric: str, reported: float) -> Level:
    error = standard_error(dataset, metric, reported)
    return level(ours.estimate, column, ours.seeds, reported, error, trained=ours.trained)


def _contrasts(entries: Sequence[TableEntry], metrics: Sequence[str], dataset: str, resamples: int) -> list[Contrast]:
    """Gains over SFT and differences between methods, on the headline metrics.

    p is Holm-corrected over all contrasts with enough seeds for a verdict, across backbones and metrics.
    """
    raw = []
    for backbone in dict.fromkeys(entry.backbone for entry in entries):
        of_backbone = [entry for entry in entries if entry.backbone == backbone]
        for name, column in METRIC_COLUMN.items():
            reported_metric = f"{name}@{max(int(key.split('@')[1]) for key in of_backbone[0].reported)}"
            metric = metrics[column] if metrics else reported_metric
            for a, b in _pairs(of_backbone, reported_metric):
                raw.append(_contrast(a, b, metric, reported_metric, dataset, resamples))
    corrected = statistics.holm_known([None if _too_few_seeds(one) else one.p for one in raw])
    return [_judged(one, p) for one, p in zip(raw, corrected, strict=True)]


def _too_few_seeds(contrast: Contrast) -> bool:
    """Whether a side has too few seeds for a verdict. A single SFT checkpoint is held fixed and does not count."""
    sides = [side.ours for side in (contrast.better, contrast.worse) if side.ours and side.ours.trained]
    if contrast.worse.method == "sft" and contrast.worse.ours and contrast.worse.ours.seeds == 1:
        sides = [side for side in sides if side is not contrast.worse.ours]
    return any(side.seeds < FEWEST_SEEDS for side in sides)


def _pairs(entries: Sequence[TableEntry], metric: str) -> Iterator[tuple[TableEntry, TableEntry]]:
    """Pairs (reported better, reported worse): each trained row with SFT, then methods with each other.

    Rows of our own are compared with reported rows, except those of the same family.
    """
    sft = next((entry for entry in entries if entry.method == "sft"), None)
    methods = [entry for entry in entries if entry.method not in ("zero_shot", "sft")]
    if sft is not None:
        yield from ((entry, sft) for entry in methods)
    families = set(BESIDE.values())
    for index, one in enumerate(methods):
        for other in methods[index + 1 :]:
            mixed = any(a.method in BESIDE and b.method in families for a, b in ((one, other), (other, one)))
            if not mixed and one.reported[metric] != other.reported[metric]:
                above = one.reported[metric] > other.reported[metric]
                yield (one, other) if above else (other, one)


def _contrast(
    a: TableEntry, b: TableEntry, metric: str, reported_metric: str, dataset: str, resamples: int
) -> Contrast:
    reported = a.reported[reported_metric] - b.reported[reported_metric]
    errors = [standard_error(dataset, reported_metric, entry.reported[reported_metric]) for entry in (a, b)]
    clear = abs(reported) > 1.96 * (errors[0] ** 2 + errors[1] ** 2) ** 0.5
    ours, p = None, None
    if a.ours and b.ours:
        left, right = (one_metric(ours.scores, _column(metric)) for ours in (a.ours, b.ours))
        estimate = statistics.paired_difference(left, right, resamples=resamples)
        ours, p = cell_of(estimate, 0), float(estimate.p[0])
    return Contrast(a, b, metric, reported_metric, reported, clear, ours, p, NO_RUN)


def _judged(contrast: Contrast, p: float | None) -> Contrast:
    """The contrast with its verdict and corrected p (None if not tested)."""
    if contrast.ours is None:
        return contrast
    verdict = TOO_FEW_SEEDS if p is None else sign(contrast.reported, contrast.ours.mean, p)
    return replace(contrast, p=p, verdict=verdict)
