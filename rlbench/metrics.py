"""Metrics of ranked lists, numpy only: accuracy, the form of lists, what they recommend together, and calibration.

The protocol is `standard`: textbook DCG, ranks kept, lists truncated before anything is dropped. docs/metrics.md has
every definition with its source.

Shapes: Q queries (a dialogue with one answerer's truth), N ranks a list, C films in the catalogue, n lists sampled for
a query. `hits` is (Q, N), 1.0 where rank k is relevant and no repeat, else 0.0; `n_truth` is (Q,), how many different
films are relevant, at least 1. Sums over ranks run from rank 1 on, so that a query's value depends on its own row only,
bit for bit.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # rewards are made of these functions, and judging need not be loaded for them
    from rlbench.relevance import JudgedLists

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def _refuse(queries: Bools, problem: str) -> None:
    """Raise ValueError with the first query (0-based) of `queries` (Q,) that is True."""
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
    _refuse(hits.sum(axis=1) > n_truth, "more hits than relevant films")


def discounts(n: int) -> Floats:
    """(n,) 1 / log2(rank + 1) for ranks 1..n (Järvelin & Kekäläinen 2002)."""
    return 1.0 / np.log2(np.arange(2, n + 2))


def _first(running: Floats, k: int) -> Floats:
    """(Q,) running sums (Q, N) after rank k; a list ends at N."""
    return running[:, min(k, running.shape[1]) - 1]


def _running_gain(hits: Floats) -> Floats:
    """(Q, N) DCG after each rank."""
    return (hits * discounts(hits.shape[1])).cumsum(axis=1)


def dcg(hits: Floats, k: int) -> Floats:
    """(Q,) discounted hits of the first k ranks, summed; ValueError where k < 1."""
    _check_cutoffs([k])
    return _first(_running_gain(hits), k)


def ideal_dcg(n_truth: Ints, k: int) -> Floats:
    """(Q,) DCG@k of a list that begins with all relevant films: min(n_truth, k) hits.

    Raises:
        ValueError: where k or an n_truth is below 1.
    """
    _check_cutoffs([k])
    _check_truths(n_truth)
    return discounts(k).cumsum()[np.minimum(n_truth, k) - 1]


def recall(hits: Floats, n_truth: Ints, k: int) -> Floats:
    """(Q,) share of the relevant films found in the first k ranks; refuses what `ranking_metrics` refuses."""
    _check(hits, n_truth, [k])
    return _first(hits.cumsum(axis=1), k) / n_truth


def ndcg(hits: Floats, n_truth: Ints, k: int) -> Floats:
    """(Q,) DCG@k over that of an ideal list; refuses what `ranking_metrics` refuses."""
    _check(hits, n_truth, [k])
    return dcg(hits, k) / ideal_dcg(n_truth, k)


def hit_rate(hits: Floats, k: int) -> Floats:
    """(Q,) 1 where the first k ranks hold a hit; ValueError where k < 1."""
    _check_cutoffs([k])
    return np.any(hits[:, :k] > 0, axis=1).astype(np.float64)


def ranking_metrics(hits: Floats, n_truth: Ints, cutoffs: Sequence[int]) -> dict[str, Floats]:
    """Accuracy of each list at every cut-off k, which may exceed N.

    - `recall@k`: hits of the first k ranks / n_truth.
    - `ndcg@k`: DCG@k / ideal DCG@k (Järvelin & Kekäläinen 2002).
    - `hit_rate@k`: 1 where the first k ranks hold a hit (trec_eval: success).
    - `mrr@k`: 1 / rank of the first hit, 0 where it is not in the first k ranks (Voorhees 1999).
    - `map@k`: precisions at the hits of the first k ranks, summed / n_truth, also where n_truth > k (trec_eval:
      map_cut).

    Args:
        hits: (Q, N), 0 or 1, at most n_truth a query.
        n_truth: (Q,), at least 1.
        cutoffs: the k, at least 1.

    Returns:
        One (Q,) array a metric and cut-off, each in [0, 1].

    Raises:
        ValueError: where an argument is not as above; it names the first such query.
    """
    _check(hits, n_truth, cutoffs)
    ranks = np.arange(1, hits.shape[1] + 1)
    found = hits.cumsum(axis=1)
    gain = _running_gain(hits)
    precision = (hits * found / ranks).cumsum(axis=1)
    first_hit = np.where(found[:, -1] > 0, hits.argmax(axis=1) + 1.0, np.inf)
    table: dict[str, Floats] = {}
    for k in cutoffs:
        table[f"recall@{k}"] = _first(found, k) / n_truth
        table[f"ndcg@{k}"] = _first(gain, k) / ideal_dcg(n_truth, k)
        table[f"hit_rate@{k}"] = hit_rate(hits, k)
        table[f"mrr@{k}"] = np.where(first_hit <= k, 1.0 / first_hit, 0.0)
        table[f"map@{k}"] = _first(precision, k) / n_truth
    return table


def list_metrics(lists: "JudgedLists") -> dict[str, Floats]:
    """Form of each list, whatever is relevant. Present ranks are the entries among the first N.

    - `in_catalog`, `in_catalog_lax`, `duplicates`, `seen`: share of the present ranks that are in the catalogue, are in
      it by the published ratio's lax rule, repeat a film, name a film that the dialogue has seen.
    - `list_length`: entries, those past N included. `overflow`: 1 where they are more than N; `exact_length`: 1 where
      they are N.
    - `eos`: 1 where the completion ends with EOS.
    - `parse_failures`: share of the lines that are not blank and no entry.
    - `misaligned`: share of the present ranks whose line is not their rank, so that `layout: published` credits them
      with another line's tokens.
    - `completion_tokens`: tokens, EOS included.

    A share of nothing is 0: without entries `in_catalog` is 0, and without lines nothing fails to parse.

    Returns:
        One (Q,) array a metric.
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
    """part / whole; 0 where both are."""
    return part / np.maximum(whole, 1)


def gini(counts: Ints) -> float:
    """Gini coefficient of non-negative counts (C,): 0 where all are equal or none is positive, 1 - 1/C where one has
    all. It is half the mean absolute difference of two counts over their mean (Gini 1912), from the sorted counts.
    """
    total, n = int(counts.sum()), len(counts)
    if total == 0:
        return 0.0
    return float((np.arange(1 - n, n, 2) * np.sort(counts)).sum() / (n * total))


def pool_metrics(lists: "JudgedLists", n_films: int, film_counts: Ints, first: Bools) -> dict[str, float]:
    """What the lists of a whole split do together.

    Over all queries:

    - `rank_hit_rate@k`, k = 1..N: share of the queries whose rank k is a hit.

    Over the lists that `first` marks, and their ranks inside the catalogue (a repeat counts again, a seen film counts):

    - `coverage`: share of the catalogue that is recommended at least once.
    - `gini`: Gini coefficient of how often each film of the catalogue is recommended, 0 times included.
    - `popularity`: average recommendation popularity (Yin et al. 2012), a film's popularity being its share of the
      training truths: the mean within each list, then over lists.
    - `novelty`: self-information -log2 p in bits (Zhou et al. 2010), p = (count + 1) / (total + C), averaged likewise.

    A list without a film of the catalogue is left out of the last two; where no list has one, all four are 0.

    Args:
        lists: Q judged lists.
        n_films: C, at least 1.
        film_counts: (C,) how many training truths name each film of the catalogue.
        first: (Q,) bool, True at one sample of each list. Several answerers of a dialogue share one list, which
            recommends once; relevance is each sample's own.

    Raises:
        ValueError: where there is no query or no film, no list is marked, shapes differ or a film is not below C.
    """
    if first.shape != (len(lists),) or not first.any():
        raise ValueError(f"first must mark one sample or more of {len(lists)}, got shape {first.shape}")
    films = lists.films[first]
    inside = films >= 0  # not NO_FILM
    if n_films < 1 or film_counts.shape != (n_films,) or films.max() >= n_films:
        raise ValueError(
            f"expected films below C = {n_films} and as many counts, got film {films.max()}, shape {film_counts.shape}"
        )
    total = film_counts.sum()
    recommended = np.bincount(films[inside], minlength=n_films)
    popularity = film_counts / max(total, 1)
    information = np.log2((total + n_films) / (film_counts + 1))
    rates = {f"rank_hit_rate@{k}": float(rate) for k, rate in enumerate(lists.hits.mean(axis=0), start=1)}
    return rates | {
        "coverage": float((recommended > 0).mean()),
        "gini": gini(recommended),
        "popularity": _mean_of_lists(popularity, films, inside),
        "novelty": _mean_of_lists(information, films, inside),
    }


def _mean_of_lists(values: Floats, films: Ints, inside: Bools) -> float:
    """Mean over lists of the mean of values (C,) over each list's films `inside`; lists without any are left out."""
    n_inside = inside.sum(axis=1)
    if not n_inside.any():
        return 0.0
    sums = np.where(inside, values[films], 0.0).sum(axis=1)
    return float((sums[n_inside > 0] / n_inside[n_inside > 0]).mean())


def _miss_probability(n: int, k: int) -> Floats:
    """(n + 1,) C(n - m, k) / C(n, k) for m = 0..n: the chance that k of n lists, drawn without replacement, hold none
    of m given ones. As a product, so that no binomial overflows; a factor of it is 0 where n - m < k.

    Raises:
        ValueError: where k is outside 1..n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must lie in 1..{n}, got {k}")
    drawn = np.arange(n)
    return np.concatenate([[1.0], ((n - k - drawn) / (n - drawn)).cumprod()])


def pass_at_k(n_correct: Ints, n: int, k: int) -> Floats:
    """(Q,) chance that k of a query's n lists hold a correct one: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, Eq. 1).

    Args:
        n_correct: (Q,) c, how many of the n lists are correct.
        n: lists a query.
        k: in 1..n.

    Raises:
        ValueError: where k is outside 1..n or an n_correct outside 0..n.
    """
    miss = _miss_probability(n, k)
    _refuse((n_correct < 0) | (n_correct > n), f"n_correct must lie in 0..{n}")
    return 1.0 - miss[n_correct]


def union_recall(truths: Ints, n_truth: Ints, k: int) -> Floats:
    """(Q,) expected recall of k of a query's n lists together, drawn without replacement.

    A truth that m of the n lists hit is in the union with probability 1 - C(n - m, k) / C(n, k); the mean is over
    truths. With one truth a query this is `pass_at_k`, with k = 1 the mean recall.

    Args:
        truths: (Q, n, N) which of the query's truths each rank of each list hits, -1 for none.
        n_truth: (Q,), at least 1.
        k: in 1..n.

    Raises:
        ValueError: where shapes differ, k is outside 1..n, an n_truth is below 1 or a truth outside -1..n_truth - 1.
    """
    if truths.ndim != 3 or n_truth.shape != truths.shape[:1]:
        raise ValueError(f"truths must be (Q, n, N) and n_truth (Q,), got {truths.shape} and {n_truth.shape}")
    n = truths.shape[1]
    miss = _miss_probability(n, k)
    _check_truths(n_truth)
    beyond = np.any((truths < -1) | (truths >= n_truth[:, None, None]), axis=(1, 2))
    _refuse(beyond, "a truth outside -1..n_truth - 1")
    # Truth t of query q is place start[q] + t of one flat array. Each list counts once a truth.
    start = n_truth.cumsum() - n_truth
    query, sample, rank = np.nonzero(truths >= 0)
    places = np.unique((start[query] + truths[query, sample, rank]) * n + sample) // n
    hitting = np.bincount(places, minlength=n_truth.sum())
    owner = np.repeat(np.arange(len(n_truth)), n_truth)
    return np.bincount(owner, weights=1.0 - miss[hitting], minlength=len(n_truth)) / n_truth


class Reliability(NamedTuple):
    """A reliability diagram's bins, each (bins,); an empty bin has zeros.

    Attributes:
        confidence: mean confidence of the ranks in each bin.
        hit_share: share of them that are hits.
        n_ranks: how many they are.
    """

    confidence: Floats
    hit_share: Floats
    n_ranks: Ints


def reliability(confidence: Floats, hits: Floats, present: Bools, bins: int = 10) -> Reliability:
    """Confidence against hits in equal-width bins over the present ranks of all lists (Guo et al. 2017, Section 2).

    Bin m = 1..bins is ((m - 1) / bins, m / bins], as there; 0 is in the first.

    Args:
        confidence: (Q, N), in [0, 1] where present.
        hits: (Q, N), 0 or 1.
        present: (Q, N) bool, whether the list has rank k.
        bins: how many, at least 1.

    Raises:
        ValueError: where an argument is not as above; it names the first such query.
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
    """How well per-rank confidence tells hits, over the present ranks of all lists; arguments as for `reliability`.

    - `ece`: |mean confidence - hit share| of each bin, weighted by its ranks (Guo et al. 2017, Eq. 3).
    - `brier`: mean squared difference of confidence and hit (Brier 1950).

    Returns:
        Both, or nothing where no rank is present.

    Raises:
        ValueError: as `reliability`.
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
