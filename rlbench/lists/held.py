"""The lines that lists may have if they are held to a catalogue. Loads no torch.

Such a list is lines of the catalogue, joined by newlines. Lines are bytes here, because a token may end inside a
character.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from rlbench.lists.catalog import NOT_FOUND
from rlbench.lists.relevance import Judge


@dataclass(frozen=True)
class HeldLines:
    """The lines of a catalogue.

    Attributes:
        judge: reads lines, and looks titles up.
        lines: L distinct lines in UTF-8, sorted.
        items: (L,) index of the item that the judge reads in each line. Several lines may name one item.
        titles: (L,) id of that item's title, as in `Catalog.title_ids`.
        left_out: lines of the catalogue that the judge does not read as one of its items, or that no list can have.
    """

    judge: Judge
    lines: list[bytes]
    items: NDArray[np.int64]
    titles: NDArray[np.int64]
    left_out: list[str]

    @classmethod
    def of(cls, judge: Judge, unwritable: Collection[str] = ()) -> "HeldLines":
        """The lines of a judge's catalogue, without those that no list can have."""
        catalog, item_of_line, left_out = judge.catalog, {}, []
        for line in dict.fromkeys(catalog.lines()):
            entries = judge.parse(line).items if "\n" not in line and line not in unwritable else []
            index = catalog.find(*entries[0]) if len(entries) == 1 else NOT_FOUND
            if index == NOT_FOUND:
                left_out.append(line)
            else:
                item_of_line[line.encode()] = index
        lines = sorted(item_of_line)
        items = np.array([item_of_line[line] for line in lines], dtype=np.int64)
        return cls(judge, lines, items, catalog.title_ids[items], left_out)

    @cached_property
    def of_item(self) -> NDArray[np.int64]:
        """(L, K) the lines that name the same item as each line, itself included, padded with -1."""
        lines = _positions(self.items)
        table = np.full((len(self.lines), max(map(len, lines.values()), default=1)), -1, dtype=np.int64)
        for line, item in enumerate(self.items.tolist()):
            table[line, : len(lines[item])] = lines[item]
        return table

    @cached_property
    def _of_title(self) -> dict[int, list[int]]:
        return _positions(self.titles)

    def seen(self, titles: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
        """(B, L) lines that name an item whose title a dialogue has named, given the titles of B dialogues."""
        found = iter(self.judge.catalog.find_titles(list(chain.from_iterable(titles))).tolist())
        rows = np.zeros((len(titles), len(self.lines)), dtype=np.bool_)
        for row, of_row in enumerate(titles):
            for _ in of_row:
                rows[row, self._of_title.get(next(found), [])] = True
        return rows


def _positions(values: NDArray[np.int64]) -> dict[int, list[int]]:
    """The positions of each value, in ascending order."""
    found: dict[int, list[int]] = {}
    for position, value in enumerate(values.tolist()):
        found.setdefault(value, []).append(position)
    return found


def shown(lines: Iterable[str], most: int = 3) -> str:
    """The first lines, for a message."""
    some = list(lines)
    return ", ".join(map(repr, some[:most])) + (", ..." if len(some) > most else "")
