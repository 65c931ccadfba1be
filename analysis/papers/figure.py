"""A figure of the paper next to our runs: verdicts at the points read off the figure, and a plot of both curves.

For figures without known numbers, only our results are shown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import statistics
from analysis.collection import Collection
from analysis.figures.reported import read_points
from analysis.figures.style import SAME
from analysis.papers.curves import SINGLE_POINTS, Curve, draw, draw_ranks
from analysis.papers.page import Page, number, signed
from analysis.papers.reported import DIGITISING, EXPERIMENTS, LARGEST_ERROR, MODELS, SMALLEST, TITLES
from analysis.papers.runs import missing_sheets, read_groups, runs_of, settings_notes
from analysis.papers.verdicts import NO_RUN, ONE_EVALUATION, SEEDS_AGREE, TOO_FEW_SEEDS, judged, sign, tally
from analysis.problems import Problem
from analysis.render.numbers import NONE, Interval, chance
from analysis.render.sheet import NOTHING, Cells, Sheet, estimate, sheet_of
from analysis.render.spreadsheet import csv_interval, csv_number, csv_text
from analysis.statistics import Floats
from analysis.tables.compare import FEWEST_SEEDS
from analysis.tables.scores import cell_of

if TYPE_CHECKING:
    from analysis.papers.runs import Missing
    from rlbench.launching.recorded import RecordedCell

SWEEPS = {"on-policy": "sweep", "sft": "sweep", "mu=2": "sweep_mu2"}
"""Regime of reported curves to the sweep that produces ours."""

VALIDATION = 9421
"""Samples of Reddit-v2's validation split."""

AT_ENDS = 0.1
"""Share of updates averaged for the start, and for the end, of training, because single updates are noisy."""

SHOWN_RANKS = (1, 2, 5, 10, 15, 20)
"""Ranks that get a column."""

WITHOUT_NUMBERS: dict[str, tuple[str, ...]] = {
    "figure_overflow_penalty": ("overflow", "exact_length", "list_length"),
    "figure_rank_rewards": (),
}
"""Figures without known numbers, with the validation metrics that we show instead."""


def make_page(name: str, twin: str | None, runs: Path | None) -> Page:
    """Compare a figure with our runs.

    Raises:
        BadInput: if there is no such folder, or it has runs of several experiments.
    """
    from rlbench.launching.recorded import recorded_cells, recorded_sweeps  # imported here because it loads Hydra

    names = [twin] if twin else sorted({sweep for sweep in SWEEPS.values() if sweep in recorded_sweeps()[name]})
    cells = {sweep: recorded_cells(name, sweep) for sweep in names}
    groups, problems = read_groups(runs, [cell for of_sweep in cells.values() for cell in of_sweep])
    if name in WITHOUT_NUMBERS:
        sheets, figure, to_run = _own(name, cells[names[0]], groups)
        sheets += missing_sheets(to_run, name, names)
        said = ["No numbers of this figure are known, so that there is no verdict: ours alone."]
        return Page(sheets, sheets, _sheets_csv(sheets), said, problems, figure)
    curves, refused, notes = _curves(name, cells, groups, twin)
    missing = {(curve.backbone, curve.full_title): curve.cell for curve in curves if curve.ours is None}
    to_run = [("" if twin else backbone, title, cell) for (backbone, title), cell in missing.items()]
    rest = missing_sheets(to_run, name, names)
    if twin:
        found = _changes(curves)
        short = full = [_change_sheet(found), *rest]
    else:
        found = [_point(curve, step) for curve in curves for step in curve.points]
        ends = [one for one in found if one.step == max(one.curve.points)]
        short, full = [_point_sheet(ends), *rest], [_point_sheet(found), *rest]
    said = tally("changes" if twin else "points", [one.verdict for one in found if one.ours])
    csv, figure = csv_text(CSV_HEADER, map(_csv_line, found)), draw(curves, comparable=twin is None)
    return Page(short, full, csv, [*said, *notes], [*problems, *refused], figure)


def _curves(
    name: str, cells: "Mapping[str, Sequence[RecordedCell]]", groups: Mapping[str, Collection], twin: str | None
) -> tuple[list[Curve], list[Problem], list[str]]:
    """Reported curves with ours, problems of runs that match no curve, and notes on settings."""
    found: list[Curve] = []
    problems: dict[str, Problem] = {}
    others: list[str] = []
    reported = read_points(EXPERIMENTS / name / "expected.csv")
    for key, points in reported.groupby(["regime", "backbone", "method", "metric"], sort=False):
        regime, backbone, method, metric = map(str, key)
        if twin and (backbone != SMALLEST or regime == "mu=2" or metric in SINGLE_POINTS):
            continue
        values = dict(zip(points["step"].tolist(), points["value"].tolist(), strict=True))
        of_sweep = cells[twin or SWEEPS[regime]]
        model = of_sweep[0].config.model.name if twin else MODELS[backbone]
        cell = next((c for c in of_sweep if (c.config.model.name, c.choices.get("method")) == (model, method)), None)
        ours = None
        measured = our_metric(metric, cell.config.dataset.cutoffs) if cell else metric
        if cell and (group := groups.get(cell.config.experiment_name)):
            part, refused, differing = runs_of(cell, group)
            problems |= {problem.run: problem for problem in refused}
            others += differing
            ours = measured_curve(group, list(part["run"]), "validation", measured)
        found.append(Curve(regime, backbone, method, metric, values, measured, cell, ours))
    return found, list(problems.values()), settings_notes(others)


def our_metric(metric: str, cutoffs: Sequence[int]) -> str:
    """Name of our metric for a reported one, at our largest cut-off that does not exceed the reported one."""
    if "@" in metric:
        name, k = metric.split("@")
        return f"published_{name}@{max([c for c in cutoffs if c <= int(k)] or [min(cutoffs)])}"
    return {"in_catalog": "in_catalog_lax"}.get(metric, metric)


def measured_curve(group: Collection, runs: Sequence[str], split: str, metric: str) -> pd.DataFrame | None:
    """(T, S) values by update and run, for updates at which all runs measured a number; None if there are none."""
    together = group.measurements.together(runs, split, metric)
    if together is None:
        return None
    wide = pd.DataFrame(together[1].T, index=together[0].astype(int), columns=list(runs)).dropna()
    return wide if len(wide) else None


@dataclass(frozen=True)
class Finding:
    """A point of a curve, or its change from the first to the last point: the reported number, and ours.

    Attributes:
        step: update of a point; None for a change.
        seeds: number of our runs.
        ours: our number minus the reported one; for a change, our change over our own updates. None without a
            measurement. A change of one seed, or on which all seeds agree, has no interval.
        p: corrected p of a change; None if it is not tested.
    """

    curve: Curve
    step: int | None
    reported: float
    seeds: int = 0
    ours: Interval | None = None
    p: float | None = None
    verdict: str = NO_RUN


def _point(curve: Curve, step: int) -> Finding:
    """One point with the verdict on it. Sampling error enters only through the reported error."""
    reported = curve.points[step]
    if curve.ours is None or step not in curve.ours.index:
        return Finding(curve, step, reported)
    values = curve.ours.loc[step].to_numpy(float)
    mean, seeds, error = float(values.mean()), len(values), point_error(curve.metric, reported)
    variance = float(values.var(ddof=1)) / seeds if seeds > 1 else 0.0
    found = judged(mean, variance, seeds, 0.0, VALIDATION, reported, error, trained=step > 0)
    return Finding(curve, step, reported, seeds, found.difference, verdict=found.verdict)


def point_error(metric: str, value: float) -> float:
    """Standard error of a point of a reported curve, from sampling and from reading it off the figure."""
    if metric == "loss":
        return DIGITISING
    name = metric.split("@")[0]
    samples = LARGEST_ERROR.get(name, math.sqrt(value * (1 - value) / VALIDATION))
    return math.hypot(samples, DIGITISING)


def _changes(curves: Sequence[Curve]) -> list[Finding]:
    """Changes of all curves. p is Holm-corrected over the curves with enough seeds for a verdict."""
    raw = [_change(curve) for curve in curves]
    corrected = statistics.holm_known([one.p for one in raw])
    return [
        one if p is None or one.ours is None else replace(one, p=p, verdict=sign(one.reported, one.ours.mean, p))
        for one, p in zip(raw, corrected, strict=True)
    ]


def _change(curve: Curve) -> Finding:
    reported = curve.points[max(curve.points)] - curve.points[min(curve.points)]
    if curve.ours is None:
        return Finding(curve, None, reported)
    seeds = curve.ours.shape[1]
    if len(curve.ours) < 2:
        return Finding(curve, None, reported, seeds, verdict=ONE_EVALUATION)
    values = (curve.ours.iloc[-1] - curve.ours.iloc[0]).to_numpy(float)
    found = statistics.seed_interval(values[:, None])
    enough = seeds >= FEWEST_SEEDS
    if seeds < 2 or found.error[0] <= SAME * abs(values).max():
        agree = SEEDS_AGREE if enough else TOO_FEW_SEEDS
        return Finding(curve, None, reported, seeds, Interval(float(found.mean[0])), verdict=agree)
    p = float(found.p[0]) if enough else None
    return Finding(curve, None, reported, seeds, cell_of(found, 0), p, TOO_FEW_SEEDS)


def _point_sheet(points: Sequence[Finding]) -> Sheet:
    lines: list[Cells] = []
    for one in points:
        metric = f"{one.curve.metric} at {one.step:,}"
        ours: Cells = [NOTHING] * 3
        if one.ours:
            ours = (number(one.reported + one.ours.mean), str(one.seeds), estimate(one.ours, signed))
        lines.append((one.curve.backbone, one.curve.full_title, metric, number(one.reported), *ours, one.verdict))
    header = ("Backbone", "Method", "Metric and update", "Reported", "Ours", "Seeds", "Ours − reported", "Verdict")
    notes = ("Validation. Reported: read off the figure, about .0003. Verdicts as for tables: docs/reproduction.md.",)
    return sheet_of("Ours beside reported", header, lines, notes, names=3)


def _change_sheet(changes: Sequence[Finding]) -> Sheet:
    lines = []
    for one in changes:
        ours = estimate(one.ours, signed)
        metric = f"{one.curve.metric} / {one.curve.measured}"
        lines.append((one.curve.title, metric, signed(one.reported), ours, str(one.seeds), chance(one.p), one.verdict))
    header = ("Method", "Metric, theirs / ours", "Reported change", "Our change", "Seeds", "p", "Verdict")
    notes = (
        "From the first point to the last, on validation; ours over seeds. Another dataset, model and training than "
        "the paper's: only the sign is compared. p after Holm's correction for all curves with one; it takes three "
        "seeds that do not all agree.",
    )
    return sheet_of("Change over the training", header, lines, notes, names=2)


CSV_HEADER = (
    *("kind", "regime", "backbone", "method", "metric", "step", "reported", "seeds"),
    *("difference", "difference_lo", "difference_hi", "verdict"),
)


def _csv_line(one: Finding) -> list[str]:
    curve = one.curve
    key = ["point", curve.regime, curve.backbone, curve.method, curve.metric, str(one.step)]
    if one.step is None:
        key = ["change", curve.regime, curve.backbone, curve.method, curve.measured, ""]
    return [*key, csv_number(one.reported), str(one.seeds), *csv_interval(one.ours), one.verdict]


def _sheets_csv(sheets: Sequence[Sheet]) -> str:
    return "".join(
        csv_text(sheet.header, [[*line.names, *(cell.text for cell in line.cells)] for line in sheet.lines])
        for sheet in sheets
    )


# Figures without known numbers.


def _own(
    name: str, cells: "Sequence[RecordedCell]", groups: Mapping[str, Collection]
) -> tuple[list[Sheet], Figure | None, "list[Missing]"]:
    """Our numbers for a figure without known numbers, a plot if it shows ranks, and the cells without runs."""
    rows: dict[tuple[str, str], RecordedCell] = {}
    for cell in cells:
        rows.setdefault((cell.config.model.name, cell.config.label), cell)
    lines: list[tuple[str, ...]] = []
    missing: list[Missing] = []
    profiles: dict[str, tuple[Floats, Floats]] = {}
    for cell in rows.values():
        model = cell.config.model.name
        group = groups.get(cell.config.experiment_name)
        runs = list(runs_of(cell, group)[0]["run"]) if group is not None else []
        title = TITLES.get(cell.choices.get("method", ""), cell.config.label)
        title += f", {cell.config.variant}" if cell.config.variant else ""
        if group is None or not runs:
            missing.append((model, title, cell))
            continue
        if name == "figure_rank_rewards":
            start, end = rank_profile(group, runs, cell.config.dataset.list_length)
            profiles[f"{title}, {model}"] = (start, end)
            shown = [f"{number(start[k - 1])} → {number(end[k - 1])}" for k in SHOWN_RANKS if k <= len(start)]
        else:
            metrics = [*WITHOUT_NUMBERS[name], f"published_ndcg@{max(cell.config.dataset.cutoffs)}"]
            ends = [measured_curve(group, runs, "validation", metric) for metric in metrics]
            shown = [number(end.iloc[-1].mean()) if end is not None else NONE for end in ends]
        lines.append((model, title, str(len(runs)), *shown))
    if not lines:
        return [], None, missing
    if name == "figure_rank_rewards":
        length = max(len(start) for start, _ in profiles.values())
        header = ("Model", "Method", "Seeds", *(f"rank {k}" for k in SHOWN_RANKS if k <= length))
        notes = ("Mean return of a rank over the rollouts, first and last tenth of the updates.",)
        return [sheet_of("Reward by rank", header, lines, notes, names=2)], draw_ranks(profiles), missing
    header = ("Model", "Method", "Seeds", "with overflow", "exactly N", "entries", "N@N")
    notes = ("Validation, greedy lists, last update: share of lists with entries past rank N, share with exactly N.",)
    return [sheet_of("Length of lists", header, lines, notes, names=2)], None, missing


def rank_profile(group: Collection, runs: Sequence[str], length: int) -> tuple[Floats, Floats]:
    """Mean return of ranks 1..N over the first and the last tenth of the updates; NaN if not measured."""
    start, end = np.full(length, np.nan), np.full(length, np.nan)
    for k in range(1, length + 1):
        curve = measured_curve(group, runs, "train", f"reward@{k}")
        if curve is not None:
            few = max(1, round(AT_ENDS * len(curve)))
            start[k - 1], end[k - 1] = curve.iloc[:few].to_numpy().mean(), curve.iloc[-few:].to_numpy().mean()
    return start, end
