"""Stage 1 on a real dataset: makes demonstrations from a teacher's lists, an encoder and the teacher's ratings."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlbench.data.stage1.blocks import ScoreFile, blocks
from rlbench.data.stage1.encoder import Encoder
from rlbench.data.stage1.files import named
from rlbench.data.stage1.scores import (
    RATED,
    AdjustmentLoss,
    fit_adjustment,
    membership,
    rank_weights,
    reflect,
    remap_encoded,
    top_films,
)
from rlbench.lists.catalog import NOT_FOUND, Catalog
from rlbench.lists.items import Item

AT_ONCE = 1024
"""Number of conversations whose scores are in memory at once, in float64. All scores are in a file, in float32."""


@dataclass(frozen=True)
class Conversation:
    """A context as input of Stage 1.

    Attributes:
        context_id: its id.
        text: the text of the conversation.
        seen_titles: titles that it names.
        truth: films of all answers, for train contexts. Empty for others, which are not used for fitting.
        named: the teacher's recommendations, by rank.
    """

    context_id: str
    text: str
    seen_titles: Sequence[str]
    truth: Sequence[Item]
    named: Sequence[Item]


def without_instructions(prompts: Sequence[str]) -> list[str]:
    """The prompts without their common beginning and end. A single prompt, or several equal ones, stay unchanged."""
    if len(set(prompts)) < 2:
        return list(prompts)
    head = len(os.path.commonprefix(list(prompts)))
    rest = [prompt[head:] for prompt in prompts]
    tail = len(os.path.commonprefix([text[::-1] for text in rest]))
    return [text[: len(text) - tail].strip() or prompt for text, prompt in zip(rest, prompts, strict=True)]


class Stage1:
    """The steps of Stage 1 on B conversations and the C items of a catalogue.

    Memory holds `AT_ONCE` rows of scores in a few float64 arrays, the encodings of the catalogue and of the items that
    the teacher names, and the conversations. Only these last two grow with B.

    Args:
        catalog: the items, and how a name finds one.
        conversations: B of them.
        encode: maps texts to vectors.
        texts: texts about items, including those outside the catalogue. An item without one is encoded as its line,
            such as "Title (Year)".
        folder: folder of the file of scores, whose disk needs 4 B C bytes. None: the system's folder for such files.

    Attributes:
        scores: (B, C) after the last step.
    """

    def __init__(
        self,
        catalog: Catalog,
        conversations: Sequence[Conversation],
        encode: Encoder,
        texts: Mapping[Item, str],
        folder: Path | None = None,
    ):
        self.catalog, self.conversations = catalog, conversations
        self._seen = [
            np.flatnonzero(np.isin(catalog.title_ids, catalog.find_titles(c.seen_titles))).astype(np.int32)
            for c in conversations
        ]
        places: dict[Item, int] = {}
        for item in (item for conversation in conversations for item in conversation.named):
            places.setdefault(item, len(places))
        items = list(places)

        def about(some: Sequence[Item]) -> NDArray[np.float32]:
            return encode([texts.get(item, name) for item, name in zip(some, named(some), strict=True)])

        of_catalog, of_named = about(catalog.items), about(items)
        inside = membership([catalog.find(*item) for item in items], len(catalog))
        self.scores = ScoreFile((len(conversations), len(catalog)), folder or Path(tempfile.gettempdir()))
        for rows in blocks(len(conversations), AT_ONCE):
            some = conversations[rows]
            weights = rank_weights([[places[item] for item in c.named] for c in some], len(items))
            self.scores[rows] = remap_encoded(weights, of_named, inside, encode([c.text for c in some]), of_catalog)

    def candidates(self, count: int = RATED) -> list[list[Item]]:
        """The items to be rated for each conversation, at most `count`, best first."""
        fewest = len(self.catalog) - max(map(len, self._seen))
        return self.lists(min(count, fewest))

    def reflect(self, ratings: Mapping[str, Mapping[Item, int]]) -> int:
        """Add the teacher's ratings, by context and item.

        Returns:
            Number of ratings for items outside the catalogue, which are ignored.
        """
        outside = 0
        for rows in blocks(len(self.conversations), AT_ONCE):
            some = self.conversations[rows]
            levels = np.zeros((len(some), len(self.catalog)), dtype=np.int64)
            for row, conversation in enumerate(some):
                for item, level in ratings.get(conversation.context_id, {}).items():
                    place = self.catalog.find(*item)
                    outside += place == NOT_FOUND
                    if place != NOT_FOUND:
                        levels[row, place] = level
            self.scores[rows] = reflect(self.scores[rows], levels)
        return outside

    def loss(self) -> AdjustmentLoss:
        """The loss of the adjustment of the current scores to the truth."""
        found = [self.catalog.find_all(list(c.truth)) for c in self.conversations]
        found = [items[items != NOT_FOUND] for items in found]
        rows = np.repeat(np.arange(len(found)), [len(items) for items in found])
        return AdjustmentLoss(self.scores, rows, np.concatenate(found), at_once=AT_ONCE)

    def adjust(self) -> None:
        """Fit w and b to the truth, and apply them to all conversations.

        Raises:
            ValueError: no conversation has a truth in the catalogue.
        """
        adjustment = fit_adjustment(self.loss())
        for part in blocks(len(self.conversations), AT_ONCE):
            self.scores[part] = adjustment(self.scores[part])

    def lists(self, count: int) -> list[list[Item]]:
        """The demonstrations: the `count` items with the highest scores for each conversation.

        Raises:
            ValueError: a conversation names so many items that fewer are left.
        """
        ranked: list[list[int]] = []
        for rows in blocks(len(self.conversations), AT_ONCE):
            excluded = np.zeros((rows.stop - rows.start, len(self.catalog)), dtype=np.bool_)
            for row, seen in enumerate(self._seen[rows]):
                excluded[row, seen] = True
            ranked += top_films(self.scores[rows].astype(np.float64), count, excluded).tolist()
        return [[self.catalog.items[place] for place in places] for places in ranked]
