"""What a reward term may ask beyond judged lists and facts about items: what the policy says of the lists it wrote.

A term that asks declares it (`rlbench.rewards.terms`, `needs`). Its function then gets an `Answers` after the facts.
Each answer is computed when a term first asks for it, and at most once for a batch of lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from rlbench.lists.item_facts import Floats

Ids = Sequence[Sequence[int]]


class Policy(Protocol):
    """The policy that trains, as far as reward terms may ask it."""

    def logps(self, prompts: Sequence[Any], completion_ids: Ids) -> list[list[float]]:
        """Log-probability of each token of B completions under the present policy, at the rollout's temperature."""


@dataclass(frozen=True)
class Answers:
    """Answers about B lists.

    Attributes:
        policy: answers questions about the policy.
        prompts: the prompt of each list, as the dataset has it.
        completion_ids: its tokens.
        units: the unit of each token (`rlbench.lists.reader.UnitLayout`).
        ranks: N.
    """

    policy: Policy
    prompts: Sequence[Any]
    completion_ids: Ids
    units: Ids
    ranks: int

    @cached_property
    def confidence(self) -> Floats:
        """(B, N) exp of the mean log-probability of a rank's tokens; 1 for a rank without tokens of its own."""
        table = np.ones((len(self.units), self.ranks))
        for row, (units, logps) in enumerate(
            zip(self.units, self.policy.logps(self.prompts, self.completion_ids), strict=True)
        ):
            ranked = np.array(units, dtype=np.int64)
            own = ranked < self.ranks
            sums, counts = np.zeros(self.ranks), np.zeros(self.ranks)
            np.add.at(sums, ranked[own], np.array(logps, dtype=np.float64)[own])
            np.add.at(counts, ranked[own], 1)
            table[row] = np.exp(sums / np.maximum(counts, 1))
        return table
