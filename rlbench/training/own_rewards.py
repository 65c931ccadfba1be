"""Rewards of a user's own functions, in the form that TRL gives to a `GRPOTrainer`."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, TypeAlias

import numpy as np
import torch

from rlbench.base.errors import BadInput
from rlbench.base.records import is_finite
from rlbench.config.schema import MatchingConfig, RewardConfig
from rlbench.lists.catalog import Catalog
from rlbench.lists.item_facts import ItemFacts
from rlbench.lists.reader import ListReader
from rlbench.lists.relevance import make_judge
from rlbench.rewards.batch import FEATURES, RewardBatch
from rlbench.rewards.scorer import ListScorer, ScoredList

OfRanks: TypeAlias = "list[Sequence[float] | None]"
"""Rewards of the ranks of each completion; None where a function has given no list."""
NOT_JUDGED = MatchingConfig("none", "ours", [], 0, None)


class RankRewards:
    """A reward function that may give a list of rewards, one per rank, instead of a number.

    Args:
        function: as TRL calls it.
        name: for messages.
        n: N, the number of ranks.

    Attributes:
        latest: the rewards of the ranks in the latest call.
    """

    def __init__(self, function: Callable[..., Any], name: str, n: int):
        self.name, self.n = name, n
        self.latest: OfRanks = []
        self.as_trl_calls = self._awaited(function) if inspect.iscoroutinefunction(function) else self._plain(function)

    def _plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> list[float | None]:
            return self._totals(function(*args, **kwargs))

        return called

    def _awaited(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        @wraps(function)
        async def called(*args: Any, **kwargs: Any) -> list[float | None]:
            return self._totals(await function(*args, **kwargs))

        return called

    def _totals(self, values: Any) -> list[float | None]:
        """The total of each completion, for TRL. Keeps the rewards of ranks.

        Raises:
            BadInput: a value is neither a number, None, nor a list of at most N numbers.
        """
        self.latest, totals = [], []
        for place, value in enumerate(values):
            ranked = value.tolist() if isinstance(value, torch.Tensor | np.ndarray) else value
            ranked = list(ranked) if isinstance(ranked, list | tuple) else ranked
            parts = ranked if isinstance(ranked, list) else [] if ranked is None else [ranked]
            if not all(is_finite(part) for part in parts):
                raise BadInput(
                    f"reward_funcs: {self.name} returned {value!r:.80} for completion {place}; it must be a finite "
                    "number, None, or a list of finite numbers, one per rank"
                )
            if isinstance(ranked, list) and len(ranked) > self.n:
                raise BadInput(
                    f"reward_funcs: {self.name} returned {len(ranked)} rewards for completion {place}, but lists have "
                    f"n = {self.n} rank{'s' if self.n > 1 else ''}; give n"
                )
            self.latest.append(ranked if isinstance(ranked, list) else None)
            totals.append(None if ranked is None else float(sum(parts)))
        return totals


class OwnScorer(ListScorer):
    """Scores completions with reward functions, and reads only the lines of their entries.

    Args:
        reader: reads the completions.
        functions: reward functions and reward models, as for `GRPOTrainer`.
        reward: one term per function, with its weight.
        has_years: whether an entry is a line "Title (Year)"; else every line with content is one.
        needs_ranks: name of the method if it credits ranks; "" if it credits lists only.
    """

    def __init__(
        self,
        reader: ListReader,
        functions: Sequence[Any],
        reward: RewardConfig,
        *,
        has_years: bool,
        needs_ranks: str,
    ):
        n = reader.units.list_length
        nothing = Catalog([("-", 1000 if has_years else None)])  # tells how a line is read; nothing is looked up
        facts = ItemFacts(np.zeros(1, np.int64), np.zeros(1, np.int64))
        super().__init__(reader, make_judge(NOT_JUDGED, nothing, n), facts, reward)
        self.needs_ranks = needs_ranks
        self.ranked = {
            place: RankRewards(function, name, n)
            for place, (function, name) in enumerate(zip(functions, reward.terms, strict=True))
            if callable(function) and not isinstance(function, torch.nn.Module)
        }
        self._functions = [
            self.ranked[place].as_trl_calls if place in self.ranked else function
            for place, function in enumerate(functions)
        ]

    @property
    def functions(self) -> list[Any]:
        return self._functions

    def batch(self, totals: torch.Tensor, completion_ids: Sequence[Sequence[int]]) -> RewardBatch:
        """Rewards of B completions.

        Raises:
            BadInput: the method credits ranks, and no function gives rewards of ranks; or no function scores a
                completion.
        """
        if totals.isnan().all(dim=1).any():
            raise BadInput("reward_funcs: every function returned None for a completion; at least one must score it")
        totals = totals.double().nan_to_num(0.0).cpu()  # TRL leaves a function without a value out of the sum
        b, m = totals.shape
        n = self.reader.units.list_length
        gains, scores = torch.zeros(b, m, n, dtype=torch.double), totals.clone()
        of_ranks = False
        for place, function in self.ranked.items():
            for row, values in enumerate(function.latest):
                if values is not None:
                    gains[row, place, : len(values)] = torch.tensor(values, dtype=torch.double)
                    scores[row, place], of_ranks = 0.0, True
        if self.needs_ranks and not of_ranks:
            raise BadInput(
                f"reward_funcs: {self.needs_ranks} credits ranks, but every function returned one number per "
                "completion; return a list of numbers, one per rank, or choose a method that credits lists (grpo)"
            )
        parsed = self.judge.read(self.reader.decode(completion_ids))
        finished = self.reader.is_finished(completion_ids)
        texts = self.reader.decode(completion_ids)
        self.lists = [ScoredList(text, read, [], end) for text, read, end in zip(texts, parsed, finished, strict=True)]
        entries = torch.tensor([len(read.items) for read in parsed])
        weights = torch.tensor([float(term["weight"]) for term in self.reward.terms.values()], dtype=torch.double)
        sums = (gains.sum(dim=2) + scores) @ weights
        hits = (gains.sum(dim=1) > 0).double()
        features = dict.fromkeys(FEATURES, torch.zeros(b)) | {
            "tokens": torch.tensor([float(len(ids)) for ids in completion_ids]),
            "entries": entries.float(),
        }
        return RewardBatch(
            gains=gains,
            scores=scores,
            hits=hits,
            n_truth=hits.sum(dim=1).long().clamp(min=1),
            present=torch.arange(n) < entries[:, None],
            totals=sums,
            success=sums > 0,
            features=torch.stack([features[name] for name in FEATURES], dim=1),
        )
