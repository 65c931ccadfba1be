"""The comparisons of a table: estimates, tests, one correction for all of them, and a verdict for each.

The tests of one table form one family under Holm's correction:

- each trained row against the baseline, on each compared metric;
- in each column that may have a bold row: whether the row with the highest mean is the best.

The second kind is one test for any number of rows. Its p is the largest p of the leading row's differences to the
others. A false claim requires the leading row to be significantly above a row that is truly as good. The test is
therefore valid although the leading row was selected by its score (Gutmann & Maymin 1987).

A comparison is tested only if seeds and budgets allow a verdict (`untested`): three seeds on each side, or a fixed
checkpoint on one side. This is decided before any score is read. The rest of a report (headline, leader table, bold
cells) prints the results of this module.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis import statistics
from analysis.render.numbers import Interval, at_least, many
from analysis.statistics import Components, Estimate, Permutation, Scores
from analysis.tables.model import MARKS, ONE_SEED, UNEQUAL, Lead, Over, Versus
from analysis.tables.scores import cell_of, one_metric, share_of

LEVEL = 0.05
"""Corrected p below which a difference holds."""

TIE = 1e-9
"""Sizes below this count as 0: they are rounding errors of sums."""

FEWEST_SEEDS = 3
"""Fewest seeds for a verdict. With fewer, tests are wrong too often (docs/statistics.md)."""


@dataclass(frozen=True)
class Side:
    """A row of a comparison.

    Attributes:
        budgets: budgets of its runs, each as `model.BUDGET`; empty if it is not an RL row.
        load: reads the scores, in the order of `metrics`.
    """

    id: int
    group: str
    name: str
    label: str
    stage: str
    seeds: tuple[int, ...]
    budgets: frozenset[tuple[int, ...]]
    marks: tuple[str, ...]
    metrics: tuple[str, ...]
    load: Callable[[], Scores]

    def metric(self, name: str) -> Scores:
        """Scores on one metric."""
        return one_metric(self.load(), self.metrics.index(name))

    @property
    def fixed(self) -> bool:
        """Whether the row is a single checkpoint (a start or reference of RL rows) rather than a method."""
        return self.stage != "rl" and len(self.seeds) == 1


def untested(row: Side, base: Side) -> str:
    """Why a comparison of two rows gives no verdict, or "". Depends on seeds and budgets, never on scores."""
    fewest = min((len(side.seeds) for side in (row, base) if not side.fixed), default=1)
    if fewest == 1:
        return "one seed: compares models, not methods"
    if fewest < FEWEST_SEEDS:
        return f"{fewest} seeds: too few for a verdict on methods"
    if UNEQUAL in row.marks or UNEQUAL in base.marks:
        return "unequal budgets: no fair comparison"
    return ""


def not_rivals(leader: Side, other: Side) -> str:
    """Why the leading row cannot be compared with another RL row, or "". Their budgets must be equal."""
    fewest = min(len(leader.seeds), len(other.seeds))
    if fewest < FEWEST_SEEDS:
        return many(fewest, "seed")
    return "another budget" if leader.budgets != other.budgets or len(leader.budgets) > 1 else ""


@dataclass(frozen=True)
class Found:
    """A comparison before correction.

    Attributes:
        a, b: scores of the runs of `row` and `base` that the comparison uses.
        estimate: row minus base.
        permutation, permuted: the permutation test that the seeds allow, and what it permutes.
        reason: why it is not tested, or "".
    """

    row: Side
    base: Side
    metric: str
    a: Scores
    b: Scores
    estimate: Estimate
    permutation: Permutation
    permuted: str
    reason: str

    @property
    def difference(self) -> Interval:
        """The difference with its uncorrected p."""
        return replace(cell_of(self.estimate, 0), p=float(self.estimate.p[0]))

    @property
    def wins(self) -> float:
        """Probability that a run of `row` scores higher than one of `base`."""
        return float(statistics.superiority(self.a.values.mean(axis=1), self.b.values.mean(axis=1))[0])


@dataclass(frozen=True)
class FoundLead:
    """The row that leads a column (the first one if several tie) minus each other row, closest mean first."""

    column: str
    leader: Side
    over: tuple[Found, ...]

    @property
    def rivals(self) -> tuple[Found, ...]:
        """Differences to the comparable rows."""
        return tuple(one for one in self.over if not one.reason)


def find(row: Side, base: Side, metric: str, reason: str, *, resamples: int) -> Found:
    """Compare two rows on the same queries."""
    a, b = statistics.compared_seeds(row.metric(metric), base.metric(metric))
    estimate = statistics.paired_difference(a, b, resamples=resamples)
    permutation, permuted = statistics.permutation_test(a, b)
    return Found(row, base, metric, a, b, estimate, permutation, permuted, reason)


def find_lead(sides: Sequence[Side], column: str, metric: str, *, resamples: int) -> FoundLead | None:
    """The leading RL row of a group and its differences to the others; None for fewer than two rows."""
    if len(sides) < 2:
        return None
    means = {side.id: float(side.metric(metric).values.mean()) for side in sides}
    leader, *others = sorted(sides, key=lambda side: (-means[side.id], side.id))
    over = [find(leader, other, metric, not_rivals(leader, other), resamples=resamples) for other in others]
    return FoundLead(column, leader, tuple(over))


@dataclass(frozen=True)
class Family:
    """All tests of a table, corrected together.

    Attributes:
        against, leads: number of tests of rows against the baseline, and of leading rows.
        versus: index of each tested comparison to its corrected p and corrected permutation p.
        best: the same for the tested leads.
    """

    against: int
    leads: int
    versus: dict[int, tuple[float, float]]
    best: dict[int, tuple[float, float]]

    @property
    def size(self) -> int:
        return self.against + self.leads

    @property
    def level(self) -> float:
        """Confidence level of the interval at the first step of Holm's correction: 0.95 for one test."""
        return 1 - LEVEL / max(self.size, 1)


def correct(found: Sequence[Found], leads: Sequence[FoundLead]) -> Family:
    """Apply Holm's correction over all tested comparisons and leads."""
    tested = [i for i, one in enumerate(found) if not one.reason]
    led = [i for i, one in enumerate(leads) if one.rivals]
    p = [float(found[i].estimate.p[0]) for i in tested]
    p += [max(float(one.estimate.p[0]) for one in leads[i].rivals) for i in led]
    permuted = [float(found[i].permutation.p[0]) for i in tested]
    permuted += [max(float(one.permutation.p[0]) for one in leads[i].rivals) for i in led]
    both = list(zip(*(statistics.holm(np.array(one)).tolist() for one in (p, permuted)), strict=True))
    return Family(
        len(tested), len(led), dict(zip(tested, both, strict=False)), dict(zip(led, both[len(tested) :], strict=True))
    )


def versus_of(found: Found, corrected: tuple[float, float] | None, family: Family) -> Versus:
    """A comparison with the baseline, as the table shows it."""
    row, base = found.row, found.base
    p_holm, permuted_holm = corrected or (None, None)
    versus = Versus(
        group=row.group,
        row=row.name,
        label=row.label,
        baseline=base.name,
        metric=found.metric,
        seeds=found.a.seeds,
        baseline_seeds=found.b.seeds,
        difference=found.difference,
        p_holm=p_holm,
        permutation_p=float(found.permutation.p[0]),
        permutation_holm=permuted_holm,
        permuted=found.permuted,
        smallest_p=smallest_p(found),
        improvement=improvement([found.a], [found.b]),
        detectable=None if found.reason else detectable([found], family),
        holds=p_holm is not None and p_holm < LEVEL,
        reading="",
        marks=tuple(mark for mark in MARKS if mark in row.marks or (mark in base.marks and mark != ONE_SEED)),
    )
    varies = versus.detectable is not None and versus.detectable.mean >= TIE
    return replace(
        versus,
        reading=found.reason or reading(versus, base, family),
        detectable=versus.detectable if varies else None,  # 0 would claim that any difference is detected
    )


def lead_of(found: FoundLead, corrected: tuple[float, float] | None, family: Family) -> Lead:
    """The leading row of a column, as the table shows it."""
    rivals, leader = found.rivals, found.leader
    p_holm = corrected[0] if corrected is not None else None
    holds = p_holm is not None and p_holm < LEVEL and all(one.difference.mean > 0 for one in rivals)
    over = [
        Over(
            row=one.base.name,
            label=one.base.label,
            difference=one.difference,
            wins=None if one.reason else one.wins,
            reason=one.reason,
            holds=holds and not one.reason,
        )
        for one in found.over
    ]
    return Lead(
        group=leader.group,
        column=found.column,
        metric=found.over[0].metric,
        row=leader.name,
        label=leader.label,
        seeds=leader.seeds,
        over=tuple(over),
        p=max((float(one.estimate.p[0]) for one in rivals), default=None),
        p_holm=p_holm,
        holds=holds,
        tests=family.size,
        detectable=detectable(rivals, family),
    )


def smallest_p(found: Found) -> float | None:
    """Smallest p that the permutation test over seeds can reach; None if it permutes contexts or is not exact."""
    if found.permuted == "contexts" or not found.permutation.exact:
        return None
    counts = len(found.a.seeds), len(found.b.seeds)
    return statistics.smallest_p(max(counts)) if found.permuted == "seeds" else statistics.smallest_p(*counts)


def improvement(a: Sequence[Scores], b: Sequence[Scores]) -> Interval | None:
    """Probability that a run of a scores higher than one of b, in a random cell.

    None if every row has one seed: two single runs say nothing about the probability.

    Args:
        a, b: scores on one metric for each cell, with the cells in the same order.
    """
    if max(len(scores.seeds) for scores in (*a, *b)) == 1:
        return None
    found = statistics.probability_of_improvement(statistics.run_scores(a), statistics.run_scores(b), resamples=1)
    return Interval(float(found.value[0]), float(found.low[0]), float(found.high[0]))


def overall_iqm(cells: Sequence[Scores], *, resamples: int) -> Interval:
    """Interquartile mean over the runs of several cells, for one metric. No interval if there are too few runs."""
    if sum(len(scores.seeds) for scores in cells) < statistics.FEWEST_RUNS:
        return Interval(float(statistics.iqm(np.concatenate(statistics.run_scores(cells)))[0]))
    return share_of(statistics.iqm_interval(cells, resamples=resamples), 0)


def detectable(found: Sequence[Found], family: Family) -> Interval | None:
    """True difference detected with power 0.8 at the first step of the correction, with its range.

    Uses variance components averaged over the comparisons with paired seeds; None if no seeds pair.
    """
    paired = [one for one in found if one.a.seeds == one.b.seeds or 1 in (len(one.a.seeds), len(one.b.seeds))]
    if not paired:
        return None
    parts = [statistics.variance_components(statistics.difference(one.a, one.b)) for one in paired]
    pooled = Components(
        *(np.mean(kind, axis=0) for kind in zip(*((p.seed, p.context, p.own) for p in parts), strict=True))
    )
    seeds = max(len(paired[0].a.seeds), len(paired[0].b.seeds))
    ends = statistics.detectable_range(pooled, seeds, int(paired[0].a.contexts.max()) + 1, level=family.level)
    return Interval(*(float(end[0]) for end in ends))


def detectable_parts(one: Interval) -> tuple[str, str]:
    """A detectable difference and its range: .021 and (.015 to .039)."""
    return at_least(one.mean), f"({at_least(one.low)} to {at_least(one.high)})"


def detectable_text(one: Interval) -> str:
    """Both in one text."""
    return " ".join(detectable_parts(one))


def reading(versus: Versus, base: Side, family: Family) -> str:
    """The verdict of a tested comparison, in words."""
    if not versus.holds:
        if versus.detectable is None:
            return "not shown"
        if versus.detectable.mean < TIE:
            return "not shown; the difference does not vary, so this design’s power is not known"
        return f"not shown; this design finds differences from {detectable_text(versus.detectable)} on"
    checkpoint = " than this checkpoint" if base.fixed and base.stage == "sft" else ""
    found = f"{'higher' if versus.difference.mean > 0 else 'lower'}{checkpoint}: holds"
    if versus.permutation_holm is not None and versus.permutation_holm < LEVEL:
        return f"{found} by both tests"
    if versus.smallest_p is not None and versus.smallest_p * family.size >= LEVEL:
        return f"{found} by the interval; too few seeds to permute"
    return f"{found} by the interval, not by permutation"
