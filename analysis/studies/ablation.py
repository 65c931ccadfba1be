"""A factorial sweep as a grid of its combinations and a table of effects, with the notes below both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from rich.console import Group, RenderableType
from rich.text import Text

from analysis import statistics
from analysis.collection import Collection
from analysis.figures.style import SAME
from analysis.render.numbers import chance, many, share, signed
from analysis.render.sheet import NOTHING, Cells, Line, Sheet, Shown, estimate, sheet_of
from analysis.render.sheet import to_rich as sheet_to_rich
from analysis.render.spreadsheet import csv_interval, csv_p, csv_text
from analysis.studies.factorial import CLEAR, Combination, Design, Effect, effects, find_design, grid, missing_cells
from analysis.tables.marks import ONE_SEED_NOTE, checkpoint_note, group_title, marked, sft_note, test_note, unequal_note
from analysis.tables.model import ONE_SEED, UNEQUAL
from rlbench.base.errors import BadInput, nearest
from rlbench.lists.metric_catalogue import metric_title

NO_P = "No effect has a p: a p requires pairs of three seeds."

NAMED = 40
"""Maximum number of missing combinations to list; further ones are only counted."""


@dataclass(frozen=True)
class Ablation:
    """A sweep as grid and effects.

    Attributes:
        title: dataset, model and experiment.
        metric: per-query metric of all numbers.
        rows: best first.
        missing: one sentence on cells without a run; "" for a full grid.
        grid_notes, effect_notes: sentences below the two tables.
    """

    title: str
    metric: str
    design: Design
    rows: tuple[Combination, ...]
    effects: tuple[Effect, ...]
    missing: str
    grid_notes: tuple[str, ...]
    effect_notes: tuple[str, ...]


def build_ablation(
    group: Collection,
    metric: str,
    *,
    factors: Sequence[str] = (),
    references: Mapping[str, str] | None = None,
    resamples: int = statistics.RESAMPLES,
) -> Ablation:
    """Grid and effects of one group of runs (`Collection.groups`).

    Args:
        metric: name of a per-query metric.
        factors, references: as in `find_design`.

    Raises:
        BadInput: if no two RL runs differ, or a name is unknown.
    """
    rl = group.runs[group.runs["stage"] == "rl"]
    settings = {run: group.settings[run] for run in rl["run"] if run in group.settings}
    seeds = {run: int(seed) for run, seed in zip(rl["run"], rl["seed"], strict=True)}
    design = find_design(settings, seeds, factors=factors, references=references)
    known = group.queries.metrics([*settings, *group.runs["run"][group.runs["stage"] == "sft"]])
    if metric not in known:
        close = nearest(metric, known)
        raise BadInput(f"--metric {metric}: not every run has it on test.{close} All have: {', '.join(known)}")
    rows = grid(group, design, metric, resamples=resamples)
    found = effects(group, design, metric, resamples=resamples)
    missing = _missing(design)
    lacking = [run for run in rl["run"] if run not in settings]
    shared = [missing] if missing else []
    if lacking:
        shared.append(f"Left out, because their settings are unknown without identity.json: {', '.join(lacking)}.")
    used = group.runs[(group.runs["stage"] != "rl") | group.runs["run"].isin(list(settings))]
    used = used.assign(label=used["run"].map({run: design.name(run) for run in settings}).fillna(used["label"]))
    marks = {mark for row in rows for mark in row.marks}
    title = metric_title(metric)
    grid_notes = [test_note(group, resamples), sft_note(used, title), checkpoint_note(used)]
    grid_notes.append(_order_note([row.score.mean for row in rows], title))
    grid_notes += [ONE_SEED_NOTE] if ONE_SEED in marks else []
    grid_notes += [unequal_note(used)] if UNEQUAL in marks else []
    return Ablation(
        title=group_title(group),
        metric=metric,
        design=design,
        rows=tuple(rows),
        effects=tuple(found),
        missing=missing,
        grid_notes=(*grid_notes, *shared),
        effect_notes=(*_effect_notes(design, found, metric, resamples), *shared),
    )


def _order_note(means: Sequence[float], title: str) -> str:
    """Note on the order of the grid's rows; `means` are sorted, best first."""
    equal = [math.isclose(mean, means[0], rel_tol=SAME, abs_tol=SAME) for mean in means]
    if all(equal):
        return f"All {len(means)} combinations have the same {title}, so their order says nothing."
    if sum(equal) > 1:
        return (
            f"Sorted by the test metric. The first {sum(equal)} of {len(means)} combinations have the same {title}, so "
            "their order says nothing."
        )
    return f"Sorted by the test metric. Which of {len(means)} combinations comes first is partly luck."


def _missing(design: Design) -> str:
    """Note on the cells of the grid without a finished run."""
    seeds = set(design.seeds.values())
    full = len(seeds) * math.prod(len(factor.levels) for factor in design.factors)
    absent = full - len(design.levels)
    if not absent:
        return ""
    named = list(islice(missing_cells(design), NAMED))
    names = [
        " · ".join(levels) + (f" (seed {', '.join(map(str, lacks))})" if len(seeds) > 1 else "")
        for levels, lacks in named
    ]
    rest = absent - sum(len(lacks) for _, lacks in named)
    more = f"; and {rest:,} more" if rest else ""
    order = " · ".join(factor.name for factor in design.factors)
    return f"Missing {absent:,} of {full:,} cells ({order}): {'; '.join(names)}{more}."


def _effect_notes(design: Design, found: Sequence[Effect], metric: str, resamples: int) -> list[str]:
    title = metric_title(metric)
    tests = sum(effect.p is not None for effect in found)
    several = len(set(design.seeds.values())) > 1
    notes = [
        f"Δ {title}: the level minus the factor's reference level on test. It is the mean over all pairs of runs that "
        f"agree in the seed and in every other factor (of {', '.join(factor.name for factor in design.factors)}). "
        "Better: number of pairs in which the level is above its reference.",
    ]
    if any(effect.change is not None and effect.change.has_interval for effect in found):
        notes.append(
            f"Brackets: 95 % interval over contexts and {'seeds' if several else 'pairs'} ({resamples:,} bootstrap "
            "resamples of contexts, each with all its samples and for all pairs at once), not corrected for the number "
            "of effects."
        )
    if any(len(effect.singles) == 1 for effect in found):
        notes.append("An effect of a single pair has no interval.")
    if tests:
        notes += [
            f"p: two-sided p of no difference, corrected by Holm for the {many(tests, 'effect')} with a p. It requires "
            "three seeds. It is about the average over the settings of the other factors in this sweep, and says "
            "nothing about other settings. If pairs disagree, the level helps in some settings only.",
            f"Bold: corrected p below {share(CLEAR).rstrip('0')}, and equal budgets"
            f"{'.' if any(effect.clear for effect in found) else '; that holds for no effect.'}",
        ]
    else:
        notes.append(NO_P)
    for factor in design.factors:
        if factor.followers:
            along = ", ".join(factor.followers)
            notes.append(f"{factor.key}: along with it differ {along}, so its effects are also theirs.")
        if factor.held:
            notes.append(f"{factor.key} also varies, and is equal within every pair.")
    if design.constant:
        notes.append(f"Equal in every finished run, so without an effect here: {', '.join(design.constant)}.")
    if not any(effect.singles for effect in found):
        notes.append(
            "No two runs differ in one factor alone, so no effect can be computed. With --factors, settings that vary "
            "together with a named factor count as part of it."
        )
    marks = {mark for effect in found for mark in effect.marks}
    if ONE_SEED in marks:
        notes.append(f"{ONE_SEED} One seed: intervals do not show how much an effect varies between seeds.")
    if UNEQUAL in marks:
        notes.append(f"{UNEQUAL} Some pairs have unequal budgets, so the comparison is not fair: see the grid.")
    return notes


def grid_sheet(ablation: Ablation) -> Sheet:
    """The grid, one row per combination."""
    title = metric_title(ablation.metric)
    to_sft = any(row.difference is not None for row in ablation.rows)
    rows: list[Cells] = [
        (
            *row.levels,
            estimate(row.score, share),
            *([estimate(row.difference, signed)] if to_sft else []),
            marked(str(len(row.seeds)), row.marks, ONE_SEED),
            marked(f"{row.updates:,.0f}", row.marks, UNEQUAL),
        )
        for row in ablation.rows
    ]
    names = [factor.name for factor in ablation.design.factors]
    header = (*names, title, *([f"Δ {title} to SFT"] if to_sft else []), "Seeds", "Updates")
    return sheet_of(f"Combinations: {ablation.title}", header, rows, ablation.grid_notes, names=len(names))


def effects_sheet(ablation: Ablation) -> Sheet:
    """The effects, one row per level that is not a reference."""
    names = {factor.key: factor.name for factor in ablation.design.factors}
    lines: list[Line] = []
    previous = ""
    for effect in ablation.effects:
        first = effect.factor != previous
        pairs = len(effect.singles)
        cells = (
            estimate(effect.change, signed, bold=effect.clear),
            Shown(chance(effect.p_holm)),
            Shown(marked(str(pairs), effect.marks)),
            Shown(f"{effect.above} of {pairs}") if pairs else NOTHING,
        )
        level = f"{effect.level} vs. {effect.reference}"
        lines.append(Line((names[effect.factor] if first else "", level), cells, ruled=first and bool(lines)))
        previous = effect.factor
    header = ("Factor", "Level", f"Δ {metric_title(ablation.metric)}", "p (Holm)", "Pairs", "Better")
    return Sheet(f"Main effects: {ablation.title}", header, tuple(lines), ablation.effect_notes)


def to_rich(ablation: Ablation, width: int) -> RenderableType:
    """Both tables for a terminal of `width` characters. Shared notes are printed once."""
    first, second = grid_sheet(ablation), effects_sheet(ablation)
    first = replace(first, notes=tuple(note for note in first.notes if note not in second.notes))
    return Group(sheet_to_rich(first, width), Text(), sheet_to_rich(second, width))


def grid_csv(ablation: Ablation) -> str:
    """The grid as CSV: factors by key, <metric>, <metric>_lo, <metric>_hi. An absent number is empty."""
    keys = [factor.key for factor in ablation.design.factors]
    header = [*keys, "seeds"]
    for name in (ablation.metric, f"{ablation.metric}_minus_sft"):
        header += [name, f"{name}_lo", f"{name}_hi"]
    lines = [
        [*row.levels, str(len(row.seeds)), *csv_interval(row.score), *csv_interval(row.difference)]
        + [f"{row.updates:.12g}"]
        + [str(int(mark in row.marks)) for mark in (ONE_SEED, UNEQUAL)]
        + [" ".join(row.runs)]
        for row in ablation.rows
    ]
    return csv_text([*header, "updates", "one_seed", "unequal_budget", "runs"], lines)


def effects_csv(ablation: Ablation) -> str:
    """The effects as CSV. An absent number is empty."""
    metric = f"{ablation.metric}_difference"
    header = ["factor", "level", "reference", metric, f"{metric}_lo", f"{metric}_hi", "p", "p_holm", "pairs", "better"]
    lines = [
        [effect.factor, effect.level, effect.reference, *csv_interval(effect.change)]
        + [csv_p(effect.p), csv_p(effect.p_holm)]
        + [str(len(effect.singles)), str(effect.above), str(effect.seeds)]
        + [str(int(mark in effect.marks)) for mark in (ONE_SEED, UNEQUAL)]
        for effect in ablation.effects
    ]
    return csv_text([*header, "seeds", "one_seed", "unequal_budget"], lines)
