"""Lists that are held to a catalogue: finds the tokens after which a text can still become a valid list.

The constraint is on text. A valid list is N lines of the catalogue joined by newlines, then EOS. A token is allowed if
the text so far and the token together begin a valid list, so a line may be written in every tokenisation that the
vocabulary has. A token with more than one newline is never allowed.

A place is the beginning of a line. Catalogue lines are sorted, so those with the same beginning are a range. Without
exclusions, the tokens that may follow a place do not depend on the rest of the list. They are found when a list first
reaches the place, and kept in a table. A step looks up the tokens of each row. It drops a token if all lines in the
token's range are excluded. `tests/unit/test_constraint.py` compares this with a slow search over texts.
"""

import logging
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rlbench.base.errors import BadInput
from rlbench.config.schema import EvaluationConfig, GenerationConfig
from rlbench.lists.held import HeldLines, shown
from rlbench.lists.reader import ListReader
from rlbench.lists.relevance import Judge
from rlbench.models.token_bytes import TokenBytes, special_lines, token_bytes

log = logging.getLogger(__name__)

OVER, START, LINE = 0, 1, 2
"""Places: after the end of a list, before its first character, and before the first character of a later line."""
COLUMNS = 5
"""Length of an `Option`."""
FORBIDDEN = -1e15
"""Logit of a token that is not allowed. Finite, so that its product with probability 0 is 0."""

Option = tuple[int, int, int, int, int]
"""A token that may follow a place, as five numbers.

1. The token.
2. The first line that the list may be writing after the token; for EOS, the line that it ends.
3. The line after the last of these.
4. The line that the token completes; -1 if it contains no newline.
5. The place after the token.
"""
Vocabulary = dict[bytes, list[int]]
"""Tokens by their text."""


class Options:
    """The tokens that may follow each place, in a table that grows when a list first reaches a place.

    A choice is 2 * place, plus 1 in the last line of a list. A complete line may be followed by EOS if it is the last
    one, and by a newline otherwise.

    Args:
        lines: the lines of the catalogue.
        tokens: what tokens stand for.
        ends: ids of EOS.
    """

    def __init__(self, lines: Sequence[bytes], tokens: TokenBytes, ends: Sequence[int]):
        self.lines, self.ends = lines, ends
        self._common = [0, *(_common(one, other) for one, other in zip(lines, lines[1:], strict=False))]
        self._inside, self._across = self._split(tokens.of_token, drops_space=False)
        self._at_start = (self._inside, self._across)
        if tokens.drops_first_space:
            self._at_start = self._split(tokens.of_token, drops_space=True)
        self._ranges: list[tuple[int, int, int]] = [(0, 0, 0), (0, len(lines), 0), (0, len(lines), 0)]
        self._place_of = {(0, 0): LINE}
        self._table = torch.empty(0, COLUMNS, dtype=torch.long)
        self._used = 0
        self._first = torch.zeros(0, dtype=torch.long)
        self._count = torch.zeros(0, dtype=torch.long)
        always = len(lines)  # a range that no excluded item closes
        self._add(OVER, [(end, always, always + 1, -1, OVER) for end in ends], [], [])

    def _split(
        self, of_token: Sequence[bytes | None], drops_space: bool
    ) -> tuple[Vocabulary, dict[bytes, list[Option]]]:
        """Tokens without a newline by their text, and tokens with one newline by the text before it.

        Completed lines are still missing from the latter, as they depend on the place. They are -1.
        """
        inside: Vocabulary = {}
        across: dict[bytes, list[Option]] = {}
        for token, text in enumerate(of_token):
            text = text[1:] if text and drops_space and text.startswith(b" ") else text
            if not text or text.count(b"\n") > 1:
                continue
            before, newline, after = text.partition(b"\n")
            if not newline:
                inside.setdefault(text, []).append(token)
                continue
            low, high = self._range(after)
            if low < high:
                across.setdefault(before, []).append((token, low, high, -1, len(after)))
        return inside, across

    def _range(self, beginning: bytes) -> tuple[int, int]:
        """The first line with this beginning, and the line after the last."""
        low = bisect_left(self.lines, beginning)
        if low == len(self.lines) or not self.lines[low].startswith(beginning):
            return low, low
        # No byte of UTF-8 is 255.
        return low, bisect_left(self.lines, beginning + b"\xff", low)

    def _place(self, low: int, high: int, depth: int) -> int:
        """The place after the first `depth` bytes of lines low to high - 1, which begin with the same bytes."""
        place = self._place_of.setdefault((low, depth), len(self._ranges))
        if place == len(self._ranges):
            self._ranges.append((low, high, depth))
        return place

    def gather(self, choices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All options of B choices: the row of each (n,), and the options (n, 5)."""
        rows, entries = self._entries(choices)
        return rows, self._table[entries]

    def tokens(self, choices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All options of B choices: the row of each (n,), and the tokens (n,)."""
        rows, entries = self._entries(choices)
        return rows, self._table[entries, 0]

    def _entries(self, choices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """All options of B choices: the row of each (n,), and its index in the table (n,)."""
        device = choices.device
        if self._table.device != device:
            self._table, self._first, self._count = (one.to(device) for one in (self._table, self._first, self._count))
        count = self._count[choices]
        if bool((count < 0).any()):
            for place in (choices[count < 0] // 2).unique().tolist():
                self._visit(place)
            count = self._count[choices]
        rows = torch.arange(len(choices), device=device).repeat_interleave(count)
        before = self._first[choices] - (count.cumsum(0) - count)
        return rows, before[rows] + torch.arange(len(rows), device=device)

    def _visit(self, place: int) -> None:
        """Find the options of a place."""
        low, high, depth = self._ranges[place]
        vocabulary, across = self._at_start if place == START else (self._inside, self._across)
        inside = self._within(low, high, depth, vocabulary)
        crossing: list[Option] = []
        for line in range(low, high):
            for token, first, last, _, length in across.get(self.lines[line][depth:], ()):
                crossing.append((token, first, last, line, self._place(first, last, length)))
        ending: list[Option] = []
        if depth and len(self.lines[low]) == depth:
            ending = [(end, low, low + 1, -1, OVER) for end in self.ends]
        self._add(place, inside, crossing, ending)

    def _within(self, low: int, high: int, depth: int, vocabulary: Vocabulary) -> list[Option]:
        """Options of tokens that stay in the line."""
        longest = max(map(len, vocabulary), default=0)
        found: list[Option] = []
        opened: list[tuple[int, list[int], int]] = []  # length, tokens and first line of texts that lines still share

        def close(length: int, line: int) -> None:
            while opened and opened[-1][0] > length:
                size, tokens, first = opened.pop()
                after = self._place(first, line, depth + size)
                found.extend((token, first, line, -1, after) for token in tokens)

        for line in range(low, high):
            same = self._common[line] - depth if line > low else 0
            close(same, line)
            rest = self.lines[line][depth : depth + longest]
            for length in range(same + 1, len(rest) + 1):
                tokens = vocabulary.get(rest[:length])
                if tokens:
                    opened.append((length, tokens, line))
        close(0, high)
        return found

    def _add(self, place: int, inside: list[Option], crossing: list[Option], ending: list[Option]) -> None:
        """Put the options of a place into the table.

        Args:
            place: the place.
            inside: options of both choices, in any line of a list.
            crossing: options of lines before the last.
            ending: options of the last line.
        """
        self._grow_places()
        rows = torch.tensor([*crossing, *inside, *ending], dtype=torch.long).view(-1, COLUMNS).to(self._table.device)
        if self._used + len(rows) > len(self._table):
            larger = self._table.new_empty(2 * (self._used + len(rows)), COLUMNS)
            larger[: self._used] = self._table[: self._used]
            self._table = larger
        self._table[self._used : self._used + len(rows)] = rows
        # The two choices share the rows of `inside`.
        self._first[2 * place], self._count[2 * place] = self._used, len(crossing) + len(inside)
        self._first[2 * place + 1] = self._used + len(crossing)
        self._count[2 * place + 1] = len(inside) + len(ending)
        self._used += len(rows)

    def _grow_places(self) -> None:
        missing = 2 * len(self._ranges) - len(self._count)
        if missing > 0:
            room = max(missing, len(self._count))
            self._first = torch.cat([self._first, self._first.new_zeros(room)])
            self._count = torch.cat([self._count, self._count.new_full((room,), -1)])


def _common(one: bytes, other: bytes) -> int:
    """Number of equal bytes at the beginning of two texts."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Constraint:
    """What lists are held to.

    Args:
        held: the lines of the catalogue.
        options: the tokens that may follow each place.
        list_length: N.
        exclude: items that a list may not have: `repeats` for those that it already has, `seen` for those that the
            dialogue has named.
    """

    def __init__(self, held: HeldLines, options: Options, list_length: int, exclude: Sequence[str] = ()):
        self.held, self.options, self.list_length = held, options, list_length
        self.excludes_repeats, self.excludes_seen = "repeats" in exclude, "seen" in exclude
        self._of_item = torch.from_numpy(held.of_item)
        firsts = np.unique(held.items, return_index=True)[1]
        self._is_first = np.isin(np.arange(len(held.lines)), firsts)

    def excluded(self, titles: Sequence[Sequence[str]]) -> NDArray[np.bool_] | None:
        """(B, L) lines that each list may not have, given the titles that its dialogue has named; None for no lines."""
        return self.held.seen(titles) if self.excludes_seen else None

    def same_item(self, lines: torch.Tensor) -> list[torch.Tensor]:
        """Lines that name the same items as n lines, (n,) each; -1 where there are no more."""
        if self._of_item.device != lines.device:
            self._of_item = self._of_item.to(lines.device)
        return list(self._of_item[lines].unbind(1))

    def start(self, rows: int, excluded: NDArray[np.bool_] | None, device: torch.device | str) -> "Walk":
        """The beginning of B lists.

        Args:
            rows: B.
            excluded: (B, L) lines that each list may not have; None for no such lines.
            device: the device of the tokens.
        """
        left = self._is_first[None] & (True if excluded is None else ~excluded)
        count = np.broadcast_to(left.sum(axis=1), (rows,))
        most = count if self.excludes_repeats else np.where(count > 0, self.list_length, 0)
        target = torch.from_numpy(np.minimum(most, self.list_length)).to(device)
        closed: torch.Tensor | None = None
        if self.excludes_repeats or excluded is not None:
            # One more column: the range of options that no excluded line closes.
            closed = torch.zeros(rows, len(self.held.lines) + 2, dtype=torch.int32, device=device)
            if excluded is not None:
                closed[:, 1:-1] = torch.from_numpy(excluded.cumsum(axis=1, dtype=np.int32)).to(device)
                closed[:, -1] = closed[:, -2]
        place = torch.where(target > 0, START, OVER)
        return Walk(self, place, torch.zeros_like(target), target, closed)

    def followed(self, ids: torch.Tensor, mask: torch.Tensor, excluded: NDArray[np.bool_] | None) -> "Allowed":
        """The allowed tokens at each position of lists that were drawn under the constraint.

        Args:
            ids: (B, T) tokens, EOS included.
            mask: (B, T) 1 at tokens.
            excluded: as in `start`.

        Raises:
            ValueError: a token is not allowed.
        """
        walk, kept = self.start(len(ids), excluded, ids.device), mask.bool()
        choices, closed = torch.zeros_like(ids), []
        for step in range(ids.size(1)):
            walk.place = torch.where(kept[:, step], walk.place, OVER)
            choices[:, step] = walk.choices()
            closed.append(walk.closed_tokens())
            walk.advance(torch.where(kept[:, step], ids[:, step], self.options.ends[0]))
        width = max((one.size(1) for one in closed), default=0)
        padded = [torch.nn.functional.pad(one, (0, width - one.size(1)), value=-1) for one in closed]
        dead = torch.stack(padded, dim=1) if padded else choices.new_zeros(len(ids), 0, 0)
        return Allowed(self.options, choices, dead)


def constraint_of(section: GenerationConfig | EvaluationConfig, reader: ListReader, judge: Judge) -> Constraint | None:
    """The constraint that a configuration sets; None for free lists.

    Args:
        section: settings of rollouts or of evaluation.
        reader: knows the tokenizer, the ids that end a list, and N.
        judge: knows the catalogue, and reads lines.

    Raises:
        BadInput: the catalogue has no line, or the tokenizer cannot write one.
    """
    if section.constraint == "none":
        return None
    held, options = _made(reader.tokenizer, judge, tuple(reader.eos_token_ids))
    return Constraint(held, options, reader.units.list_length, section.exclude)


@lru_cache(maxsize=2)
def _made(tokenizer: PreTrainedTokenizerBase, judge: Judge, ends: tuple[int, ...]) -> tuple[HeldLines, Options]:
    """The lines of a catalogue and their options. Rollouts and evaluation share them."""
    held = HeldLines.of(judge, set(special_lines(judge.catalog.lines(), tokenizer)))
    if held.left_out:
        log.warning(
            "%d lines of the catalogue do not read as its items or contain a special token of the tokenizer, so no "
            "list that is held to it has them: %s",
            len(held.left_out),
            shown(held.left_out),
        )
    return held, options_of(held, token_bytes(tokenizer), ends)


def options_of(held: HeldLines, tokens: TokenBytes, ends: Sequence[int]) -> Options:
    """Options for lists of these lines.

    Raises:
        BadInput: there is no line, or the vocabulary cannot write one.
    """
    if not held.lines:
        raise BadInput(
            f"lists cannot be held to the catalogue: no line of it reads as an item ({shown(held.left_out)})"
        )
    # A token that ends a list has no text here, even if the vocabulary gives it one.
    text = [None if token in ends else found for token, found in enumerate(tokens.of_token)]
    tokens = replace(tokens, of_token=text)
    unwritable = _unwritable(held.lines, tokens)
    if unwritable:
        raise BadInput(f"lists cannot be held to the catalogue: the vocabulary has no tokens for {shown(unwritable)}")
    return Options(held.lines, tokens, ends)


def _unwritable(lines: Sequence[bytes], tokens: TokenBytes) -> list[str]:
    """Characters of lines for which the vocabulary has neither a token nor tokens for each of their bytes.

    If there are none, every beginning of a line can be completed.
    """
    known = set(filter(None, tokens.of_token))
    letters = set("\n").union(*(line.decode() for line in lines))
    by_byte = {letter for letter in letters if all(bytes([byte]) in known for byte in letter.encode())}
    parts = any(not _is_text(one) for one in known)
    whole = set() if parts else {letter for letter in letters if letter.encode() in known}
    return sorted(letters - by_byte - whole)


def _is_text(found: bytes) -> bool:
    try:
        found.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True)
class HeldPrompts:
    """What the lists of some prompts are held to.

    Attributes:
        constraint: one for all prompts.
        titles: for each prompt, the titles that its dialogue has named.
    """

    def repeated(self, times: int) -> "HeldPrompts":
        """The same with each prompt several times in a row."""
        return HeldPrompts(self.constraint, [titles for titles in self.titles for _ in range(times)])

    constraint: Constraint
    titles: Sequence[Sequence[str]]

    def start(self, prompts: Sequence[int], device: torch.device) -> "Walk":
        """The beginning of a list for each of the prompts with these indices."""
        excluded = self.constraint.excluded([self.titles[prompt] for prompt in prompts])
        return self.constraint.start(len(prompts), excluded, device)


@dataclass
class Walk:
    """How far B lists have been written.

    Attributes:
        constraint: what they are held to.
        place: (B,) the place in the line that each list is writing.
        entries: (B,) number of complete lines, without the one being written.
        target: (B,) number of lines after which each list ends.
        closed: (B, L + 2) number of excluded lines before each line; None if nothing is excluded.
    """

    constraint: Constraint
    place: torch.Tensor
    entries: torch.Tensor
    target: torch.Tensor
    closed: torch.Tensor | None
    _found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)

    def choices(self) -> torch.Tensor:
        """(B,) the choice of each list, as in `Options`."""
        return 2 * self.place + (self.entries + 1 >= self.target)

    def _options(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The row of each option (n,), the options (n, 5), and whether each is open (n,)."""
        if self._found is None:
            rows, options = self.constraint.options.gather(self.choices())
            self._found = rows, options, self._open(rows, options)
        return self._found

    def _open(self, rows: torch.Tensor, options: torch.Tensor) -> torch.Tensor:
        """(n,) whether the range of each option has a line that is not excluded."""
        if self.closed is None:
            return torch.ones_like(rows, dtype=torch.bool)
        _, low, high, line, _ = options.unbind(1)
        left = high - low - (self.closed[rows, high] - self.closed[rows, low])
        crossing = (line >= 0).nonzero().squeeze(1)
        if not len(crossing):
            return left > 0
        row, line, low, high = rows[crossing], line[crossing], low[crossing], high[crossing]
        is_open = self.closed[row, line + 1] == self.closed[row, line]
        if self.constraint.excludes_repeats:  # the completed line's item closes too
            for same in self.constraint.same_item(line):
                inside = (same >= low) & (same < high) & is_open
                left[crossing] -= inside.to(left.dtype)
        found = left > 0
        found[crossing] &= is_open
        return found

    def allowed(self, vocabulary: int) -> torch.Tensor:
        """(B, V) whether each token may follow."""
        rows, options, is_open = self._options()
        mask = torch.zeros(len(self.place), vocabulary, dtype=torch.bool, device=rows.device)
        mask[rows[is_open], options[is_open, 0]] = True
        return mask

    def closed_tokens(self) -> torch.Tensor:
        """(B, D) tokens that would be allowed without exclusions and are not, padded with -1."""
        rows, options, is_open = self._options()
        rows, tokens = rows[~is_open], options[~is_open, 0]
        count = rows.bincount(minlength=len(self.place))
        table = tokens.new_full((len(self.place), int(count.max()) if len(rows) else 0), -1)
        table[rows, torch.arange(len(rows), device=rows.device) - (count.cumsum(0) - count)[rows]] = tokens
        return table

    def advance(self, tokens: torch.Tensor) -> None:
        """Add a token (B,) to each list.

        Raises:
            ValueError: a token is not allowed.
        """
        rows, options, is_open = self._options()
        chosen = ((options[:, 0] == tokens[rows]) & is_open).nonzero().squeeze(1)
        if len(chosen) != len(tokens):
            row = next(row for row in range(len(tokens)) if row not in rows[chosen].tolist())
            raise ValueError(f"token {int(tokens[row])} of list {row} does not continue a list of the catalogue")
        line = options[chosen, 3]
        completed = (line >= 0).nonzero().squeeze(1)
        if self.constraint.excludes_repeats and self.closed is not None and len(completed):
            columns = torch.arange(self.closed.size(1), device=line.device)
            for same in self.constraint.same_item(line[completed]):
                later = (columns > same[:, None]) & (same >= 0)[:, None]
                self.closed[completed] += later.to(self.closed.dtype)
        self.entries = self.entries + (line >= 0)
        self.place = options[chosen, 4]
        self._found = None

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only the lists with these indices. An index may occur several times."""
        self.place, self.entries, self.target = self.place[rows], self.entries[rows], self.target[rows]
        self.closed = None if self.closed is None else self.closed[rows]
        self._found = None


@dataclass(frozen=True)
class Allowed:
    """The allowed tokens at each position of lists.

    Attributes:
        options: the tokens of each choice.
        choices: (...) the choice at each position.
        closed: (..., D) tokens of the choice that excluded items forbid, padded with -1.
    """

    options: Options
    choices: torch.Tensor
    closed: torch.Tensor

    def __getitem__(self, where: object) -> "Allowed":
        return Allowed(self.options, self.choices[where], self.closed[where])  # type: ignore[index]

    def flat(self) -> "Allowed":
        """The same for lists (B, T), with all positions in one dimension (B * T,)."""
        return Allowed(self.options, self.choices.flatten(), self.closed.flatten(0, 1))

    def mask(self, vocabulary: int) -> torch.Tensor:
        """(n, V) whether each token is allowed at n positions; `choices` is (n,)."""
        rows, tokens = self.options.tokens(self.choices)
        mask = torch.zeros(len(self.choices), vocabulary, dtype=torch.bool, device=rows.device)
        mask[rows, tokens] = True
        row, column = (self.closed >= 0).nonzero(as_tuple=True)
        mask[row, self.closed[row, column]] = False
        return mask
