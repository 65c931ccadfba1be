"""A table of the paper next to our runs: levels, gains over SFT, and the order of methods."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis import statistics
from analysis.collection import Collection, Problem
from analysis.papers.page import Page
from analysis.papers.reported import (
    BESIDE,
    EXPERIMENTS,
    MODELS,
    REPORTED,
    SMALLEST,
    TITLES,
    Row,
    read_rows,
    standard_error,
)
from analysis.papers.runs import missing_sheet, read_groups, runs_of, settings_notes, shared
from analysis.papers.sheets import Sheet, between, metric_name, number, percent, signed
from analysis.papers.verdicts import DIFFERS, MARGIN, NO_RUN, REPRODUCED, TOO_FEW_SEEDS, UNDECIDED, Level, level, sign
from analysis.statistics import Scores
from analysis.tables import FEWEST_SEEDS, Cell, cell_of, chance, csv_text, row_scores, share_of
from rlbench.base.errors import BadInput

if TYPE_CHECKING:
    from rlbench.launching.recorded import RecordedCell

METRICS = tuple(f"{name}@{k}" for name in ("recall", "ndcg") for k in (5, 10, 15, 20))
"""Columns of the paper's tables."""

PROTOCOL = "published_"
"""Prefix of metrics under the published evaluation's rules, which produced the reported numbers."""

METRIC_COLUMN = {"recall": 0, "ndcg": 1}
"""Indices of the headline metrics in the scores of `Ours`. They come first."""


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
class Entry:
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

    backbone: str
    better: Entry
    worse: Entry
    metric: str
    reported_metric: str
    reported: float
    clear: bool
    ours: Cell | None
    p: float | None
    verdict: str

    @property
    def relative(self) -> tuple[float, Cell | None]:
        """The reported difference and ours, each relative to the worse row's number."""
        reported = self.reported / self.worse.reported[self.reported_metric]
        if self.ours is None or self.worse.ours is None:
            return reported, None
        base = float(self.worse.ours.estimate.mean[METRIC_COLUMN[self.metric.split("@")[0]]])
        if base <= 0:
            return reported, None
        return reported, Cell(self.ours.mean / base, self.ours.low / base, self.ours.high / base)


@dataclass(frozen=True)
class Comparison:
    """The complete comparison with one table.

    Attributes:
        name: folder in experiments/.
        twin: mini, redial or None.
        dataset: dataset of the reported numbers.
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
    dataset: str
    metrics: tuple[str, ...]
    entries: tuple[Entry, ...]
    elsewhere: tuple[Row, ...]
    levels: Mapping[tuple[int, str], Level]
    gains: tuple[Contrast, ...]
    orderings: tuple[Contrast, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    @property
    def any_runs(self) -> bool:
        return any(entry.ours for entry in self.entries)


def compare(
    name: str, twin: str | None = None, runs: Path | None = None, *, resamples: int = statistics.RESAMPLES
) -> Comparison:
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
    dataset = str(_dataset_of(name))
    levels = {
        (index, metric): _level(entry, metrics, metric, dataset)
        for index, entry in enumerate(entries)
        for metric in (METRICS if twin is None else ())
        if entry.ours and metric in metrics and metric in entry.reported
    }
    contrasts = _contrasts(entries, metrics, dataset, resamples)
    return Comparison(
        name,
        twin,
        dataset,
        metrics,
        tuple(entries),
        tuple(row for row in rows if not row.backbone),
        levels,
        tuple(c for c in contrasts if c.worse.method == "sft"),
        tuple(c for c in contrasts if c.worse.method != "sft"),
        tuple(problems),
        tuple(notes),
    )


def _dataset_of(name: str) -> str:
    with (EXPERIMENTS / name / "expected.csv").open(encoding="utf-8", newline="") as file:
        return next(csv.DictReader(file))["dataset"]


def _entries(rows: Sequence[Row], cells: "Sequence[RecordedCell]", twin: str | None) -> list[Entry]:
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
                found.append(Entry(row.backbone, method, row.values, made))
    return found


def _with_runs(
    entries: Sequence[Entry], groups: Mapping[str, Collection], problems: Sequence[Problem], resamples: int
) -> tuple[list[Entry], tuple[str, ...], list[Problem], list[str]]:
    """The entries with our results, the metrics, problems of runs, and notes."""
    cutoffs = sorted(next(iter(groups.values())).runs.iloc[0]["cutoffs"])
    top = cutoffs[-1]
    headline = [f"recall@{top}", f"ndcg@{top}"]
    metrics = (*headline, *(f"{m}@{k}" for m in ("recall", "ndcg") for k in cutoffs if f"{m}@{k}" not in headline))
    found, left_out = [], list(problems)
    others: list[str] = []
    for entry in entries:
        group = groups.get(entry.cell.config.experiment_name) if entry.cell else None
        if entry.cell is None or group is None:
            found.append(entry)
            continue
        part, refused, differing = runs_of(entry.cell, group)
        left_out += refused
        others += differing
        if part.empty:
            found.append(entry)
            continue
        scores = row_scores(group.queries, part, [PROTOCOL + metric for metric in metrics])
        estimate = statistics.mean_interval(scores, resamples=resamples)
        found.append(replace(entry, ours=Ours(scores, estimate, entry.cell.config.stage != "zero_shot")))
    first = next((entry.ours.scores for entry in found if entry.ours), None)
    for entry in found:
        if first and entry.ours and not np.array_equal(first.contexts, entry.ours.scores.contexts):
            raise BadInput(f"runs of {entry.method} were judged on other samples than those of other rows")
    return found, metrics, left_out, settings_notes(others)


def _level(entry: Entry, metrics: Sequence[str], metric: str, dataset: str) -> Level:
    assert entry.ours is not None
    value = entry.reported[metric]
    error = standard_error(dataset, metric, value)
    ours = entry.ours
    return level(ours.estimate, metrics.index(metric), ours.seeds, value, error, trained=ours.trained)


def _contrasts(entries: Sequence[Entry], metrics: Sequence[str], dataset: str, resamples: int) -> list[Contrast]:
    """Gains over SFT and differences between methods, on the headline metrics.

    p is Holm-corrected over all contrasts with enough seeds for a verdict, across backbones and metrics.
    """
    raw = []
    for backbone in dict.fromkeys(entry.backbone for entry in entries):
        of_backbone = [entry for entry in entries if entry.backbone == backbone]
        for column, name in enumerate(METRIC_COLUMN):
            reported_metric = f"{name}@{max(int(key.split('@')[1]) for key in of_backbone[0].reported)}"
            metric = metrics[column] if metrics else reported_metric
            raw += [
                _contrast(backbone, a, b, metric, reported_metric, column, dataset, resamples)
                for a, b in _pairs(of_backbone, reported_metric)
            ]
    tested = [index for index, contrast in enumerate(raw) if contrast.ours and not _too_few_seeds(contrast)]
    p = dict(zip(tested, statistics.holm(np.array([raw[i].p for i in tested], float)).tolist(), strict=True))
    return [_judged(one, p.get(index)) for index, one in enumerate(raw)]


def _too_few_seeds(contrast: Contrast) -> bool:
    """Whether a side has too few seeds for a verdict. A single SFT checkpoint is held fixed and does not count."""
    sides = [side.ours for side in (contrast.better, contrast.worse) if side.ours and side.ours.trained]
    if contrast.worse.method == "sft" and contrast.worse.ours and contrast.worse.ours.seeds == 1:
        sides = [side for side in sides if side is not contrast.worse.ours]
    return any(side.seeds < FEWEST_SEEDS for side in sides)


def _pairs(entries: Sequence[Entry], metric: str) -> Iterator[tuple[Entry, Entry]]:
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
            mixed = (one.method in BESIDE and other.method in families) or (
                other.method in BESIDE and one.method in families
            )
            if not mixed and one.reported[metric] != other.reported[metric]:
                above = one.reported[metric] > other.reported[metric]
                yield (one, other) if above else (other, one)


def _contrast(
    backbone: str, a: Entry, b: Entry, metric: str, reported_metric: str, column: int, dataset: str, resamples: int
) -> Contrast:
    reported = a.reported[reported_metric] - b.reported[reported_metric]
    errors = [standard_error(dataset, reported_metric, entry.reported[reported_metric]) for entry in (a, b)]
    clear = abs(reported) > 1.96 * (errors[0] ** 2 + errors[1] ** 2) ** 0.5
    ours, p = None, None
    if a.ours and b.ours:
        left, right = (_one_metric(entry.ours.scores, column) for entry in (a, b) if entry.ours)
        estimate = statistics.paired_difference(left, right, resamples=resamples)
        ours, p = cell_of(estimate, 0), float(estimate.p[0])
    return Contrast(backbone, a, b, metric, reported_metric, reported, clear, ours, p, NO_RUN)


def _one_metric(scores: Scores, column: int) -> Scores:
    return Scores(scores.values[:, :, [column]], scores.contexts, scores.seeds)


def _judged(contrast: Contrast, p: float | None) -> Contrast:
    """The contrast with its verdict and corrected p (None if not tested)."""
    if contrast.ours is None:
        return contrast
    if p is None:
        return replace(contrast, p=None, verdict=TOO_FEW_SEEDS)
    return replace(contrast, p=p, verdict=sign(contrast.reported, contrast.ours.mean, p))


def reported_sheet(comparison: Comparison) -> Sheet:
    """The table as in the paper."""
    own = set(BESIDE)
    rows: list[tuple[str, str, Mapping[str, float]]] = [("", row.title, row.values) for row in comparison.elsewhere]
    rows += [(entry.backbone, entry.title, entry.reported) for entry in comparison.entries if entry.method not in own]
    lines = [(backbone, title, *(number(values[m]) for m in METRICS)) for backbone, title, values in rows]
    notes = ("One training each; standard errors over samples: docs/reproduction.md.",)
    return Sheet("Reported", ("Backbone", "Method", *map(metric_name, METRICS)), tuple(lines), notes)


def level_sheet(comparison: Comparison, metrics: Sequence[str]) -> Sheet:
    """Our numbers next to the reported ones, one line per row and metric."""
    lines = []
    for index, entry in enumerate(comparison.entries):
        for metric in metrics:
            if metric not in entry.reported:
                continue
            line = [entry.backbone, entry.title, metric_name(metric), number(entry.reported[metric])]
            found = comparison.levels.get((index, metric))
            if found is None or entry.ours is None:
                lines.append((*line, "–", "–", "–", NO_RUN))
                continue
            ours = share_of(entry.ours.estimate, comparison.metrics.index(metric))
            difference = Cell(found.difference, found.low, found.high)
            line += [between(ours, number), str(entry.ours.seeds), between(difference, signed), found.verdict]
            lines.append(tuple(line))
    header = ("Backbone", "Method", "Metric", "Reported", "Ours", "Seeds", "Ours − reported", "Verdict")
    notes = (
        f"reproduced: the 95 % interval of ours − reported holds 0 and lies within {MARGIN:.0%} of the reported "
        "number. differs: it excludes 0. undecided: else. The interval counts the reported training, which is one, and "
        "its test samples too.",
    )
    return Sheet("Ours beside reported", header, tuple(lines), notes, names=3)


def own_sheet(comparison: Comparison, count: int) -> Sheet:
    """Scores of a twin's runs on the first `count` metrics."""
    lines, metrics = [], comparison.metrics[:count]
    for entry in comparison.entries:
        if entry.ours:
            cells = [between(share_of(entry.ours.estimate, i), number) for i in range(len(metrics))]
            lines.append((entry.title, str(entry.ours.seeds), *cells))
        else:
            lines.append((entry.title, "0", *("–" for _ in metrics)))
    header = ("Method", "Seeds", *map(metric_name, metrics))
    notes = ("Another dataset, model and training than the paper's: these numbers are not to be compared with it.",)
    return Sheet(f"Ours, twin {comparison.twin}", header, tuple(lines), notes, names=1)


def gain_sheet(comparison: Comparison, *, absolute: bool) -> Sheet:
    """Gains over SFT, relative to SFT; with `absolute` also as differences."""
    lines = []
    for one in comparison.gains:
        reported, ours = one.relative
        shown = [between(ours, percent) if ours else "–"]
        shown += [between(one.ours, signed) if one.ours else "–"] if absolute else []
        metric = metric_name(one.metric)
        if one.metric != one.reported_metric:
            metric = f"{metric_name(one.reported_metric)} / {metric}"
        lines.append((one.backbone, one.better.title, metric, percent(reported), *shown, one.verdict))
    difference = ("Ours − our SFT",) if absolute else ()
    header = ("Backbone", "Method", "Metric", "Reported gain", "Our gain", *difference, "Verdict")
    no_share = any(one.ours and one.relative[1] is None for one in comparison.gains)
    notes = (SIGN_NOTE, *([NO_SHARE] if no_share else []))
    return Sheet("Gain over SFT", header, tuple(lines), notes, names=3)


def order_sheet(comparison: Comparison) -> Sheet:
    """Differences between methods."""
    lines = []
    for one in comparison.orderings:
        reported = signed(one.reported) + ("" if one.clear else " ~")
        shown = between(one.ours, signed) if one.ours else "–"
        pair = f"{one.better.title} > {one.worse.title}"
        lines.append((one.backbone, pair, metric_name(one.metric), reported, shown, chance(one.p), one.verdict))
    header = ("Backbone", "Reported order", "Metric", "Reported difference", "Our difference", "p", "Verdict")
    notes = (
        "~: the reported difference is within 1.96 of its own standard errors (two numbers, samples independent), so "
        "that the reported order itself is uncertain.",
    )
    return Sheet("Order of methods", header, tuple(lines), notes, names=3)


NO_SHARE = "Our gain is – where our SFT scores 0: there is nothing that it could be a share of."

SIGN_NOTE = (
    "Verdicts on signs: shown where the paired difference over seeds and contexts has p ≤ .05 after Holm's correction "
    "for all gains and orders of this table together; rows of fewer than three seeds have no p and show nothing. SFT, "
    "where it is one checkpoint, is held fixed: a gain is over that checkpoint."
)


def replication_sheet(name: str) -> Sheet | None:
    """Published independent runs for this table; None if there are none."""
    path = REPORTED / "replications.csv"
    with path.open(encoding="utf-8", newline="") as file:
        found = [line for line in csv.DictReader(file) if line["table"] == name]
    if not found:
        return None
    lines = tuple(
        (
            line["backbone"],
            TITLES.get(line["method"], line["method"]),
            line["source"],
            *(number(float(line[m])) for m in METRICS),
        )
        for line in found
    )
    notes = tuple(dict.fromkeys(f"{line['source']}: {line['note']}" for line in found))
    return Sheet("Independent runs", ("Backbone", "Method", "By", *map(metric_name, METRICS)), lines, notes, names=3)


def sheets(comparison: Comparison, *, all_metrics: bool) -> list[Sheet]:
    """All tables. Levels cover every cut-off with `all_metrics`, otherwise only the largest."""
    shown: list[Sheet | None] = []
    if comparison.twin is None:
        top = [metric for metric in METRICS if metric.endswith("@20")]
        shown.append(reported_sheet(comparison))
        if comparison.any_runs:
            shown.append(level_sheet(comparison, METRICS if all_metrics else top))
        shown.append(replication_sheet(comparison.name))
    elif comparison.any_runs:
        shown.append(own_sheet(comparison, len(comparison.metrics) if all_metrics else 2))
    if comparison.any_runs:
        shown += [gain_sheet(comparison, absolute=all_metrics), order_sheet(comparison)]
    missing = [
        ("" if comparison.twin else entry.backbone, entry.title, entry.cell)
        for entry in comparison.entries
        if entry.ours is None
    ]
    shown.append(missing_sheet(missing, comparison.name, [comparison.twin or "sweep"]))
    return [sheet for sheet in shown if sheet is not None and sheet.lines]


def tally(comparison: Comparison) -> list[str]:
    """Sentences with the number of each verdict."""
    lines = []
    for title, verdicts in (
        ("numbers", [found.verdict for found in comparison.levels.values()]),
        ("gains over SFT", [one.verdict for one in comparison.gains if one.ours]),
        ("orders of methods", [one.verdict for one in comparison.orderings if one.ours]),
    ):
        if verdicts:
            counts = Counter(verdicts)
            lines.append(f"{title}: {', '.join(f'{count} {verdict}' for verdict, count in counts.most_common())}")
    judged = [found.verdict for found in comparison.levels.values()]
    if expected := by_chance(judged):
        lines.append(expected)
    return lines


def by_chance(verdicts: Sequence[str]) -> str:
    """Sentence on the expected number of false "differs". Each number is judged at 5 % without correction."""
    judged = sum(verdict in (REPRODUCED, DIFFERS, UNDECIDED) for verdict in verdicts)
    if not judged:
        return ""
    return (
        f"by chance: each number is judged at 5 % by itself, so were all {judged} truly as reported, up to "
        f"{0.05 * judged:.1f} would still be said to differ, on average; there are "
        f"{sum(verdict == DIFFERS for verdict in verdicts)}. Metrics of one row go together, so several may be one "
        "chance"
    )


CSV_HEADER = [
    *("kind", "backbone", "method", "other", "metric", "reported", "ours", "ours_lo", "ours_hi"),
    *("difference", "difference_lo", "difference_hi", "p", "seeds", "verdict"),
]


def to_csv(comparison: Comparison) -> str:
    """The comparison as CSV. A `level` has our and the reported value, a `gain` or `order` differences to `other`."""
    lines: list[list[str]] = []
    for index, entry in enumerate(comparison.entries):
        names = METRICS if comparison.twin is None else comparison.metrics
        for metric in names:
            found = comparison.levels.get((index, metric))
            reported = entry.reported.get(metric) if comparison.twin is None else None
            cell = None
            if entry.ours and metric in comparison.metrics:
                cell = share_of(entry.ours.estimate, comparison.metrics.index(metric))
            verdict = found.verdict if found else ("" if entry.ours else NO_RUN)
            lines.append(
                [
                    *("level", entry.backbone, entry.method, "", metric, _plain(reported), *_plain_cell(cell)),
                    *(map(_plain, (found.difference, found.low, found.high)) if found else ("", "", "")),
                    *("", str(entry.ours.seeds if entry.ours else 0), verdict),
                ]
            )
    for kind, contrasts in (("gain", comparison.gains), ("order", comparison.orderings)):
        for one in contrasts:
            lines.append(
                [
                    *(kind, one.backbone, one.better.method, one.worse.method, one.metric, _plain(one.reported)),
                    *("", "", ""),
                    *_plain_cell(one.ours),
                    _plain(one.p),
                    *(str(one.better.ours.seeds if one.better.ours else 0), one.verdict),
                ]
            )
    return csv_text(CSV_HEADER, lines)


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _plain_cell(cell: Cell | None) -> list[str]:
    return [_plain(value) for value in ((cell.mean, cell.low, cell.high) if cell else (None, None, None))]


def make_page(name: str, twin: str | None, runs: Path | None, resamples: int) -> Page:
    """Compare a table with our runs.

    Raises:
        BadInput: as `compare`.
    """
    comparison = compare(name, twin, runs, resamples=resamples)
    return Page(
        sheets(comparison, all_metrics=False),
        sheets(comparison, all_metrics=True),
        to_csv(comparison),
        [*tally(comparison), *comparison.notes],
        list(comparison.problems),
    )
