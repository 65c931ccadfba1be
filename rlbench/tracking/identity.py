"""What a run is called, and what every backend must be able to do with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Scalar = str | float | int | bool | None
"""A cell of a table."""


@dataclass(frozen=True)
class TrackerIdentity:
    """What a tracker calls a run.

    Args:
        experiment: name of the experiment (sweep) that the run belongs to.
        group: the run identity without the attempt, for example `mini-tiny/rank_grpo-relevance/seed0-1a2b3c4d`.
        job_type: the stage: oracle, zero_shot, sft or rl; or report.
        name: the label that a person reads; later attempts get their number after it.
        tags: short words to filter by; longer than 64 characters are cut.
        attempt: 1 for the first start of this run, 2 for the next, ...
        project: W&B or Trackio project.
        entity: W&B user or team; None is the account's default.
    """

    experiment: str
    group: str
    job_type: str
    name: str
    tags: tuple[str, ...] = ()
    attempt: int = 1
    project: str = "rlbench"
    entity: str | None = None

    @property
    def display_name(self) -> str:
        """The name with the attempt, where it is not the first."""
        return self.name if self.attempt == 1 else f"{self.name} (attempt {self.attempt})"


class Backend(Protocol):
    """One place where a run is shown.

    All methods but `prepare` and `abandon` are called by one thread, in the order of the calls on the tracker, `start`
    first. Any of them may raise: the backend is then abandoned and called no more.
    """

    name: str
    """What a person calls it."""
    remedy: str
    """What a person can do where it has failed; a sentence, or ""."""

    def prepare(self) -> None:
        """What must be done in the thread that makes the tracker, and waits for nothing."""

    def start(self) -> None:
        """Open the view."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Scalar]], step: int) -> None:
        """Add a table."""

    def log_image(self, name: str, file: Path, step: int) -> None:
        """Add a PNG."""

    def summary(self, values: Mapping[str, float]) -> None:
        """Set final values."""

    def finish(self, failed: bool) -> None:
        """Close the view."""

    def abandon(self) -> None:
        """Let go of everything at once; may be called from another thread while one of the other methods hangs."""
