"""The identity of a tracked run, and the interface of tracking backends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

Scalar = str | float | int | bool | None
"""A table cell."""


@dataclass(frozen=True)
class TrackerIdentity:
    """Names of a run in trackers.

    Args:
        experiment: name of the run's experiment (sweep).
        group: identity of the run without the attempt, for example `mini-tiny/rank_grpo-relevance/seed0-1a2b3c4d`.
        job_type: the stage (oracle, zero_shot, sft or rl), or report.
        name: label for readers; later attempts append their number.
        tags: short words to filter by. W&B tags are cut to 64 characters.
        attempt: 1 for the first start of this run, 2 for the next, ...
        project: W&B or Trackio project.
        entity: W&B user or team; None is the account's default.
        row: the run's row in tables, for example `rank_grpo-relevance@learning_rate=0.001`; "" if it is in none.
    """

    experiment: str
    group: str
    job_type: str
    name: str
    tags: tuple[str, ...] = ()
    attempt: int = 1
    project: str = "rlbench"
    entity: str | None = None
    row: str = ""

    @property
    def display_name(self) -> str:
        """The name, with the attempt number from the second attempt on."""
        return self.name if self.attempt == 1 else f"{self.name} (attempt {self.attempt})"


class Backend(Protocol):
    """One place where a run is shown.

    One thread calls all methods except `prepare` and `abandon`, in the order of the calls on the tracker, starting with
    `start`. Any method may raise; the backend is then abandoned and not called again.
    """

    name: str
    """Name for readers."""
    remedy: str
    """What a user can do if it fails: a sentence, or ""."""

    def prepare(self) -> None:
        """Do the part of the setup that must run in the thread that creates the tracker. Must not wait."""

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
        """Release everything at once. May be called from another thread while another method hangs."""


@runtime_checkable
class Uploader(Protocol):
    """A backend that also keeps files of a run."""

    def upload(self, kind: str, files: Mapping[str, Path]) -> None:
        """Keep files under a name of their own. May wait for a network, but not without limit.

        Args:
            kind: what they are: a key of `tracker.UPLOADS`.
            files: by their path below the run directory.
        """
