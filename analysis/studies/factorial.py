"""Main effects of a full or partial factorial sweep: the factors, the matched pairs of runs, and the effects.

The effect of a level is a mean paired difference: the run with that level minus the run with the factor's reference
level. It averages all pairs of runs that agree in the seed and in every other factor. Missing cells only reduce the
number of pairs. Nothing is imputed and no model is fitted.

Each effect has one interval. With several seeds it covers contexts and seeds (`pooled_interval`). All pairs of a seed
count together, because they share its data order and an effect may depend on the seed. One seed cannot show this
dependence, so its interval covers contexts and pairs. That includes the noise of single training runs, unlike an
interval over contexts only. p needs three seeds, as for all verdicts. An effect is the average over the settings of
the other factors in this sweep and says nothing about other settings.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import statistics
from analysis.collection import Collection
from analysis.figures.style import SAME
from analysis.render.numbers import Interval
from analysis.statistics import Estimate, Floats, Scores, holm_known, pooled_interval
from analysis.tables.compare import FEWEST_SEEDS
from analysis.tables.marks import unequal_budgets
from analysis.tables.model import BUDGET, ONE_SEED, UNEQUAL
from analysis.tables.scores import cell_of, row_scores, share_of
from rlbench.base.errors import BadInput, nearest

ABSENT = "absent"
"""Level of a run without the setting."""

CLEAR = 0.05
"""Corrected p below which an effect is shown."""


@dataclass(frozen=True)
class Factor:
    """A setting that varies.

    Attributes:
        key: dotted key of the setting, as in identity.json.
        name: its last part if that is unique, else the key.
        levels: its values as text, reference first.
        followers: settings that vary only together with it, so its effects are also theirs.
        held: whether pairs must agree in it without its own effects being requested.
    """

    key: str
    name: str
    levels: tuple[str, ...]
    followers: tuple[str, ...] = ()
    held: bool = False

    @property
    def reference(self) -> str:
        return self.levels[0]


@dataclass(frozen=True)
class Design:
    """The seed and the grid cell of each run.

    Attributes:
        factors: requested factors, then held ones.
        levels: run to its level of each factor, in the order of `factors`.
        constant: requested settings that are the same in all current runs.
    """

    factors: tuple[Factor, ...]
    levels: Mapping[str, tuple[str, ...]]
    seeds: Mapping[str, int]
    constant: tuple[str, ...] = ()

    def name(self, run: str) -> str:
        """The combination of a run, in words."""
        return " · ".join(self.levels[run])

    @property
    def combinations(self) -> list[tuple[str, ...]]:
        """Combinations with a run, in the order of the levels."""
        orders = [factor.levels.index for factor in self.factors]
        return sorted(
            set(self.levels.values()),
            key=lambda levels: [place(level) for place, level in zip(orders, levels, strict=True)],
        )


@dataclass(frozen=True)
class Pair:
    """Two runs of one seed that differ in one factor only."""

    run: str
    reference: str
    seed: int


@dataclass(frozen=True)
class Combination:
    """One row of the grid: a level per factor, and its runs in the order of their seeds.

    Attributes:
        score: mean of the metric over seeds and samples.
        difference: difference to SFT; None without an SFT run.
        updates: mean number of updates per run.
        marks: ONE_SEED, UNEQUAL, both or none.
    """

    levels: tuple[str, ...]
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    score: Interval
    difference: Interval | None
    updates: float
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Effect:
    """Effect of a level relative to its factor's reference level.

    Attributes:
        factor: key of the factor.
        singles: difference of each pair, mean over samples.
        seeds: number of distinct seeds among the pairs.
        change: mean of `singles` with its interval, over contexts and seeds. With one seed the interval is over
            contexts and pairs, and a single pair has none. None without a pair.
        p, p_holm: p for no change, uncorrected and Holm-corrected over all effects with a p; None below three seeds.
        marks: ONE_SEED, and UNEQUAL if a pair has unequal budgets.
    """

    factor: str
    level: str
    reference: str
    singles: tuple[float, ...] = ()
    seeds: int = 0
    change: Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    marks: tuple[str, ...] = ()

    @property
    def above(self) -> int:
        """Number of pairs in which the level beats the reference by more than rounding errors."""
        return sum(single > SAME for single in self.singles)

    @property
    def clear(self) -> bool:
        """Whether the effect is shown after correction, at equal budgets."""
        return self.p_holm is not None and self.p_holm < CLEAR and UNEQUAL not in self.marks


# What varies.


def level_name(value: Any) -> str:
    """A setting's value as text."""
    return value if isinstance(value, str) else json.dumps(value)


def _ordered(values: Sequence[Any]) -> tuple[str, ...]:
    """The distinct values as text: numbers by size, then all others by name."""
    by_name = {level_name(value): value for value in values}

    def place(name: str) -> tuple[bool, float, str]:
        value = by_name[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return not number, float(value) if number else 0.0, name

    return tuple(sorted(by_name, key=place))


def varying(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Settings that differ between runs: dotted key to the level of each run, in the order of the runs."""
    keys = sorted({key for known in settings.values() for key in known})
    columns = {key: tuple(level_name(known.get(key, ABSENT)) for known in settings.values()) for key in keys}
    return {key: levels for key, levels in columns.items() if len(set(levels)) > 1}


def determined(levels: Mapping[str, Sequence[str]], key: str, by: Sequence[str]) -> bool:
    """Whether runs that agree in all settings of `by` also agree in `key`."""
    cells = list(zip(*(levels[other] for other in by), strict=True))
    return len(set(cells)) == len(set(zip(cells, levels[key], strict=True)))


def leaders(levels: Mapping[str, Sequence[str]], keys: Sequence[str]) -> dict[str, list[str]]:
    """Settings that vary independently, each with its followers.

    A setting follows an earlier setting with which it always changes, and any `name` (of an algorithm or a reward) that
    determines it.
    """
    found: dict[str, list[str]] = {}
    for key in sorted(keys, key=lambda key: (not key.endswith(".name"), keys.index(key))):
        for leader, followers in found.items():
            both = leader.endswith(".name") or determined(levels, leader, [key])
            if both and determined(levels, key, [leader]):
                followers.append(key)
                break
        else:
            found[key] = []
    return found


def resolve(name: str, keys: Sequence[str], constant: Sequence[str], option: str) -> str:
    """Resolve a setting named by its key, an unambiguous suffix, or its config path (trainer.rl.x for rl.x).

    Args:
        keys: settings that vary; the `constant` ones are tried if none of these matches.

    Raises:
        BadInput: if no setting matches, or several do.
    """
    for known in (keys, constant):
        fitting = [key for key in known if key == name] or [
            key for key in known if key.endswith(f".{name}") or name.endswith(f".{key}")
        ]
        if len(fitting) > 1:
            raise BadInput(f"{option} {name}: this may be {' or '.join(fitting)}; write out which")
        if fitting:
            return fitting[0]
    close, known_keys = nearest(name, list(keys)), ", ".join(keys)
    raise BadInput(f"{option} {name}: the runs do not differ in it.{close} They differ in: {known_keys}")


def find_design(
    settings: Mapping[str, Mapping[str, Any]],
    seeds: Mapping[str, int],
    *,
    factors: Sequence[str] = (),
    references: Mapping[str, str] | None = None,
) -> Design:
    """The grid formed by the runs.

    Args:
        settings: run to its settings, dotted key to value.
        factors: factors whose effects are requested, in display order; empty for all that vary.
        references: factor name to its reference level; the default is the first level by size or name.

    Raises:
        BadInput: if nothing varies, or a name or level is unknown.
    """
    if len(settings) < 2:
        raise BadInput(f"an ablation needs two finished RL runs that differ; there is {len(settings)}")
    levels = varying(settings)
    if not levels:
        raise BadInput(f"nothing but the seed varies among the {len(settings)} finished RL runs")
    known = list(levels)
    constant = [key for key in dict.fromkeys(itertools.chain(*settings.values())) if key not in levels]
    named = list(dict.fromkeys(resolve(name, known, constant, "--factors") for name in factors))
    chosen = [key for key in named if key in levels]
    if named and not chosen:
        same, differ = ", ".join(named), ", ".join(known)
        raise BadInput(f"--factors {same}: the same in every finished run. They differ in: {differ}")
    if chosen:
        others = [key for key in known if key not in chosen]
        followers: dict[str, list[str]] = {key: [] for key in chosen}
        for key in [key for key in others if determined(levels, key, chosen)]:
            leader = next((one for one in chosen if determined(levels, key, [one])), chosen[0])
            followers[leader].append(key)
            others.remove(key)
        held = leaders(levels, others)
    else:
        followers, held = leaders(levels, known), {}
    axes = {**followers, **held}
    first = {resolve(name, list(axes), constant, "--reference"): level for name, level in (references or {}).items()}
    made = tuple(
        Factor(
            key=key,
            name=_short(key, list(axes)),
            levels=_from(first.get(key), _ordered([one.get(key, ABSENT) for one in settings.values()]), key),
            followers=tuple(axes[key]),
            held=key in held,
        )
        for key in axes
    )
    cells = dict(zip(settings, zip(*(levels[factor.key] for factor in made), strict=True), strict=True))
    _refuse_twins(cells, seeds)
    return Design(made, cells, {run: seeds[run] for run in cells}, tuple(key for key in named if key not in levels))


def _short(key: str, keys: Sequence[str]) -> str:
    """Short name: credit for algorithm.credit, algorithm for algorithm.name; the full key if that is not unique."""
    names = [(other.removesuffix(".name")).split(".")[-1] for other in keys]
    name = names[keys.index(key)]
    return name if names.count(name) == 1 else key


def _from(first: str | None, levels: tuple[str, ...], key: str) -> tuple[str, ...]:
    """The levels with `first` in front."""
    if first is None:
        return levels
    if first not in levels:
        raise BadInput(f"--reference {key}={first}: no run has that; the levels are {', '.join(levels)}")
    return (first, *(level for level in levels if level != first))


def _refuse_twins(cells: Mapping[str, tuple[str, ...]], seeds: Mapping[str, int]) -> None:
    seen: dict[tuple[tuple[str, ...], int], str] = {}
    for run, levels in cells.items():
        twin = seen.setdefault((levels, seeds[run]), run)
        if twin != run:
            raise BadInput(f"{twin} and {run} have the same settings and the same seed: move one of them away")


# Missing cells and matched pairs.


def missing_cells(design: Design) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Combinations of levels with missing runs, each with the missing seeds (among the seeds that occur).

    A generator, since a random search has far more combinations than runs.
    """
    present = {(levels, design.seeds[run]) for run, levels in design.levels.items()}
    seeds = sorted(set(design.seeds.values()))
    for combination in itertools.product(*(factor.levels for factor in design.factors)):
        absent = tuple(seed for seed in seeds if (combination, seed) not in present)
        if absent:
            yield combination, absent


def matched_pairs(design: Design, place: int, level: str) -> list[Pair]:
    """Pairs of a level of factor number `place` with the reference, with equal seed and other factors."""
    run_of = {(levels, design.seeds[run]): run for run, levels in design.levels.items()}
    pairs = []
    for (levels, seed), run in run_of.items():
        if levels[place] == level:
            twin = (*levels[:place], design.factors[place].reference, *levels[place + 1 :])
            if (twin, seed) in run_of:
                pairs.append(Pair(run, run_of[twin, seed], seed))
    return pairs


# Numbers.


def grid(group: Collection, design: Design, metric: str, *, resamples: int = statistics.RESAMPLES) -> list[Combination]:
    """Every combination with a run, best first."""
    runs = group.runs[group.runs["run"].isin(list(design.levels))]
    runs = runs.assign(label=[design.name(run) for run in runs["run"]])
    unequal = unequal_budgets(runs)
    sft_runs = group.runs[group.runs["stage"] == "sft"].sort_values("seed", kind="stable")
    sft = row_scores(group.queries, sft_runs, [metric]) if len(sft_runs) else None
    rows = []
    for levels in design.combinations:
        label = " · ".join(levels)
        part = runs[runs["label"] == label].sort_values("seed", kind="stable")
        scores = row_scores(group.queries, part, [metric])
        difference = None if sft is None else statistics.paired_difference(scores, sft, resamples=resamples)
        rows.append(
            Combination(
                levels=levels,
                runs=tuple(part["run"]),
                seeds=scores.seeds,
                score=_score(scores, statistics.mean_interval(scores, resamples=resamples)),
                difference=None if difference is None else cell_of(difference, 0),
                updates=float(part["updates"].mean()),
                marks=(ONE_SEED,) * (len(part) == 1) + (UNEQUAL,) * (label in unequal),
            )
        )
    return sorted(rows, key=lambda row: -row.score.mean)


def _score(scores: Scores, estimate: Estimate) -> Interval:
    """A mean with its interval, clipped to 0..1 if all scores lie in 0..1."""
    shares = scores.values.min() >= 0 and scores.values.max() <= 1
    return share_of(estimate, 0) if shares else cell_of(estimate, 0)


def effects(group: Collection, design: Design, metric: str, *, resamples: int = statistics.RESAMPLES) -> list[Effect]:
    """Effects of all levels except references, by factor. p is corrected over all effects with a p."""
    runs = group.runs[group.runs["run"].isin(list(design.levels))]
    scores = row_scores(group.queries, runs, [metric])
    values = dict(zip(runs["run"], scores.values[:, :, 0], strict=True))
    budgets = dict(zip(runs["run"], runs[list(BUDGET)].itertuples(index=False, name=None), strict=True))
    found = []
    for place, factor in enumerate(design.factors):
        for level in () if factor.held else factor.levels[1:]:
            pairs = matched_pairs(design, place, level)
            effect = Effect(factor.key, level, factor.reference)
            if pairs:
                effect = _measure(effect, pairs, values, scores.contexts, resamples)
            if any(budgets[pair.run] != budgets[pair.reference] for pair in pairs):
                effect = replace(effect, marks=(*effect.marks, UNEQUAL))
            found.append(effect)
    corrected = holm_known([effect.p for effect in found])
    return [replace(effect, p_holm=p) for effect, p in zip(found, corrected, strict=True)]


def _measure(
    effect: Effect, pairs: Sequence[Pair], values: Mapping[str, Floats], contexts: NDArray[np.int64], resamples: int
) -> Effect:
    """The effect with its numbers, from the (Q,) scores of each run. Needs at least one pair."""
    differences = np.stack([values[pair.run] - values[pair.reference] for pair in pairs])
    scores = Scores(differences[:, :, None], contexts, tuple(pair.seed for pair in pairs))
    seeds = len(set(scores.seeds))
    if seeds == 1:  # each pair is its own unit
        scores = replace(scores, seeds=tuple(range(len(pairs))))
    estimate = pooled_interval(scores, resamples=resamples)
    return replace(
        effect,
        singles=tuple(differences.mean(axis=1).tolist()),
        seeds=seeds,
        change=cell_of(estimate, 0) if len(pairs) > 1 else Interval(float(estimate.mean[0])),
        p=float(estimate.p[0]) if seeds >= FEWEST_SEEDS else None,
        marks=(ONE_SEED,) if seeds == 1 else (),
    )
