"""What losses and recipes of preference optimisation get. Shapes: B tuples of K lists of T tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from rlbench.objective.inputs import Course


@dataclass(frozen=True)
class TupleInputs:
    """A micro-batch of tuples at the loss.

    A tuple has one or two pairs, one after the other. A pair is a chosen list and then its rejected lists.

    Attributes:
        logps: (B, K, T) log-probabilities of the lists' tokens under the policy, differentiable; 0 on padding.
        moved: (B, K, T) log pi - log pi_ref, differentiable; 0 on padding.
        mask: (B, K, T) 0 on padding.
        beta: weight of the log-ratios.
        strength: (B,) share of the round's tuples with a smaller difference between the reward of the chosen list and
            the mean reward of the rejected ones; ties count half.
        chance: (B,) a number in [0, 1) for each tuple of the round, drawn from the run's seed.
        earlier: (B, E, K) log-probabilities of whole lists under the references of all rounds so far, oldest first,
            this round's last. None if the loss does not need them.
        course: position in the run, and the numbers that a loss carries from update to update.
    """

    logps: torch.Tensor
    moved: torch.Tensor
    mask: torch.Tensor
    beta: float
    strength: torch.Tensor
    chance: torch.Tensor
    earlier: torch.Tensor | None = None
    course: Course = field(default_factory=Course)

    @property
    def ratios(self) -> torch.Tensor:
        """(B, K) log pi(y|x) - log pi_ref(y|x) of whole lists."""
        return self.moved.sum(dim=2)

    @property
    def margins(self) -> torch.Tensor:
        """(B,) beta (r_w - r_l) of tuples with one rejected list."""
        return self.beta * (self.ratios[:, 0] - self.ratios[:, 1])


def pair_strengths(chosen: Sequence[float], rejected: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """`TupleInputs.strength` of all tuples of a round.

    Args:
        chosen: reward of each tuple's first list.
        rejected: rewards of its other lists.
    """
    gaps = np.array(chosen, dtype=np.float64) - np.array([np.mean(row) for row in rejected], dtype=np.float64)
    among = np.sort(gaps)
    below, reached = np.searchsorted(among, gaps, "left"), np.searchsorted(among, gaps, "right")
    shares: NDArray[np.float64] = (below + reached) / (2 * max(len(gaps), 1))
    return shares


@dataclass(frozen=True)
class Listed:
    """A list of a prompt, read and judged.

    Attributes:
        ids: its tokens, with EOS if it ends.
        lines: its first N entries as lines.
        items: index of each entry in the catalogue, or -1.
        hits: whether each entry is relevant, named for the first time, and not named by the dialogue.
        reward: its total reward.
        terms: its value under each term of the reward, with weights.
        score: what the recipe's judge says: the mean log-probability of its tokens under the policy that drew it, or
            the number of lists that a teacher places below it; 0 without a judge.
    """

    ids: list[int]
    lines: list[str]
    items: list[int]
    hits: list[bool]
    reward: float
    terms: tuple[float, ...] = ()
    score: float = 0.0


Written = list[str]
"""A list that a recipe writes, as lines."""


@dataclass(frozen=True)
class PromptLists:
    """The lists of one prompt, from which a recipe makes tuples.

    Attributes:
        drawn: the lists that the policy has drawn, in this order.
        demonstration: the prompt's demonstration, if the method asks for it. Its reward is minus infinity if the SFT
            stage cuts it.
        relevant: gain of each relevant item that can be hit, by its index in the catalogue.
        seen: indices of the items that the dialogue has named.
        catalogue: a line for each item.
        popularity: number of training truths that name each item.
        chosen: source of the chosen list, as in `PreferenceConfig`.
        length: N, the number of entries that a list should have.
        negatives: rejected lists per chosen one.
        most: largest number of tuples.
        round: number of the round, from 0.
        random: random numbers of this prompt in this round, whichever process draws it.
    """

    drawn: Sequence[Listed]
    demonstration: Listed | None
    relevant: dict[int, float]
    seen: frozenset[int]
    catalogue: Sequence[str]
    popularity: NDArray[np.int64]
    chosen: str
    length: int
    negatives: int
    most: int
    round: int
    random: np.random.Generator


Tuple = list[Listed | Written]
"""The lists of a tuple: a chosen list and its rejected ones, or two such pairs."""
