"""Sample rollouts: one sampled group every few updates, with each rank's return and advantage.

These groups are part of the training anyway. Logging them generates no text and draws no random number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rlbench.lists.relevance import Verdict
from rlbench.rewards.scorer import ScoredList
from rlbench.runs.completions import shortened
from rlbench.runs.directory import Run
from rlbench.runs.record import ROLLOUTS, RolloutGroup, SampledList

DIGITS = 6


class RolloutLog:
    """`rollouts.jsonl` of a run (docs/results-schema.md).

    Args:
        run: the run that the file belongs to.
        every: the first rollout at or after each multiple of this many updates is recorded.
        num_iterations: updates per rollout.
    """

    def __init__(self, run: Run, every: int, num_iterations: int):
        self.root, self.every, self.num_iterations = run.root, every, num_iterations

    def is_due(self, step: int) -> bool:
        """Whether the rollout before update `step` + 1 is recorded."""
        return step % self.every < self.num_iterations

    def add(
        self,
        step: int,
        row: Mapping[str, Any],
        lists: Sequence[ScoredList],
        returns: torch.Tensor,
        rewards: torch.Tensor,
        advantages: torch.Tensor,
    ) -> None:
        """Record a group. It replaces the rows that an interrupted attempt wrote for the same update.

        Args:
            step: number of updates before it.
            row: a row of the training data: prompt, ground_truth, context_id.
            lists: G lists.
            returns: (G, N) return of each rank.
            rewards: (G,) reward of each list.
            advantages: (G, N) advantage of each rank.
        """
        ROLLOUTS.keep(self.root, lambda old: old["step"] != step)
        rounded = [[[round(x, DIGITS) for x in row] for row in part.tolist()] for part in (returns, advantages)]
        shown = [
            _as_row(scored, reward, *of_ranks)
            for scored, reward, *of_ranks in zip(lists, rewards.tolist(), *rounded, strict=True)
        ]
        relevant = [[item["title"], item["year"]] for item in row["ground_truth"]]
        group: RolloutGroup = {
            "step": step,
            "context_id": row["context_id"],
            "prompt": shortened(row["prompt"]),
            "relevant": relevant,
            "lists": shown,
        }
        ROLLOUTS.append(self.root, [group])


def _as_row(scored: ScoredList, reward: float, returns: list[float], advantages: list[float]) -> SampledList:
    entries = zip(scored.parsed.entries, scored.verdicts, returns, advantages, strict=False)
    return {
        "ranks": [[entry.title, entry.year, str(verdict), worth, credit] for entry, verdict, worth, credit in entries],
        "reward": round(reward, DIGITS),
        "hits": sum(verdict is Verdict.HIT for verdict in scored.verdicts),
        "finished": scored.finished,
        "text": scored.text,
    }
