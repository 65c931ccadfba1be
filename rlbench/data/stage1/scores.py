"""Scores of the catalogue's films for each conversation, from a teacher's list (arXiv 2510.20150, Eqs. 10 to 13).

B conversations, C films of the catalogue, T items that the teacher names, in the catalogue or not.

    remap    s_remap = p (S + I) + λ s_conv         p: 1/√k for the teacher's item of rank k
    reflect  s_reflect = s_remap + γ r              r: the teacher's ratings, -2 to 2, of the first candidates
    adjust   s_final = w ⊙ s_reflect + b            w, b: one number per film, fitted to the truth of train

A demonstration lists the films with the highest scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rlbench.data.stage1.blocks import ScoreFile, blocks

STEPS: dict[str, tuple[str, ...]] = {
    "teacher": (),
    "remap": ("remap",),
    "remap_reflect": ("remap", "reflect"),
    "remap_adjust": ("remap", "adjust"),
    "remap_reflect_adjust": ("remap", "reflect", "adjust"),
}
"""Steps applied to a teacher's lists, by name. The first name leaves the lists unchanged."""
CONVERSATION_WEIGHT = 1.0
"""λ."""
RATING_WEIGHT = 0.5
"""γ."""
RATINGS = range(-2, 3)
RATED = 100
"""N_r, the number of candidates that the teacher rates."""
RIDGE = 0.01
"""λ_w and λ_b."""
TOLERANCE = 1e-5
"""Largest slope per target at which the fit has converged."""
FAILED = 1e-3
"""Largest slope per target at which a fit that made no further progress is accepted."""

Array = NDArray[np.float64]
Floats = NDArray[np.floating]
"""Arrays of any float precision; arithmetic that mixes precisions is in float64."""


def rank_weights(lists: Sequence[Sequence[int]], items: int) -> sparse.csr_array:
    """(B, T) p: 1/√k if an item has rank k in a conversation's list. A repeated item counts at its first rank.

    Args:
        lists: items by rank, each in 0..T-1.
        items: T.
    """
    rows, columns, values = [], [], []
    for row, ranked in enumerate(lists):
        for k, item in enumerate(ranked, start=1):
            if item not in ranked[: k - 1]:
                rows.append(row)
                columns.append(item)
                values.append(1 / np.sqrt(k))
    return sparse.csr_array((np.array(values, dtype=float), (rows, columns)), shape=(len(lists), items))


def membership(catalogued: Sequence[int], films: int) -> sparse.csr_array:
    """(T, C) I: 1 where an item is that film of the catalogue.

    Args:
        catalogued: the film of each item, in 0..C-1, or -1 outside the catalogue.
        films: C.
    """
    found = np.asarray(catalogued, dtype=np.int64)
    inside = np.flatnonzero(found >= 0)
    return sparse.csr_array((np.ones(len(inside)), (inside, found[inside])), shape=(len(found), films))


def remap(
    weights: sparse.csr_array,
    similarity: Floats,
    inside: sparse.csr_array,
    conversation: Floats,
    conversation_weight: float = CONVERSATION_WEIGHT,
) -> Array:
    """(B, C) scores of Eq. 10.

    Args:
        weights: (B, T) p, from `rank_weights`.
        similarity: (T, C) cosine between the texts of an item and a film.
        inside: (T, C) I, from `membership`.
        conversation: (B, C) cosine between a conversation and a film.
        conversation_weight: λ.
    """
    own = weights @ inside
    return np.asarray(weights @ similarity + own.toarray() + conversation_weight * conversation)


def remap_encoded(
    weights: sparse.csr_array,
    named: Floats,
    inside: sparse.csr_array,
    conversation: Floats,
    films: Floats,
    conversation_weight: float = CONVERSATION_WEIGHT,
) -> Array:
    """(B, C) scores of Eq. 10 from encodings. Equals `remap` of their products, without a (T, C) matrix.

    Args:
        weights: (B, T) p, from `rank_weights`.
        named: (T, D) encodings of the items that the teacher names.
        inside: (T, C) I, from `membership`.
        conversation: (B, D) encodings of conversations.
        films: (C, D) encodings of the catalogue.
        conversation_weight: λ.
    """
    sums = weights @ named + conversation_weight * conversation
    scores = np.asarray(sums @ films.T, dtype=np.float64)
    own = (weights @ inside).tocoo()
    scores[own.coords] += own.data
    return scores


def reflect(scores: Floats, ratings: NDArray[np.int64], weight: float = RATING_WEIGHT) -> Array:
    """(B, C) scores of Eq. 11.

    Args:
        scores: (B, C) from `remap`.
        ratings: (B, C) in `RATINGS`, 0 for unrated films.
        weight: γ.

    Raises:
        ValueError: a rating outside the five levels.
    """
    if not np.isin(ratings, RATINGS).all():
        raise ValueError(f"ratings must lie in {RATINGS.start}..{RATINGS.stop - 1}")
    return np.asarray(scores + weight * ratings, dtype=np.float64)


@dataclass(frozen=True)
class Adjustment:
    """w and b of Eq. 12, both (C,)."""

    weight: Array
    bias: Array

    def __call__(self, scores: Floats) -> Array:
        """(B, C) scores of Eq. 12."""
        return np.asarray(scores * self.weight + self.bias, dtype=np.float64)


@dataclass(frozen=True)
class AdjustmentLoss:
    """The loss of the adjustment (Eq. 13): negative multinomial log-likelihood of the truth, plus two ridge terms.

        -Σ log softmax(w ⊙ s + b)[film of the truth] + ridge_weight ‖w - 1‖² + ridge_bias ‖b‖²

    The sum is over all films of the truth of all conversations. It is convex in w and b jointly.

    Attributes:
        scores: (B, C) from `reflect` or `remap`, as an array or in a file; any float type, sums are in float64.
        rows, films: (M,) the conversation and the film of each target.
        ridge_weight, ridge_bias: λ_w, λ_b.
        at_once: conversations in memory at once as float64.
    """

    scores: NDArray[np.floating] | ScoreFile
    rows: NDArray[np.int64]
    films: NDArray[np.int64]
    ridge_weight: float = RIDGE
    ridge_bias: float = RIDGE
    at_once: int = 4096

    def __call__(self, parameters: Array) -> tuple[float, Array]:
        """Value and gradient.

        Args:
            parameters: (2C,) w, then b.
        """
        targets, of_films, scored = self._wanted
        w, b = np.split(parameters, 2)
        value = self.ridge_weight * np.sum((w - 1) ** 2) + self.ridge_bias * np.sum(b**2) - w @ scored - b @ of_films
        slope_w, slope_b = 2 * self.ridge_weight * (w - 1) - scored, 2 * self.ridge_bias * b - of_films
        for part in blocks(len(self.scores), self.at_once):
            scores = np.asarray(self.scores[part], dtype=np.float64)
            logits = scores * w + b
            highest = logits.max(axis=1)
            expected = np.exp(logits - highest[:, None])
            total, wanted = expected.sum(axis=1), targets[part]
            value += wanted @ (np.log(total) + highest)
            expected *= (wanted / total)[:, None]
            slope_w, slope_b = slope_w + np.einsum("bc,bc->c", expected, scores), slope_b + expected.sum(axis=0)
        return float(value), np.concatenate([slope_w, slope_b])

    @cached_property
    def _wanted(self) -> tuple[Array, Array, Array]:
        """(B,) and (C,) number of targets per conversation and per film; (C,) sum of the scores of a film's targets."""
        conversations, films = self.scores.shape
        scores = np.empty(len(self.rows))
        for part in blocks(conversations, self.at_once):
            here = np.flatnonzero((self.rows >= part.start) & (self.rows < part.stop))
            if here.size:
                scores[here] = self.scores[part][self.rows[here] - part.start, self.films[here]]
        return (
            np.bincount(self.rows, minlength=conversations).astype(float),
            np.bincount(self.films, minlength=films).astype(float),
            np.bincount(self.films, weights=scores, minlength=films).astype(float),
        )


def fit_adjustment(loss: AdjustmentLoss) -> Adjustment:
    """w and b that minimise the loss, by L-BFGS from w = 1 and b = 0.

    Raises:
        ValueError: there is no target.
        RuntimeError: the search ends far from a minimum.
    """
    films, targets = loss.scores.shape[1], len(loss.rows)
    if not targets:
        raise ValueError("there is no ground-truth film to fit to")

    def scaled(parameters: Array) -> tuple[float, Array]:
        value, slope = loss(parameters)
        return value / targets, slope / targets

    start = np.concatenate([np.ones(films), np.zeros(films)])
    options = {"maxiter": 1000, "maxfun": 2000, "ftol": 0.0, "gtol": TOLERANCE}
    from scipy import optimize  # a tenth of a second, which most runs do not need

    found = optimize.minimize(scaled, start, jac=True, method="L-BFGS-B", options=options)
    slope = np.abs(found.jac).max()
    if slope > FAILED:
        raise RuntimeError(f"the fit of w and b did not converge (slope {slope:.2g} per target): {found.message}")
    return Adjustment(found.x[:films], found.x[films:])


def top_films(scores: Array, count: int, excluded: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(B, count) films with the highest scores, best first; ties go to the first in the catalogue.

    Args:
        scores: (B, C).
        count: number of films.
        excluded: (B, C) films that are not allowed, such as those that the conversation names.

    Raises:
        ValueError: too few films are left.
    """
    if scores.size and (scores.shape[1] - excluded.sum(axis=1)).min() < count:
        raise ValueError(f"fewer than {count} films are left after excluding those of the conversation")
    order = np.argsort(np.where(excluded, np.inf, -scores), axis=1, kind="stable")
    return order[:, :count]
