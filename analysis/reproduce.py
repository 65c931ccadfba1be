"""`python -m analysis.reproduce table1`: ours beside the paper's numbers, with a verdict by a stated rule.

The rule is in docs/reproduction.md. What belongs to a reported row is what the table's sweep in experiments/ would run,
so that a row without runs has the command that fills it.
"""

import argparse
import csv
import io
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from analysis import statistics
from analysis.collect import Collection, Problem, collect
from analysis.command import positive, refuse, show_problems, show_written, terminal
from analysis.reported import BESIDE, EXPERIMENTS, MODELS, REPORTED, SMALLEST, TITLES, Row, read_rows, standard_error
from analysis.statistics import Scores
from analysis.tables import Cell, cell_of, row_scores, share_of
from analysis.verdicts import FEW_SEEDS, MARGIN, NO_RUN, Level, level, sign
from rlbench.errors import BadInput, nearest

if TYPE_CHECKING:
    from rlbench.launching.recorded import RecordedCell

DESCRIPTION = """\
Put our runs beside a table or figure of the paper (arXiv 2510.20150) and say what is reproduced.

NAME is a folder of experiments/. Its README says what it is, what it costs and how to run it. Writes to the --out
folder NAME.md, NAME.csv and NAME.tex. Where there are no runs yet, shows the reported numbers and the commands, with
GPU-hours, that fill ours. A twin is the same on a small scale; its numbers cannot be compared with the paper's, so
that its verdicts are on gains over SFT and on orderings alone. The rule behind every verdict: docs/reproduction.md.
"""
EPILOG = """\
examples:
  python -m analysis.reproduce table1                      # what is reported, and what ours would cost
  python run.py +table1=mini                               # the twin on the embedded benchmark
  python -m analysis.reproduce table1 --twin mini          # ... and its verdicts
  python -m analysis.reproduce table4 --twin mini --runs runs/mini
exit code: 0 written (with runs or without); 2 no such table or folder, or runs of several experiments
"""

METRICS = tuple(f"{name}@{k}" for name in ("recall", "ndcg") for k in (5, 10, 15, 20))
"""Columns of the paper's tables."""

PROTOCOL = "published_"
"""Before the name of a metric: the published evaluation's rules, which made the reported numbers."""

HOURS_AN_UPDATE = 2 * 8 * 5.6 / 3600
"""GPU-hours of an update of 384 completions by 0.5B, an upper bound: a port's log has 5.5 to 5.7 s for 48 completions
on two H800, and 384 are eight times as many."""

BILLIONS = {"qwen2.5_0.5b": 0.494, "llama3.2_1b": 1.236, "llama3.2_3b": 3.213, "qwen2.5_7b": 7.616}
"""Parameters; cost is taken to be in proportion."""

REGIME = "rl.num_iterations"
"""The setting by which Table 1 and Table 4 differ: a run with another value is of the other table."""

NAMED = 8
"""Settings that are named where runs have others than the sweep."""


@dataclass(frozen=True)
class Ours:
    """What our runs say of one reported row.

    Attributes:
        scores: of the metrics, in order.
        estimate: their means.
        trained: whether a training made it.
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
        reported: the numbers of the reported row, of a row of our own those of the row that it stands beside.
        cell: what would run it, of one seed; None for a system that this project does not run.
        ours: None where there is no run.
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
        better, worse: rows; of a gain `worse` is SFT.
        metric: of ours; `reported_metric` of the reported difference.
        reported: better - worse.
        clear: whether the reported difference is more than its own standard errors.
        ours: better - worse; None where a row has no run.
        p: corrected for all contrasts of the backbone and metric.
    """

    backbone: str
    better: Entry
    worse: Entry
    metric: str
    reported_metric: str
    reported: float
    clear: bool
    ours: Cell | None
    p: float
    verdict: str

    @property
    def relative(self) -> tuple[float, Cell | None]:
        """The reported difference and ours, as shares of the worse row's number."""
        reported = self.reported / self.worse.reported[self.reported_metric]
        if self.ours is None or self.worse.ours is None:
            return reported, None
        base = float(self.worse.ours.estimate.mean[METRIC_COLUMN[self.metric.split("@")[0]]])
        if base <= 0:
            return reported, None
        return reported, Cell(self.ours.mean / base, self.ours.low / base, self.ours.high / base)


METRIC_COLUMN = {"recall": 0, "ndcg": 1}
"""Columns of the headline metrics in `Ours` scores: they stand first."""


@dataclass(frozen=True)
class Sheet:
    """A table as text.

    Attributes:
        title, notes: above and below.
        header, lines: cells; the first `names` columns are words.
    """

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    names: int = 2


@dataclass(frozen=True)
class Comparison:
    """Everything that is said of one table.

    Attributes:
        name: of the folder in experiments/.
        twin: mini, redial or None.
        dataset: of the reported numbers.
        metrics: of ours, headline ones first.
        entries: rows in the paper's order, then our own.
        elsewhere: reported rows of systems that are not run here.
        levels: of (entry, metric), where there are runs and no twin.
        gains, orderings: contrasts with SFT, and between methods.
        problems: of runs.
        notes: on runs.
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
    """Put runs beside a reported table.

    Args:
        name: folder of experiments/.
        twin: mini, redial or None for the paper's own scale.
        runs: where runs lie; None for the folder that the sweep writes to.

    Raises:
        BadInput: where there is no such table or folder, or it holds runs of several experiments.
    """
    from rlbench.launching.recorded import recorded_cells  # only here: it loads Hydra

    rows = read_rows(EXPERIMENTS / name / "expected.csv")
    cells = recorded_cells(name, twin or "sweep")
    entries = _entries(rows, cells, twin)
    folder = _folder(runs, cells)
    group, problems = _group(folder, cells)
    notes: list[str] = []
    metrics: tuple[str, ...] = ()
    if group is not None:
        entries, metrics, problems, notes = _with_runs(entries, group, problems, resamples)
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
    """Rows that the sweep's cells make, in the paper's order, each followed by our own beside it."""
    by_key: dict[tuple[str, str], RecordedCell] = {}
    for cell in cells:
        model = cell.config.model.name
        by_key.setdefault((model, cell.choices.get("method", "")), cell)
        for shared in ("zero_shot", "sft"):
            by_key.setdefault((model, shared), _shared(cell, shared))
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


def _shared(cell: "RecordedCell", stage: str) -> "RecordedCell":
    """The cell of a stage that cells share: its command, without what they do not share."""
    own = ("method", "seed")
    kept = [text for text in cell.overrides if text.lstrip("+").split("=")[0] not in own]
    choices = {key: value for key, value in cell.choices.items() if key not in own} | {"method": stage}
    return replace(
        cell,
        overrides=(*kept, f"+method={stage}"),
        choices=choices,
        config=replace(cell.config, stage=stage),
    )


def _folder(runs: Path | None, cells: "Sequence[RecordedCell]") -> Path:
    """Where the runs of a sweep lie: RUNS, or the experiment's folder below it."""
    experiment = cells[0].config.experiment_name
    if runs is None:
        return Path(cells[0].config.runs_dir) / experiment
    if not runs.is_dir():
        raise BadInput(f"--runs {runs}: there is no such folder")
    return runs / experiment if (runs / experiment).is_dir() else runs


def _group(folder: Path, cells: "Sequence[RecordedCell]") -> tuple[Collection | None, list[Problem]]:
    """The runs of the sweep's dataset and models; None where there are none."""
    if not folder.is_dir():
        return None, []
    collection = collect(folder)
    names = {(cell.config.dataset.name, cell.config.model.name) for cell in cells}
    runs = collection.runs
    wanted = [pair in names for pair in zip(runs["dataset"], runs["model"], strict=True)]
    runs = runs[wanted].reset_index(drop=True)
    places = {f"{dataset}-{model}" for dataset, model in names}
    problems = [p for p in collection.problems if places & set(Path(folder.resolve(), p.run).parts)]
    experiments = sorted(set(runs["experiment"]))
    if len(experiments) > 1:
        raise BadInput(
            f"{folder} holds runs of several experiments ({', '.join(experiments)}); name one with --runs FOLDER"
        )
    return (replace(collection, runs=runs) if len(runs) else None), problems


def _with_runs(
    entries: Sequence[Entry], group: Collection, problems: Sequence[Problem], resamples: int
) -> tuple[list[Entry], tuple[str, ...], list[Problem], list[str]]:
    """The entries with what the runs say of them; the metrics; problems and notes."""
    from rlbench.runs import locate

    cutoffs = sorted(group.runs.iloc[0]["cutoffs"])
    top = cutoffs[-1]
    headline = [f"recall@{top}", f"ndcg@{top}"]
    metrics = (*headline, *(f"{m}@{k}" for m in ("recall", "ndcg") for k in cutoffs if f"{m}@{k}" not in headline))
    columns = [PROTOCOL + metric for metric in metrics]
    found, left_out = [], list(problems)
    others: Counter[str] = Counter()
    for entry in entries:
        if entry.cell is None:
            found.append(entry)
            continue
        config = entry.cell.config
        target = locate(config, config.stage)
        part = group.runs[(group.runs["model"] == config.model.name) & (group.runs["label"] == target.label)]
        expected = settings_of(target.identity)
        usable = []
        for run in part["run"]:
            differing = _differing(expected, group.settings.get(run, {}))
            if REGIME in differing:
                left_out.append(Problem(run, f"{REGIME} is {differing[REGIME]}, and the table's {expected[REGIME]}"))
                continue
            usable.append(run)
            others.update(f"{key}: {value} for {expected.get(key, 'nothing')}" for key, value in differing.items())
        part = part[part["run"].isin(usable)].sort_values("seed", kind="stable")
        if part.empty:
            found.append(entry)
            continue
        scores = row_scores(group.queries, part, columns)
        estimate = statistics.mean_interval(scores, resamples=resamples)
        found.append(replace(entry, ours=Ours(scores, estimate, config.stage != "zero_shot")))
    notes = []
    if others:
        named = "; ".join(key for key, _ in others.most_common(NAMED))
        more = f"; and {len(others) - NAMED} more" if len(others) > NAMED else ""
        notes.append(f"Runs with other settings than the sweep's are used, but are not the paper's: {named}{more}.")
    return found, metrics, left_out, notes


def settings_of(identity: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A run's settings by dotted keys, seeds of training left out, as `Collection.settings` has them."""
    flat: dict[str, Any] = {}
    for key, value in identity.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= settings_of(value, f"{name}.")
        elif name not in ("seed", "sft.seed"):
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


def _differing(expected: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run that are not as expected; nothing where they are not known."""
    keys = {*expected, *there} if there else ()
    return {key: there.get(key, "nothing") for key in sorted(keys) if expected.get(key) != there.get(key)}


def _level(entry: Entry, metrics: Sequence[str], metric: str, dataset: str) -> Level:
    assert entry.ours is not None
    value = entry.reported[metric]
    error = standard_error(dataset, metric, value)
    ours = entry.ours
    return level(ours.estimate, metrics.index(metric), ours.seeds, value, error, trained=ours.trained)


def _contrasts(entries: Sequence[Entry], metrics: Sequence[str], dataset: str, resamples: int) -> list[Contrast]:
    """Gains over SFT and differences between methods, on the headline metrics; p corrected within each backbone."""
    found = []
    for backbone in dict.fromkeys(entry.backbone for entry in entries):
        of_backbone = [entry for entry in entries if entry.backbone == backbone]
        for column, name in enumerate(METRIC_COLUMN):
            reported_metric = f"{name}@{max(int(key.split('@')[1]) for key in of_backbone[0].reported)}"
            metric = metrics[column] if metrics else reported_metric
            raw = [
                _contrast(backbone, a, b, metric, reported_metric, column, dataset, resamples)
                for a, b in _pairs(of_backbone, reported_metric)
            ]
            tested = [index for index, contrast in enumerate(raw) if contrast.ours]
            corrected = (
                dict(zip(tested, statistics.holm(np.array([raw[i].p for i in tested])), strict=True)) if tested else {}
            )
            found += [_judged(one, float(corrected.get(index, one.p))) for index, one in enumerate(raw)]
    return found


def _pairs(entries: Sequence[Entry], metric: str) -> Iterator[tuple[Entry, Entry]]:
    """(reported better, reported worse): each trained row with SFT, then methods with each other.

    Rows of our own are compared with reported ones but those of the same family of rows.
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
    ours, p = None, 1.0
    if a.ours and b.ours:
        left, right = (_one_metric(entry.ours.scores, column) for entry in (a, b) if entry.ours)
        estimate = statistics.paired_difference(left, right, resamples=resamples)
        ours, p = cell_of(estimate, 0), float(estimate.p[0])
    return Contrast(backbone, a, b, metric, reported_metric, reported, clear, ours, p, NO_RUN)


def _one_metric(scores: Scores, column: int) -> Scores:
    return Scores(scores.values[:, :, [column]], scores.contexts, scores.seeds)


def _judged(contrast: Contrast, p: float) -> Contrast:
    if contrast.ours is None or not (contrast.better.ours and contrast.worse.ours):
        return contrast
    sides = [contrast.better] if contrast.worse.method == "sft" else [contrast.better, contrast.worse]
    if any(side.ours and side.ours.trained and side.ours.seeds < 2 for side in sides):
        return replace(contrast, p=p, verdict=FEW_SEEDS)
    return replace(contrast, p=p, verdict=sign(contrast.reported, contrast.ours.mean, p))


# What it costs, and how to run it.


def gpu_hours(cell: "RecordedCell") -> float | None:
    """An upper bound on GPU-hours of a cell's own stage; None for models without an estimate, and without training."""
    config = cell.config
    updates = {"rl": config.trainer.rl.updates, "sft": config.trainer.sft.updates}.get(config.stage)
    if updates is None or config.model.name not in BILLIONS:
        return None
    return updates * HOURS_AN_UPDATE * BILLIONS[config.model.name] / BILLIONS["qwen2.5_0.5b"]


def command(cell: "RecordedCell", *, path: bool) -> str:
    """The command of all seeds of a cell, as a user writes it."""
    first, *rest = (text for text in cell.overrides if not text.startswith("seed="))
    return " ".join(["python run.py", first, *(["dataset.path=FOLDER"] if path else []), *rest])


# Sheets.


def number(value: float) -> str:
    """.0945; four digits, as the paper has them."""
    text = f"{value:.4f}"
    return text[1:] if text.startswith("0.") else text


def signed(value: float) -> str:
    """+.0134, −.0134."""
    return f"{'+' if value >= 0 else '−'}{number(abs(value))}"


def _between(cell: Cell, show: Any) -> str:
    return f"{show(cell.mean)} [{show(cell.low)}, {show(cell.high)}]"


def percent(value: float) -> str:
    """+53.4 %."""
    return f"{'+' if value >= 0 else '−'}{abs(100 * value):.1f} %"


def metric_name(metric: str) -> str:
    """R@5, N@20: as the paper's tables have them."""
    kind, k = metric.split("@")
    return f"{'R' if kind == 'recall' else 'N'}@{k}"


def reported_sheet(comparison: Comparison) -> Sheet:
    """The table as the paper has it."""
    own = set(BESIDE)
    rows: list[tuple[str, str, Mapping[str, float]]] = [("", row.title, row.values) for row in comparison.elsewhere]
    rows += [(entry.backbone, entry.title, entry.reported) for entry in comparison.entries if entry.method not in own]
    lines = [(backbone, title, *(number(values[m]) for m in METRICS)) for backbone, title, values in rows]
    notes = ("One training each; standard errors over samples: docs/reproduction.md.",)
    return Sheet("Reported", ("Backbone", "Method", *map(metric_name, METRICS)), tuple(lines), notes)


def level_sheet(comparison: Comparison, metrics: Sequence[str]) -> Sheet:
    """Ours beside reported, one line a row and metric."""
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
            line += [_between(ours, number), str(entry.ours.seeds), _between(difference, signed), found.verdict]
            lines.append(tuple(line))
    header = ("Backbone", "Method", "Metric", "Reported", "Ours", "Seeds", "Ours − reported", "Verdict")
    notes = (
        f"reproduced: the 95 % interval of ours − reported holds 0 and lies within {MARGIN:.0%} of the reported "
        "number. differs: it excludes 0. undecided: else. The interval counts the reported training, which is one, and "
        "its test samples too.",
    )
    return Sheet("Ours beside reported", header, tuple(lines), notes, names=3)


def own_sheet(comparison: Comparison) -> Sheet:
    """What a twin's runs scored."""
    lines = []
    for entry in comparison.entries:
        if entry.ours:
            cells = [_between(share_of(entry.ours.estimate, i), number) for i in range(len(comparison.metrics))]
            lines.append((entry.title, str(entry.ours.seeds), *cells))
        else:
            lines.append((entry.title, "0", *("–" for _ in comparison.metrics)))
    header = ("Method", "Seeds", *map(metric_name, comparison.metrics))
    notes = ("Another dataset, model and training than the paper's: these numbers are not to be compared with it.",)
    return Sheet(f"Ours, twin {comparison.twin}", header, tuple(lines), notes, names=1)


def gain_sheet(comparison: Comparison) -> Sheet:
    """Gains over SFT."""
    lines = []
    for one in comparison.gains:
        reported, ours = one.relative
        shown = _between(ours, percent) if ours else "–"
        absolute = _between(one.ours, signed) if one.ours else "–"
        metric = metric_name(one.metric)
        if one.metric != one.reported_metric:
            metric = f"{metric_name(one.reported_metric)} / {metric}"
        lines.append((one.backbone, one.better.title, metric, percent(reported), shown, absolute, one.verdict))
    header = ("Backbone", "Method", "Metric", "Reported gain", "Our gain", "Ours − our SFT", "Verdict")
    return Sheet("Gain over SFT", header, tuple(lines), (SIGN_NOTE,), names=3)


def order_sheet(comparison: Comparison) -> Sheet:
    """Differences between methods."""
    lines = []
    for one in comparison.orderings:
        reported = signed(one.reported) + ("" if one.clear else " ~")
        shown = _between(one.ours, signed) if one.ours else "–"
        p = f"{one.p:.3f}" if one.ours else "–"
        pair = f"{one.better.title} > {one.worse.title}"
        lines.append((one.backbone, pair, metric_name(one.metric), reported, shown, p, one.verdict))
    header = ("Backbone", "Reported order", "Metric", "Reported difference", "Our difference", "p", "Verdict")
    notes = (
        "~: the reported difference is within 1.96 of its own standard errors (two numbers, samples independent), so "
        "that the reported order itself is uncertain.",
    )
    return Sheet("Order of methods", header, tuple(lines), notes, names=3)


SIGN_NOTE = (
    "Verdicts on signs: shown where the paired difference over seeds and contexts has p ≤ .05 after Holm's correction "
    "for all gains and orders of the backbone and metric; a row of one seed shows nothing."
)


def replication_sheet(name: str) -> Sheet | None:
    """Independent runs that are published, where there are any of this table."""
    path = REPORTED / "replications.csv"
    with path.open(encoding="utf-8", newline="") as file:
        found = [line for line in csv.DictReader(file) if line["table"] == name]
    if not found:
        return None
    lines = tuple(
        (line["backbone"], line["method"], line["source"], *(number(float(line[m])) for m in METRICS)) for line in found
    )
    notes = tuple(dict.fromkeys(f"{line['source']}: {line['note']}" for line in found))
    return Sheet("Independent runs", ("Backbone", "Method", "By", *map(metric_name, METRICS)), lines, notes, names=3)


def missing_sheet(comparison: Comparison) -> Sheet | None:
    """What is not run, with the commands that fill it."""
    missing = [entry for entry in comparison.entries if entry.ours is None]
    if not missing:
        return None
    lines, total = [], 0.0
    of_mini = comparison.twin == "mini"
    for entry in missing:
        hours = gpu_hours(entry.cell) if entry.cell else None
        total += hours or 0.0
        lines.append(
            (
                "" if comparison.twin else entry.backbone,
                entry.title,
                f"{hours:,.0f}" if hours else "–",
                command(entry.cell, path=not of_mini) if entry.cell else "not in this sweep",
            )
        )
    notes = [f"All at once: {sweep_command(comparison)}"]
    if comparison.twin is None:
        notes += [
            f"GPU-hours: at most {total:,.0f} for one seed of all that is missing; a verdict takes two seeds or more "
            "(seed=3407,3408,3409). An upper bound, inferred: a port logged 5.5 to 5.7 s for 48 completions of 0.5B on "
            "two H800; 384 completions are eight times that, other backbones by parameters, SFT by updates.",
        ]
    header = ("Backbone", "Method", "GPU-hours", "Command")
    return Sheet("No run yet", header, tuple(lines), tuple(notes))


def sweep_command(comparison: Comparison) -> str:
    """The command of the whole sweep."""
    path = "" if comparison.twin == "mini" else " dataset.path=FOLDER"
    return f"python run.py +{comparison.name}={comparison.twin or 'sweep'}{path}"


def sheets(comparison: Comparison, *, all_metrics: bool) -> list[Sheet]:
    """Everything that is shown; with `all_metrics` levels of every cut-off, else of the largest."""
    shown: list[Sheet | None] = []
    if comparison.twin is None:
        top = [metric for metric in METRICS if metric.endswith("@20")]
        shown.append(reported_sheet(comparison))
        if comparison.any_runs:
            shown.append(level_sheet(comparison, METRICS if all_metrics else top))
        shown.append(replication_sheet(comparison.name))
    elif comparison.any_runs:
        shown.append(own_sheet(comparison))
    if comparison.any_runs:
        shown += [gain_sheet(comparison), order_sheet(comparison)]
    shown.append(missing_sheet(comparison))
    return [sheet for sheet in shown if sheet is not None and sheet.lines]


def tally(comparison: Comparison) -> list[str]:
    """How many of each verdict."""
    lines = []
    for title, verdicts in (
        ("numbers", [found.verdict for found in comparison.levels.values()]),
        ("gains over SFT", [one.verdict for one in comparison.gains if one.ours]),
        ("orders of methods", [one.verdict for one in comparison.orderings if one.ours]),
    ):
        if verdicts:
            counts = Counter(verdicts)
            lines.append(f"{title}: {', '.join(f'{count} {verdict}' for verdict, count in counts.most_common())}")
    return lines


# Writers.


def title(comparison: Comparison) -> str:
    what = comparison.name.replace("table", "Table ")
    return f"{what} of arXiv 2510.20150" + (f", twin on {comparison.twin}" if comparison.twin else "")


def to_markdown(heading: str, parts: Sequence[Sheet], lines: Sequence[str]) -> str:
    """A page."""
    text = [f"# {heading}", "", *(f"- {line}" for line in lines), *([""] if lines else [])]
    for sheet in parts:
        rows = [sheet.header, *(tuple(cell.replace("|", "\\|") for cell in line) for line in sheet.lines)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(sheet.header))]
        rules = [f":{'-' * (w - 1)}" if i < sheet.names else f"{'-' * (w - 1)}:" for i, w in enumerate(widths)]
        text += [f"## {sheet.title}", ""]
        for row in (rows[0], rules, *rows[1:]):
            cells = [
                c.ljust(w) if i < sheet.names else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ]
            text.append(f"| {' | '.join(cells)} |")
        text += ["", *(f"- {note}" for note in sheet.notes), *([""] if sheet.notes else [])]
    return "\n".join(text).rstrip() + "\n"


LATEX = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "−": "$-$", "–": "--", "∞": r"$\infty$", ">": "$>$"}
LATEX |= {"~": r"$\sim$", "μ": r"$\mu$", "≤": r"$\leq$", "²": "$^2$", "×": r"$\times$"}


def in_latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def to_latex(heading: str, parts: Sequence[Sheet]) -> str:
    """A booktabs table for each sheet but that of commands. Needs booktabs, graphicx and longtable-free space."""
    text = ["% Needs booktabs and graphicx."]
    for sheet in parts:
        if "Command" in sheet.header:
            continue
        columns = "l" * sheet.names + "r" * (len(sheet.header) - sheet.names)
        text += [r"\begin{table*}[t]", r"\centering", rf"\caption{{{in_latex(f'{heading}: {sheet.title}')}.}}"]
        text += [r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule"]
        text += [" & ".join(map(in_latex, sheet.header)) + r" \\", r"\midrule"]
        text += [" & ".join(map(in_latex, line)) + r" \\" for line in sheet.lines]
        text += [r"\bottomrule", r"\end{tabular}}", r"\par\smallskip", r"\begin{minipage}{\textwidth}\footnotesize"]
        text += [*map(in_latex, sheet.notes), r"\end{minipage}", r"\end{table*}", ""]
    return "\n".join(text)


CSV_HEADER = [
    *("kind", "backbone", "method", "other", "metric", "reported", "ours", "ours_lo", "ours_hi"),
    *("difference", "difference_lo", "difference_hi", "p", "seeds", "verdict"),
]


def to_csv(comparison: Comparison) -> str:
    """Plain numbers: a `level` has ours beside reported, a `gain` or `order` the difference to `other`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for index, entry in enumerate(comparison.entries):
        names = METRICS if comparison.twin is None else comparison.metrics
        for metric in names:
            found = comparison.levels.get((index, metric))
            reported = entry.reported.get(metric) if comparison.twin is None else None
            cell = None
            if entry.ours and metric in comparison.metrics:
                cell = share_of(entry.ours.estimate, comparison.metrics.index(metric))
            verdict = found.verdict if found else ("" if entry.ours else NO_RUN)
            writer.writerow(
                [
                    *("level", entry.backbone, entry.method, "", metric, _plain(reported), *_plain_cell(cell)),
                    *(map(_plain, (found.difference, found.low, found.high)) if found else ("", "", "")),
                    *("", str(entry.ours.seeds if entry.ours else 0), verdict),
                ]
            )
    for kind, contrasts in (("gain", comparison.gains), ("order", comparison.orderings)):
        for one in contrasts:
            writer.writerow(
                [
                    *(kind, one.backbone, one.better.method, one.worse.method, one.metric, _plain(one.reported)),
                    *("", "", ""),
                    *_plain_cell(one.ours),
                    _plain(one.p if one.ours else None),
                    *(str(one.better.ours.seeds if one.better.ours else 0), one.verdict),
                ]
            )
    return text.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _plain_cell(cell: Cell | None) -> list[str]:
    return [_plain(value) for value in ((cell.mean, cell.low, cell.high) if cell else (None, None, None))]


def show(console: Console, heading: str, parts: Sequence[Sheet], lines: Sequence[str]) -> None:
    """Print a page."""
    console.print(f"[bold]{escape(heading)}[/]")
    for sheet in parts:
        commands = "Command" in sheet.header
        table = RichTable(title=sheet.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for index, header in enumerate(sheet.header[:-1] if commands else sheet.header):
            table.add_column(header, justify="left" if index < sheet.names else "right", overflow="fold")
        for line in sheet.lines:
            table.add_row(*map(escape, line[:-1] if commands else line))
        console.print(table)
        if commands:
            for line in sheet.lines:
                console.print(f"  {line[-1]}", markup=False, highlight=False, soft_wrap=True)
        for note in sheet.notes:
            console.print(note, markup=False, highlight=False, soft_wrap=commands)
        console.print()
    for text in lines:
        console.print(text, markup=False, highlight=False)


def tables() -> list[str]:
    """Folders of experiments/ with reported numbers."""
    return sorted(path.parent.name for path in EXPERIMENTS.glob("*/expected.csv"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.reproduce",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(tables())}")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="where the runs lie (default: runs/NAME)")
    parser.add_argument("--twin", choices=("mini", "redial"), help="the scaled-down twin instead of the paper's scale")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: reports/reproduce)")
    parser.add_argument(
        "--resamples",
        type=positive,
        default=statistics.RESAMPLES,
        metavar="N",
        help="bootstrap resamples (%(default)s)",
    )
    options = parser.parse_args(arguments)
    console = terminal()
    try:
        if options.name not in tables():
            raise BadInput(
                f"{options.name}: there is no such folder with an expected.csv in experiments/; known: "
                f"{', '.join(tables())}.{nearest(options.name, tables())}"
            )
        comparison = compare(options.name, options.twin, options.runs, resamples=options.resamples)
    except BadInput as error:
        return refuse("reproduce", error)
    heading = title(comparison)
    show_problems(console, options.runs or Path("runs"), comparison.problems)
    lines = [*tally(comparison), *comparison.notes]
    show(console, heading, sheets(comparison, all_metrics=False), lines)
    folder = options.out or Path("reports") / "reproduce"
    stem = comparison.name + (f"-{comparison.twin}" if comparison.twin else "")
    parts = sheets(comparison, all_metrics=True)
    show_written(
        console,
        write(
            folder,
            {
                f"{stem}.md": to_markdown(heading, parts, lines),
                f"{stem}.csv": to_csv(comparison),
                f"{stem}.tex": to_latex(heading, parts),
            },
        ),
    )
    return 0


def write(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


if __name__ == "__main__":
    sys.exit(main())
