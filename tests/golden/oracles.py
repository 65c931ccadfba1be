"""The published code's outputs for one completion, in the form of the golden figures: oracles for our functions."""

from collections.abc import Container, Iterable, Sequence

import numpy as np

from rlbench.lists.entries import Entry
from rlbench.lists.items import Item
from rlbench.lists.published import ranking_metrics, training_matches


def training_hits(
    entries: Sequence[Entry],
    ground_truth: Sequence[Item],
    seen_titles: Iterable[str],
    in_catalog: Container[Item],
    list_length: int,
) -> list[int]:
    """1 for each of the N ranks that hits a truth by `training_matches`, else 0."""
    matches = training_matches(entries, ground_truth, seen_titles, in_catalog, list_length)
    return [int(place >= 0) for place in matches]


def reward_exp_inf(hits: Sequence[int]) -> list[float]:
    """Return rank k's reward under exp_inf (paper, Eq. 9 with an infinite base): its own hit."""
    return [float(hit) for hit in hits]


def reward_log_decay(hits: Sequence[int]) -> list[float]:
    """Return rank k's reward under log_decay (paper, Eq. 8): the sum of hit_j / log2(j + 1) over j >= k."""
    if not hits:
        return []
    gains = np.asarray(hits, dtype=np.float64) / np.log2(np.arange(2, len(hits) + 2))
    earlier = np.concatenate([[0.0], gains.cumsum()[:-1]])
    return (gains.sum() - earlier).tolist()  # a reversed cumulative sum differs in the last digit


def recall_ndcg(
    entries: Sequence[Entry],
    ground_truth: Sequence[Item],
    seen_titles: Iterable[str],
    in_catalog: Container[Item],
    k: int,
    truncate_first: bool = False,
) -> tuple[float, float]:
    """(Recall@k, NDCG@k) of one parsed list by `ranking_metrics`."""
    table = ranking_metrics([entries], [ground_truth], [seen_titles], in_catalog, [k], truncate_first)
    return table[f"recall@{k}"][0], table[f"ndcg@{k}"][0]


def segment_of_tokens(newlines_per_token: Sequence[int]) -> list[int]:
    """Return each token's segment: the number of newlines in the tokens before it.

    Blank lines and lines that are not entries count like any other. So a line before the list shifts the whole list by
    one, and a newline after the last line starts another segment.
    """
    segments, newlines = [], 0
    for count in newlines_per_token:
        segments.append(newlines)
        newlines += count
    return segments
