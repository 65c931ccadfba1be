"""The table of learning rates: `rates`, a list of rows in `conf/settings/` or in an experiment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ROW_SECTIONS = ("algorithm", "reward", "dataset", "model")
"""Sections of a config whose names select a row."""


@dataclass
class RateRow:
    """A row of the table: a learning rate, and the names of the cells to which it applies.

    Attributes:
        rate: peak learning rate of the RL stage, for `trainer.rl.learning_rate`.
        source: where the rate is from: a sweep that chose it, or a section of a paper.
        steps: lower rates by number of finished updates, for `trainer.rl.learning_rate_steps`.
        algorithm: name of the algorithm; null fits every algorithm.
        reward: name of the reward; null fits every reward.
        dataset: name of the dataset; null fits every dataset.
        model: name of the model; null fits every model.
    """

    rate: float
    source: str
    steps: dict[int, float] = field(default_factory=dict)
    algorithm: str | None = None
    reward: str | None = None
    dataset: str | None = None
    model: str | None = None

    @property
    def names(self) -> dict[str, str]:
        """The names that a cell must have, by section."""
        return {section: name for section in ROW_SECTIONS if (name := getattr(self, section)) is not None}

    def __str__(self) -> str:
        names = ", ".join(f"{section}={name}" for section, name in self.names.items())
        return f"for {names or 'all others'} ({self.source})"


def row_for(rows: Sequence[RateRow], names: Mapping[str, str]) -> RateRow | None:
    """Return the first row whose names are all among those of a cell, or None.

    Args:
        rows: the table.
        names: the cell's algorithm, reward, dataset and model, by section.
    """
    return next((row for row in rows if row.names.items() <= names.items()), None)
