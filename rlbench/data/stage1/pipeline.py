"""Stage 1 on a real dataset: makes demonstrations from a teacher's lists, an encoder and the teacher's ratings."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlbench.data.stage1.encoder import Encoder
from rlbench.data.stage1.files import named
from rlbench.data.stage1.scores import (
    RATED,
    AdjustmentLoss,
    fit_adjustment,
    membership,
    rank_weights,
    reflect,
    remap,
    top_films,
)
from rlbench.lists.catalog import NOT_FOUND, Catalog
from rlbench.lists.items import Item

AT_ONCE = 2048
"""Number of conversations whose scores are in float64 at once. All scores are stored in float32."""


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
    """The steps of Stage 1 on B conversations and the C films of a catalogue.

    Args:
        catalog: the films, and how a name finds one.
        conversations: B of them.
        encode: maps texts to vectors.
        texts: texts about films, including those outside the catalogue. A film without one is encoded as
            "Title (Year)".

    Attributes:
        scores: (B, C) float32, after the last step.
        excluded: (B, C) films that a conversation names.
    """

    def __init__(
        self,
        catalog: Catalog,
        conversations: Sequence[Conversation],
        encode: Encoder,
        texts: Mapping[Item, str],
    ):
        self.catalog, self.conversations = catalog, conversations
        self.excluded = np.stack(
            [np.isin(catalog.title_ids, catalog.find_titles(c.seen_titles)) for c in conversations]
        )
        places: dict[Item, int] = {}
        for film in (film for conversation in conversations for film in conversation.named):
            places.setdefault(film, len(places))
        films = list(places)

        def about(some: Sequence[Item]) -> NDArray[np.float32]:
            return encode([texts.get(film, name) for film, name in zip(some, named(some), strict=True)])

        of_catalog = about(catalog.items)
        similarity = about(films) @ of_catalog.T
        inside = membership([catalog.find(*film) for film in films], len(catalog))
        parts = []
        for start in range(0, len(conversations), AT_ONCE):
            some = conversations[start : start + AT_ONCE]
            weights = rank_weights([[places[film] for film in c.named] for c in some], len(films))
            talk = encode([c.text for c in some]) @ of_catalog.T
            parts.append(remap(weights, similarity, inside, talk).astype(np.float32))
        self.scores = np.concatenate(parts)

    def candidates(self, count: int = RATED) -> list[list[Item]]:
        """The films to be rated for each conversation, at most `count`, best first."""
        return self._films(min(count, self._fewest_left))

    def reflect(self, ratings: Mapping[str, Mapping[Item, int]]) -> int:
        """Add the teacher's ratings, by context and film.

        Returns:
            Number of ratings for films outside the catalogue, which are ignored.
        """
        outside = 0
        for row, conversation in enumerate(self.conversations):
            levels = np.zeros((1, len(self.catalog)), dtype=np.int64)
            for film, level in ratings.get(conversation.context_id, {}).items():
                place = self.catalog.find(*film)
                outside += place == NOT_FOUND
                if place != NOT_FOUND:
                    levels[0, place] = level
            self.scores[row] = reflect(self.scores[row : row + 1], levels)[0]
        return outside

    def adjust(self) -> None:
        """Fit w and b to the truth, and apply them to all conversations.

        Raises:
            ValueError: no conversation has a truth in the catalogue.
        """
        found = [self.catalog.find_all(list(c.truth)) for c in self.conversations]
        found = [films[films != NOT_FOUND] for films in found]
        rows = np.repeat(np.arange(len(found)), [len(films) for films in found])
        self.scores = fit_adjustment(AdjustmentLoss(self.scores, rows, np.concatenate(found)))(self.scores).astype(
            np.float32
        )

    def lists(self, count: int) -> list[list[Item]]:
        """The demonstrations: the `count` films with the highest scores for each conversation."""
        return self._films(count)

    @property
    def _fewest_left(self) -> int:
        return int((~self.excluded).sum(axis=1).min())

    def _films(self, count: int) -> list[list[Item]]:
        ranked = []
        for start in range(0, len(self.scores), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            ranked += top_films(self.scores[rows].astype(np.float64), count, self.excluded[rows]).tolist()
        return [[self.catalog.items[place] for place in places] for places in ranked]
