"""Makers of prompts: they change prompts of the train split before lists are drawn for them.

A maker gets prompts and gives new ones, with a truth of their own. Only rollouts of training see them. The facts of a
piece:

when: "before" if it may change every prompt, before its first list is drawn; "after" if it makes new prompts from those
    whose groups have just been drawn. Then about half of an update's groups are for prompts as they are;
wants: for "after": (shares of successes in n groups (n,), options) -> (n,) bool: the prompts to make new ones from.
    None for "before".
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlbench.config.options import PositiveInt, Share
from rlbench.lists.items import line_of
from rlbench.sampling.places import makers

Truth = list[dict[str, Any]]
"""Rows of a ground truth: title, year, and a gain if it is graded."""


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt that may be changed.

    Attributes:
        conversation: its text, without the template of the dataset around it.
        truth: its relevant items.
        possible: places in `truth` of the items that a list can hit, each item once.
        seen: titles that the conversation has named.
        solved: share of successes in its latest group; NaN without one.
        random: random numbers of this prompt, the same on every process.
    """

    conversation: str
    truth: Truth
    possible: list[int]
    seen: list[str]
    solved: float
    random: np.random.Generator

    def line(self, place: int) -> str:
        """The line of a relevant item."""
        return line_of(self.truth[place]["title"], self.truth[place]["year"])


@dataclass(frozen=True)
class MadePrompt:
    """A new prompt.

    Attributes:
        conversation: its text.
        truth: its relevant items; None for the same.
        seen: titles that it names; None for the same.
    """

    conversation: str
    truth: Truth | None = None
    seen: list[str] | None = None


class MakersDesk(Protocol):
    """What a maker may use."""

    def say(self, requests: Sequence[str]) -> list[str]:
        """The present policy's answers to requests."""

    def catalogue(self) -> Sequence[str]:
        """Lines of all items."""


Making = list[MadePrompt | None]
"""A new prompt for each one; None leaves it as it is."""


def _hard(solved: NDArray[np.float64], *, hard: float, **_: Any) -> NDArray[np.bool_]:
    return solved <= hard


def _not_easy(solved: NDArray[np.float64], *, easy: float, **_: Any) -> NDArray[np.bool_]:
    return solved <= easy


def _off_half(solved: NDArray[np.float64], *, within: float) -> NDArray[np.bool_]:
    return np.abs(solved - 0.5) > within


@makers.piece(when="after", wants=_hard, same_question=True)
def hint(asked: Sequence[AskedPrompt], desk: MakersDesk, *, hard: Share = 0.25, shown: Share = 0.5) -> Making:
    """Hard prompts are asked again with some of their relevant items as a hint (inspired by SPARKLE, arXiv 2506.04723).

    SPARKLE, of which the abstract is known, gives a part of the solution. A schedule can let `shown` fade.

    Args:
        hard: largest share of successes of a hard prompt.
        shown: mean share of the relevant items that a hint names.
    """
    made: Making = []
    for one in asked:
        count = min(int(shown * len(one.possible) + one.random.random()), len(one.possible))
        named = one.random.permutation(one.possible)[:count].tolist()
        text = "; ".join(one.line(place) for place in named)
        made.append(MadePrompt(f"{one.conversation}\n\nHint: a good list names {text}.") if named else None)
    return made


@makers.piece(when="after", wants=_not_easy, same_question=True)
def rewritten(asked: Sequence[AskedPrompt], desk: MakersDesk, *, hard: Share = 0.3, easy: Share = 0.7) -> Making:
    """The policy says hard prompts more simply and medium ones in other words (CLPO, arXiv 2509.25004).

    CLPO asks the policy as a chat model. A text that is empty, or that names a relevant item, is not used.

    Args:
        hard: largest share of successes of a hard prompt.
        easy: largest share of a medium prompt. Easy ones are not asked again.
    """
    ways = {True: "Say this more simply, with all names that it has", False: "Say this in other words, with all names"}
    answers = desk.say([f"{ways[one.solved <= hard]}:\n\n{one.conversation}" for one in asked])
    made: Making = []
    for one, answer in zip(asked, answers, strict=True):
        text = answer.strip()
        leaks = any(str(item["title"]).lower() in text.lower() for item in one.truth)
        made.append(MadePrompt(text) if text and not leaks else None)
    return made


@makers.piece(when="after", wants=_off_half)
def generated(asked: Sequence[AskedPrompt], desk: MakersDesk, *, within: Share = 0.2) -> Making:
    """Conversations made from records so that about half of the lists succeed (after Socratic-Zero, arXiv 2509.24726).

    Socratic-Zero's teacher model writes new problems near 50 % success. Here a conversation that is too easy loses one
    of the items that it names, and one that is too hard names one of its relevant items, which is then no answer any
    more. A conversation with a single relevant item stays as it is. `sampler.keep=middling` chooses among the groups.

    Args:
        within: distance of the share of successes from 1/2 within which no new prompt is made.
    """
    return [_harder(one) if one.solved > 0.5 else _easier(one) for one in asked]


def _harder(one: AskedPrompt) -> MadePrompt | None:
    named = [title for title in one.seen if title in one.conversation]
    if not named:
        return None
    title = named[one.random.integers(len(named))]
    mention = re.compile(re.escape(title) + r"( \([0-9]{4}\))?")
    text = mention.sub("something", one.conversation)
    return MadePrompt(text, seen=[other for other in one.seen if other != title])


def _easier(one: AskedPrompt) -> MadePrompt | None:
    if len(one.possible) < 2:
        return None
    place = one.possible[one.random.integers(len(one.possible))]
    title = one.truth[place]["title"]
    others = [item for item in one.truth if item["title"] != title]
    return (
        MadePrompt(f"{one.conversation}\n\nI also like {one.line(place)}.", others, [*one.seen, title])
        if others
        else None
    )


@makers.piece(when="before", wants=None)
def critique(asked: Sequence[AskedPrompt], desk: MakersDesk, *, share: Share = 0.2, size: PositiveInt = 10) -> Making:
    """Some prompts show a list and ask which entries fit (inspired by CRL, arXiv 2509.22824).

    CRL, of which the abstract is known, rewards a verdict, true or false, on a solution. Here the verdict is about each
    entry: the answer is the list of those that fit. So every reward scores the agreement with the truth, and the order
    of the verdicts counts too. The shown list has relevant and other items in a random order.

    Args:
        share: share of the prompts; 20 % in the paper.
        size: entries of a shown list.
    """
    lines = desk.catalogue()
    return [_critique(one, lines, size) if one.random.random() < share else None for one in asked]


def _critique(one: AskedPrompt, lines: Sequence[str], size: int) -> MadePrompt | None:
    most = min(len(one.possible), max(size // 2, 1))
    if not most:
        return None
    fit = one.random.permutation(one.possible)[: 1 + one.random.integers(most)].tolist()
    shown = _among(one, [one.line(place) for place in fit], lines, size)
    text = f"{one.conversation}\n\nSomebody has answered:\n{shown}\n\nWhich of these fit? Name only them."
    return MadePrompt(text, [one.truth[place] for place in fit])


@makers.piece(when="before", wants=None)
def candidates(
    asked: Sequence[AskedPrompt], desk: MakersDesk, *, share: Share = 1.0, size: PositiveInt = 20, known: Share = 1.0
) -> Making:
    """Prompts show items to choose from (inspired by SIE, arXiv 2509.23330).

    SIE puts a part of a knowledge graph into the prompt as the environment. Here it is a list of items: relevant ones
    among others of the catalogue, in a random order.

    Args:
        share: share of the prompts that show candidates.
        size: number of candidates.
        known: mean share of the relevant items that are among them.
    """
    lines = desk.catalogue()
    made: Making = []
    for one in asked:
        if one.random.random() >= share:
            made.append(None)
            continue
        inside = [one.line(place) for place in one.possible if one.random.random() < known][:size]
        made.append(MadePrompt(f"{one.conversation}\n\nChoose from:\n{_among(one, inside, lines, size)}"))
    return made


def _among(one: AskedPrompt, inside: Sequence[str], lines: Sequence[str], size: int) -> str:
    """Lines of these items among random others, `size` in all, in a random order."""
    relevant = {one.line(place) for place in range(len(one.truth))}
    others: list[str] = []
    for place in one.random.permutation(len(lines)).tolist():
        if len(others) + len(inside) >= size:
            break
        if lines[place] not in relevant:
            others.append(lines[place])
    every = [*inside, *others]
    return "\n".join(f"- {every[place]}" for place in one.random.permutation(len(every)))


def conversation_of(content: str, template: str | None) -> tuple[str, str, str]:
    """The text before the conversation in a message, the conversation, and the text after it.

    Args:
        content: the message.
        template: the dataset's template; words in braces other than {conversation} match any text. None for no
            template. Where the message does not follow the template, all of it is the conversation.
    """
    if template is None:
        return "", content, ""
    before, _, after = template.partition("{conversation}")
    patterns = [re.sub(r"\\\{\w+\\\}", ".*?", re.escape(part)) for part in (before, after)]
    found = re.fullmatch(f"({patterns[0]})(.*)({patterns[1]})", content, re.DOTALL)
    return (found[1], found[2], found[3]) if found else ("", content, "")
