"""A figure of the paper next to our runs: verdicts at the points read off the figure, and a plot of both curves.

For figures without known numbers, only our results are shown.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import statistics
from analysis.collection import Collection, Problem
from analysis.figures.style import SAME
from analysis.papers.curves import SINGLE_POINTS, Curve, draw, draw_ranks
from analysis.papers.page import Page, number, signed
from analysis.papers.reported import (
    DIGITISING,
    EXPERIMENTS,
    LARGEST_ERROR,
    MODELS,
    SMALLEST,
    TITLES,
    Point,
    read_points,
)
from analysis.papers.runs import missing_sheet, read_groups, runs_of, settings_notes
from analysis.papers.verdicts import (
    FEW_SEEDS,
    MARGIN,
    NO_RUN,
    ONE_EVALUATION,
    SEEDS_AGREE,
    TOO_FEW_SEEDS,
    Level,
    interval_of_difference,
    judge,
    sign,
)
from analysis.render.numbers import NONE, Interval, chance
from analysis.render.sheet import NOTHING, Cells, Sheet, estimate, sheet_of
from analysis.render.spreadsheet import csv_interval, csv_number, csv_text
from analysis.statistics import Floats
from analysis.tables import FEWEST_SEEDS

if TYPE_CHECKING:
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
        sheets += [sheet for sheet in [missing_sheet(to_run, name, names)] if sheet is not None]
        said = ["No numbers of this figure are known, so that there is no verdict: ours alone."]
        return Page(sheets, sheets, _sheets_csv(sheets), said, problems, figure)
    curves, refused, notes = _curves(read_points(EXPERIMENTS / name / "expected.csv"), cells, groups, twin)
    levels = [(curve, step, _level(curve, step)) for curve in curves for step in curve.points] if not twin else []
    changes = _changes(curves) if twin else []
    missing = {(curve.backbone, curve.full_title): curve.cell for curve in curves if curve.ours is None}
    to_run = [("" if twin else backbone, title, cell) for (backbone, title), cell in missing.items()]
    rest = [sheet for sheet in [missing_sheet(to_run, name, names)] if sheet is not None]
    full = [_change_sheet(changes) if twin else _point_sheet(levels), *rest]
    ends = [entry for entry in levels if entry[1] == max(entry[0].points)]
    counts = Counter([found.verdict for _, _, found in levels if found] + [one.verdict for one in changes if one.ours])
    said = [f"{'changes' if twin else 'points'}: {', '.join(f'{n} {verdict}' for verdict, n in counts.most_common())}"]
    return Page(
        full if twin else [_point_sheet(ends), *rest],
        full,
        _csv(levels, changes),
        (said if counts else []) + notes,
        [*problems, *refused],
        draw(curves, comparable=twin is None),
    )


def _curves(
    points: Sequence[Point],
    cells: "Mapping[str, Sequence[RecordedCell]]",
    groups: Mapping[str, Collection],
    twin: str | None,
) -> tuple[list[Curve], list[Problem], list[str]]:
    """Reported curves with ours, problems of runs that match no curve, and notes on settings."""
    by_curve: dict[tuple[str, str, str, str], dict[int, float]] = {}
    for point in points:
        of_twin = point.backbone == SMALLEST and point.regime != "mu=2" and point.metric not in SINGLE_POINTS
        if not twin or of_twin:
            key = (point.regime, point.backbone, point.method, point.metric)
            by_curve.setdefault(key, {})[point.step] = point.value
    found: list[Curve] = []
    problems: dict[str, Problem] = {}
    others: list[str] = []
    for (regime, backbone, method, metric), values in by_curve.items():
        of_sweep = cells[twin or SWEEPS[regime]]
        model = of_sweep[0].config.model.name if twin else MODELS[backbone]
        cell = next((c for c in of_sweep if (c.config.model.name, c.choices.get("method")) == (model, method)), None)
        ours = None
        measured = our_metric(metric, cell.config.dataset.cutoffs) if cell else metric
        group = groups.get(cell.config.experiment_name) if cell else None
        if cell is not None and group is not None:
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


def _level(curve: Curve, step: int) -> Level | None:
    """The verdict at one point; None if we have no measurement there."""
    if curve.ours is None or step not in curve.ours.index:
        return None
    values, reported = curve.ours.loc[step].to_numpy(float), curve.points[step]
    return point_level(values, reported, point_error(curve.metric, reported), trained=step > 0, shared=step == 0)


def point_error(metric: str, value: float) -> float:
    """Standard error of a point of a reported curve, from sampling and from reading it off the figure."""
    if metric == "loss":
        return DIGITISING
    name = metric.split("@")[0]
    samples = LARGEST_ERROR.get(name, math.sqrt(value * (1 - value) / VALIDATION))
    return math.hypot(samples, DIGITISING)


def point_level(values: Floats, reported: float, error: float, *, trained: bool, shared: bool) -> Level:
    """Apply the rule at one point of a curve. Sampling error enters only through the reported error.

    Args:
        values: (S,) values of our runs.
        trained: whether the point comes after training.
        shared: whether all runs start at this point, so that the S values are one.
    """
    seeds, mean = len(values), float(values.mean())
    variance = values.var(ddof=1) / seeds if seeds > 1 else 0.0
    half = float(interval_of_difference(np.array(mean), np.array(variance), seeds, np.zeros(()), VALIDATION, error))
    difference = mean - reported
    low, high = difference - half, difference + half
    few = (trained and seeds < 2) or (shared and trained)
    return Level(Interval(difference, low, high), FEW_SEEDS if few else judge(low, high, MARGIN * reported))


@dataclass(frozen=True)
class Change:
    """Change from the first to the last point of a curve: the reported one, and ours over our own updates.

    Attributes:
        ours: None without runs; no interval for one seed or if all seeds agree.
        p: corrected p; None if the change is not tested.
    """

    curve: Curve
    reported: float
    ours: Interval | None
    seeds: int
    p: float | None
    verdict: str


def _changes(curves: Sequence[Curve]) -> list[Change]:
    """Changes of all curves. p is Holm-corrected over the curves with enough seeds for a verdict."""
    raw = [_change(curve) for curve in curves]
    tested = [i for i, one in enumerate(raw) if one.p is not None]
    p = dict(zip(tested, statistics.holm(np.array([raw[i].p for i in tested], float)).tolist(), strict=True))
    return [
        replace(one, p=p[i], verdict=sign(one.reported, one.ours.mean, p[i])) if one.ours and i in p else one
        for i, one in enumerate(raw)
    ]


def _change(curve: Curve) -> Change:
    steps = sorted(curve.points)
    reported = curve.points[steps[-1]] - curve.points[steps[0]]
    if curve.ours is None:
        return Change(curve, reported, None, 0, None, NO_RUN)
    seeds = curve.ours.shape[1]
    if len(curve.ours) < 2:
        return Change(curve, reported, None, seeds, None, ONE_EVALUATION)
    values = (curve.ours.iloc[-1] - curve.ours.iloc[0]).to_numpy(float)
    estimate = statistics.seed_interval(values[:, None])
    if seeds < 2 or estimate.error[0] <= SAME * abs(values).max():
        agree = SEEDS_AGREE if seeds >= FEWEST_SEEDS else TOO_FEW_SEEDS
        return Change(curve, reported, Interval(float(estimate.mean[0])), seeds, None, agree)
    ours = Interval(float(estimate.mean[0]), float(estimate.low[0]), float(estimate.high[0]))
    p = float(estimate.p[0]) if seeds >= FEWEST_SEEDS else None
    return Change(curve, reported, ours, seeds, p, TOO_FEW_SEEDS)


def _point_sheet(levels: Sequence[tuple[Curve, int, Level | None]]) -> Sheet:
    lines: list[Cells] = []
    for curve, step, found in levels:
        reported = curve.points[step]
        line = (curve.backbone, curve.full_title, f"{curve.metric} at {step:,}", number(reported))
        if found is None or curve.ours is None:
            lines.append((*line, *[NOTHING] * 3, NO_RUN))
            continue
        ours, seeds = number(reported + found.difference.mean), str(curve.ours.shape[1])
        lines.append((*line, ours, seeds, estimate(found.difference, signed), found.verdict))
    header = ("Backbone", "Method", "Metric and update", "Reported", "Ours", "Seeds", "Ours − reported", "Verdict")
    notes = ("Validation. Reported: read off the figure, about .0003. Verdicts as for tables: docs/reproduction.md.",)
    return sheet_of("Ours beside reported", header, lines, notes, names=3)


def _change_sheet(changes: Sequence[Change]) -> Sheet:
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


def _csv(levels: Sequence[tuple[Curve, int, Level | None]], changes: Sequence[Change]) -> str:
    lines: list[list[str]] = []
    names = ["kind", "regime", "backbone", "method", "metric", "step", "reported", "seeds"]
    names += ["difference", "difference_lo", "difference_hi", "verdict"]
    for curve, step, found in levels:
        seeds = curve.ours.shape[1] if curve.ours is not None and found else 0
        key = ["point", curve.regime, curve.backbone, curve.method, curve.metric, str(step)]
        value, verdict = csv_number(curve.points[step]), found.verdict if found else NO_RUN
        lines.append([*key, value, str(seeds), *csv_interval(found.difference if found else None), verdict])
    for one in changes:
        curve = one.curve
        key = ["change", curve.regime, curve.backbone, curve.method, curve.measured, ""]
        lines.append([*key, csv_number(one.reported), str(one.seeds), *csv_interval(one.ours), one.verdict])
    return csv_text(names, lines)


def _sheets_csv(sheets: Sequence[Sheet]) -> str:
    return "".join(
        csv_text(sheet.header, [[*line.names, *(cell.text for cell in line.cells)] for line in sheet.lines])
        for sheet in sheets
    )


# Figures without known numbers.


def _own(
    name: str, cells: "Sequence[RecordedCell]", groups: Mapping[str, Collection]
) -> tuple[list[Sheet], Figure | None, "list[tuple[str, str, RecordedCell | None]]"]:
    """Our numbers for a figure without known numbers, a plot if it shows ranks, and the cells without runs."""
    rows: dict[tuple[str, str], RecordedCell] = {}
    for cell in cells:
        rows.setdefault((cell.config.model.name, cell.config.label), cell)
    lines: list[tuple[str, ...]] = []
    missing: list[tuple[str, str, RecordedCell | None]] = []
    profiles: dict[str, tuple[Floats, Floats]] = {}
    for cell in rows.values():
        model = cell.config.model.name
        group = groups.get(cell.config.experiment_name)
        runs = list(runs_of(cell, group)[0]["run"]) if group is not None else []
        title = _own_title(cell)
        if group is None or not runs:
            missing.append((model, title, cell))
        elif name == "figure_rank_rewards":
            start, end = rank_profile(group, runs, cell.config.dataset.list_length)
            profiles[f"{title}, {model}"] = (start, end)
            shown = [f"{number(start[k - 1])} → {number(end[k - 1])}" for k in SHOWN_RANKS if k <= len(start)]
            lines.append((model, title, str(len(runs)), *shown))
        else:
            top = max(cell.config.dataset.cutoffs)
            metrics = [*WITHOUT_NUMBERS[name], f"published_ndcg@{top}"]
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


def _own_title(cell: "RecordedCell") -> str:
    title = TITLES.get(cell.choices.get("method", ""), cell.config.label)
    return f"{title}, {cell.config.variant}" if cell.config.variant else title


def rank_profile(group: Collection, runs: Sequence[str], length: int) -> tuple[Floats, Floats]:
    """Mean return of ranks 1..N over the first and the last tenth of the updates; NaN if not measured."""
    start, end = np.full(length, np.nan), np.full(length, np.nan)
    for k in range(1, length + 1):
        curve = measured_curve(group, runs, "train", f"reward@{k}")
        if curve is not None:
            few = max(1, round(AT_ENDS * len(curve)))
            start[k - 1], end[k - 1] = curve.iloc[:few].to_numpy().mean(), curve.iloc[-few:].to_numpy().mean()
    return start, end
