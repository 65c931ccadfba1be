"""Whether a reported number is reproduced: the rule, its margin, and the error of a reported number.

A reported number comes from one training run on one test set. Its standard error covers samples only. The difference
ours - reported therefore varies by our seeds, by the single reported run (as much as one of ours), and by the test
samples of both sides. Our sampling variance comes from our contexts. The reported one is its squared standard error,
or ours if that is larger, because samples of one context are not independent. docs/reproduction.md states the rule in
words and its measured error rates.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.render.numbers import Interval
from analysis.statistics import LEVEL, Estimate, critical_value

MARGIN = 0.15
"""A difference below this share of the reported number counts as no difference."""

REPRODUCED, DIFFERS, UNDECIDED, NO_RUN = "reproduced", "differs", "undecided", "no run"
SAME_SIGN, OPPOSITE, NOT_SHOWN = "same sign, shown", "opposite, shown", "not shown"
FEW_SEEDS = "undecided: one seed"
TOO_FEW_SEEDS = "undecided: fewer than three seeds"
"""Verdict on a difference between two methods."""
ONE_EVALUATION = "undecided: one evaluation"
SEEDS_AGREE = "undecided: all seeds agree"
"""Verdict on a change over training if there is no second evaluation, or if the seeds show no variation."""


@dataclass(frozen=True)
class Level:
    """Our number next to a reported one.

    Attributes:
        difference: ours - reported, with its 95 % interval.
        verdict: REPRODUCED, DIFFERS, UNDECIDED or FEW_SEEDS.
    """

    difference: Interval
    verdict: str


def interval_of_difference(
    ours: np.ndarray,
    seeds_variance: np.ndarray,
    seeds: int,
    contexts_variance: np.ndarray,
    contexts: float,
    error: float,
) -> np.ndarray:
    """Half the width of the 95 % interval of ours - reported, elementwise for arrays.

    Args:
        ours: mean over seeds; only its shape is used.
        seeds_variance: variance of that mean between seeds (s² / S); 0 if nothing is trained.
        seeds: number of seeds S.
        contexts_variance: variance of that mean between contexts.
        contexts: degrees of freedom of `contexts_variance`.
        error: standard error of the reported number over samples.
    """
    # s² / S for ours plus s² for the single reported run
    trainings = seeds_variance * (seeds + 1)
    variance = trainings + contexts_variance + np.maximum(contexts_variance, error**2)
    share = np.divide(trainings, variance, out=np.zeros_like(ours, dtype=float), where=variance > 0)
    return critical_value(1 - LEVEL, share, np.full_like(share, max(seeds - 1, 1)), contexts) * np.sqrt(variance)


def level(estimate: Estimate, column: int, seeds: int, reported: float, error: float, *, trained: bool) -> Level:
    """The verdict on one number.

    Args:
        estimate: estimate of our mean.
        column: index of the metric.
        seeds: number of seeds behind the estimate.
        error: standard error of the reported number.
        trained: whether the row is trained, in which case one seed gives no verdict.
    """
    variance = float(estimate.error[column]) ** 2
    of_seeds = float(estimate.share[column]) * variance if seeds > 1 else 0.0
    mean, of_contexts = float(estimate.mean[column]), variance - of_seeds
    return judged(mean, of_seeds, seeds, of_contexts, estimate.contexts, reported, error, trained=trained)


def judged(
    mean: float,
    seeds_variance: float,
    seeds: int,
    contexts_variance: float,
    contexts: float,
    reported: float,
    error: float,
    *,
    trained: bool,
) -> Level:
    """The verdict on our mean. Arguments as for `interval_of_difference` and `level`."""
    of_seeds, of_contexts = np.array(seeds_variance), np.array(contexts_variance)
    half = float(interval_of_difference(np.array(mean), of_seeds, seeds, of_contexts, contexts, error))
    difference = mean - reported
    low, high = difference - half, difference + half
    verdict = FEW_SEEDS if trained and seeds < 2 else judge(low, high, MARGIN * reported)
    return Level(Interval(difference, low, high), verdict)


def judge(low: float, high: float, margin: float) -> str:
    """DIFFERS if the interval excludes 0, REPRODUCED if it lies entirely within the margin, else UNDECIDED."""
    if low > 0 or high < 0:
        return DIFFERS
    return REPRODUCED if -margin <= low and high <= margin else UNDECIDED


def tally(what: str, verdicts: Sequence[str]) -> list[str]:
    """A sentence with the number of each verdict; none without a verdict."""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(verdicts).most_common())
    return [f"{what}: {counts}"] if counts else []


def sign(reported: float, ours: float, p: float) -> str:
    """Whether our runs show a difference between two methods, and whether it has the reported sign.

    Args:
        reported, ours: the reported difference and ours.
        p: p of our difference, corrected over the table's comparisons.
    """
    if p > 1 - LEVEL or ours == 0:
        return NOT_SHOWN
    return SAME_SIGN if (reported > 0) == (ours > 0) else OPPOSITE
