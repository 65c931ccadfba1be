"""The rule for when a list counts as correct, shared by all methods that need one. Loads no torch.

Methods for verifiable answers need such a rule (the solve rate of ALP, the filters and difficulty of samplers). For
lists, every rule is an adaptation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from rlbench.base.errors import nearest
from rlbench.base.records import is_finite
from rlbench.lists import metrics

if TYPE_CHECKING:  # the configuration's schema loads this module and needs no judging
    from rlbench.lists.relevance import JudgedLists

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TOLERANCE = 1e-9
"""A value this far below a threshold still reaches it. NDCG and totals are sums; a perfect list may have 1 - 1e-16."""


def any_hit(lists: "JudgedLists", totals: Floats, threshold: float) -> Bools:
    """One of the N ranks is a hit (Recall@N > 0)."""
    return lists.hits.sum(axis=1) > 0


def first_hit(lists: "JudgedLists", totals: Floats, threshold: float) -> Bools:
    """Rank 1 is a hit."""
    return lists.hits[:, 0] > 0


def all_hits(lists: "JudgedLists", totals: Floats, threshold: float) -> Bools:
    """The list has as many hits as an ideal list, min(n_truth, N). A truth outside the catalogue cannot be hit."""
    return lists.hits.sum(axis=1) >= np.minimum(lists.n_truth, lists.verdicts.shape[1])


def recall_at_least(lists: "JudgedLists", totals: Floats, threshold: float) -> Bools:
    """Recall@N reaches the threshold."""
    return metrics.recall(lists.hits, lists.n_truth, lists.verdicts.shape[1]) >= threshold - TOLERANCE


def ndcg_at_least(lists: "JudgedLists", totals: Floats, threshold: float) -> Bools:
    """NDCG@N reaches the threshold."""
    found = metrics.ndcg(lists.hits, lists.n_truth, lists.verdicts.shape[1], lists.gains, lists.graded)
    return found >= threshold - TOLERANCE


def total_at_least(lists: "JudgedLists", totals: Floats, threshold: float) -> Bools:
    """The weighted sum of the reward's terms over the list reaches the threshold."""
    return totals >= threshold - TOLERANCE


@dataclass(frozen=True)
class Rule:
    """A success rule.

    Attributes:
        function: (lists, totals (B,), threshold) -> (B,) bool.
        threshold: the valid thresholds: 0 for a rule that uses none, a share in (0, 1], or any number.
    """

    function: Callable[["JudgedLists", Floats, float], Bools]
    threshold: Literal["unused", "share", "number"]


SUCCESS = {
    "any_hit": Rule(any_hit, "unused"),
    "first_hit": Rule(first_hit, "unused"),
    "all_hits": Rule(all_hits, "unused"),
    "recall_at_least": Rule(recall_at_least, "share"),
    "ndcg_at_least": Rule(ndcg_at_least, "share"),
    "total_at_least": Rule(total_at_least, "number"),
}


def success(lists: "JudgedLists", totals: Floats, rule: str, threshold: float) -> Bools:
    """Which of B lists count as correct.

    Args:
        lists: the judged lists.
        totals: (B,) each list's reward: weighted sum of its terms over ranks, not scaled by the solve rate.
        rule: name in `SUCCESS`.
        threshold: the threshold of the rule.

    Returns:
        (B,) bool.
    """
    return SUCCESS[rule].function(lists, totals, threshold)


def check_success(rule: str, threshold: float) -> list[str]:
    """Every problem of a rule and its threshold, one sentence each, without its full stop."""
    problems = []
    if rule not in SUCCESS:
        problems.append(
            f"success.rule = '{rule}' is unknown; known: {', '.join(SUCCESS)}.{nearest(rule, list(SUCCESS))}"
        )
    if not is_finite(threshold):
        problems.append(f"success.threshold = {threshold!r} must be a finite number")
    if problems:
        return problems
    kind = SUCCESS[rule].threshold
    if kind == "unused" and threshold != 0:
        return [f"success.threshold = {threshold} has no effect with success.rule = '{rule}'; set it to 0"]
    if kind == "share" and not 0 < threshold <= 1:
        return [f"success.threshold = {threshold} must lie in (0, 1] with success.rule = '{rule}'"]
    return []
