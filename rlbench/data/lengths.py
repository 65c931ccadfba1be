"""Shortening of long conversations, the same for every dataset (docs/data.md).

The limit counts characters, because the data are part of a run's identity and must not depend on its tokenizer. Whether
the model can read the shortened prompts is checked in tokens, for every prompt, before anything runs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rlbench.data.record import Messages, Record

DROP_OLDEST_TURNS, DROP_SAMPLE = "drop_oldest_turns", "drop_sample"
LONG_PROMPTS = (DROP_OLDEST_TURNS, DROP_SAMPLE)


@dataclass
class LongPrompts:
    """The rule of `dataset.long_prompts`, and how often it was used.

    Attributes:
        limit: largest number of characters of a conversation's turns together; None for no limit.
        rule: a name in `LONG_PROMPTS`.
        counts: number of samples by split and effect.
    """

    limit: int | None
    rule: str
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def first_turn(self, split: str, sizes: Sequence[int]) -> int | None:
        """Index of the oldest turn that a sample keeps; None if the sample is left out.

        Args:
            split: the sample's split, for the count.
            sizes: characters of its turns, oldest first. The last turn always stays.
        """
        if self.limit is None or sum(sizes) <= self.limit:
            return 0
        if self.rule == DROP_SAMPLE:
            self.counts[split, "were left out"] += 1
            return None
        size, first = sizes[-1], len(sizes) - 1
        while first > 0 and size + sizes[first - 1] <= self.limit:
            first -= 1
            size += sizes[first]
        if first > 0:
            self.counts[split, "lost their oldest turns"] += 1
        if size > self.limit:
            self.counts[split, "are still longer, because the last turn is always kept"] += 1
        return first

    def applied(self, splits: Mapping[str, Sequence[Record]]) -> dict[str, list[Record]]:
        """The splits after the rule. Each message of a prompt is a turn, except system messages, which stay."""
        kept: dict[str, list[Record]] = {}
        for split, records in splits.items():
            prompts = [(record, self._prompt(split, record.prompt)) for record in records]
            kept[split] = [replace(record, prompt=prompt) for record, prompt in prompts if prompt is not None]
        return kept

    def _prompt(self, split: str, prompt: Messages) -> Messages | None:
        turns = [message for message in prompt if message["role"] != "system"]
        first = self.first_turn(split, [len(message["content"]) for message in turns])
        if first is None:
            return None
        # A conversation begins with the user: chat templates refuse another order.
        while first > 0 and first < len(turns) - 1 and turns[first]["role"] != "user":
            first += 1
        return [message for message in prompt if message["role"] == "system"] + turns[first:]

    def notices(self) -> list[str]:
        """The effects of the rule, one sentence for each split and kind."""
        return [
            f"{split}: {count} conversations longer than {self.limit} characters {what} "
            "(dataset.max_conversation_chars, dataset.long_prompts)"
            for (split, what), count in self.counts.items()
        ]
