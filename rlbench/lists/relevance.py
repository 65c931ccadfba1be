"""Judges a list rank by rank: hit, miss, out of catalogue, seen or duplicate. Reward and report both use this.

Texts become entries (`rlbench.lists.entries`), and entries become catalogue indices (`rlbench.lists.catalog`).
Everything after that is arithmetic on arrays of B lists by N ranks. Ranks are kept: an entry that is not a hit keeps
its position.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from rlbench.base.errors import BadInput
from rlbench.config.schema import MatchingConfig
from rlbench.lists import published
from rlbench.lists.catalog import MATCHERS, Catalog, MatchingPolicy
from rlbench.lists.entries import Entry, ParsedText
from rlbench.lists.exact import CatalogReader
from rlbench.lists.items import Item

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Verdict(StrEnum):
    HIT = "hit"
    MISS = "miss"
    OUT_OF_CATALOG = "out_of_catalog"
    SEEN = "seen"
    DUPLICATE = "duplicate"


VERDICTS = tuple(Verdict)
"""The code of a verdict is its position here."""
HIT, MISS, OUT_OF_CATALOG, SEEN, DUPLICATE = range(len(VERDICTS))
ABSENT = -1
"""Code of a rank that a short list lacks."""
NO_ITEM = -1
"""Catalogue index of an absent rank and of an item outside the catalogue."""


@dataclass(frozen=True)
class JudgedLists:
    """B lists of N ranks as arrays. Entries past rank N are counted and otherwise ignored.

    Attributes:
        verdicts: (B, N) int8 codes into `VERDICTS`, `ABSENT` past the end of a short list.
        items: (B, N) index into the catalogue's items, or `NO_ITEM`.
        truths: (B, N) index of the sample's distinct truth that rank k hits, -1 for none; a list hits a truth once.
        lax: (B, N) bool, in the catalogue by lower-case title and a year within two (the published in-catalogue ratio).
        n_truth: (B,) number of distinct relevant items.
        n_entries: (B,) entries of the whole list, overflow included.
        n_lines: (B,) lines that are not blank.
        n_shifted: (B,) entries among the first N whose line number differs from their rank. The published code gives
            their reward to the tokens of another line.
        n_tokens: (B,) tokens of the completion, EOS included.
        finished: (B,) bool, whether it ends with EOS.
        graded: (B, W) gain of each distinct truth, in the order that `truths` counts, 0 past the last; None if all
            truths are equally relevant.
    """

    verdicts: NDArray[np.int8]
    items: Ints
    truths: Ints
    lax: Bools
    n_truth: Ints
    n_entries: Ints
    n_lines: Ints
    n_shifted: Ints
    n_tokens: Ints
    finished: Bools
    graded: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.verdicts)

    @cached_property
    def hits(self) -> NDArray[np.float64]:
        """(B, N) 1.0 if rank k is relevant and no repeat, else 0.0 (paper, section 2.1: rel_k)."""
        return (self.verdicts == HIT).astype(np.float64)

    @cached_property
    def gains(self) -> NDArray[np.float64]:
        """(B, N) gain of the truth that rank k hits, else 0; `hits` if truths are not graded."""
        if self.graded is None:
            return self.hits
        return np.where(self.truths >= 0, np.take_along_axis(self.graded, np.maximum(self.truths, 0), axis=1), 0.0)

    @cached_property
    def present(self) -> Bools:
        """(B, N) whether the list has rank k."""
        return self.verdicts != ABSENT

    def of_verdict(self, name: str) -> Bools:
        """(B, N) mask of the ranks with this verdict."""
        return self.verdicts == VERDICTS.index(Verdict(name))

    def names(self, row: int) -> list[Verdict]:
        """The verdicts of one list, without absent ranks."""
        return [VERDICTS[code] for code in self.verdicts[row].tolist() if code != ABSENT]


class Judge:
    """Judges completions against truths by this project's own rules.

    An entry is looked up in the catalogue and counts as the item found there. Its verdict is the first that applies:
    out of catalogue, duplicate of an earlier entry, item whose title the dialogue has named, hit, miss. A truth outside
    the catalogue counts as relevant and cannot be hit.

    Args:
        catalog: the items that may be recommended, with its matching policy.
        list_length: N.

    Attributes:
        exact: the catalogue's items exactly as spelt, for the published rules.
        reader: reads lines and texts.
    """

    def __init__(self, catalog: Catalog, list_length: int):
        self.catalog = catalog
        self.list_length = list_length
        self.exact = frozenset(catalog.items)
        self.reader = CatalogReader(catalog)

    def parse(self, text: str) -> ParsedText:
        """Parse one completion: lines with a title and a year, or titles if the catalogue has no years."""
        return self.reader.text(text)

    def read(self, texts: Sequence[str]) -> list[ParsedText]:
        """Parse completions, each distinct text once."""
        of_text = {text: self.parse(text) for text in dict.fromkeys(texts)}
        return [of_text[text] for text in texts]

    def published_entries(self, texts: Sequence[str], parsed: Sequence[ParsedText]) -> list[list[Entry]]:
        """The entries of completions as the published code parses them; `parsed` is the result of `read`."""
        of_text = {text: published.parse_list(text) for text in dict.fromkeys(texts)}
        return [of_text[text] for text in texts]

    def __call__(
        self,
        parsed: Sequence[ParsedText],
        ground_truth: Sequence[Sequence[Item]],
        seen_titles: Sequence[Sequence[str]],
        n_tokens: Sequence[int] | None = None,
        finished: Sequence[bool] | None = None,
        gains: Sequence[Sequence[float] | None] | None = None,
    ) -> JudgedLists:
        """Judge B completions.

        Args:
            parsed: the completions, as `read` parses them.
            ground_truth: relevant items of each.
            seen_titles: titles that each dialogue has named; recommending one of them is not a hit.
            n_tokens: tokens of each completion (default: unknown, 0).
            finished: whether each ends with EOS (default: yes).
            gains: how relevant each item of `ground_truth` is. None means equally, also for single lists.
        """
        n_entries = np.array([len(read.items) for read in parsed], dtype=np.int64)
        present = np.arange(self.list_length) < n_entries[:, None]
        items, lax = self._look_up(parsed, present)
        missed = np.select(
            [~present, items == NO_ITEM, _repeats(items), self._seen(items, seen_titles)],
            [ABSENT, OUT_OF_CATALOG, DUPLICATE, SEEN],
            MISS,
        )
        truths, n_truth = self._hits(parsed, items, missed == MISS, ground_truth, seen_titles)
        verdicts = np.where(truths >= 0, HIT, missed).astype(np.int8)
        return JudgedLists(
            verdicts=verdicts,
            items=items,
            truths=truths,
            lax=lax,
            n_truth=n_truth,
            n_entries=n_entries,
            n_lines=np.array([read.n_lines for read in parsed], dtype=np.int64),
            n_shifted=np.array([self._shifted(read.lines) for read in parsed], dtype=np.int64),
            n_tokens=np.zeros(len(parsed), np.int64) if n_tokens is None else np.asarray(n_tokens, dtype=np.int64),
            finished=np.ones(len(parsed), np.bool_) if finished is None else np.asarray(finished, dtype=np.bool_),
            graded=self._graded(ground_truth, gains, n_truth),
        )

    def _shifted(self, lines: Sequence[int]) -> int:
        n = min(len(lines), self.list_length)
        if n == 0 or lines[n - 1] == n - 1:
            return 0
        # Line numbers only increase, so all entries after the first shifted one are shifted too.
        return n - bisect_left(range(n), True, key=lambda rank: lines[rank] > rank)

    def _look_up(self, parsed: Sequence[ParsedText], present: Bools) -> tuple[Ints, Bools]:
        """Catalogue index and lax membership of every present rank."""
        flat = list(chain.from_iterable(read.items[: self.list_length] for read in parsed))
        items = np.full(present.shape, NO_ITEM, dtype=np.int64)
        lax = np.zeros(present.shape, dtype=np.bool_)
        items[present], lax[present] = self.catalog.find_all_and_lax(flat)
        return items, lax

    def _hits(
        self,
        parsed: Sequence[ParsedText],
        items: Ints,
        eligible: Bools,
        ground_truth: Sequence[Sequence[Item]],
        seen_titles: Sequence[Sequence[str]],
    ) -> tuple[Ints, Ints]:
        """(B, N) index of the truth that each rank hits, -1 for none; (B,) number of distinct truths."""
        found = _rows(self.catalog.find_all(list(chain.from_iterable(ground_truth))), ground_truth)
        inside = (found >= 0) & ~_repeats(found)
        n_truth = inside.sum(axis=1)
        for row in np.flatnonzero(np.any(found == NO_ITEM, axis=1)).tolist():
            n_truth[row] += len(
                {
                    (self.catalog.policy.normalise(title), year)
                    for (title, year), index in zip(ground_truth[row], found[row], strict=False)
                    if index == NO_ITEM
                }
            )
        place, named = _position(items, np.where(inside, found, NOTHING))
        number = inside.cumsum(axis=1) - 1
        return np.where(named & eligible, np.take_along_axis(number, place, axis=1), -1), n_truth

    def _graded(
        self,
        ground_truth: Sequence[Sequence[Item]],
        gains: Sequence[Sequence[float] | None] | None,
        n_truth: Ints,
    ) -> NDArray[np.float64] | None:
        """(B, W) gain of each truth, in the order that `_hits` counts them, 0 past the last."""
        if gains is None or all(of_list is None for of_list in gains):
            return None
        table = np.zeros((len(gains), max(int(n_truth.max(initial=0)), 1)))
        for row, (truth, given) in enumerate(zip(ground_truth, gains, strict=True)):
            counted = self._counted_gains(truth, given or [1.0] * len(truth))
            table[row, : len(counted)] = counted
        return table

    def _counted_gains(self, truth: Sequence[Item], gains: Sequence[float]) -> list[float]:
        """Gain of each distinct truth, the highest of equal ones: those of the catalogue, then the others."""
        found: dict[Item | int, float] = {}
        places = self.catalog.find_all(truth).tolist()
        for inside in (True, False):
            for (title, year), place, gain in zip(truth, places, gains, strict=True):
                if (place != NO_ITEM) is inside:
                    key = place if inside else (self.catalog.policy.normalise(title), year)
                    found[key] = max(gain, found.get(key, 0.0))
        return list(found.values())

    def _seen(self, items: Ints, seen_titles: Sequence[Sequence[str]]) -> Bools:
        seen = _rows(self.catalog.find_titles(list(chain.from_iterable(seen_titles))), seen_titles)
        titles = np.append(self.catalog.title_ids, NOTHING - 1)[items]  # the appended value serves NO_ITEM, index -1
        return _position(titles, np.where(seen >= 0, seen, NOTHING))[1]


NOTHING = -2
"""Padding for the rows of a table; differs from every index and every code."""


def _rows(values: Ints, rows: Sequence[Sequence[object]]) -> Ints:
    """Flat values as a table (B, longest row), padded with `NOTHING`."""
    sizes = np.array([len(row) for row in rows], dtype=np.int64)
    table = np.full((len(rows), max(int(sizes.max(initial=0)), 1)), NOTHING, dtype=np.int64)
    table[np.arange(table.shape[1]) < sizes[:, None]] = values
    return table


def _position(values: Ints, table: Ints) -> tuple[Ints, Bools]:
    """First position of each of values (B, N) in its row of table (B, W), and whether it occurs there."""
    place, there = np.zeros(values.shape, dtype=np.int64), np.zeros(values.shape, dtype=np.bool_)
    for column in reversed(range(table.shape[1])):  # W is small, so this is faster than (B, N, W) at once
        same = values == table[:, column, None]
        place[same] = column
        there |= same
    return place, there


def _repeats(items: Ints) -> Bools:
    """(B, N) whether the item of this rank also has an earlier rank."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    again = np.zeros(items.shape, dtype=np.bool_)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeats = np.empty_like(again)
    np.put_along_axis(repeats, order, again, axis=1)
    return repeats


class PublishedJudge(Judge):
    """Reads and judges lists as the published code's training reward does (docs/published-rules.md).

    Hits follow the published rules, and every answer counts as a separate truth. The other verdicts say why an entry is
    not a hit: not an exact catalogue entry, a repeat of an earlier entry, exactly a seen title, or a miss.
    """

    def parse(self, text: str) -> ParsedText:
        entries = published.parse_list(text)
        items = [(entry.title, entry.year) for entry in entries]
        return ParsedText(items, [entry.line for entry in entries], sum(map(bool, map(str.strip, text.split("\n")))))

    def published_entries(self, texts: Sequence[str], parsed: Sequence[ParsedText]) -> list[list[Entry]]:
        return [read.entries for read in parsed]

    def _hits(
        self,
        parsed: Sequence[ParsedText],
        items: Ints,
        eligible: Bools,
        ground_truth: Sequence[Sequence[Item]],
        seen_titles: Sequence[Sequence[str]],
    ) -> tuple[Ints, Ints]:
        truths = np.full(items.shape, -1, dtype=np.int64)
        for row, (read, truth, seen) in enumerate(zip(parsed, ground_truth, seen_titles, strict=True)):
            truths[row] = published.training_matches(read.entries, truth, seen, self.exact, self.list_length)
        return truths, np.array([len(truth) for truth in ground_truth], dtype=np.int64)

    def _counted_gains(self, truth: Sequence[Item], gains: Sequence[float]) -> list[float]:
        """Gain of each answer."""
        return list(gains)


def make_judge(matching: MatchingConfig, catalog: Catalog, list_length: int) -> Judge:
    """The judge of a configuration.

    Raises:
        BadInput: the published rules, which read only lines with a year, for a catalogue without years.
    """
    if matching.rules == "published" and not catalog.has_years:
        raise BadInput("matching.rules = 'published' reads only lines with a year, but the catalogue has no years")
    own = matching.rules if matching.rules in MATCHERS else ""
    policy = MatchingPolicy(tuple(matching.normalisers), matching.year_tolerance, matching.fuzzy_threshold, own)
    judge = PublishedJudge if matching.rules == "published" else Judge
    return judge(catalog if policy == catalog.policy else catalog.with_policy(policy), list_length)
