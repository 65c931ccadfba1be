"""Lists of a baseline: its settings are chosen on validation, and its best items become lists."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlbench.baselines.conversations import Conversations, read_conversations
from rlbench.baselines.scorers import SCORERS, Choice, Scorer
from rlbench.config.baselines import BASELINES
from rlbench.data.record import RankedListDataset, Record
from rlbench.lists.catalog import Catalog
from rlbench.lists.entries import ParsedText
from rlbench.lists.items import Item
from rlbench.lists.metrics import ranking_metrics
from rlbench.lists.relevance import Judge

AT_ONCE = 512
"""Conversations that are scored together; bounds memory."""
CHECKED = 1000
"""Records that `refusals` looks at."""
MOST_ITEMS = 20_000
"""Largest number of items for EASE, which inverts a matrix of this size: 3 GB."""
FROM_SEEN = ("cooccurrence", "item_knn", "ease", "bpr")
"""Baselines that score by the items that a conversation has named."""
MANY_SEEN = ("ease", "bpr")
"""Of these, the ones that learn from conversations with several named items."""


@dataclass(frozen=True)
class Recommended:
    """Lists of a baseline.

    Attributes:
        lists: split to context to its items, best first.
        tuning: as `Tuning` in `rlbench.runs.record`; None if there is nothing to choose.
    """

    lists: Mapping[str, Mapping[str, list[Item]]]
    tuning: dict[str, Any] | None


def refusals(dataset: RankedListDataset, catalog: Catalog) -> dict[str, str]:
    """Baselines that cannot run on a dataset, with the reason. Looks at the first records of train and validation."""
    train, asked = (read_conversations(dataset.splits[split][:CHECKED], catalog) for split in ("train", "validation"))
    found: dict[str, str] = {}
    share = float((asked.seen.sum(axis=1) > 0).mean())
    if share == 0:
        reason = "no conversation of validation names an item of the catalogue"
        found |= dict.fromkeys(FROM_SEEN, reason)
    several = float((train.named.sum(axis=1) > 1).mean())
    if min(share, several) < 0.5:
        reason = (
            f"it learns from items that are named together, but {several:.0%} of the training conversations name two "
            f"items or more, and {share:.0%} of those of validation name one; half are needed"
        )
        found |= {name: reason for name in MANY_SEEN if name not in found}
    if len(catalog) > MOST_ITEMS and "ease" not in found:
        found["ease"] = f"it inverts a matrix of {len(catalog)} × {len(catalog)} items; {MOST_ITEMS} are the most"
    return found


def recommend(
    name: str, train: Sequence[Record], splits: Mapping[str, Sequence[Record]], judge: Judge, cutoff: int
) -> Recommended:
    """Choose a baseline's settings on validation, and make its lists.

    Items that the conversation has named are left out, as are items that the judge takes for an earlier one.

    Args:
        name: one of `BASELINES`.
        train: records to learn from.
        splits: records to make lists for, by split; needs `validation`.
        judge: knows the catalogue, the list length, and what is relevant.
        cutoff: settings are chosen by NDCG at this rank.
    """
    known = read_conversations(train, judge.catalog)
    order = Order(known, judge)
    asked = {split: read_conversations(records, judge.catalog) for split, records in splits.items()}
    scorers = {split: SCORERS[name](known, queries) for split, queries in asked.items()}
    tried = []
    choices = list(BASELINES[name].choices())
    for choice in choices if len(choices) > 1 else ():
        lists = order.lists(scorers["validation"], choice, asked["validation"])
        tried.append({**choice, "value": _ndcg(splits["validation"], lists, judge, cutoff)})
    best = int(np.argmax([one["value"] for one in tried])) if tried else 0
    tuning = {"metric": f"ndcg@{cutoff}", "chosen": choices[best], "tried": tried} if tried else None
    made = {split: order.lists(scorers[split], choices[best], queries) for split, queries in asked.items()}
    return Recommended(made, tuning)


class Order:
    """Turns scores into lists of items.

    Ties go to the item that more training truths name, then to the first in the catalogue.

    Args:
        train: the training conversations.
        judge: knows the catalogue and the list length.
    """

    def __init__(self, train: Conversations, judge: Judge):
        self._items, self._length = judge.catalog.items, judge.list_length
        first = judge.catalog.find_all(self._items)
        self._unique: NDArray[np.bool_] = first == np.arange(len(first))
        self._by_popularity = np.argsort(-train.counts, kind="stable")

    def lists(self, scorer: Scorer, choice: Choice, queries: Conversations) -> dict[str, list[Item]]:
        """The best items of each conversation, by context."""
        found: dict[str, list[Item]] = {}
        for rows in _slices(len(queries)):
            scores = scorer(choice, rows)
            scores[:, ~self._unique] = -np.inf
            scores[queries.seen[rows].nonzero()] = -np.inf
            scores = scores[:, self._by_popularity]
            places = _first(scores, self._length)
            allowed = np.take_along_axis(scores, places, axis=1) > -np.inf
            items = self._by_popularity[places]
            for context, row, kept in zip(queries.contexts[rows], items, allowed, strict=True):
                found[context] = [self._items[i] for i in row[kept]]
        return found


def _first(scores: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """(B, n) columns of the n largest scores (B, C) of each row, descending; of equal ones the first columns.

    The same as a stable sort of whole rows, which can take ten times as long. All columns if C < n.
    """
    n = min(n, scores.shape[1])
    least = np.partition(scores, -n, axis=1)[:, [-n]]
    chosen = scores >= least
    many = np.flatnonzero(chosen.sum(axis=1) > n)  # rows with more scores equal to the last one than there is room for
    above, equal = scores[many] > least[many], scores[many] == least[many]
    chosen[many] = above | (equal & (equal.cumsum(axis=1) <= n - above.sum(axis=1, keepdims=True)))
    columns = np.nonzero(chosen)[1].reshape(len(scores), n)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, start + AT_ONCE) for start in range(0, count, AT_ONCE))


def _ndcg(records: Sequence[Record], lists: Mapping[str, list[Item]], judge: Judge, cutoff: int) -> float:
    """Mean NDCG of lists over samples."""
    parsed = [ParsedText(items, range(len(items)), len(items)) for items in (lists[r.context_id] for r in records)]
    judged = judge(
        parsed,
        [record.ground_truth for record in records],
        [record.seen_titles for record in records],
        gains=[record.gains for record in records],
    )
    metrics = ranking_metrics(judged.hits, judged.n_truth, [cutoff], judged.gains, judged.graded)
    return float(metrics[f"ndcg@{cutoff}"].mean())
