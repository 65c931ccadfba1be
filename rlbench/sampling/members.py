"""Members of a group, and how they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

Text = list[int]
"""Token ids."""
LIST, MODE, PLAN = range(3)
"""Segments of a completion: its list, the words that say in which mode it is, and what it says before its list."""


@dataclass(frozen=True)
class Member:
    """A completion of a group, or the beginning of one.

    Attributes:
        ids: its tokens, EOS included.
        recorded: a number for each token, where the trainer records them; else empty.
        behaviour: log-probability of each token under the policy that drew it; None for the present policy.
        edited: whether it was changed with knowledge of the ground truth, or is an expert's.
        mode: 1 if it thinks before its list, as a member of a group with both modes; else 0.
        segments: segment of each of its first tokens (`LIST`, `MODE`, `PLAN`). All later tokens are of the list.
    """

    ids: Text
    recorded: list[float] = field(default_factory=list)
    behaviour: list[float] | None = None
    edited: bool = False
    mode: int = 0
    segments: tuple[int, ...] = ()


@dataclass(frozen=True)
class Beginning:
    """Where a completion begins.

    Attributes:
        prompt: place of its prompt among those of the rollout.
        written: its beginning. One that has ended is not continued.
    """

    prompt: int
    written: Member = field(default_factory=lambda: Member([]))


@dataclass(frozen=True)
class ReadList:
    """A list as it was read.

    Attributes:
        lines: its entries, one line each, at most N.
        hits: whether each entry is relevant.
        missing: lines of the relevant items that it lacks.
    """

    lines: list[str]
    hits: list[bool]
    missing: list[str]


class Desk(Protocol):
    """What a structure may use to make the members of a rollout's groups. Prompts are numbered from 0."""

    def draw(self, starts: Sequence[Beginning], until: int | None) -> list[Member]:
        """Complete each start under the present policy, in order: to its end, or to the end of `until` ranks."""

    def begin(self, words: str) -> Member:
        """The beginning of a completion with these words."""

    def line(self, starts: Sequence[Beginning], most: int) -> list[Member]:
        """Complete each start to the end of its line, with at most `most` tokens. Starts have no newline yet.

        A line that is longer is cut, one that ends the completion goes on, and both get a newline.
        """

    def beams(self, prompts: int, size: int) -> list[list[Member]]:
        """The most likely lists of each prompt that a search with `size` beams finds."""

    def read(self, prompt: int, members: Sequence[Member]) -> list[ReadList]:
        """Read lists of a prompt."""

    def advice(self, prompt: int) -> list[str]:
        """Lines of the expert's list for a prompt; none if the expert does not answer, which is counted."""

    def write(self, lines: Sequence[str]) -> Member:
        """A list of these lines, with EOS."""

    def totals(self, prompt: int, members: Sequence[Member]) -> list[float]:
        """Total reward of each list of a prompt."""

    def catalogue(self) -> Sequence[str]:
        """Lines of all items."""

    def random(self, prompt: int) -> np.random.Generator:
        """Random numbers of a prompt in this rollout, whichever process draws it."""


@dataclass(frozen=True)
class TreeLevel:
    """Ranks whose advantages compare nodes of a tree. A node is a beginning that adjacent members of a group share.

    Attributes:
        leaves: number of members that share a node.
        compared: number of adjacent nodes that are compared with each other.
        first: first rank of this level, from 0.
    """

    leaves: int
    compared: int
    first: int
