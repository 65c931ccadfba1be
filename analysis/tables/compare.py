"""Rows against the baseline of their group: estimates, tests, what the design could find, and what that comes to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis import statistics
from analysis.statistics import Comparison, Scores
from analysis.tables.model import MARKS, ONE_SEED, UNEQUAL, Cell, Versus
from analysis.tables.numbers import share
from analysis.tables.scores import cell_of, one_metric, share_of

LEVEL = 0.05
"""Corrected p below which a difference holds."""

FEW_SEEDS = 2
"""With so many seeds p is too small where it is small, and Holm's correction does not hold (docs/statistics.md)."""


@dataclass(frozen=True)
class Side:
    """A row of a comparison.

    Attributes:
        id: of the row.
        group, name, label: of the row.
        marks: of the row.
        metrics: that its runs have.
        load: reads their scores, in the order of `metrics`.
    """

    id: int
    group: str
    name: str
    label: str
    marks: tuple[str, ...]
    metrics: tuple[str, ...]
    load: Callable[[], Scores]

    def metric(self, name: str) -> Scores:
        """Its scores on one metric."""
        return one_metric(self.load(), self.metrics.index(name))


def against_baselines(pairs: Sequence[tuple[Side, Side]], metric: str, *, resamples: int) -> dict[int, Versus]:
    """Rows by id against the baseline each is paired with; p corrected by Holm over all of them.

    Args:
        pairs: (row, baseline), both with the metric, on the same queries.
    """
    found: dict[int, tuple[Side, Side, Comparison]] = {}
    for baseline in {base.id: base for _, base in pairs}.values():
        rows = {str(row.id): row.metric(metric) for row, base in pairs if base.id == baseline.id}
        known = statistics.compare(rows | {"": baseline.metric(metric)}, "", resamples=resamples)
        for row, base in pairs:
            if base.id == baseline.id:
                found[row.id] = (row, base, known[str(row.id)])
    p = statistics.holm(np.array([float(known.estimate.p[0]) for _, _, known in found.values()]))
    permuted = statistics.holm(np.array([float(known.permutation.p[0]) for _, _, known in found.values()]))
    return {
        place: _versus(row, base, metric, known, float(p[i]), float(permuted[i]), len(found))
        for i, (place, (row, base, known)) in enumerate(found.items())
    }


def _versus(
    row: Side, base: Side, metric: str, known: Comparison, p_holm: float, permuted_holm: float, rows: int
) -> Versus:
    a, b = row.metric(metric), base.metric(metric)
    cell = cell_of(known.estimate, 0)
    smallest = smallest_p(a, b, known)
    detectable = detectable_difference(a, b)
    versus = Versus(
        group=row.group,
        row=row.name,
        label=row.label,
        baseline=base.name,
        metric=metric,
        seeds=a.seeds,
        baseline_seeds=b.seeds,
        difference=replace(cell, p=float(known.estimate.p[0])),
        p_holm=p_holm,
        permutation_p=float(known.permutation.p[0]),
        permutation_holm=permuted_holm,
        permuted=known.permuted,
        smallest_p=smallest,
        improvement=improvement([a], [b]),
        detectable=detectable,
        holds=False,
        reading="",
        marks=tuple(mark for mark in MARKS if mark in row.marks or (mark in base.marks and mark != ONE_SEED)),
    )
    versus = replace(versus, holds=holds(versus))
    return replace(versus, reading=reading(versus, rows))


def smallest_p(a: Scores, b: Scores, known: Comparison) -> float | None:
    """Smallest p that the permutation test over seeds could have had; None where it is over contexts, or is drawn."""
    if known.permuted == "contexts" or not known.permutation.exact:
        return None
    if known.permuted == "seeds":
        return statistics.smallest_p(max(len(a.seeds), len(b.seeds)))
    return statistics.smallest_p(len(a.seeds), len(b.seeds))


def improvement(a: Sequence[Scores], b: Sequence[Scores]) -> Cell | None:
    """Probability that a run of a scores higher than one of b, in a cell drawn at random.

    None where every row has one seed: of two runs it says nothing.

    Args:
        a, b: one metric in each cell, the cells in the same order.
    """
    if max(len(scores.seeds) for scores in (*a, *b)) == 1:
        return None
    found = statistics.probability_of_improvement(statistics.run_scores(a), statistics.run_scores(b), resamples=1)
    return Cell(float(found.value[0]), float(found.low[0]), float(found.high[0]))


def overall_iqm(cells: Sequence[Scores], *, resamples: int) -> Cell:
    """Interquartile mean over the runs of several cells, one metric; without an interval where they are too few."""
    if sum(len(scores.seeds) for scores in cells) < statistics.FEWEST_RUNS:
        return Cell(float(statistics.iqm(np.concatenate(statistics.run_scores(cells)))[0]))
    return share_of(statistics.iqm_interval(cells, resamples=resamples), 0)


def detectable_difference(a: Scores, b: Scores) -> float | None:
    """Minimum detectable difference for the seeds that both rows have (all, where one is a single checkpoint)."""
    if 1 not in (len(a.seeds), len(b.seeds)) and a.seeds != b.seeds:
        common = tuple(seed for seed in a.seeds if seed in b.seeds)
        a, b = (_of_seeds(scores, common) for scores in (a, b))
    seeds = max(len(a.seeds), len(b.seeds))
    if seeds < 2 or not min(len(a.seeds), len(b.seeds)):
        return None
    components = statistics.variance_components(statistics.difference(a, b))
    return float(statistics.minimum_detectable_difference(components, seeds, int(a.contexts.max()) + 1)[0])


def _of_seeds(scores: Scores, seeds: Sequence[int]) -> Scores:
    places = [scores.seeds.index(seed) for seed in seeds]
    return Scores(scores.values[places], scores.contexts, tuple(seeds))


def holds(versus: Versus) -> bool:
    """Whether the methods differ: shown by the interval, after correction, with several seeds and equal budgets."""
    several = max(len(versus.seeds), len(versus.baseline_seeds)) > 1
    return several and UNEQUAL not in versus.marks and versus.p_holm < LEVEL


def reading(versus: Versus, rows: int) -> str:
    """What a comparison comes to, in words; `rows` is how many p was corrected for."""
    seeds = [len(side) for side in (versus.seeds, versus.baseline_seeds) if len(side) > 1]
    if not seeds:
        return "one seed: of two models, not of methods"
    if UNEQUAL in versus.marks:
        return "unequal budgets: no fair comparison"
    if not versus.holds:
        end = "" if versus.detectable is None else f"; this design finds differences from {share(versus.detectable)} on"
        return f"not shown{end}"
    found = f"{'higher' if versus.difference.mean > 0 else 'lower'}: holds"
    if min(seeds) <= FEW_SEEDS:
        return f"{found} by the interval, but two seeds are few"
    if versus.permutation_holm < LEVEL:
        return f"{found} by both tests"
    if versus.smallest_p is not None and versus.smallest_p * rows >= LEVEL:
        return f"{found} by the interval; too few seeds to permute"
    return f"{found} by the interval, not by permutation"


def comparison_notes(found: Sequence[Versus], baseline: str, split: str, resamples: int) -> list[str]:
    """Sentences below the comparisons."""
    tests = len({(versus.group, versus.label, versus.row) for versus in found})
    notes = [
        f"Δ: the row minus {baseline}, paired on the same contexts of the {split} split, and by seed where both rows "
        f"have the same; a single checkpoint is held fixed. Brackets: 95 % interval ({resamples:,} resamples).",
        f"p: of no difference, two-sided, by that interval. Permutation: {_rearranged(found)}. Both corrected by Holm "
        f"for the {tests} row{'' if tests == 1 else 's'} of this table, each metric by itself.",
        "Better: probability that a run of the row scores higher than one of the baseline, on these samples, with its "
        "95 % interval.",
        "Detectable: true difference that the interval tells from 0 in 8 of 10 repetitions, with the seeds and "
        "contexts at hand.",
        f"Holds: p below {share(LEVEL, 2)} after the correction.",
    ]
    for kind in sorted({versus.permuted for versus in found}):
        beyond = {v.smallest_p for v in found if v.permuted == kind and (v.smallest_p or 0.0) >= LEVEL}
        if ends := " or ".join(share(smallest) for smallest in sorted(filter(None, beyond))):
            notes.append(f"With so few seeds the test of {_words(kind)} cannot reach a p below {ends}.")
    return notes


def _words(permuted: str) -> str:
    return {"labels": "labels of runs", "seeds": "signs of seeds", "contexts": "signs of contexts"}[permuted]


def _rearranged(found: Sequence[Versus]) -> str:
    kinds = sorted({versus.permuted for versus in found})
    return "p of the test of " + " or ".join(_words(kind) for kind in kinds)


def best_holds(
    tests: Mapping[tuple[int, str], tuple[Scores, Scores]], *, resamples: int
) -> tuple[set[tuple[int, str]], int]:
    """Which (row, column) is shown to be above the second best of its column; over how many tests that is corrected.

    Args:
        tests: (best row, column) to the scores of the best and of the second best row, one metric each.
    """
    if not tests:
        return set(), 0
    estimates = [statistics.paired_difference(a, b, resamples=resamples) for a, b in tests.values()]
    p = statistics.holm(np.array([float(estimate.p[0]) for estimate in estimates]))
    holds = {
        cell
        for cell, estimate, corrected in zip(tests, estimates, p, strict=True)
        if estimate.mean[0] > 0 and corrected < LEVEL
    }
    return holds, len(tests)
