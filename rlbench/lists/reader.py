"""Completions as ranked lists. One parse gives both the entries and the unit of every token, so the two always agree.

A completion is split into lines at "\\n". A line that reads as "Title (Year)" is an entry; the k-th entry is rank k.
A token belongs to the line it starts in. So the newline that ends a line belongs to that line (paper, section 2.1), and
a token that fuses ")\\n" or "\\n\\n" still belongs to exactly one unit. Lines that are not entries, entries past rank N
and EOS have units of their own. They never shift the ranks of later entries.

This is `layout: aligned`. `layout: published` follows the published code: a token's rank is the number of newlines
before it, whatever the lines hold, so a preamble or a blank line shifts all later credit by one. It exists to measure
the cost of that rule (docs/published-rules.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rlbench.lists.entries import Entry, parse_line, parse_list, parse_text

__all__ = ["Entry", "ListReader", "TokenUnits", "UnitLayout", "parse_line", "parse_list", "parse_text"]


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
        """Preamble, blank lines and lines that are not entries."""
        return self.list_length + 1

    @property
    def eos(self) -> int:
        return self.list_length + 2

    @property
    def padding(self) -> int:
        return self.list_length + 3

    @property
    def count(self) -> int:
        """Number of codes, U = N + 4."""
        return self.list_length + 4


@dataclass(frozen=True)
class TokenUnits:
    """The units of a batch of completions.

    Attributes:
        unit_ids: (B, T) int64 codes of `UnitLayout`, exactly one for every token.
        is_eos: (B, T) bool, unmasked tokens that end a completion.
        n_units: (B,) number of entries in each list, overflow included. Under the published layout, the number of
            newline segments, which that code uses instead.
    """

    unit_ids: torch.Tensor
    is_eos: torch.Tensor
    n_units: torch.Tensor


class ListReader:
    """Reads completions of one tokenizer: their text, and the unit ids of their tokens.

    Args:
        tokenizer: the policy's tokenizer.
        list_length: N, the number of ranks in a list.
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
        """(V,) number of "\\n" in each vocabulary entry. Special tokens have none, because the text omits them."""
        special = set(self.tokenizer.all_special_ids)
        texts = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))], skip_special_tokens=False)
        return torch.tensor([0 if i in special else text.count("\n") for i, text in enumerate(texts)])

    def decode(self, completion_ids: Sequence[Sequence[int]]) -> list[str]:
        """Text of each completion without special tokens. Its newlines are exactly those that `segment` counts."""
        rows = [list(ids) for ids in completion_ids]
        counted = self._newlines(torch.tensor([i for ids in rows for i in ids], dtype=torch.long))
        # A tokenizer with byte fallback can lose a newline next to a truncated character. It never adds one.
        return [
            text if text.count("\n") == int(newlines.sum()) else self._decode_between_newlines(ids)
            for text, ids, newlines in zip(self._decode(rows), rows, counted.split(list(map(len, rows))), strict=True)
        ]

    def _decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        if not rows:  # for an empty list, transformers would return one empty text
            return []
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _decode_between_newlines(self, ids: Sequence[int]) -> str:
        """As `_decode`, but in pieces that end at each token of nothing but newlines."""
        parts: list[str] = []
        piece: list[int] = []
        for i, newlines in zip(ids, self._newlines(torch.tensor(ids)).tolist(), strict=True):
            if newlines and self._decode([[i]])[0] == "\n" * newlines:
                parts += [*self._decode([piece]), "\n" * newlines]
                piece = []
            else:
                piece.append(i)
        return "".join([*parts, *self._decode([piece])])

    def is_finished(self, completion_ids: Sequence[Sequence[int]]) -> list[bool]:
        """Whether each completion ends with EOS (False: cut off at the token limit)."""
        return [bool(len(ids)) and ids[-1] in self.eos_token_ids for ids in completion_ids]

    def lines(self, completion_ids: torch.Tensor, completion_mask: torch.Tensor) -> torch.Tensor:
        """(B, T) the line in which each token starts: the number of newlines in the unmasked tokens before it."""
        newlines = self._newlines(completion_ids) * completion_mask.bool()
        return newlines.cumsum(dim=1) - newlines

    def _newlines(self, ids: torch.Tensor) -> torch.Tensor:
        """Number of newlines in each token, in the shape of ids."""
        table = self.newlines_per_token.to(ids.device)
        # A model's vocabulary may be padded beyond its tokenizer's. Such ids decode to nothing and hold no newline.
        return table[ids.clamp(max=table.size(0) - 1)] * (ids < table.size(0))

    def segment(
        self,
        completion_ids: torch.Tensor,
        completion_mask: torch.Tensor,
        lines: Sequence[Sequence[int]],
        layout: str = "aligned",
    ) -> TokenUnits:
        """Assign a unit to every token.

        Args:
            completion_ids: (B, T) token ids.
            completion_mask: (B, T), 0 on padding.
            lines: the lines of each completion's entries (`ParsedText.lines`); the published layout ignores them.
            layout: name in `LAYOUTS`.
        """
        line = self.lines(completion_ids, completion_mask)
        ends = torch.tensor(self.eos_token_ids, device=completion_ids.device)
        is_eos = torch.isin(completion_ids, ends) & completion_mask.bool()
        unit_ids, n_units = LAYOUTS[layout](line, is_eos, completion_mask, lines, self.units)
        return TokenUnits(unit_ids.masked_fill(completion_mask == 0, self.units.padding), is_eos, n_units)


def aligned(
    line: torch.Tensor,
    is_eos: torch.Tensor,
    mask: torch.Tensor,
    lines: Sequence[Sequence[int]],
    units: UnitLayout,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rank k is the line of entry k. EOS, other lines and overflow have units of their own."""
    n_units = np.array([len(of_list) for of_list in lines], dtype=np.int64)
    n_lines = int(line.max()) + 1 if line.numel() else 1
    of_entry = np.fromiter(chain.from_iterable(lines), dtype=np.int64, count=int(n_units.sum()))
    list_of_entry = np.repeat(np.arange(len(lines)), n_units)
    rank = np.arange(len(of_entry)) - np.repeat(n_units.cumsum() - n_units, n_units)
    unit_of_line = np.full((len(lines), n_lines), units.other, dtype=np.int64)
    has_tokens = of_entry < n_lines  # false for an entry inside a token that starts in the line before
    unit_of_line[list_of_entry[has_tokens], of_entry[has_tokens]] = np.minimum(rank[has_tokens], units.overflow)
    unit_ids = torch.from_numpy(unit_of_line).to(line.device).gather(1, line)
    return unit_ids.masked_fill(is_eos, units.eos), torch.from_numpy(n_units).to(line.device)


def published(
    line: torch.Tensor,
    is_eos: torch.Tensor,
    mask: torch.Tensor,
    lines: Sequence[Sequence[int]],
    units: UnitLayout,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rank k is line k, whatever it holds. EOS belongs to its line, and all lines past N are one overflow block."""
    last = line.masked_fill(mask == 0, -1)
    n_units = last.max(dim=1).values + 1 if line.size(1) else line.new_zeros(line.size(0))
    return line.clamp(max=units.overflow), n_units


LAYOUTS = {"aligned": aligned, "published": published}
