"""Whether a reported number is reproduced: the rule, its margin, and what a reported number may be off by.

A reported number is one training on one test set, with a standard error that counts samples alone. So the difference
ours - reported varies by our seeds, by the reported training's own (as much as one of ours), and by the test samples
of either side: ours from our contexts, the reported by its standard error, or as ours where that is more, since samples
of one context are not independent. docs/reproduction.md has the rule in words, and its measured error rates.
"""

from dataclasses import dataclass

import numpy as np

from analysis.statistics import LEVEL, Estimate, critical_value

MARGIN = 0.15
"""A difference below this share of the reported number counts as none."""

REPRODUCED, DIFFERS, UNDECIDED, NO_RUN = "reproduced", "differs", "undecided", "no run"
SAME_SIGN, OPPOSITE, NOT_SHOWN = "same sign, shown", "opposite, shown", "not shown"
FEW_SEEDS = "undecided: one seed"
TOO_FEW_SEEDS = "undecided: fewer than three seeds"
"""Of a difference between two methods."""
ONE_EVALUATION = "undecided: one evaluation"
SEEDS_AGREE = "undecided: all seeds agree"
"""Of a change over a training: without a second evaluation, and where seeds say nothing of how much it varies."""


@dataclass(frozen=True)
class Level:
    """Ours beside a reported number.

    Attributes:
        difference: ours - reported.
        low, high: its 95 % interval.
        verdict: REPRODUCED, DIFFERS, UNDECIDED or FEW_SEEDS.
    """

    difference: float
    low: float
    high: float
    verdict: str


def interval_of_difference(
    ours: np.ndarray,
    seeds_variance: np.ndarray,
    seeds: int,
    contexts_variance: np.ndarray,
    contexts: float,
    error: float,
) -> np.ndarray:
    """Half the width of the 95 % interval of ours - reported; every array is elementwise.

    Args:
        ours: mean over seeds, for the shape.
        seeds_variance: of that mean, from the variation between seeds (s² / S); 0 where nothing is trained.
        seeds: S.
        contexts_variance: of that mean, from the variation between contexts.
        contexts: degrees of freedom of the latter.
        error: standard error of the reported number, over samples.
    """
    # s² / S of ours and s² of the reported training, which is one
    trainings = seeds_variance * (seeds + 1)
    variance = trainings + contexts_variance + np.maximum(contexts_variance, error**2)
    share = np.divide(trainings, variance, out=np.zeros_like(ours, dtype=float), where=variance > 0)
    return critical_value(1 - LEVEL, share, np.full_like(share, max(seeds - 1, 1)), contexts) * np.sqrt(variance)


def level(estimate: Estimate, column: int, seeds: int, reported: float, error: float, *, trained: bool) -> Level:
    """The verdict on one number.

    Args:
        estimate: of our mean.
        column: the metric's.
        seeds: how many it is of.
        error: standard error of the reported number.
        trained: whether a training made it, so that one seed says nothing of others.
    """
    mean = float(estimate.mean[column])
    variance = float(estimate.error[column]) ** 2
    of_seeds = float(estimate.share[column]) * variance if seeds > 1 else 0.0
    half = float(
        interval_of_difference(
            np.array(mean), np.array(of_seeds), seeds, np.array(variance - of_seeds), estimate.contexts, error
        )
    )
    difference = mean - reported
    low, high = difference - half, difference + half
    return Level(difference, low, high, FEW_SEEDS if trained and seeds < 2 else judge(low, high, MARGIN * reported))


def judge(low: float, high: float, margin: float) -> str:
    """DIFFERS where 0 lies outside, REPRODUCED where all of the interval lies within the margin, else UNDECIDED."""
    if low > 0 or high < 0:
        return DIFFERS
    return REPRODUCED if -margin <= low and high <= margin else UNDECIDED


def sign(reported: float, ours: float, p: float) -> str:
    """Whether a difference between two methods has the reported sign, and whether the runs show it.

    Args:
        reported, ours: the difference there and here.
        p: of ours, corrected for the comparisons beside it.
    """
    if p > 1 - LEVEL or ours == 0:
        return NOT_SHOWN
    return SAME_SIGN if (reported > 0) == (ours > 0) else OPPOSITE
