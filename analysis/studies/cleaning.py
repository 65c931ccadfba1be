"""Cleaning of preference pairs: judges, methods, and how many wrong labels they find (after PrefCleanBench,
arXiv 2509.23564, of which the abstract is known; judges that need no model are ours)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

JUDGES = ("likelihood", "sequence", "opening", "short")
"""Judges that see no reward."""
TREATMENTS = ("drop", "flip")


@dataclass(frozen=True)
class Pairs:
    """n pairs of a chosen and a rejected list.

    Attributes:
        gaps: (n,) reward of the chosen list minus that of the rejected one.
        votes: (n,) by judge: above 0 if it prefers the chosen list, and by how much.
    """

    gaps: Floats
    votes: Mapping[str, Floats]


@dataclass(frozen=True)
class Cleaned:
    """What a method has done.

    Attributes:
        method, treatment: their names.
        kept: share of the pairs that are left.
        flipped: share of the pairs that were swapped back.
        found: share of the wrong labels that the method doubted; NaN if there are none.
        precise: share of the doubted labels that were wrong; NaN if it doubted none.
        wrong: share of wrong labels among the pairs that are left; NaN if none are left.
        gap: mean difference of rewards of the pairs that are left, by their labels; NaN if none are left.
    """

    method: str
    treatment: str
    kept: float
    flipped: float
    found: float
    precise: float
    wrong: float
    gap: float


def votes_of(chosen: Sequence[float], rejected: Sequence[float]) -> dict[str, float]:
    """What each judge says about a pair, from the reference's log-probabilities of the tokens of its lists."""
    first, second = (np.asarray(logps, dtype=np.float64) for logps in (chosen, rejected))

    def mean(logps: Floats) -> float:
        return float(logps.mean()) if len(logps) else 0.0

    def opening(logps: Floats) -> float:
        return mean(logps[: max(len(logps) // 4, 1)])

    return {
        "likelihood": mean(first) - mean(second),
        "sequence": float(first.sum() - second.sum()),
        "opening": opening(first) - opening(second),
        "short": float(len(second) - len(first)),
    }


def swapped_labels(count: int, noise: float, seed: int) -> Bools:
    """Which of the labels are swapped: exactly a share, up to rounding."""
    wrong = np.zeros(count, dtype=bool)
    wrong[np.random.default_rng(seed).permutation(count)[: round(noise * count)]] = True
    return wrong


def clean(pairs: Pairs, wrong: Bools, share: float) -> list[Cleaned]:
    """All methods with both treatments, on pairs whose labels are swapped where `wrong`."""
    signs = np.where(wrong, -1.0, 1.0)
    support = {name: signs * values for name, values in pairs.votes.items()}
    against = np.stack([values < 0 for values in support.values()])
    doubted = {name: _least(values, share) for name, values in support.items()}
    doubted["vote"] = np.asarray(against.mean(axis=0) > 0.5)
    doubted["unanimous"] = np.asarray(against.all(axis=0))
    doubted["reward"] = _least(signs * pairs.gaps, share)
    found = [_outcome("none", "", pairs, wrong, np.zeros(len(wrong), dtype=bool))]
    return found + [_outcome(name, how, pairs, wrong, where) for name, where in doubted.items() for how in TREATMENTS]


def _least(values: Floats, share: float) -> Bools:
    """A share of the pairs, those of the lowest values; ties in their order."""
    least = np.zeros(len(values), dtype=bool)
    least[np.argsort(values, kind="stable")[: round(share * len(values))]] = True
    return least


def _outcome(method: str, treatment: str, pairs: Pairs, wrong: Bools, doubted: Bools) -> Cleaned:
    kept = ~doubted if treatment == "drop" else np.ones(len(wrong), dtype=bool)
    flipped = doubted if treatment == "flip" else np.zeros(len(wrong), dtype=bool)
    left = (wrong ^ flipped)[kept]
    gaps = np.where(left, -1.0, 1.0) * pairs.gaps[kept]
    return Cleaned(
        method,
        treatment,
        kept=float(kept.mean()),
        flipped=float(flipped.mean()),
        found=_mean(doubted[wrong]),
        precise=_mean(wrong[doubted]),
        wrong=_mean(left),
        gap=_mean(gaps),
    )


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")
