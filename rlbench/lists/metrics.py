"""Metrics of ranked lists: accuracy, list form, properties of all lists together, and calibration. Numpy only.

The protocol is `standard`: textbook DCG, ranks kept, lists truncated before anything is dropped. docs/metrics.md has
every definition with its source.

Shapes: Q queries (a dialogue with one answerer's truth), N ranks per list, C items in the catalogue, n lists sampled
per query. `hits` is (Q, N), 1.0 if rank k is relevant and no repeat, else 0.0. `n_truth` is (Q,), the number of
distinct relevant items, at least 1. Graded relevance replaces hits by gains in DCG and NDCG only. Sums over ranks start
at rank 1, so a query's value depends only on its own row, bit for bit.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # rewards use these functions and must not load the judging
    from rlbench.lists.relevance import JudgedLists

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def _refuse(queries: Bools, problem: str) -> None:
    """Raise ValueError naming the first True query (0-based) of `queries` (Q,), if any."""
    if queries.any():
        raise ValueError(f"query {int(queries.argmax())}: {problem}")


def _check_truths(n_truth: Ints) -> None:
    _refuse(n_truth < 1, "n_truth must be at least 1")


def _check_cutoffs(cutoffs: Sequence[int]) -> None:
    low = [k for k in cutoffs if k < 1]
    if low:
        raise ValueError(f"cut-offs must be at least 1, got {low}")


def _check_binary(hits: Floats) -> None:
    _refuse(~((hits == 0) | (hits == 1)).all(axis=1), "hits must be 0 or 1")


def _check(hits: Floats, n_truth: Ints, cutoffs: Sequence[int]) -> None:
    if hits.ndim != 2 or hits.shape[1] < 1 or n_truth.shape != hits.shape[:1]:
        raise ValueError(f"hits must be (Q, N) and n_truth (Q,), got {hits.shape} and {n_truth.shape}")
    _check_cutoffs(cutoffs)
    _check_truths(n_truth)
    _check_binary(hits)
    _refuse(hits.sum(axis=1) > n_truth, "more hits than relevant items")


def discounts(n: int) -> Floats:
    """(n,) 1 / log2(rank + 1) for ranks 1..n (Järvelin & Kekäläinen 2002)."""
    return 1.0 / np.log2(np.arange(2, n + 2))


def _first(running: Floats, k: int) -> Floats:
    """(Q,) running sums (Q, N) after rank k, or after rank N if k is larger."""
    return running[:, min(k, running.shape[1]) - 1]


def _running_gain(hits: Floats) -> Floats:
    """(Q, N) DCG after each rank."""
    return (hits * discounts(hits.shape[1])).cumsum(axis=1)


def dcg(hits: Floats, k: int) -> Floats:
    """(Q,) sum of the discounted hits of the first k ranks; ValueError if k < 1."""
    _check_cutoffs([k])
    return _first(_running_gain(hits), k)


def ideal_dcg(n_truth: Ints, k: int, graded: Floats | None = None) -> Floats:
    """(Q,) DCG@k of a list that begins with all relevant items, those with the highest gains first.

    Args:
        n_truth: (Q,).
        k: the cut-off.
        graded: (Q, W) gain of each relevant item, 0 past the last; None if each gain is 1.

    Raises:
        ValueError: k or an n_truth is below 1.
    """
    _check_cutoffs([k])
    _check_truths(n_truth)
    if graded is not None:
        best = -np.sort(-graded, axis=1)
        return _first(_running_gain(best), k)
    return discounts(k).cumsum()[np.minimum(n_truth, k) - 1]


def recall(hits: Floats, n_truth: Ints, k: int) -> Floats:
    """(Q,) share of the relevant items found in the first k ranks. Raises as `ranking_metrics`."""
    _check(hits, n_truth, [k])
    return _first(hits.cumsum(axis=1), k) / n_truth


def ndcg(hits: Floats, n_truth: Ints, k: int, gains: Floats | None = None, graded: Floats | None = None) -> Floats:
    """(Q,) DCG@k over the DCG@k of an ideal list. Arguments and errors as of `ranking_metrics`."""
    _check(hits, n_truth, [k])
    return dcg(hits if gains is None else gains, k) / ideal_dcg(n_truth, k, graded)


def hit_rate(hits: Floats, k: int) -> Floats:
    """(Q,) 1 if the first k ranks contain a hit; ValueError if k < 1."""
    _check_cutoffs([k])
    return np.any(hits[:, :k] > 0, axis=1).astype(np.float64)


def ranking_metrics(
    hits: Floats, n_truth: Ints, cutoffs: Sequence[int], gains: Floats | None = None, graded: Floats | None = None
) -> dict[str, Floats]:
    """Accuracy of each list at every cut-off k, which may exceed N.

    - `recall@k`: hits in the first k ranks / n_truth.
    - `ndcg@k`: DCG@k / ideal DCG@k (Järvelin & Kekäläinen 2002). A hit counts with its gain, as it is (trec_eval:
      ndcg_cut).
    - `hit_rate@k`: 1 if the first k ranks contain a hit (trec_eval: success).
    - `mrr@k`: 1 / rank of the first hit, 0 if it is not in the first k ranks (Voorhees 1999).
    - `map@k`: sum of the precisions at the hits in the first k ranks / n_truth, even if n_truth > k (trec_eval:
      map_cut).

    Args:
        hits: (Q, N), 0 or 1, at most n_truth hits per query.
        n_truth: (Q,), at least 1.
        cutoffs: the values of k, at least 1.
        gains: (Q, N) gain of each hit, else 0; None if each gain is 1.
        graded: (Q, W) gain of each relevant item, 0 past the last; None if each gain is 1.

    Returns:
        One (Q,) array per metric and cut-off, each in [0, 1].

    Raises:
        ValueError: an argument violates these conditions. The message names the first such query.
    """
    _check(hits, n_truth, cutoffs)
    ranks = np.arange(1, hits.shape[1] + 1)
    found = hits.cumsum(axis=1)
    gain = _running_gain(hits if gains is None else gains)
    precision = (hits * found / ranks).cumsum(axis=1)
    first_hit = np.where(found[:, -1] > 0, hits.argmax(axis=1) + 1.0, np.inf)
    table: dict[str, Floats] = {}
    for k in cutoffs:
        table[f"recall@{k}"] = _first(found, k) / n_truth
        table[f"ndcg@{k}"] = _first(gain, k) / ideal_dcg(n_truth, k, graded)
        table[f"hit_rate@{k}"] = hit_rate(hits, k)
        table[f"mrr@{k}"] = np.where(first_hit <= k, 1.0 / first_hit, 0.0)
        table[f"map@{k}"] = _first(precision, k) / n_truth
    return table


def list_metrics(lists: "JudgedLists") -> dict[str, Floats]:
    """Form of each list, whatever is relevant. Present ranks are the entries among the first N.

    - `in_catalog`, `in_catalog_lax`, `duplicates`, `seen`: share of the present ranks that are in the catalogue, are in
      it by the published ratio's lax rule, repeat an item, or name an item that the dialogue has named before.
    - `list_length`: entries, including those past N. `overflow`: 1 if there are more than N. `exact_length`: 1 if there
      are exactly N.
    - `eos`: 1 if the completion ends with EOS.
    - `parse_failures`: share of the non-blank lines that are not entries.
    - `misaligned`: share of the present ranks whose line number differs from their rank, so that `layout: published`
      credits them to another line's tokens.
    - `completion_tokens`: tokens, EOS included.

    A share of nothing is 0: `in_catalog` is 0 without entries, and `parse_failures` is 0 without lines.

    Returns:
        One (Q,) array per metric.
    """
    n_present = lists.present.sum(axis=1)
    list_length = lists.verdicts.shape[1]

    def share(where: Bools) -> Floats:
        return _ratio((where & lists.present).sum(axis=1), n_present)

    return {
        "in_catalog": share(~lists.of_verdict("out_of_catalog")),
        "in_catalog_lax": share(lists.lax),
        "duplicates": share(lists.of_verdict("duplicate")),
        "seen": share(lists.of_verdict("seen")),
        "list_length": lists.n_entries.astype(np.float64),
        "eos": lists.finished.astype(np.float64),
        "overflow": (lists.n_entries > list_length).astype(np.float64),
        "exact_length": (lists.n_entries == list_length).astype(np.float64),
        "parse_failures": _ratio(lists.n_lines - lists.n_entries, lists.n_lines),
        "misaligned": _ratio(lists.n_shifted, n_present),
        "completion_tokens": lists.n_tokens.astype(np.float64),
    }


def _ratio(part: Ints | Floats, whole: Ints) -> Floats:
    """part / whole; 0 if both are 0."""
    return part / np.maximum(whole, 1)


def gini(counts: Ints) -> float:
    """Gini coefficient of non-negative counts (C,): 0 if all are equal or none is positive, 1 - 1/C if one has all.
    It is half the mean absolute difference of two counts over their mean (Gini 1912), computed from sorted counts.
    """
    total, n = int(counts.sum()), len(counts)
    if total == 0:
        return 0.0
    return float((np.arange(1 - n, n, 2) * np.sort(counts)).sum() / (n * total))


def pool_metrics(lists: "JudgedLists", n_items: int, item_counts: Ints, first: Bools) -> dict[str, float]:
    """Metrics of all lists of a split together.

    Over all queries:

    - `rank_hit_rate@k`, k = 1..N: share of the queries whose rank k is a hit.

    Over the lists that `first` marks, at their ranks inside the catalogue (repeats and seen items count too):

    - `coverage`: share of the catalogue that is recommended at least once.
    - `gini`: Gini coefficient of how often each item of the catalogue is recommended, zeros included.
    - `popularity`: average recommendation popularity (Yin et al. 2012): the mean within each list, then over lists. A
      item's popularity is its share of the training truths.
    - `novelty`: self-information -log2 p in bits (Zhou et al. 2010), p = (count + 1) / (total + C), averaged likewise.

    Lists without an item of the catalogue are left out of the last two. If no list has one, all four are 0.

    Args:
        lists: Q judged lists.
        n_items: C, at least 1.
        item_counts: (C,) number of training truths that name each item of the catalogue.
        first: (Q,) bool, True for one sample of each list. Several answerers of a dialogue share one list, which
            recommends once; relevance belongs to each sample.

    Raises:
        ValueError: there is no query or no item, no list is marked, shapes differ, or an item is not below C.
    """
    if first.shape != (len(lists),) or not first.any():
        raise ValueError(f"first must mark at least one of {len(lists)} samples, got shape {first.shape}")
    items = lists.items[first]
    inside = items >= 0  # not NO_ITEM
    if n_items < 1 or item_counts.shape != (n_items,) or items.max() >= n_items:
        raise ValueError(
            f"expected item indices below C = {n_items} and C counts, got item {items.max()} and counts of shape "
            f"{item_counts.shape}"
        )
    total = item_counts.sum()
    recommended = np.bincount(items[inside], minlength=n_items)
    popularity = item_counts / max(total, 1)
    information = np.log2((total + n_items) / (item_counts + 1))
    rates = {f"rank_hit_rate@{k}": float(rate) for k, rate in enumerate(lists.hits.mean(axis=0), start=1)}
    return rates | {
        "coverage": float((recommended > 0).mean()),
        "gini": gini(recommended),
        "popularity": _mean_of_lists(popularity, items, inside),
        "novelty": _mean_of_lists(information, items, inside),
    }


def _mean_of_lists(values: Floats, items: Ints, inside: Bools) -> float:
    """Mean over lists of the mean of values (C,) over each list's items `inside`. Lists without any are left out."""
    n_inside = inside.sum(axis=1)
    if not n_inside.any():
        return 0.0
    sums = np.where(inside, values[items], 0.0).sum(axis=1)
    return float((sums[n_inside > 0] / n_inside[n_inside > 0]).mean())


def _miss_probability(n: int, k: int) -> Floats:
    """(n + 1,) C(n - m, k) / C(n, k) for m = 0..n: the chance that k of n lists, drawn without replacement, contain
    none of m given ones. Computed as a product to avoid overflow of binomials. A factor is 0 if n - m < k.

    Raises:
        ValueError: k is outside 1..n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must lie in 1..{n}, got {k}")
    drawn = np.arange(n)
    return np.concatenate([[1.0], ((n - k - drawn) / (n - drawn)).cumprod()])


def pass_at_k(n_correct: Ints, n: int, k: int) -> Floats:
    """(Q,) chance that k of a query's n lists include a correct one: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021,
    Eq. 1).

    Args:
        n_correct: (Q,) c, number of correct lists among the n.
        n: lists per query.
        k: in 1..n.

    Raises:
        ValueError: k is outside 1..n, or an n_correct is outside 0..n.
    """
    miss = _miss_probability(n, k)
    _refuse((n_correct < 0) | (n_correct > n), f"n_correct must lie in 0..{n}")
    return 1.0 - miss[n_correct]


def union_recall(truths: Ints, n_truth: Ints, k: int) -> Floats:
    """(Q,) expected recall of the union of k of a query's n lists, drawn without replacement.

    A truth that m of the n lists hit is in the union with probability 1 - C(n - m, k) / C(n, k). The result is the mean
    over truths. With one truth per query it equals `pass_at_k`, with k = 1 the mean recall.

    Args:
        truths: (Q, n, N) index of the query's truth that each rank of each list hits, -1 for none.
        n_truth: (Q,), at least 1.
        k: in 1..n.

    Raises:
        ValueError: shapes differ, k is outside 1..n, an n_truth is below 1, or a truth is outside -1..n_truth - 1.
    """
    if truths.ndim != 3 or n_truth.shape != truths.shape[:1]:
        raise ValueError(f"truths must be (Q, n, N) and n_truth (Q,), got {truths.shape} and {n_truth.shape}")
    n = truths.shape[1]
    miss = _miss_probability(n, k)
    _check_truths(n_truth)
    beyond = np.any((truths < -1) | (truths >= n_truth[:, None, None]), axis=(1, 2))
    _refuse(beyond, "truths must be in -1..n_truth - 1")
    # Truth t of query q has position start[q] + t in one flat array. Each list counts once per truth.
    start = n_truth.cumsum() - n_truth
    query, sample, rank = np.nonzero(truths >= 0)
    places = np.unique((start[query] + truths[query, sample, rank]) * n + sample) // n
    hitting = np.bincount(places, minlength=n_truth.sum())
    owner = np.repeat(np.arange(len(n_truth)), n_truth)
    return np.bincount(owner, weights=1.0 - miss[hitting], minlength=len(n_truth)) / n_truth


class Reliability(NamedTuple):
    """Bins of a reliability diagram, each (bins,). An empty bin has zeros.

    Attributes:
        confidence: mean confidence of the ranks in each bin.
        hit_share: share of these ranks that are hits.
        n_ranks: number of these ranks.
    """

    confidence: Floats
    hit_share: Floats
    n_ranks: Ints


def reliability(confidence: Floats, hits: Floats, present: Bools, bins: int = 10) -> Reliability:
    """Confidence against hits in equal-width bins over the present ranks of all lists (Guo et al. 2017, Section 2).

    Bin m = 1..bins is ((m - 1) / bins, m / bins], as in the paper; 0 belongs to the first bin.

    Args:
        confidence: (Q, N), in [0, 1] where present.
        hits: (Q, N), 0 or 1.
        present: (Q, N) bool, whether the list has rank k.
        bins: number of bins, at least 1.

    Raises:
        ValueError: an argument violates these conditions. The message names the first such query.
    """
    _check_confidence(confidence, hits, present)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    edges = np.arange(1, bins) / bins
    bin_of = np.searchsorted(edges, confidence[present], side="left")
    n_ranks = np.bincount(bin_of, minlength=bins)
    confidence_sum = np.bincount(bin_of, weights=confidence[present], minlength=bins)
    hit_sum = np.bincount(bin_of, weights=hits[present], minlength=bins)
    return Reliability(_ratio(confidence_sum, n_ranks), _ratio(hit_sum, n_ranks), n_ranks)


def calibration(confidence: Floats, hits: Floats, present: Bools, bins: int = 10) -> dict[str, float]:
    """Calibration of per-rank confidence over the present ranks of all lists. Arguments as for `reliability`.

    - `ece`: |mean confidence - hit share| of each bin, weighted by its ranks (Guo et al. 2017, Eq. 3).
    - `brier`: mean squared difference of confidence and hit (Brier 1950).

    Returns:
        Both, or an empty dictionary if no rank is present.

    Raises:
        ValueError: as for `reliability`.
    """
    table = reliability(confidence, hits, present, bins)
    total = table.n_ranks.sum()
    if total == 0:
        return {}
    gaps = np.abs(table.confidence - table.hit_share)
    return {
        "ece": float((gaps * table.n_ranks).sum() / total),
        "brier": float(((confidence[present] - hits[present]) ** 2).mean()),
    }


def _check_confidence(confidence: Floats, hits: Floats, present: Bools) -> None:
    if not confidence.shape == hits.shape == present.shape or confidence.ndim != 2:
        raise ValueError(
            f"confidence, hits and present must be (Q, N), got {confidence.shape}, {hits.shape} and {present.shape}"
        )
    _check_binary(hits)
    inside = (confidence >= 0) & (confidence <= 1)  # False for NaN
    _refuse(np.any(present & ~inside, axis=1), "confidence must lie in [0, 1]")
