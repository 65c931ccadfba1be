"""What earlier rollouts have shown about each prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlbench.sampling.features import hashed_words

COLUMNS = ("visits", "solved", "solved_sum", "score", "update")


@dataclass(frozen=True)
class Moment:
    """Position in the run.

    Attributes:
        update: number of finished updates.
        progress: finished share of the run's updates, in [0, 1].
    """

    update: int
    progress: float


def parts_of(names: Sequence[str], patterns: Sequence[str]) -> NDArray[np.int64]:
    """(n,) place of the first pattern that matches each name; the number of patterns for none."""
    return np.array(
        [next((at for at, one in enumerate(patterns) if fnmatchcase(name, one)), len(patterns)) for name in names]
    )


class History:
    """Facts about n prompts. All arrays are (n,).

    Attributes:
        visits: number of groups drawn for each prompt.
        solved: share of the latest group's completions that succeed; NaN before the first.
        solved_sum: sum of these shares over all groups.
        score: mean total reward of the latest group; NaN before the first.
        update: finished updates when the latest group was drawn; -1 before the first.
        entropy: mean entropy of the tokens of the first group, in nats; NaN if it was not recorded.
        reference: places of the reference prompts (not (n,)), for samplers that have them.
        reference_solved: share of their lists that succeeded when they were last drawn.

    Args:
        prompts: n.
        texts: the prompts as texts; called at most once, by samplers that read `features`.
        names: the prompts' names (`Record.context_id`), likewise.
    """

    def __init__(
        self,
        prompts: int,
        texts: Callable[[], Sequence[str]] = tuple,
        names: Callable[[], Sequence[str]] = tuple,
    ):
        self._texts, self._names = texts, names
        self._parts: dict[tuple[str, ...], NDArray[np.int64]] = {}
        self.visits = np.zeros(prompts, dtype=np.int64)
        self.solved = np.full(prompts, np.nan)
        self.solved_sum = np.zeros(prompts)
        self.score = np.full(prompts, np.nan)
        self.update = np.full(prompts, -1, dtype=np.int64)
        self.entropy = np.full(prompts, np.nan)
        self.reference = np.zeros(0, dtype=np.int64)
        self.reference_solved = np.zeros(0)

    def __len__(self) -> int:
        return len(self.visits)

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """(n, h) features of the prompts' words, in rows of length 1."""
        return hashed_words(self._texts())

    @cached_property
    def names(self) -> Sequence[str]:
        """Names of the prompts."""
        return self._names()

    def parts(self, patterns: tuple[str, ...]) -> NDArray[np.int64]:
        """`parts_of` the prompts' names, found once: a sampler asks in every update."""
        if patterns not in self._parts:
            self._parts[patterns] = parts_of(self.names, patterns)
        return self._parts[patterns]

    @property
    def mean_solved(self) -> NDArray[np.float64]:
        """(n,) mean share of completions that succeed, over all groups of a prompt; NaN before the first."""
        return np.where(self.visits > 0, self.solved_sum / np.maximum(self.visits, 1), np.nan)

    def learn(
        self,
        prompts: Sequence[int],
        solved: Sequence[float],
        scores: Sequence[float],
        update: int,
        entropies: Sequence[float] | None = None,
    ) -> None:
        """Add one group per given prompt.

        Args:
            prompts: their places in the dataset.
            solved: share of each group's completions that succeed.
            scores: mean total reward of each group.
            update: number of finished updates.
            entropies: mean entropy of each group's tokens, where recorded; else NaN.
        """
        for prompt, entropy in zip(prompts, entropies or (), strict=entropies is not None):
            if self.visits[prompt] == 0:
                self.entropy[prompt] = entropy
        for prompt, share, score in zip(prompts, solved, scores, strict=True):
            self.visits[prompt] += 1
            self.solved[prompt] = share
            self.solved_sum[prompt] += share
            self.score[prompt] = score
            self.update[prompt] = update

    def state(self) -> dict[str, list[Any]]:
        """The facts about visited prompts, for a checkpoint. JSON keeps all digits of a float."""
        seen = np.flatnonzero(self.visits)
        state = {"prompts": seen.tolist(), **{name: getattr(self, name)[seen].tolist() for name in COLUMNS}}
        if not np.isnan(self.entropy).all():
            state["entropy"] = self.entropy[seen].tolist()
        if len(self.reference):
            state["reference"] = self.reference.tolist()
            state["reference_solved"] = self.reference_solved.tolist()
        return state

    def restore(self, state: Mapping[str, Sequence[Any]]) -> None:
        """Restore the facts of `state` into an empty history."""
        if state:
            for name in [*COLUMNS, *(["entropy"] if "entropy" in state else [])]:
                getattr(self, name)[list(state["prompts"])] = state[name]
        if "reference" in state:
            self.reference = np.array(state["reference"], dtype=np.int64)
            self.reference_solved = np.array(state["reference_solved"], dtype=np.float64)
