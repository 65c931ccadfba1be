"""The reward function that TRL calls: it reads each completion, judges it and gives its ranks their gains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlbench.catalog import Catalog
from rlbench.lists import Entry, ListReader, parse_list
from rlbench.relevance import Verdict, judge
from rlbench.rewards.gains import GAINS


@dataclass(frozen=True)
class ScoredList:
    """One completion as read and judged; `entries` holds overflow too, `verdicts` the first N ranks."""

    text: str
    entries: list[Entry]
    verdicts: list[Verdict]
    finished: bool


class ListScorer:
    """Scores completions and keeps what it found for the trainer.

    Args:
        reader: how completions are read.
        catalog: the films that may be recommended.
        gain: name in `GAINS`.

    Attributes:
        lists: what was read in the latest call, one a completion.
        hits: (B, N) relevance of the latest call.
        gains: (B, N) gains of the latest call.
    """

    __name__ = "list_gain"  # the name under which TRL logs this reward

    def __init__(self, reader: ListReader, catalog: Catalog, gain: str):
        self.reader = reader
        self.catalog = catalog
        self.gain = GAINS[gain]
        self.lists: list[ScoredList] = []
        self.hits = torch.zeros(0, reader.units.list_length)
        self.gains = torch.zeros(0, reader.units.list_length)

    def read(
        self,
        completion_ids: Sequence[Sequence[int]],
        ground_truth: Sequence[Sequence[tuple[str, int]]],
        seen_titles: Sequence[Sequence[str]],
    ) -> list[ScoredList]:
        """Parse and judge B completions."""
        n = self.reader.units.list_length
        texts = self.reader.decode(completion_ids)
        finished = self.reader.is_finished(completion_ids)
        lists = []
        for text, end, truth, seen in zip(texts, finished, ground_truth, seen_titles, strict=True):
            entries = parse_list(text)
            films = [(entry.title, entry.year) for entry in entries[:n]]
            lists.append(ScoredList(text, entries, judge(films, truth, seen, self.catalog), end))
        return lists

    def __call__(
        self,
        completion_ids: Sequence[Sequence[int]],
        ground_truth: Sequence[Sequence[dict[str, Any]]],
        seen_titles: Sequence[Sequence[str]],
        **_: Any,
    ) -> list[float]:
        """TRL's reward interface: return each list's total gain, and keep lists, hits and gains."""
        truths = [[(film["title"], film["year"]) for film in films] for films in ground_truth]
        self.lists = self.read(completion_ids, truths, seen_titles)
        self.hits = torch.zeros(len(self.lists), self.reader.units.list_length)
        for row, scored in enumerate(self.lists):
            for rank, verdict in enumerate(scored.verdicts):
                self.hits[row, rank] = float(verdict is Verdict.HIT)
        self.gains = self.gain(self.hits)
        return self.gains.sum(dim=1).tolist()
