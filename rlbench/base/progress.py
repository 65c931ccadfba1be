"""Shows progress as a terminal bar and in a small file that a launcher in another process can read."""

import json
import sys
import time
from pathlib import Path
from typing import TypedDict

from tqdm import tqdm

from rlbench.base.errors import BadInput
from rlbench.base.files import PARTIAL, naming
from rlbench.base.records import Finite, RecordFile, Text, Whole

WRITE_EVERY = 0.5  # seconds


class ProgressState(TypedDict, total=False):
    """Progress of a run that is at work."""

    description: Text
    done: Whole
    """Units of work done, of `total`."""
    total: Whole
    note: Text
    """Shown right of the bar."""
    first: Whole
    """Work already done when this attempt began."""
    seconds: Finite
    """Seconds since this attempt began."""


PROGRESS = RecordFile("progress.json", ProgressState)


class Progress:
    """One progress bar.

    Args:
        description: text left of the bar.
        total: units of work.
        file: file for a `ProgressState`; None for no file.
        show: whether to draw the bar on stderr.
        unit: name of the unit.
    """

    def __init__(self, description: str, total: int, *, file: Path | None, show: bool, unit: str = "update"):
        self.description, self.total, self.file = description, total, file
        self._bar = tqdm(
            total=total, desc=description, unit=unit, disable=not show, file=sys.stderr, dynamic_ncols=True
        )
        self._written = 0.0
        self._started, self._first = time.monotonic(), 0
        self.to(0)

    def start_at(self, done: int) -> None:
        """Set the work done by an earlier attempt."""
        self._started, self._first = time.monotonic(), done
        self.to(done)

    def to(self, done: int, note: str = "") -> None:
        """Set the work done. `note` appears right of the bar."""
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
        now = time.monotonic()
        if self.file is not None and (now - self._written > WRITE_EVERY or done >= self.total):
            self._written = now
            beside = self.file.with_name(f".{self.file.name}{PARTIAL}")
            state = ProgressState(
                description=self.description,
                done=done,
                total=self.total,
                note=note,
                first=self._first,
                seconds=now - self._started,
            )
            if self.file.is_dir():
                raise BadInput(f"{self.file} is a folder, but a file is needed there: move it away")
            with naming(self.file):
                beside.write_text(json.dumps(state), encoding="utf-8")
                beside.replace(self.file)

    def close(self) -> None:
        self._bar.close()
