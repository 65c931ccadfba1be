"""Scores of the catalogue's items for conversations. Each function is one baseline.

A function is given the training conversations and those to score, does once what all settings share, and returns a
`Scorer`. Equal scores are ordered by popularity (`rlbench.baselines.recommend`), so an item without evidence stands
where popularity puts it.

Shapes: D training conversations, U conversations to score, B of these at once, C items.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix, diags_array

from rlbench.baselines.conversations import Conversations
from rlbench.config.baselines import BASELINES

Floats = NDArray[np.float64]
Choice = Mapping[str, Any]
Scorer = Callable[[Choice, slice], Floats]
"""Settings and rows of the conversations to (B, C) scores."""


def popularity(train: Conversations, queries: Conversations) -> Scorer:
    """The number of training truths that name an item, for every conversation alike."""

    def scores(choice: Choice, rows: slice) -> Floats:
        return np.tile(train.counts.astype(np.float64), (len(queries.contexts[rows]), 1))

    return scores


def cooccurrence(train: Conversations, queries: Conversations) -> Scorer:
    """Sum over the seen items s of n(s, i) / n(s)^exponent.

    With pairs=seen_truth, n(s, i) counts the training conversations that have seen s and have i as a truth, and n(s)
    those that have seen s. With pairs=named, both count conversations that name the items in any way.
    """
    named, seen = train.named, train.seen
    pairs = {
        "seen_truth": (csr_array(seen.T @ train.answers), seen.sum(axis=0)),
        "named": (_without_diagonal(csr_array(named.T @ named)), named.sum(axis=0)),
    }

    def scores(choice: Choice, rows: slice) -> Floats:
        together, single = pairs[choice["pairs"]]
        weights = np.maximum(single, 1.0) ** -choice["exponent"]
        return (queries.seen[rows] @ (diags_array(weights) @ together)).toarray()

    return scores


def item_knn(train: Conversations, queries: Conversations) -> Scorer:
    """Sum of the similarities of an item to the seen items that have it among their nearest neighbours.

    The similarity of i and j is n(i, j) / (sqrt(n(i) n(j)) + shrinkage), where n counts the training conversations that
    name the items: the cosine, shrunk for rare items (Sarwar et al. 2001).
    """
    named = train.named
    together = _without_diagonal(csr_array(named.T @ named))
    single = np.asarray(named.sum(axis=0))
    found: dict[tuple[Any, Any], csr_array] = {}

    def neighbours(choice: Choice) -> csr_array:
        key = choice["neighbours"], choice["shrinkage"]
        if key not in found:
            found.clear()
            rows = np.repeat(np.arange(len(single)), np.diff(together.indptr))
            scale = np.sqrt(single[rows] * single[together.indices]) + choice["shrinkage"]
            similar = together.copy()  # _largest removes entries in place
            similar.data /= scale
            found[key] = _largest(similar, choice["neighbours"])
        return found[key]

    return lambda choice, rows: (queries.seen[rows] @ neighbours(choice)).toarray()


def ease(train: Conversations, queries: Conversations) -> Scorer:
    """The linear autoencoder with a closed form of Steck (2019), on the items that training conversations name.

    B = I - P diag(P)^-1 with P = (X'X + ridge I)^-1; scores are x B for the seen items x.
    """
    known = np.flatnonzero(train.named.sum(axis=0) > 0)
    gram = (train.named[:, known].T @ train.named[:, known]).toarray()
    found: dict[float, Floats] = {}

    def weights(ridge: float) -> Floats:
        if ridge not in found:
            found.clear()
            inverse = np.linalg.inv(gram + ridge * np.eye(len(known)))
            found[ridge] = -inverse / np.diag(inverse)
            np.fill_diagonal(found[ridge], 0.0)
        return found[ridge]

    def scores(choice: Choice, rows: slice) -> Floats:
        all_items = np.zeros((len(queries.contexts[rows]), train.seen.shape[1]))  # others get 0 from the formula too
        all_items[:, known] = queries.seen[rows][:, known] @ weights(choice["ridge"])
        return all_items

    return scores


def bpr(train: Conversations, queries: Conversations) -> Scorer:
    """Matrix factorisation by Bayesian personalised ranking (Rendle et al. 2009), from the package `implicit`.

    Conversations to score are new, so each is represented by the mean factors of its seen items.
    """
    from implicit.cpu.bpr import BayesianPersonalizedRanking  # optional packages
    from threadpoolctl import threadpool_limits

    fixed = BASELINES["bpr"].fixed
    found: dict[tuple[Any, ...], Floats] = {}

    def factors(choice: Choice) -> Floats:
        key = tuple(choice.values())
        if key not in found:
            found.clear()
            with threadpool_limits(1, "blas"):  # implicit warns without it
                model = BayesianPersonalizedRanking(
                    factors=choice["factors"],
                    regularization=choice["regularisation"],
                    learning_rate=fixed["learning_rate"],
                    iterations=fixed["iterations"],
                    num_threads=1,  # several threads write at once, so results would vary
                    random_state=fixed["seed"],
                )
                model.fit(csr_matrix(train.named, dtype=np.float32), show_progress=False)
            found[key] = model.item_factors.astype(np.float64)
        return found[key]

    def scores(choice: Choice, rows: slice) -> Floats:
        of_items = factors(choice)
        seen = queries.seen[rows]
        mean = (seen @ of_items[:, :-1]) / np.maximum(seen.sum(axis=1), 1)[:, None]
        return mean @ of_items[:, :-1].T + of_items[:, -1]  # the last factor is the item's bias

    return scores


def bm25(train: Conversations, queries: Conversations) -> Scorer:
    """Votes of the most similar training conversations by BM25 (Lucene's form, k1 = 1.5, b = 0.75)."""
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize(train.texts, stopwords=None, return_ids=False, show_progress=False), show_progress=False)
    asked = bm25s.tokenize(queries.texts, stopwords=None, return_ids=False, show_progress=False)
    most = max(BASELINES["bm25"].grid["neighbours"])
    return _votes(train, queries, [_nearest(index.get_scores(words), most) for words in asked])


Encode = Callable[[Sequence[str]], NDArray[np.float32]]


def minilm(train: Conversations, queries: Conversations, encode: Encode | None = None) -> Scorer:
    """Votes of the most similar training conversations by the cosine of their sentence vectors.

    Args:
        encode: texts to vectors of length 1; default: all-MiniLM-L6-v2.
    """
    if encode is None:
        from rlbench.data.stage1.encoder import load_encoder  # loads torch

        encode = load_encoder(None)
    known, asked = encode(train.texts), encode(queries.texts)
    most = max(BASELINES["minilm"].grid["neighbours"])
    return _votes(train, queries, [_nearest((known @ one).clip(0).astype(np.float64), most) for one in asked])


def _votes(train: Conversations, queries: Conversations, nearest: Sequence[tuple[Any, Floats]]) -> Scorer:
    """The truths of the `neighbours` most similar training conversations, each weighted by its similarity^power.

    Args:
        nearest: rows of the most similar conversations for each one to score, and their similarities, descending.
    """

    def scores(choice: Choice, rows: slice) -> Floats:
        kept = [(of[: choice["neighbours"]], how[: choice["neighbours"]]) for of, how in nearest[rows]]
        ends = np.cumsum([0, *(len(of) for of, _ in kept)])
        weights = np.concatenate([how for _, how in kept]) ** choice["power"]
        votes = csr_array((weights, np.concatenate([of for of, _ in kept]), ends), shape=(len(kept), len(train)))
        return (votes @ train.truth).toarray()

    return scores


def _nearest(similarity: Floats, most: int) -> tuple[NDArray[np.int64], Floats]:
    """Positions of the `most` largest positive values, and the values, descending; of equal ones the first."""
    if most < len(similarity):
        bound = np.partition(similarity, -most)[-most]
        places = np.flatnonzero((similarity >= bound) & (similarity > 0))
    else:
        places = np.flatnonzero(similarity > 0)
    places = places[np.argsort(-similarity[places], kind="stable")][:most]
    return places, similarity[places].astype(np.float64)


def _largest(matrix: csr_array, most: int) -> csr_array:
    """Keep the `most` largest values of each row; of equal ones those with the smaller column."""
    matrix.sort_indices()
    for row in np.flatnonzero(np.diff(matrix.indptr) > most):
        values = matrix.data[matrix.indptr[row] : matrix.indptr[row + 1]]
        values[np.argsort(-values, kind="stable")[most:]] = 0.0
    matrix.eliminate_zeros()
    return matrix


def _without_diagonal(matrix: csr_array) -> csr_array:
    matrix.setdiag(0)
    matrix.eliminate_zeros()
    return matrix


SCORERS: Mapping[str, Callable[[Conversations, Conversations], Scorer]] = {
    "popularity": popularity,
    "cooccurrence": cooccurrence,
    "item_knn": item_knn,
    "ease": ease,
    "bpr": bpr,
    "bm25": bm25,
    "minilm": minilm,
}
