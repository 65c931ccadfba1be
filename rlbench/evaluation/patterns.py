"""Patterns of lists: what a policy does beside naming relevant items (reasoning patterns of arXiv 2506.04695, adapted).

A pattern is a function of judged lists, facts and titles that says of each of B lists whether it has the pattern.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from rlbench.lists.item_facts import ItemFacts
from rlbench.lists.relevance import JudgedLists

Bools = NDArray[np.bool_]
Titles = Sequence[Sequence[str]]
SORTED = 0.5
"""A list counts as sorted by popularity if the rank correlation between place and popularity is at most -SORTED."""
FEWEST = 3
"""Entries that a list needs for a statement about their order."""
FIRST_WORDS = re.compile(r"^(the|a|an)\s+", re.IGNORECASE)


def copies_seen(lists: JudgedLists, facts: ItemFacts, titles: Titles) -> Bools:
    """Names an item that the dialogue has named."""
    return np.asarray(lists.of_verdict("seen").any(axis=1))


def repeats(lists: JudgedLists, facts: ItemFacts, titles: Titles) -> Bools:
    """Names an item twice."""
    return np.asarray(lists.of_verdict("duplicate").any(axis=1))


def invents(lists: JudgedLists, facts: ItemFacts, titles: Titles) -> Bools:
    """Names an item outside the catalogue."""
    return np.asarray(lists.of_verdict("out_of_catalog").any(axis=1))


def popular_first(lists: JudgedLists, facts: ItemFacts, titles: Titles) -> Bools:
    """Is sorted by popularity, the most popular items first (`SORTED`)."""
    found = np.zeros(len(lists), dtype=np.bool_)
    for row, items in enumerate(lists.items):
        there = np.flatnonzero(items >= 0)
        popularity = facts.popularity_percentile[items[there]]
        if len(there) >= FEWEST and len(np.unique(popularity)) > 1:
            found[row] = np.corrcoef(rankdata(popularity), np.arange(len(there)))[0, 1] <= -SORTED
    return found


def franchise_run(lists: JudgedLists, facts: ItemFacts, titles: Titles) -> Bools:
    """Two neighbours have titles that begin with the same word; a leading article does not count."""
    return np.array([_has_neighbours(row) for row in titles], dtype=np.bool_)


def too_short(lists: JudgedLists, facts: ItemFacts, titles: Titles) -> Bools:
    """Has fewer than N entries."""
    return np.asarray(lists.n_entries < lists.verdicts.shape[1])


def too_long(lists: JudgedLists, facts: ItemFacts, titles: Titles) -> Bools:
    """Has more than N entries."""
    return np.asarray(lists.n_entries > lists.verdicts.shape[1])


def _first_word(title: str) -> str:
    words = FIRST_WORDS.sub("", title).split()
    return re.sub(r"\W", "", words[0]).lower() if words else ""


def _has_neighbours(titles: Sequence[str]) -> bool:
    words = [_first_word(title) for title in titles]
    return any(
        first != "" and first == second and one.lower() != other.lower()
        for first, second, one, other in zip(words, words[1:], titles, titles[1:], strict=False)
    )


PATTERNS: Mapping[str, Callable[[JudgedLists, ItemFacts, Titles], Bools]] = {
    function.__name__: function
    for function in (copies_seen, repeats, invents, popular_first, franchise_run, too_short, too_long)
}
