"""Lengths of prompts in tokens, remembered in the data cache."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from rlbench.base.cache import code_digest, key_of
from rlbench.data.record import Record
from rlbench.data.stored import StoredRecords
from rlbench.evaluation.evaluate import longest_demonstration, longest_prompt
from rlbench.models.loading import tokenizer_digest

AT_ONCE = 16_384
"""Records in memory at once."""


def longest_of(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest prompt; 0 without records. The result for stored records is computed once.

    Args:
        records: those of a split.
        tokenizer: loaded from a folder, for stored records.
    """
    return _longest_of(records, tokenizer, "longest", longest_prompt)


def longest_demonstration_of(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest prompt with its demonstration; as `longest_of`."""
    return _longest_of(records, tokenizer, "longest-demonstration", longest_demonstration)


def _longest_of(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    longest: Callable[[Sequence[Record], PreTrainedTokenizerBase], int],
) -> int:
    if not isinstance(records, StoredRecords):
        return longest(records, tokenizer)
    key = key_of([tokenizer_digest(tokenizer), code_digest("evaluation")])

    def of_all() -> int:
        starts = range(0, len(records), AT_ONCE)
        return max((longest(records[start : start + AT_ONCE], tokenizer) for start in starts), default=0)

    return int(records.place.fact(f"{name}-{records.file.stem}-{key}", of_all))
