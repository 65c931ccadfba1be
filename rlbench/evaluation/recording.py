"""Where a stage records what it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from rlbench.data.record import Record
from rlbench.runs import processes
from rlbench.runs.budget import Ledger
from rlbench.runs.completions import CompletionLog
from rlbench.runs.directory import Run
from rlbench.tracking import Tracker


@dataclass(frozen=True)
class Recording:
    """Where a stage records what it does.

    Attributes:
        run: its run directory.
        tracker: gets all metrics, beside the run directory.
        ledger: the stage's spending.
        completions: sample completions of each evaluation.
    """

    run: Run
    tracker: Tracker
    ledger: Ledger
    completions: CompletionLog

    def track(self, step: int, split: str, means: Mapping[str, float]) -> None:
        """Pass the metrics of an evaluation to the tracker alone."""
        self.tracker.log({f"{split}/{name}": value for name, value in means.items()}, step)

    def means(self, step: int, split: str, means: Mapping[str, float], *, again: bool = False) -> None:
        """Record the metrics of an evaluation. All processes call it together.

        Args:
            step: number of updates before it.
            split: the evaluated split.
            means: its metrics.
            again: whether an interrupted attempt may have recorded them already. These are replaced.
        """
        self.track(step, split, means)
        if processes.is_main():
            record = self.run.replace_metrics if again else self.run.append_metrics
            record(step, split, means)

    def lists(self, step: int, split: str, records: Sequence[Record], predictions: pd.DataFrame) -> None:
        """Record sample completions of an evaluation. All processes call it together."""
        if processes.is_main():
            self.completions.add(step, split, records, predictions)
