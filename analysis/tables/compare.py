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
from analysis.render.numbers import at_least, many, share
from analysis.statistics import Components, Estimate, Permutation, Scores
from analysis.tables.model import MARKS, ONE_SEED, UNEQUAL, Cell, Lead, Over, Versus
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
        id: of the row.
        group, name, label, stage: of the row.
        seeds: of its runs.
        budgets: budgets of its runs, each as `model.BUDGET`; empty if it is not an RL row.
        marks: of the row.
        metrics: metrics of its runs.
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
        return "one seed: of two models, not of methods"
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
        row, base: the compared rows.
        metric: the compared metric.
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
    def difference(self) -> Cell:
        """The difference with its uncorrected p."""
        return replace(cell_of(self.estimate, 0), p=float(self.estimate.p[0]))


@dataclass(frozen=True)
class FoundLead:
    """The leading row of a column against all others, before correction.

    Attributes:
        column: key of the column.
        leader: the row with the highest mean; the first one if several tie.
        over: the leader minus each other row, closest mean first.
    """

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
    rivals = found.rivals
    leader = found.leader
    return Lead(
        group=leader.group,
        column=found.column,
        metric=found.over[0].metric,
        row=leader.name,
        label=leader.label,
        seeds=leader.seeds,
        over=tuple(
            Over(
                row=one.base.name,
                label=one.base.label,
                difference=one.difference,
                wins=None if one.reason else _superiority(one),
                reason=one.reason,
            )
            for one in found.over
        ),
        p=max((float(one.estimate.p[0]) for one in rivals), default=None),
        p_holm=None if corrected is None else corrected[0],
        holds=corrected is not None and corrected[0] < LEVEL and all(one.difference.mean > 0 for one in rivals),
        tests=family.size,
        detectable=detectable(rivals, family),
    )


def _superiority(found: Found) -> float:
    return float(statistics.superiority(*(one.values.mean(axis=1) for one in (found.a, found.b)))[0])


def smallest_p(found: Found) -> float | None:
    """Smallest p that the permutation test over seeds can reach; None if it permutes contexts or is not exact."""
    if found.permuted == "contexts" or not found.permutation.exact:
        return None
    counts = len(found.a.seeds), len(found.b.seeds)
    return statistics.smallest_p(max(counts)) if found.permuted == "seeds" else statistics.smallest_p(*counts)


def improvement(a: Sequence[Scores], b: Sequence[Scores]) -> Cell | None:
    """Probability that a run of a scores higher than one of b, in a random cell.

    None if every row has one seed: two single runs say nothing about the probability.

    Args:
        a, b: scores on one metric for each cell, with the cells in the same order.
    """
    if max(len(scores.seeds) for scores in (*a, *b)) == 1:
        return None
    found = statistics.probability_of_improvement(statistics.run_scores(a), statistics.run_scores(b), resamples=1)
    return Cell(float(found.value[0]), float(found.low[0]), float(found.high[0]))


def overall_iqm(cells: Sequence[Scores], *, resamples: int) -> Cell:
    """Interquartile mean over the runs of several cells, for one metric. No interval if there are too few runs."""
    if sum(len(scores.seeds) for scores in cells) < statistics.FEWEST_RUNS:
        return Cell(float(statistics.iqm(np.concatenate(statistics.run_scores(cells)))[0]))
    return share_of(statistics.iqm_interval(cells, resamples=resamples), 0)


def detectable(found: Sequence[Found], family: Family) -> Cell | None:
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
    return Cell(*(float(end[0]) for end in ends))


def detectable_text(cell: Cell) -> str:
    """A detectable difference with its range: .021 (.015 to .039)."""
    return f"{at_least(cell.mean)} ({at_least(cell.low)} to {at_least(cell.high)})"


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


def family_note(family: Family, baseline: str) -> str:
    """Note on the tests of a table and their correction."""
    parts = []
    if family.against:
        parts.append(f"{many(family.against, 'difference')} to {baseline}")
    if family.leads:
        parts.append(f"{many(family.leads, 'column')} with a best row")
    if not parts:
        return (
            "Nothing is tested: a verdict takes three seeds in each row (or a fixed checkpoint on one side) and equal "
            "budgets."
        )
    tests = many(family.size, "test")
    return (
        f"Tested: {' and '.join(parts)}. p of these {tests} is corrected by Holm over all of them; a difference holds "
        f"where it is below {share(LEVEL, 2)}. All other numbers are shown, not tested. A verdict takes three seeds in "
        "each row (or a fixed checkpoint on one side) and equal budgets."
    )


def comparison_notes(
    found: Sequence[Versus], baseline: str, split: str, resamples: int, family: Family, *, checkpoint: bool
) -> list[str]:
    """Notes below the comparisons.

    Args:
        checkpoint: whether the baseline is one trained checkpoint.
    """
    notes = [
        f"Δ: the row minus {baseline}, paired on the same contexts of the {split} split. {pairing_note()} Brackets: "
        f"95 % interval, not corrected ({resamples:,} resamples).",
        f"p: of no difference, two-sided, by that interval. Permutation: {_rearranged(found)}. Both are corrected by "
        f"Holm over the {many(family.size, 'test')} of this table.",
        "Better: probability that a run of the row scores higher than one of the baseline, on these samples, with its "
        "95 % interval.",
        "Detectable: true difference that is found in 8 of 10 repetitions at the first step of that correction, with "
        "the seeds and contexts at hand. In parentheses: its 80 % range, since the variance between seeds is an "
        "estimate.",
        f"Holds: p below {share(LEVEL, 2)} after the correction.",
    ]
    if checkpoint:
        notes.append(checkpoint_baseline_note(baseline))
    for kind in sorted({versus.permuted for versus in found}):
        beyond = {v.smallest_p for v in found if v.permuted == kind and (v.smallest_p or 0.0) >= LEVEL}
        if ends := " or ".join(share(smallest) for smallest in sorted(filter(None, beyond))):
            notes.append(f"With so few seeds the test of {_words(kind)} cannot reach a p below {ends}.")
    return notes


def pairing_note() -> str:
    """Note on which runs of two rows a comparison uses."""
    return (
        "Rows with the same seeds pair by seed. Rows with different seeds are compared on their common seeds where "
        f"these are at least {statistics.LEAST_COMMON} and at least {statistics.COMMON_SHARE:.0%} of either row’s; "
        "otherwise on all runs, unpaired."
    ).replace("75%", "75 %")


def checkpoint_baseline_note(baseline: str) -> str:
    """Note on the meaning of a difference to one trained checkpoint."""
    return (
        f"{baseline} is one training and is held fixed. So a difference to it is about this checkpoint, which RL rows "
        f"start from, and not about {baseline} as a method: another training of it would score differently, by an "
        "amount that one training does not show."
    )


def _words(permuted: str) -> str:
    return {"labels": "labels of runs", "seeds": "signs of seeds", "contexts": "signs of contexts"}[permuted]


def _rearranged(found: Sequence[Versus]) -> str:
    kinds = sorted({versus.permuted for versus in found})
    return "p of the test of " + " or ".join(_words(kind) for kind in kinds)
