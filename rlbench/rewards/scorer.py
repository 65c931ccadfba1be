"""The reward function that TRL calls. It reads each completion, judges it and computes the gains of its ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlbench.base.errors import BadInput
from rlbench.config.options import filled, with_defaults
from rlbench.config.schema import RewardConfig
from rlbench.lists.entries import Item, ParsedText
from rlbench.lists.item_facts import ItemFacts
from rlbench.lists.metrics import list_metrics
from rlbench.lists.reader import ListReader
from rlbench.lists.relevance import Judge, JudgedLists, Verdict
from rlbench.models.batches import padded
from rlbench.rewards.answers import Answers, Policy
from rlbench.rewards.batch import FEATURES, RewardBatch
from rlbench.rewards.reward_model import ItemPairs, RewardModel, compared_items, title_codes
from rlbench.rewards.success import success
from rlbench.rewards.terms import TERMS, Term, term_options
from rlbench.rewards.values import checked_totals, checked_values

STREAM = 29
"""Separates the random numbers of items for a reward model from others with the same seed."""


@dataclass(frozen=True)
class ScoredList:
    """One completion, read and judged. `parsed` includes overflow, `verdicts` covers the first N ranks."""

    text: str
    parsed: ParsedText
    verdicts: list[Verdict]
    finished: bool


def score(
    lists: JudgedLists,
    facts: ItemFacts,
    reward: RewardConfig,
    texts: Sequence[str] = (),
    answers: Answers | None = None,
) -> RewardBatch:
    """Evaluate every term of a reward on B judged lists.

    Args:
        texts: the lists as text, for messages.
        answers: what terms may ask about the lists; None if nobody can answer.

    Raises:
        BadInput: a term returns an invalid value (`checked_values`), a total is not finite, or a term needs answers
            and there are none.
    """
    b, n = lists.verdicts.shape
    gains, scores = np.zeros((b, len(reward.terms), n)), np.zeros((b, len(reward.terms)))
    for m, (name, options) in enumerate(reward.terms.items()):
        term = TERMS[name]
        made = filled(term.function, term_options(options))(lists, facts, *_asked(name, term, answers))
        values = checked_values(name, term, made, lists, texts, negative=reward.combine != "power_mean")
        if term.scope == "rank":
            gains[:, m] = values
        else:
            scores[:, m] = values
    weights = np.array([term["weight"] for term in reward.terms.values()], dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # checked in the next line
        totals = (gains.sum(axis=2) + scores) @ weights
    checked_totals(totals, texts)
    correct = success(lists, totals, reward.success.rule, reward.success.threshold)
    measured = list_metrics(lists)
    inside = lists.items >= 0
    popularity = TERMS["popularity"].function(lists, facts).sum(axis=1) / np.maximum(inside.sum(axis=1), 1)
    features = {
        "tokens": measured["completion_tokens"],
        "entries": measured["list_length"],
        "in_catalog": measured["in_catalog"],
        "duplicates": measured["duplicates"],
        "popularity": popularity,
    }
    return RewardBatch(
        gains=torch.from_numpy(gains),
        scores=torch.from_numpy(scores),
        hits=torch.from_numpy(lists.hits),
        n_truth=torch.from_numpy(lists.n_truth),
        present=torch.from_numpy(lists.present),
        totals=torch.from_numpy(totals),
        success=torch.from_numpy(correct),
        features=torch.from_numpy(np.stack([features[name] for name in FEATURES], axis=1)).float(),
    )


def _asked(name: str, term: Term, answers: Answers | None) -> list[Answers]:
    """The third argument of a term's function, if it has one."""
    if not term.needs:
        return []
    if answers is None:
        raise BadInput(
            f"reward.terms.{name} asks the policy that trains, and there is none here; use it in a run of policy "
            "optimisation (algorithm=grpo)"
        )
    return [answers]


class ListScorer:
    """Scores completions and keeps the results for the trainer.

    Args:
        reader: reads the completions.
        judge: judges the lists.
        facts: facts about the items that the terms may use.
        reward: the terms and their weights.

    Attributes:
        policy: answers terms that ask the policy; None if there is none.
        reward_model: a reward model that is trained with the policy; None unless a term needs one.
        lists: the lists of the latest call, one per completion.
        rewards: gains and scores of every term in the latest call, for the objective.
    """

    __name__ = "list_gain"  # the name under which TRL logs this reward

    def __init__(self, reader: ListReader, judge: Judge, facts: ItemFacts, reward: RewardConfig):
        self.reader = reader
        self.judge = judge
        self.facts = facts
        self.reward = reward
        self.policy: Policy | None = None
        self.reward_model: RewardModel | None = None
        self._seed = 0
        self._comparisons: list[ItemPairs] = []
        self.lists: list[ScoredList] = []
        self.rewards: RewardBatch | None = None

    @property
    def functions(self) -> list[Any]:
        """The reward functions that TRL calls."""
        return [self]

    def batch(self, totals: torch.Tensor, completion_ids: Sequence[Sequence[int]]) -> RewardBatch:
        """Rewards of the B completions of the latest call.

        Args:
            totals: (B, F) what TRL has got from `functions`.
            completion_ids: the completions.
        """
        assert self.rewards is not None
        return self.rewards

    def read(
        self,
        completion_ids: Sequence[Sequence[int]],
        ground_truth: Sequence[Sequence[Item]],
        seen_titles: Sequence[Sequence[str]],
        gains: Sequence[Sequence[float] | None] | None = None,
    ) -> tuple[JudgedLists, list[ScoredList]]:
        """Parse and judge B completions. Arguments as for `Judge`."""
        texts = self.reader.decode(completion_ids)
        finished = self.reader.is_finished(completion_ids)
        n_tokens = [len(ids) for ids in completion_ids]
        parsed = self.judge.read(texts)
        judged = self.judge(parsed, ground_truth, seen_titles, n_tokens, finished, gains)
        rows = enumerate(zip(texts, parsed, finished, strict=True))
        return judged, [ScoredList(text, found, judged.names(row), end) for row, (text, found, end) in rows]

    def has_all_ranks(self, completion_ids: Sequence[Sequence[int]], ranks: int | None = None) -> list[bool]:
        """Whether each completion has at least this number of entries that end with a newline; by default N."""
        texts = self.reader.decode(completion_ids)
        ended = [
            sum(line < text.count("\n") for line in parsed.lines)
            for text, parsed in zip(texts, self.judge.read(texts), strict=True)
        ]
        return [count >= (ranks or self.reader.units.list_length) for count in ended]

    def __call__(
        self,
        completion_ids: Sequence[Sequence[int]],
        ground_truth: Sequence[Sequence[dict[str, Any]]],
        seen_titles: Sequence[Sequence[str]],
        prompts: Sequence[Any] = (),
        **_: Any,
    ) -> list[float]:
        """TRL's reward interface: return each list's weighted total, and keep lists, gains and scores.

        The total is not scaled by the solve rate, which needs whole groups. TRL only logs it. Terms that ask the policy
        need the prompts.
        """
        truths = [[(item["title"], item["year"]) for item in items] for items in ground_truth]
        gains = [
            [item["gain"] for item in items] if items and items[0].get("gain") is not None else None
            for items in ground_truth
        ]
        judged, self.lists = self.read(completion_ids, truths, seen_titles, gains)
        answers = None
        if self.policy is not None and any(TERMS[name].needs for name in self.reward.terms):
            catalog = self.judge.catalog
            titles = [title_codes(catalog, of_list) for of_list in seen_titles]
            answers = self._answers(self.policy, prompts, completion_ids, titles)
            if self.reward_model is not None:
                self._comparisons = compared_items(judged, catalog, truths, titles)
        self.rewards = score(judged, self.facts, self.reward, [scored.text for scored in self.lists], answers)
        return self.rewards.totals.tolist()

    def _answers(
        self,
        policy: Policy,
        prompts: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        titles: Sequence[Sequence[int]],
    ) -> Answers:
        ids, mask = padded(completion_ids, 0, left=False)
        units = self.reader.segment(ids, mask, [scored.parsed.lines for scored in self.lists]).unit_ids.tolist()
        own = [row[: len(written)] for row, written in zip(units, completion_ids, strict=True)]
        length = self.reader.units.list_length
        return Answers(policy, prompts, completion_ids, own, length, titles, self.reward_model)

    def make_reward_model(self, seed: int) -> None:
        """Make the reward model, if a term needs one.

        Args:
            seed: the run's seed.
        """
        self._seed = seed
        if any("reward_model" in TERMS[name].needs for name in self.reward.terms if name in TERMS):
            self.reward_model = RewardModel.of_catalog(self.judge.catalog, seed)

    def comparisons(self) -> list[ItemPairs]:
        """What the reward model may learn from the lists of the latest call; empty if there is no such model."""
        return self._comparisons

    def learn(self, comparisons: Sequence[ItemPairs], update: int) -> None:
        """Train the reward model on the comparisons of all processes, by the options of its term.

        Args:
            comparisons: what the lists of a rollout say.
            update: number of updates before the rollout.
        """
        assert self.reward_model is not None
        options = with_defaults(TERMS["reward_model"].options, term_options(self.reward.terms["reward_model"]))
        if options["against"] == "catalogue":
            comparisons = self._against_catalogue(comparisons, update)
        self.reward_model.learn(comparisons, options["steps"], options["rate"])

    def _against_catalogue(self, comparisons: Sequence[ItemPairs], update: int) -> list[ItemPairs]:
        """The same relevant items against N random items of the catalogue that are not relevant."""
        rng, n = np.random.default_rng([self._seed, STREAM, update]), self.reader.units.list_length
        found = []
        for one in comparisons:
            drawn = rng.integers(len(self.judge.catalog), size=n).tolist()
            found.append(ItemPairs(one.titles, one.better, [item for item in drawn if item not in one.better]))
        return found
