"""What earlier rollouts have shown about each prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


class History:
    """Facts about n prompts. All arrays are (n,).

    Attributes:
        visits: number of groups drawn for each prompt.
        solved: share of the latest group's completions that succeed; NaN before the first.
        solved_sum: sum of these shares over all groups.
        score: mean total reward of the latest group; NaN before the first.
        update: finished updates when the latest group was drawn; -1 before the first.
    """

    def __init__(self, prompts: int):
        self.visits = np.zeros(prompts, dtype=np.int64)
        self.solved = np.full(prompts, np.nan)
        self.solved_sum = np.zeros(prompts)
        self.score = np.full(prompts, np.nan)
        self.update = np.full(prompts, -1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.visits)

    @property
    def mean_solved(self) -> NDArray[np.float64]:
        """(n,) mean share of completions that succeed, over all groups of a prompt; NaN before the first."""
        return np.where(self.visits > 0, self.solved_sum / np.maximum(self.visits, 1), np.nan)

    def learn(self, prompts: Sequence[int], solved: Sequence[float], scores: Sequence[float], update: int) -> None:
        """Add one group per given prompt.

        Args:
            prompts: their places in the dataset.
            solved: share of each group's completions that succeed.
            scores: mean total reward of each group.
            update: number of finished updates.
        """
        for prompt, share, score in zip(prompts, solved, scores, strict=True):
            self.visits[prompt] += 1
            self.solved[prompt] = share
            self.solved_sum[prompt] += share
            self.score[prompt] = score
            self.update[prompt] = update

    def state(self) -> dict[str, list[Any]]:
        """The facts about visited prompts, for a checkpoint. JSON keeps all digits of a float."""
        seen = np.flatnonzero(self.visits)
        return {"prompts": seen.tolist(), **{name: getattr(self, name)[seen].tolist() for name in COLUMNS}}

    def restore(self, state: Mapping[str, Sequence[Any]]) -> None:
        """Restore the facts of `state` into an empty history."""
        if state:
            for name in COLUMNS:
                getattr(self, name)[list(state["prompts"])] = state[name]
