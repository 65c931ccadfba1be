"""Demonstrations as tokens: batches for algorithms whose loss has a supervised term, and a policy's loss on held-out
demonstrations."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlbench.base.errors import BadInput
from rlbench.base.seeding import demonstration_order
from rlbench.data.record import Record
from rlbench.data.stored import CHARACTERS, StoredRecords, characters_of
from rlbench.lists.held import shown
from rlbench.models.batches import Completions
from rlbench.runs import processes
from rlbench.runs import record as run_record


class Demonstrations:
    """Draws demonstrations equally often, from an endless sequence. A batch depends only on its place in it.

    Args:
        records: each with a completion.
        tokenizer: its chat template formats them, as in the SFT stage.
        max_length: tokens of prompt and completion together, cut at the end, as in the SFT stage. Demonstrations whose
            completion is cut completely are left out.
        seed: seed of the order.
        rows: ids of prompts and completions, if the records have been tokenised already.

    Raises:
        BadInput: every completion is cut completely.
    """

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        seed: int,
        rows: Sequence[tuple[list[int], list[int]]] | None = None,
    ):
        self.padding = tokenizer.pad_token_id
        self.seed = seed
        if rows is None:
            tokens = (demonstration_tokens(record, tokenizer, max_length) for record in records)
            rows = [(prompt, completion) for prompt, completion in tokens if completion]
        self.rows = rows
        if not self.rows:
            raise BadInput(
                f"trainer.sft.max_length = {max_length} leaves nothing of the completions of {len(records)} "
                "demonstrations; use a larger value"
            )

    def batch(self, first: int, size: int, device: torch.device) -> Completions:
        """`size` demonstrations from place `first` on. Each round uses every demonstration once, in a new order."""
        places = [divmod(place, len(self.rows)) for place in range(first, first + size)]
        orders = {turn: demonstration_order(self.seed, turn, len(self.rows)) for turn, _ in places}
        return Completions.of_rows([self.rows[orders[turn][place]] for turn, place in places], self.padding, device)

    def loss(self, policy: PreTrainedModel, batch_size: int) -> float:
        """Mean negative log-likelihood per token of the completions, EOS included, in nats.

        Every token has the same weight, so the result does not depend on the batches. Processes share the work by whole
        batches, and every process returns the mean over all.

        Args:
            policy: with all its weights on this process; its mode is restored afterwards.
            batch_size: number of demonstrations at a time.
        """
        was_training = policy.training
        policy.eval()
        starts = range(0, len(self.rows), batch_size)[processes.index() :: processes.count()]
        batches = [(start, self.rows[start : start + batch_size]) for start in starts]
        own = {
            start: _log_likelihood(policy, Completions.of_rows(rows, self.padding, policy.device))
            for start, rows in batches
        }
        policy.train(was_training)
        of_all = {start: value for part in processes.gather(own) for start, value in part.items()}
        tokens = sum(len(completion) for _, completion in self.rows)
        return -sum(of_all[start] for start in sorted(of_all)) / tokens


@torch.no_grad()
def _log_likelihood(policy: PreTrainedModel, batch: Completions) -> float:
    """Sum over the tokens of all completions."""
    ids, mask = batch.joined()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = policy(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    length = batch.completion_ids.size(1)
    logps = logits[:, -length - 1 : -1].float().log_softmax(dim=-1)
    of_tokens = logps.gather(2, batch.completion_ids.unsqueeze(2)).squeeze(2)
    return float((of_tokens.double() * batch.completion_mask).sum())


@dataclass(frozen=True)
class Kept:
    """Effect of a length limit on demonstrations.

    Attributes:
        count: number of all demonstrations.
        at_limit: number that are as long as the limit; most of these were cut.
        without_end: number without an end token; from these a model does not learn to stop.
    """

    count: int
    at_limit: int
    without_end: int

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[int]], max_length: int, ends: Sequence[int], dropped: int = 0) -> "Kept":
        """From tokenised demonstrations that have already been cut.

        Args:
            rows: ids of prompt and completion.
            max_length: the limit.
            ends: ids that end a completion. Templates may write a line break after them.
            dropped: additional demonstrations that TRL leaves out, because their completion is cut completely.
        """
        without = sum(not set(row[-TAIL:]) & set(ends) for row in rows)
        at_limit = sum(len(row) >= max_length for row in rows)
        return cls(len(rows) + dropped, at_limit + dropped, without + dropped)

    @property
    def result(self) -> run_record.DemonstrationCounts:
        """`demonstrations` in result.json."""
        return {"count": self.count, "at_limit": self.at_limit, "without_end": self.without_end}

    def words(self, max_length: int) -> str:
        """The sentence for the log."""
        return (
            f"{self.without_end:,} of {self.count:,} demonstrations are truncated by trainer.sft.max_length = "
            f"{max_length} and lose their end, so the model does not learn from them to stop"
        )

    def words_of_pairs(self, max_length: int) -> str:
        """The sentence for the log if demonstrations are the chosen lists of preference tuples."""
        return (
            f"{self.without_end:,} of {self.count:,} demonstrations are truncated by trainer.sft.max_length = "
            f"{max_length} and lose their end, so they are never used as the better list"
        )


def kept_of(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_length: int, ends: Sequence[int]
) -> Kept:
    """Effect of a length limit on the demonstrations that RL uses, in a supervised term or as chosen lists.

    Args:
        records: each with a completion.
        ends: ids that end a completion.
    """
    tokens = [demonstration_tokens(record, tokenizer, max_length) for record in records]
    rows = [prompt + completion for prompt, completion in tokens if completion]
    return Kept.of_rows(rows, max_length, ends, dropped=len(tokens) - len(rows))


TAIL = 4
"""Number of tokens at the end of a demonstration to search for EOS. A template may write a line break after EOS."""


def check_ends(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_length: int, source: str | Path
) -> list[str]:
    """A sentence if no demonstration would keep its end token, otherwise nothing.

    Records are tokenised from the shortest upwards until one keeps its end. That takes one or two, unless all fail.

    Args:
        records: each with a completion.
        source: the model's source, for the message.
    """
    written = False
    sizes = records.column(CHARACTERS) if isinstance(records, StoredRecords) else list(map(characters_of, records))
    for place in sorted(range(len(records)), key=sizes.__getitem__):
        record = records[place]
        prompt, completion = demonstration_tokens(record, tokenizer, sys.maxsize)
        ends = tokenizer.eos_token_id in completion[-TAIL:]
        written = written or ends
        if ends and tokenizer.eos_token_id in completion[: max(max_length - len(prompt), 0)][-TAIL:]:
            return []
    if not written:
        return [
            f"the chat template of '{source}' never writes the EOS token {tokenizer.eos_token!r} after a list, so "
            "the model would never learn to end a list. Use a chat template and an eos_token that match"
        ]
    return [
        f"trainer.sft.max_length = {max_length} truncates all {len(records):,} demonstrations, so the model would "
        "never learn to end a list; use a larger value"
    ]


def check_special(records: Sequence[Record], special: Sequence[str]) -> list[str]:
    """A sentence if demonstrations name items whose lines contain special tokens, otherwise nothing.

    Args:
        records: each with a completion.
        special: these lines of the catalogue. Without any, the records are not read.
    """
    if not special:
        return []
    texts = ("\n".join(message["content"] for message in record.completion or ()) for record in records)
    count = sum(any(line in text for line in special) for text in texts)
    if not count:
        return []
    return [
        f"{count:,} of {len(records):,} demonstrations contain the text of a special token of the tokenizer, in the "
        f"lines {shown(special)}. The model would learn to write the token, such as the end of the list. Rename or "
        "remove these items"
    ]


def demonstration_tokens(
    record: Record, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[int], list[int]]:
    """Prompt and completion as the SFT stage tokenises them."""
    prompt = tokenizer.apply_chat_template(record.prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template([*record.prompt, *(record.completion or [])], return_dict=True)["input_ids"]
    start = common_start(prompt, whole)
    return whole[:start], whole[start:max_length]


def common_start(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """Number of first ids in which a prompt alone and the same prompt with a completion agree."""
    if whole[: len(prompt)] == prompt:
        return len(prompt)
    return next((place for place, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
