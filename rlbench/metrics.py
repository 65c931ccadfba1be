"""Ranking metrics under the `standard` protocol: textbook DCG, ranks kept, lists truncated before anything is dropped.

All functions take `hits` (Q, N), 1.0 where rank k of query q is relevant and not a repeat, and `n_truth` (Q,), the
number of different relevant films, at least 1; they return one value a query, (Q,).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def discounts(n: int) -> Floats:
    """(n,) 1 / log2(rank + 1) for ranks 1..n (Järvelin & Kekäläinen 2002)."""
    return 1.0 / np.log2(np.arange(2, n + 2))


def recall(hits: Floats, n_truth: NDArray[np.int64], k: int) -> Floats:
    """Share of the relevant films found in the first k ranks."""
    return hits[:, :k].sum(axis=1) / n_truth


def ndcg(hits: Floats, n_truth: NDArray[np.int64], k: int) -> Floats:
    """DCG of the first k ranks over that of an ideal list, which holds min(n_truth, k) relevant films."""
    weights = discounts(k)
    ideal = np.concatenate([[0.0], weights.cumsum()])[np.minimum(n_truth, k)]
    return hits[:, :k] @ weights[: hits.shape[1]] / ideal


def ranking_metrics(hits: Floats, n_truth: NDArray[np.int64], cutoffs: Sequence[int]) -> dict[str, Floats]:
    """Recall and NDCG at every cut-off, keyed "recall@k" and "ndcg@k"."""
    table: dict[str, Floats] = {}
    for k in cutoffs:
        table[f"recall@{k}"] = recall(hits, n_truth, k)
        table[f"ndcg@{k}"] = ndcg(hits, n_truth, k)
    return table
