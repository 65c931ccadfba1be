"""The headline: which row leads, whether its lead holds, and what the design could have told. Rule and words.

The rule, which the page states: rows are ranked by their mean of one metric on test, NDCG at the largest cut-off. The
row that leads was picked by its score, so its difference to another row holds where the p of the paired difference,
times the number of pairs of rows, is at most .05 (Bonferroni over all pairs, valid whichever of them is looked at), and
both rows have two seeds or more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis import statistics
from analysis.html.grid import many, p_value, words
from analysis.html.rows import Look
from analysis.statistics import Components, Scores
from analysis.tables import at_least, metric_title, share, signed

ALPHA = 0.05
NAMED = 6
"""Rows named in a sentence; more are counted."""
TIE = 1e-9
"""Means that differ by less than this are equal: the rest is the rounding of sums."""


@dataclass(frozen=True)
class Difference:
    """The leading row minus another one.

    Attributes:
        other: the other row's label.
        mean, low, high: with the 95 % interval.
        p: of the interval.
        corrected: p times the number of pairs of rows, at most 1.
        holds: by the rule.
        wins: probability that a run of the leading row scores higher than a run of the other; None where either has
            one seed.
    """

    other: str
    mean: float
    low: float
    high: float
    p: float
    corrected: float
    holds: bool
    wins: float | None


@dataclass(frozen=True)
class Verdict:
    """Who leads, and by what.

    Attributes:
        metric: what rows are ranked by.
        leader: label of the row with the highest mean.
        mean, low, high: of the leader.
        seeds: of the leader.
        contexts: of the test split.
        pairs: of RL rows.
        differences: to the other RL rows, the nearest first.
        detectable: difference that a comparison of two such rows finds in 80 % of the cases; None where no other row
            has the leader's seeds, two or more.
    """

    metric: str
    leader: str
    mean: float
    low: float
    high: float
    seeds: int
    contexts: int
    pairs: int
    differences: tuple[Difference, ...]
    detectable: float | None

    @property
    def second(self) -> Difference | None:
        return self.differences[0] if self.differences else None


def judge(scores: Mapping[str, Scores], metric: str, resamples: int) -> Verdict:
    """The verdict over RL rows.

    Args:
        scores: of each RL row, of `metric` alone; one row at least.
        metric: their name.
        resamples: behind the intervals.
    """
    leader, differences = lead(scores, resamples)
    best = scores[leader]
    estimate = statistics.mean_interval(best, resamples=resamples)
    return Verdict(
        metric=metric,
        leader=leader,
        mean=float(estimate.mean[0]),
        low=max(float(estimate.low[0]), 0.0),
        high=min(float(estimate.high[0]), 1.0),
        seeds=len(best.seeds),
        contexts=int(best.contexts.max()) + 1,
        pairs=len(scores) * (len(scores) - 1) // 2,
        differences=differences,
        detectable=_detectable(best, [scores[one.other] for one in differences]),
    )


def lead(scores: Mapping[str, Scores], resamples: int) -> tuple[str, tuple[Difference, ...]]:
    """The row with the highest mean, and its differences to the others, the nearest first."""
    means = {label: float(one.values.mean()) for label, one in scores.items()}
    leader, *others = sorted(scores, key=lambda label: (-means[label], label))
    pairs = len(scores) * (len(scores) - 1) // 2
    return leader, tuple(_difference(scores[leader], scores[label], label, pairs, resamples) for label in others)


def _difference(best: Scores, other: Scores, label: str, pairs: int, resamples: int) -> Difference:
    estimate = statistics.paired_difference(best, other, resamples=resamples)
    p = float(estimate.p[0])
    several = min(len(best.seeds), len(other.seeds)) >= 2
    runs = [one.values.mean(axis=1) for one in (best, other)]
    return Difference(
        other=label,
        mean=float(estimate.mean[0]),
        low=float(estimate.low[0]),
        high=float(estimate.high[0]),
        p=p,
        corrected=min(1.0, p * pairs),
        holds=several and p * pairs <= ALPHA,
        wins=float(statistics.superiority(*runs)[0]) if several else None,
    )


def _detectable(best: Scores, others: Sequence[Scores]) -> float | None:
    """From variance components of the leader's differences, averaged over the rows that have its seeds."""
    paired = [one for one in others if one.seeds == best.seeds and len(one.seeds) >= 2]
    if not paired:
        return None
    parts = [statistics.variance_components(statistics.difference(best, one)) for one in paired]
    pooled = Components(
        *(np.mean([getattr(part, name) for part in parts], axis=0) for name in ("seed", "context", "own"))
    )
    contexts = int(best.contexts.max()) + 1
    return float(statistics.minimum_detectable_difference(pooled, len(best.seeds), contexts)[0])


def sentences(verdict: Verdict, looks: Mapping[str, Look], unequal: Sequence[str]) -> list[str]:
    """The headline in words.

    Args:
        looks: of each row, by label.
        unequal: labels of rows whose budget is not the others'.
    """
    name, metric = looks[verdict.leader].name, metric_title(verdict.metric)
    score = f"{share(verdict.mean)} [{share(verdict.low)}, {share(verdict.high)}]"
    if verdict.second is None:
        return [f"{name} is the only trained row: {metric} on test {score}, {many(verdict.seeds, 'seed')}."]
    tied = [one.other for one in verdict.differences if is_tie(one.mean)]
    if tied and abs(verdict.mean) < TIE:
        return [f"{metric} on test is 0 in every trained row: no list has a hit, so nothing can be compared."]
    if tied:
        first = _names([verdict.leader, *tied], looks)
        told = [f"{first} have the same {metric} on test, the highest: {score}. No row leads."]
    else:
        told = [f"{name} has the highest {metric} on test: {score}, {many(verdict.seeds, 'seed')}."]
        told.append(_lead(verdict, looks))
    concerned = [label for label in (verdict.leader, verdict.second.other) if label in unequal]
    if concerned:
        told.append(f"Budgets are unequal ({_names(concerned, looks)} marked ‡), so this is no fair comparison.")
    told.append(_power(verdict))
    return told


def is_tie(difference: float) -> bool:
    """Whether two means are equal up to the rounding of sums."""
    return abs(difference) < TIE


def _lead(verdict: Verdict, looks: Mapping[str, Look]) -> str:
    second = verdict.second
    assert second is not None
    by = f"{signed(second.mean)} [{signed(second.low)}, {signed(second.high)}]"
    after = f"p {_equals(second.corrected)} after correction for {many(verdict.pairs, 'pair')} of rows"
    over = f"Its lead over {looks[second.other].name}, the next, is {by}"
    one_seed = [label for label in (verdict.leader, second.other) if len(looks[label].seeds) < 2]
    if one_seed:
        return f"{over}. With one seed this compares trained models and says nothing of methods."
    holding = [one.other for one in verdict.differences if one.holds]
    if second.holds:
        rest = "" if len(verdict.differences) == 1 else _rest(holding, verdict, looks)
        return f"{over}, and holds ({after}).{rest}"
    return f"{over}, and does not hold ({after}).{_rest(holding, verdict, looks)}"


def _rest(holding: Sequence[str], verdict: Verdict, looks: Mapping[str, Look]) -> str:
    others = len(verdict.differences)
    if not holding:
        return "" if others == 1 else f" Nor does its lead over {'the other row' if others == 2 else 'any other row'}."
    if len(holding) == others:
        return f" So does its lead over {'the other row' if others == 2 else 'every other row'}."
    return f" Its lead holds over {len(holding)} of {others} rows: {_names(holding, looks)}."


def _names(labels: Sequence[str], looks: Mapping[str, Look]) -> str:
    names = [looks[label].name for label in labels]
    return words(names) if len(names) <= NAMED else f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def _equals(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _power(verdict: Verdict) -> str:
    design = f"{many(verdict.seeds, 'seed')} and {many(verdict.contexts, 'test context')}"
    if verdict.detectable is None:
        return f"What {design} can detect is not known: it takes rows with the same two seeds or more."
    second = verdict.second
    assert second is not None
    if verdict.detectable < TIE:
        return "The rows compared here do not vary over seeds or contexts, so this design’s power is not known."
    found = (
        f"With {design} a true difference of {at_least(verdict.detectable)} between two rows is found in 80 % of the "
        "cases (before correction)"
    )
    if is_tie(second.mean):
        return f"{found}."
    size = "smaller" if abs(second.mean) < verdict.detectable else "no smaller"
    return f"{found}; the lead seen here is {size}."
