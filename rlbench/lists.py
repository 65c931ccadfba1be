"""Completions as ranked lists: one parse gives the entries and the unit of every token, in step with each other.

A completion is split into lines at "\\n". A line that reads as "Title (Year)" is an entry; the k-th entry is rank k.
A token belongs to the line it starts in, so the newline that ends a line belongs to that line (paper, section 2.1),
and a token that fuses ")\\n" or "\\n\\n" still belongs to exactly one unit. Lines that are no entry, entries past
rank N and EOS are units of their own: they never shift the ranks of what follows. (The published code counts
parseable lines for rewards and newlines for tokens, so one preamble line shifts all later credit by one.)
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PreTrainedTokenizerBase

_ORNAMENT = re.compile(r"^[\s>]*(?:(?:\d{1,3}\s*[.)]|#\s*\d{1,3}\s*[.)]?|[-*+•–—])\s+)?")
_ENTRY = re.compile(r"^(?P<title>.+?)\s*[(\[]\s*(?P<year>\d{4})\s*[)\]]")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`"}


@dataclass(frozen=True)
class Entry:
    """One parsed line: the film it names and the line (0-based) it stands in."""

    title: str
    year: int
    line: int


@dataclass(frozen=True)
class UnitLayout:
    """Unit codes for lists of N ranks: 0..N-1 are ranks, then the special blocks.

    Args:
        list_length: N, at least 1.
    """

    list_length: int

    def __post_init__(self) -> None:
        if self.list_length < 1:
            raise ValueError(f"list_length must be at least 1, got {self.list_length}")

    @property
    def overflow(self) -> int:
        """Entries past rank N."""
        return self.list_length

    @property
    def other(self) -> int:
        """Preamble, blank lines and lines that are no entry."""
        return self.list_length + 1

    @property
    def eos(self) -> int:
        return self.list_length + 2

    @property
    def padding(self) -> int:
        return self.list_length + 3

    @property
    def count(self) -> int:
        """How many codes there are, U = N + 4."""
        return self.list_length + 4


def parse_line(line: str) -> tuple[str, int] | None:
    """Read one line as (title, year), or None where it is no "Title (Year)".

    Numbering, bullets, Markdown emphasis and paired quotes around the title go; text after the year goes; parentheses
    inside the title stay. The year may stand in round or square brackets and has four digits.
    """
    line = _ORNAMENT.sub("", line.replace("**", "").replace("__", ""), count=1).strip()
    if _QUOTES.get(line[:1]) == line[-1:] and len(line) > 1:
        line = line[1:-1]
    match = _ENTRY.match(line)
    if match is None:
        return None
    title = match["title"].strip().strip("*_").strip()
    if len(title) > 1 and _QUOTES.get(title[0]) == title[-1]:
        title = title[1:-1].strip()
    return (title, int(match["year"])) if title else None


def parse_list(text: str) -> list[Entry]:
    """Return the entries of a completion in order, those past rank N included."""
    entries = []
    for index, line in enumerate(text.split("\n")):
        film = parse_line(line)
        if film is not None:
            entries.append(Entry(*film, line=index))
    return entries


class ListReader:
    """Reads completions of one tokenizer: text and entries on one side, unit ids of tokens on the other.

    Args:
        tokenizer: the policy's tokenizer.
        list_length: N, how many ranks a list has.
        eos_token_ids: ids that end a completion; default: the tokenizer's own.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, list_length: int, eos_token_ids: Sequence[int] | None = None
    ):
        self.tokenizer = tokenizer
        self.units = UnitLayout(list_length)
        self.eos_token_ids = list(eos_token_ids or [tokenizer.eos_token_id])

    @cached_property
    def newlines_per_token(self) -> torch.Tensor:
        """(V,) how many "\\n" each vocabulary entry holds; special tokens, which the text leaves out, hold none."""
        special = set(self.tokenizer.all_special_ids)
        texts = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))], skip_special_tokens=False)
        return torch.tensor([0 if i in special else text.count("\n") for i, text in enumerate(texts)])

    def decode(self, completion_ids: Sequence[Sequence[int]]) -> list[str]:
        """Text of each completion without special tokens; its newlines are exactly those that `segment` counts."""
        return self.tokenizer.batch_decode(
            [list(ids) for ids in completion_ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def is_finished(self, completion_ids: Sequence[Sequence[int]]) -> list[bool]:
        """Whether each completion ends with EOS (False: cut off at the token limit)."""
        return [bool(len(ids)) and ids[-1] in self.eos_token_ids for ids in completion_ids]

    def segment(
        self, completion_ids: torch.Tensor, completion_mask: torch.Tensor, entries: Sequence[Sequence[Entry]]
    ) -> torch.Tensor:
        """Give every token its unit.

        Args:
            completion_ids: (B, T) token ids.
            completion_mask: (B, T), 0 on padding.
            entries: the parsed entries of each of the B completions.

        Returns:
            (B, T) int64 unit codes of `UnitLayout`.
        """
        device, units = completion_ids.device, self.units
        newlines = self.newlines_per_token.to(device)[completion_ids] * completion_mask
        line = newlines.cumsum(dim=1) - newlines  # newlines strictly before the token
        unit_of_line = torch.full((completion_ids.size(0), int(line.max()) + 1), units.other, dtype=torch.long)
        for row, of_row in enumerate(entries):
            for rank, entry in enumerate(of_row):
                unit_of_line[row, entry.line] = min(rank, units.overflow)
        unit_ids = unit_of_line.to(device).gather(1, line)
        is_eos = torch.isin(completion_ids, torch.tensor(self.eos_token_ids, device=device))
        unit_ids = unit_ids.masked_fill(is_eos, units.eos)
        return unit_ids.masked_fill(completion_mask == 0, units.padding)
