"""Sample completions: the lists of the same few contexts at every evaluation, for people to read.

They come from the predictions of an evaluation that runs anyway. No list is generated for them, and no random number is
drawn.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from rlbench.data.record import Messages, Record
from rlbench.lists.items import line_of
from rlbench.lists.relevance import Verdict
from rlbench.runs.directory import Run
from rlbench.runs.record import COMPLETIONS, GreedyList
from rlbench.tracking import Tracker

PROMPT_CHARACTERS = 600
"""Number of trailing prompt characters to show."""


def evenly_spread(records: Sequence[Record], count: int) -> list[int]:
    """Positions of the first samples of at most `count` contexts, evenly spread over the records in their order."""
    first: dict[str, int] = {}
    for position, record in enumerate(records):
        first.setdefault(record.context_id, position)
    positions = list(first.values())
    return [positions[i * len(positions) // count] for i in range(count)] if count < len(positions) else positions


def sample_completions(
    records: Sequence[Record], predictions: pd.DataFrame, count: int, list_length: int, split: str, step: int
) -> list[dict[str, Any]]:
    """The lists of `count` contexts: `GreedyList` with ndcg@N.

    Args:
        records: the evaluated samples.
        predictions: one row per sample, in the order of the records (docs/results-schema.md).
        count: number of contexts; the first sample of each is shown.
        list_length: N; ndcg@N is shown.
        split: the evaluated split.
        step: the update at which it was evaluated.
    """
    metric = f"ndcg@{list_length}"
    rows = []
    for position in evenly_spread(records, count):
        record, row = records[position], predictions.iloc[position]
        entries = zip(row["titles"], row["years"], row["verdicts"], strict=True)
        greedy: GreedyList = {
            "step": step,
            "split": split,
            "context_id": record.context_id,
            "prompt": shortened(record.prompt),
            "relevant": [[title, year] for title, year in record.ground_truth],
            "ranks": [
                [str(title), None if year is None else int(year), str(verdict)] for title, year, verdict in entries
            ],
            "text": str(row["text"]),
        }
        rows.append({**greedy, metric: float(row[metric])})
    return rows


def shortened(messages: Messages) -> str:
    """The end of a prompt, with an ellipsis before it if something is cut."""
    prompt = "\n".join(message["content"] for message in messages)
    return prompt if len(prompt) <= PROMPT_CHARACTERS else "…" + prompt[-PROMPT_CHARACTERS:]


def as_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str | float]]]:
    """Columns and rows for a tracker: one item per line, each rank with its verdict."""
    if not rows:
        return [], []
    metric = list(rows[0])[-1]
    table: list[list[str | float]] = [
        [
            row["step"],
            row["context_id"],
            row["prompt"],
            "\n".join(line_of(title, year) for title, year in row["relevant"]),
            "\n".join(
                f"{k}. {line_of(title, year)}: {verdict}" for k, (title, year, verdict) in enumerate(row["ranks"], 1)
            ),
            sum(verdict == Verdict.HIT for _, _, verdict in row["ranks"]),
            row["text"],
            row[metric],
        ]
        for row in rows
    ]
    return ["update", "context_id", "prompt", "relevant", "list", "hits", "text", metric], table


class CompletionLog:
    """`completions.jsonl` of a run, and the same rows as tables of its tracker.

    Args:
        run: the run that the file belongs to.
        tracker: gets a table `completions/<split>` at each evaluation.
        count: number of contexts (`tracker.completions`); 0 for no file and no table.
        list_length: N.
    """

    def __init__(self, run: Run, tracker: Tracker, count: int, list_length: int):
        self.root, self.tracker, self.count, self.list_length = run.root, tracker, count, list_length

    def add(self, step: int, split: str, records: Sequence[Record], predictions: pd.DataFrame) -> None:
        """Record the lists of an evaluation. They replace what an interrupted attempt wrote for the same evaluation."""
        if not self.count:
            return
        rows = sample_completions(records, predictions, self.count, self.list_length, split, step)
        COMPLETIONS.keep(self.root, lambda row: (row["step"], row["split"]) != (step, split))
        COMPLETIONS.append(self.root, rows)
        self.tracker.log_table(f"completions/{split}", *as_table(rows), step)
