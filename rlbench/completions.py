"""Sample completions: the lists of the same few contexts at every evaluation, for people who read them.

They are taken from the predictions of an evaluation that is made anyway: no list is generated for them, and no random
number drawn.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from rlbench.data.record import Messages, Record
from rlbench.jsonl import append_rows, keep_rows
from rlbench.runs import Run
from rlbench.tracking import Tracker

FILE = "completions.jsonl"
PROMPT_CHARACTERS = 600
"""Of a prompt, so many from its end are shown."""


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
    """The lists of `count` contexts, as they stand in `completions.jsonl`.

    Args:
        records: the samples that were evaluated.
        predictions: one row a sample, in the order of the records (docs/results-schema.md).
        count: how many contexts; the first sample of each is shown.
        list_length: N, of which ndcg@N is shown.
        split: what was evaluated.
        step: the update at which it was.
    """
    metric = f"ndcg@{list_length}"
    rows = []
    for position in evenly_spread(records, count):
        record, row = records[position], predictions.iloc[position]
        entries = zip(row["titles"], row["years"], row["verdicts"], strict=True)
        rows.append(
            {
                "step": step,
                "split": split,
                "context_id": record.context_id,
                "prompt": shortened(record.prompt),
                "relevant": [[title, year] for title, year in record.ground_truth],
                "ranks": [[str(title), int(year), str(verdict)] for title, year, verdict in entries],
                "text": str(row["text"]),
                metric: float(row[metric]),
            }
        )
    return rows


def shortened(messages: Messages) -> str:
    """The end of a prompt, an ellipsis before it where something is left out."""
    prompt = "\n".join(message["content"] for message in messages)
    return prompt if len(prompt) <= PROMPT_CHARACTERS else "…" + prompt[-PROMPT_CHARACTERS:]


def as_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str | float]]]:
    """Columns and rows for a tracker; films one a line, each rank with its verdict."""
    if not rows:
        return [], []
    metric = list(rows[0])[-1]
    table: list[list[str | float]] = [
        [
            row["step"],
            row["context_id"],
            row["prompt"],
            "\n".join(f"{title} ({year})" for title, year in row["relevant"]),
            "\n".join(f"{k}. {title} ({year}): {verdict}" for k, (title, year, verdict) in enumerate(row["ranks"], 1)),
            row["text"],
            row[metric],
        ]
        for row in rows
    ]
    return ["update", "context_id", "prompt", "relevant", "list", "text", metric], table


class CompletionLog:
    """`completions.jsonl` of a run, and the same rows as tables of its tracker.

    Args:
        run: whose file it is.
        tracker: gets a table `completions/<split>` at each evaluation.
        count: how many contexts (`tracker.completions`); 0 for no file and no table.
        list_length: N.
    """

    def __init__(self, run: Run, tracker: Tracker, count: int, list_length: int):
        self.file, self.tracker, self.count, self.list_length = run.root / FILE, tracker, count, list_length

    def add(self, step: int, split: str, records: Sequence[Record], predictions: pd.DataFrame) -> None:
        """Record the lists of an evaluation, in place of what an interrupted attempt had written of the same one."""
        if not self.count:
            return
        rows = sample_completions(records, predictions, self.count, self.list_length, split, step)
        keep_rows(self.file, lambda row: (row["step"], row["split"]) != (step, split))
        append_rows(self.file, rows)
        self.tracker.log_table(f"completions/{split}", *as_table(rows), step)
