"""The published Rank-GRPO code's rules for a completion: parsing, matching and metrics.

Written from a description of that code and its outputs (`tests/golden/data`), for two uses only: parity with the
published numbers, and showing what the rules of this package change (docs/published-rules.md). The published training
reward and evaluation disagree with each other, so both are here. Years are always int: with string years in the
catalogue no parsed entry would match, and every reward would be 0, as in the published code.
"""

import math
import re
from collections.abc import Container, Iterable, Sequence
from functools import cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlbench.lists.entries import Entry
from rlbench.lists.items import Item

Floats = NDArray[np.float64]

YEAR_TOLERANCE = 2
"""Largest difference in years at which a recommendation matches a truth of the same title."""

_BULLET = re.compile(r"(?:[-*+•>]|#+)\s+")
_NUMBERING = re.compile(r"\d+[.)][*_]*\s+")
_YEAR = re.compile(r"\((\d{4})\)")
_INNER_PARENTHESES = re.compile(r"\([^()]*\)")
_EMPHASIS = "*_` \t"
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’"}


def parse_line(line: str) -> Item | None:
    """Read one line as (title, year), or None if the published parser drops it.

    A bullet or heading mark, numbering, emphasis marks at the edges and one pair of quotes are removed. The first
    "(YYYY)" ends the title, and the text after it is ignored. Square brackets hold no year. Parentheses inside the
    title are removed with their content ("Birdman or" is a film of the published catalogue).
    """
    line = _without(_NUMBERING, _without(_BULLET, line.strip()).lstrip(_EMPHASIS))
    line = _unquoted(line)
    year = _YEAR.search(line)
    if year is None:
        return None
    title = _unquoted(line[: year.start()].strip().strip(_EMPHASIS)).strip(_EMPHASIS)
    if "(" in title:
        title = " ".join(_INNER_PARENTHESES.sub("", title).split())
    return (title, int(year[1])) if title else None


def parse_list(text: str) -> list[Entry]:
    """Return all entries of a completion in order. Blank lines and lines that are not entries leave no gap."""
    items = ((index, parse_line(line)) for index, line in enumerate(text.split("\n")))
    return [Entry(*item, line=index) for index, item in items if item is not None]


def _without(prefix: re.Pattern[str], line: str) -> str:
    match = prefix.match(line)
    return line[match.end() :] if match else line


def _unquoted(text: str) -> str:
    paired = len(text) > 1 and _QUOTES.get(text[0]) == text[-1]
    return text[1:-1].strip() if paired else text


def training_matches(
    entries: Sequence[Entry],
    ground_truth: Sequence[Item],
    seen_titles: Iterable[str],
    in_catalog: Container[Item],
    list_length: int,
) -> list[int]:
    """The truth that each rank hits by the training reward's rule.

    Entries outside the catalogue and seen ones keep their rank. Titles are compared with white space collapsed and case
    folded. Among several truths within the year tolerance, the nearest is used up.

    Args:
        entries: the parsed list; entries past rank N are ignored.
        ground_truth: relevant items; each is used up by the first entry that matches it.
        seen_titles: an entry with exactly one of these titles is not a hit.
        in_catalog: the catalogue as (title, int year), compared exactly.
        list_length: N.

    Returns:
        N positions in ground_truth, -1 for no hit.
    """
    seen = set(seen_titles)
    left = {place: (_folded(title), year) for place, (title, year) in enumerate(ground_truth)}
    matches = [-1] * list_length
    for rank, entry in enumerate(entries[:list_length]):
        if (entry.title, entry.year) not in in_catalog or entry.title in seen:
            continue
        title = _folded(entry.title)
        off = {place: _apart(year, entry.year) for place, (name, year) in left.items() if name == title}
        near = [place for place, years in off.items() if years <= YEAR_TOLERANCE]
        if near:
            matches[rank] = min(near, key=off.__getitem__)
            del left[matches[rank]]
    return matches


def _apart(one: int | None, other: int | None) -> float:
    """Difference of two years. These rules know no item without a year, so it is infinite if one is missing."""
    return math.inf if one is None or other is None else abs(one - other)


def _folded(title: str) -> str:
    return " ".join(title.split()).casefold()


class _Matched(NamedTuple):
    """A list matched by the evaluation's rule.

    Attributes:
        ranks: 0-based original rank of each of the S surviving entries.
        found: S + 1 numbers, the hits among the first s survivors.
        dcg: S + 1 numbers, the DCG of the first s survivors.
        n_truth: number of truths of the sample, repeats included.
    """

    ranks: list[int]
    found: list[int]
    dcg: list[float]
    n_truth: int


def _match(
    entries: Sequence[Entry], ground_truth: Sequence[Item], seen_titles: Iterable[str], in_catalog: Container[Item]
) -> _Matched:
    seen = set(seen_titles)
    ranks = [i for i, e in enumerate(entries) if (e.title, e.year) in in_catalog and e.title not in seen]
    hits = [0] * len(ranks)
    for title, year in ground_truth:
        for place, rank in enumerate(ranks):
            if entries[rank].title == title and _apart(entries[rank].year, year) <= YEAR_TOLERANCE:
                hits[place] = 1
                break
    return _Matched(ranks, list(accumulate(hits, initial=0)), _dcg(hits), len(ground_truth))


def _dcg(hits: Sequence[int]) -> list[float]:
    """DCG of the first 0, 1, ..., len(hits) entries: the first hit undiscounted plus the others discounted."""
    if not hits:
        return [0.0]
    others = (np.asarray(hits[1:]) / np.log2(np.arange(3, len(hits) + 2))).cumsum()
    return [0.0, float(hits[0]), *(hits[0] + others).tolist()]


@cache
def _ideal_dcg(n: int) -> float:
    return _dcg([1] * n)[-1]


def _recall_ndcg(matched: _Matched, k: int, truncate_first: bool) -> tuple[float, float]:
    survivors = sum(rank < k for rank in matched.ranks) if truncate_first else len(matched.ranks)
    if not (survivors and matched.n_truth):
        return 0.0, 0.0
    kept = min(k, survivors)
    recall = matched.found[kept] / matched.n_truth
    return recall, matched.dcg[kept] / _ideal_dcg(min(matched.n_truth, kept))


def ranking_metrics(
    lists: Sequence[Sequence[Entry]],
    truths: Sequence[Sequence[Item]],
    seen: Sequence[Iterable[str]],
    in_catalog: Container[Item],
    cutoffs: Sequence[int],
    truncate_first: bool = False,
) -> dict[str, Floats]:
    """Recall@k and NDCG@k by the evaluation's rule at every cut-off, keyed "recall@k" and "ndcg@k"; (B,) each.

    Entries outside the catalogue and seen ones are removed, and later ones move up. For each truth the first entry of
    exactly that title (same case), within the year tolerance, becomes a hit; two truths may share one. Recall divides
    by all truths. The ideal list is no longer than the surviving list, so a single entry that is a hit scores NDCG 1.

    Args:
        lists: B parsed lists, uncut.
        truths: their relevant items; with none both values are 0.
        seen: titles whose entries are removed, compared exactly.
        in_catalog: the catalogue as (title, int year), compared exactly.
        cutoffs: values of k, at least 1.
        truncate_first: whether to cut the list to k entries before removing any instead of after. This is one possible
            repair of the metric that the published scripts import but never define (`published_truncate_first`).

    Raises:
        ValueError: the first three sequences differ in length.
    """
    matched = [_match(*sample, in_catalog) for sample in zip(lists, truths, seen, strict=True)]
    table: dict[str, Floats] = {}
    for k in cutoffs:
        values = np.array([_recall_ndcg(one, k, truncate_first) for one in matched], dtype=np.float64).reshape(-1, 2)
        table[f"recall@{k}"], table[f"ndcg@{k}"] = values.T.copy()
    return table
