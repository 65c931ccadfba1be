"""What a rollout's structure may use, in the trainer: `rlbench.sampling.members.Desk`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from trl.models import unwrap_model_for_generation

from rlbench.lists.items import Item, line_of
from rlbench.models.adapters import causal, merged
from rlbench.models.beams import ListForm, beam_groups
from rlbench.models.completing import ListEnd
from rlbench.rewards.batch import RewardBatch
from rlbench.sampling.members import Beginning, Member, ReadList

if TYPE_CHECKING:
    from rlbench.training.trainer import RankedListTrainer

EDITS = 18
"""Separates the random numbers of edits from others with the same seed."""
SCORED_BY = ("ground_truth", "seen_titles")
"""Columns of a prompt that the scorer reads."""


class TrainerDesk:
    """A desk for some prompts of a rollout.

    Args:
        trainer: draws and scores lists.
        rows: the prompts' rows in the dataset.
        places: their places in the dataset.

    Attributes:
        tokens: number of tokens that have been drawn, by the policy or by an expert.
        asked: number of prompts for which an expert was asked.
        silent: number of those without an answer that has an entry.
    """

    def __init__(self, trainer: "RankedListTrainer", rows: Sequence[dict[str, Any]], places: Sequence[int]):
        self.trainer, self.rows, self.places = trainer, rows, places
        self.tokens = self.asked = self.silent = 0

    def draw(self, starts: Sequence[Beginning], until: int | None) -> list[Member]:
        return self._completed(starts, self._end(until))

    def _completed(self, starts: Sequence[Beginning], end: ListEnd | None) -> list[Member]:
        trainer = self.trainer
        ends, most = set(trainer.scorer.reader.eos_token_ids), trainer.max_completion_length
        members = [start.written for start in starts]
        left = [
            place
            for place, member in enumerate(members)
            if len(member.ids) < most and not (member.ids and member.ids[-1] in ends)
        ]
        if not left:
            return members
        rows = [self.rows[starts[place].prompt] for place in left]
        with trainer.ledger.phase("rollout"):
            prompts = trainer.prompt_ids(rows)
            ids = [prompt + members[place].ids for prompt, place in zip(prompts, left, strict=True)]
            written = [len(members[place].ids) for place in left]
            found = trainer.lists(ids, end, trainer.walk(rows), written)
        for place, new in zip(left, found, strict=True):
            before = members[place]
            whole = len(before.recorded) == len(before.ids)
            recorded = before.recorded + new.recorded if whole else []
            members[place] = replace(before, ids=before.ids + new.ids, recorded=recorded)
        self.tokens += sum(len(new.ids) for new in found)
        return members

    def _end(self, until: int | None) -> ListEnd | None:
        """What ends a list besides EOS and the limit."""
        trainer = self.trainer
        assert trainer.collector is not None
        most = [number for number in (until, trainer.collector.rollout.ranks) if number is not None]
        if not most:
            return trainer.list_end
        is_over = partial(trainer.scorer.has_all_ranks, ranks=min(most))
        return ListEnd(trainer.scorer.reader.newlines_per_token, min(most), is_over)

    def begin(self, words: str) -> Member:
        ids = self.trainer.scorer.reader.tokenizer(words, add_special_tokens=False)["input_ids"]
        return Member(list(ids))

    def line(self, starts: Sequence[Beginning], most: int) -> list[Member]:
        reader = self.trainer.scorer.reader
        found = self._completed(starts, ListEnd(reader.newlines_per_token, 1, lambda rows: [True] * len(rows)))
        (newline,) = self.begin("\n").ids[-1:]
        lines = []
        for start, member in zip(starts, found, strict=True):
            ids = member.ids[: len(start.written.ids) + most]
            ids = ids[:-1] if ids and ids[-1] in reader.eos_token_ids else ids
            ended = bool(ids) and bool(reader.newlines_per_token[ids[-1]])
            # What was recorded belongs to the drawn tokens only.
            recorded = member.recorded if len(ids) == len(member.ids) and ended else []
            lines.append(replace(member, ids=ids if ended else [*ids, newline], recorded=recorded))
        return lines

    def beams(self, prompts: int, size: int) -> list[list[Member]]:
        trainer = self.trainer
        with (
            trainer.ledger.phase("rollout"),
            merged(trainer.accelerator.unwrap_model(trainer.model)),
            unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model,
        ):
            walk, reader = trainer.walk(self.rows), trainer.scorer.reader
            assert trainer.collector is not None
            length, most = reader.units.list_length, trainer.collector.rollout.ranks
            if most is None and trainer.list_end is not None:
                most = length
            form = ListForm(reader.newlines_per_token, most or length, most)
            config = trainer.generation_config
            found, tried = beam_groups(causal(model), trainer.prompt_ids(self.rows), config, size, size, walk, form)
        self.tokens += tried
        return [[Member(completion.ids) for completion in group] for group in found]

    def read(self, prompt: int, members: Sequence[Member]) -> list[ReadList]:
        scorer, row = self.trainer.scorer, self.rows[prompt]
        truth: list[Item] = [(item["title"], item["year"]) for item in row["ground_truth"]]
        many = len(members)
        judged, lists = scorer.read([member.ids for member in members], [truth] * many, [row["seen_titles"]] * many)
        catalog, length = scorer.judge.catalog, scorer.reader.units.list_length
        written = []
        for place, scored in enumerate(lists):
            hits = judged.hits[place] > 0
            there = set(judged.items[place][hits].tolist())
            # A truth outside the catalogue cannot be hit, and one that the dialogue has named is no hit.
            possible = dict.fromkeys(index for index in catalog.find_all(truth).tolist() if index >= 0)
            missing = [line_of(*catalog.items[index]) for index in possible if index not in there]
            missing = [line for line in missing if self._can_be_hit(line, row)]
            items = scored.parsed.items[:length]
            written.append(ReadList([line_of(*item) for item in items], hits[: len(items)].tolist(), missing))
        return written

    def possible(self, prompt: int) -> list[int]:
        """Places of the prompt's relevant items that a list can hit, each item once."""
        catalog, row = self.trainer.scorer.judge.catalog, self.rows[prompt]
        found = catalog.find_all([(item["title"], item["year"]) for item in row["ground_truth"]]).tolist()
        first = {index: place for place, index in reversed(list(enumerate(found))) if index >= 0}
        return sorted(place for index, place in first.items() if self._can_be_hit(line_of(*catalog.items[index]), row))

    def say(self, requests: Sequence[str]) -> list[str]:
        trainer = self.trainer
        with trainer.ledger.phase("rollout"):
            ids = trainer.prompt_ids([{"prompt": [{"role": "user", "content": text}]} for text in requests])
            found = trainer.lists(ids, None, None)
        self.tokens += sum(len(answer.ids) for answer in found)
        return trainer.scorer.reader.decode([answer.ids for answer in found])

    def _can_be_hit(self, line: str, row: dict[str, Any]) -> bool:
        judge = self.trainer.scorer.judge
        truth: list[Item] = [(item["title"], item["year"]) for item in row["ground_truth"]]
        return bool(judge(judge.read([line]), [truth], [row["seen_titles"]]).hits.any())

    def advice(self, prompt: int) -> list[str]:
        trainer = self.trainer
        assert trainer.collector is not None and trainer.collector.advice is not None
        answer = trainer.collector.advice(self.rows[prompt])
        text, tokens = answer or ("", 0)
        (parsed,) = trainer.scorer.judge.read([text])
        lines = [line_of(*item) for item in parsed.items[: trainer.scorer.reader.units.list_length]]
        self.asked += 1
        self.silent += not lines
        self.tokens += tokens
        return lines

    def write(self, lines: Sequence[str]) -> Member:
        reader = self.trainer.scorer.reader
        ids = reader.tokenizer("\n".join(lines), add_special_tokens=False)["input_ids"]
        return Member([*ids[: self.trainer.max_completion_length - 1], reader.eos_token_ids[0]])

    def totals(self, prompt: int, members: Sequence[Member]) -> list[float]:
        return self.score([self.rows[prompt]] * len(members), members).totals.tolist()

    def score(self, rows: Sequence[dict[str, Any]], members: Sequence[Member]) -> RewardBatch:
        """The rewards of lists; one row per list."""
        scorer = self.trainer.scorer
        columns = {key: [row[key] for row in rows] for key in SCORED_BY}
        scorer([member.ids for member in members], **columns, prompts=[row["prompt"] for row in rows])
        assert scorer.rewards is not None
        return scorer.rewards

    def catalogue(self) -> Sequence[str]:
        return [line_of(*item) for item in self.trainer.scorer.judge.catalog.items]

    def random(self, prompt: int) -> np.random.Generator:
        trainer = self.trainer
        return np.random.default_rng([trainer.args.seed, EDITS, trainer.state.global_step, self.places[prompt]])

    def groups(self, structure: Callable[..., list[list[Member]]], size: int) -> tuple[list[list[Member]], RewardBatch]:
        """The groups of all prompts, at least one, and the rewards of their members."""
        groups = structure(len(self.rows), size, self)
        rows = [row for row in self.rows for _ in range(size)]
        return groups, self.score(rows, list(chain.from_iterable(groups)))
