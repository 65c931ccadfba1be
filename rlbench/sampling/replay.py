"""Groups of earlier rollouts, kept to train on them again (rollout replay of DOTS, arXiv 2506.05316)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlbench.sampling.members import Member


@dataclass(frozen=True)
class KeptGroup:
    """The group of a prompt, with the log-probabilities under the policy that drew it."""

    prompt: int
    members: list[Member]


class Buffer:
    """First in, first out; one group per prompt.

    Args:
        capacity: most groups.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._groups: dict[int, KeptGroup] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, group: KeptGroup) -> None:
        """Add a group as the newest. It replaces an older group of its prompt, or else the oldest group."""
        self._groups.pop(group.prompt, None)
        self._groups[group.prompt] = group
        while len(self._groups) > self.capacity:
            del self._groups[next(iter(self._groups))]

    def of(self, prompt: int) -> KeptGroup | None:
        """The group of a prompt, if there is one."""
        return self._groups.get(prompt)

    def draw(self, count: int, rng: np.random.Generator, without: Sequence[int] = ()) -> list[KeptGroup]:
        """Groups with equal chances, without replacement: `count`, or all if there are fewer.

        Args:
            without: prompts whose groups must not be drawn.
        """
        groups = [group for prompt, group in self._groups.items() if prompt not in without]
        chosen = rng.permutation(len(groups))[:count]
        return [groups[place] for place in chosen]

    def state(self) -> dict[str, np.ndarray]:
        """All groups as arrays, for a checkpoint, the oldest first."""
        members = [(group.prompt, member) for group in self._groups.values() for member in group.members]
        return {
            "prompts": np.array([prompt for prompt, _ in members], dtype=np.int64),
            "lengths": np.array([len(member.ids) for _, member in members], dtype=np.int64),
            "ids": np.array([token for _, member in members for token in member.ids], dtype=np.int64),
            "behaviour": np.array([logp for _, member in members for logp in member.behaviour or []]),
            "edited": np.array([member.edited for _, member in members], dtype=bool),
            "modes": np.array([member.mode for _, member in members], dtype=np.int64),
            "begun": np.array([len(member.segments) for _, member in members], dtype=np.int64),
            "segments": np.array([code for _, member in members for code in member.segments], dtype=np.int64),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the groups of `state` into an empty buffer."""
        count = len(state["prompts"])
        # Buffers from before there were modes have none.
        modes, begun = (state.get(name, np.zeros(count, np.int64)) for name in ("modes", "begun"))
        ends, starts = np.cumsum(state["lengths"]), np.cumsum(begun) - begun
        groups: dict[int, list[Member]] = {}
        for place, prompt in enumerate(state["prompts"].tolist()):
            own = slice(ends[place] - state["lengths"][place], ends[place])
            segments = state["segments"][starts[place] : starts[place] + begun[place]] if begun[place] else begun[:0]
            member = Member(
                state["ids"][own].tolist(),
                behaviour=state["behaviour"][own].tolist(),
                edited=bool(state["edited"][place]),
                mode=int(modes[place]),
                segments=tuple(segments.tolist()),
            )
            groups.setdefault(prompt, []).append(member)
        self._groups = {prompt: KeptGroup(prompt, members) for prompt, members in groups.items()}
