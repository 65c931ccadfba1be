"""Batches of prompts and completions as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlbench.models.constraint import Allowed


@dataclass(frozen=True)
class Completions:
    """Completions with their prompts.

    Attributes:
        prompt_ids: (B, P) padded on the left.
        prompt_mask: (B, P).
        completion_ids: (B, T) padded on the right.
        completion_mask: (B, T).
        allowed: the tokens that could be drawn at each position (B, T); None for the whole vocabulary.
    """

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    completion_ids: torch.Tensor
    completion_mask: torch.Tensor
    allowed: Allowed | None = None

    @classmethod
    def of(cls, batch: Any) -> "Completions":
        """From a trainer's dictionary of tensors, drawn from the whole vocabulary."""
        return cls(*(batch[name] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")))

    @classmethod
    def of_rows(
        cls, rows: Sequence[tuple[Sequence[int], Sequence[int]]], padding: int, device: torch.device
    ) -> "Completions":
        """From the ids of each prompt and its completion."""
        prompts = padded([prompt for prompt, _ in rows], padding, left=True)
        completions = padded([completion for _, completion in rows], padding, left=False)
        return cls(*(tensor.to(device) for tensor in (*prompts, *completions)))

    @classmethod
    def split(cls, ids: torch.Tensor, mask: torch.Tensor, length: int) -> "Completions":
        """From rows (B, P + T) whose last `length` = T columns are completions."""
        return cls(ids[:, :-length], mask[:, :-length], ids[:, -length:], mask[:, -length:])

    def joined(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, P + T) ids and mask."""
        return (
            torch.cat([self.prompt_ids, self.completion_ids], dim=1),
            torch.cat([self.prompt_mask, self.completion_mask], dim=1),
        )

    def padded_right(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, L) ids, mask, and mask of the completions, with all padding on the right.

        L is the number of tokens of the longest prompt with its completion.
        """
        ids, mask = self.joined()
        own = torch.cat([torch.zeros_like(self.prompt_mask), self.completion_mask], dim=1)
        order = (1 - mask).argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
        return ids.gather(1, order), mask.gather(1, order), own.gather(1, order)

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def __getitem__(self, rows: slice | torch.Tensor) -> "Completions":
        return Completions(*(None if part is None else part[rows] for part in vars(self).values()))


def padded(rows: Sequence[Sequence[int]], padding: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (B, L) of rows of different lengths, and their mask.

    Args:
        rows: ids, at least one row.
        padding: id of the padding token.
        left: whether padding is before the ids.
    """
    longest = max(map(len, rows))
    ids, mask = torch.full((len(rows), longest), padding), torch.zeros(len(rows), longest, dtype=torch.long)
    for row, found in enumerate(rows):
        where = slice(longest - len(found), longest) if left else slice(0, len(found))
        ids[row, where], mask[row, where] = torch.tensor(found, dtype=torch.long), 1
    return ids, mask
