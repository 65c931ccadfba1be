"""What a reward term may ask beyond judged lists and facts about items: the policy and reward models.

A term that asks declares it (`rlbench.rewards.terms`, `needs`). Its function then gets an `Answers` after the facts.
Each answer is computed when a term first asks for it, and at most once for a batch of lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlbench.lists.item_facts import Floats
from rlbench.rewards.reward_model import RewardModel

Ids = Sequence[Sequence[int]]


class Policy(Protocol):
    """The policy that trains, as far as reward terms may ask it."""

    def logps(self, prompts: Sequence[Any], completion_ids: Ids) -> list[list[float]]:
        """Log-probability of each token of B completions under the present policy, at the rollout's temperature."""

    def sensitivities(
        self, prompts: Sequence[Any], completion_ids: Ids, units: Ids, ranks: int, first: int, shuffles: int
    ) -> Floats:
        """(B, 3) sensitivities of `rlbench.models.sensitivity`."""


@dataclass(frozen=True)
class Answers:
    """Answers about B lists.

    Attributes:
        policy: answers questions about the policy.
        prompts: the prompt of each list, as the dataset has it.
        completion_ids: its tokens.
        units: the unit of each token (`rlbench.lists.reader.UnitLayout`).
        ranks: N.
        titles: codes of the titles that each dialogue has named.
        reward_model: a model that is trained with the policy; None unless a term needs it.
    """

    policy: Policy | None
    prompts: Sequence[Any]
    completion_ids: Ids
    units: Ids
    ranks: int
    titles: Sequence[Sequence[int]] = ()
    reward_model: RewardModel | None = None
    _known: dict[tuple[int, int], Floats] = field(default_factory=dict)

    @cached_property
    def confidence(self) -> Floats:
        """(B, N) exp of the mean log-probability of a rank's tokens; 1 for a rank without tokens of its own."""
        assert self.policy is not None
        table = np.ones((len(self.units), self.ranks))
        found = self.policy.logps(self.prompts, self.completion_ids)
        for row, (units, logps) in enumerate(zip(self.units, found, strict=True)):
            ranked = np.array(units, dtype=np.int64)
            own = ranked < self.ranks
            sums, counts = np.zeros(self.ranks), np.zeros(self.ranks)
            np.add.at(sums, ranked[own], np.array(logps, dtype=np.float64)[own])
            np.add.at(counts, ranked[own], 1)
            table[row] = np.exp(sums / np.maximum(counts, 1))
        return table

    def sensitivities(self, first: int, shuffles: int) -> Floats:
        """(B, 3) sensitivities of the first ranks to the prompt, of the others to the first ones, and to the prompt.

        Args:
            first: number of first ranks.
            shuffles: counterfactual texts of each part.
        """
        assert self.policy is not None
        key = (first, shuffles)
        if key not in self._known:
            self._known[key] = self.policy.sensitivities(
                self.prompts, self.completion_ids, self.units, self.ranks, first, shuffles
            )
        return self._known[key]

    def preferred(self, items: NDArray[np.int64]) -> Floats:
        """(B, N) sigmoid of the reward model's score of each item of the lists; 0 for an item of index -1."""
        assert self.reward_model is not None
        return self.reward_model.shares(self.titles, items)
