"""The attempts of a run: each start gets a folder with its log and its outcome.

`attempts/<n>/` contains:
- `attempt.json`: start, end, command, first and last update, outcome.
- `log.txt`: the run's own lines, logging, warnings, and the traceback of the error that ended the attempt.
- `output.txt`: everything the process printed; only if a launcher started it.

Importing this module loads no torch.
"""

import contextlib
import io
import json
import logging
import os
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Unpack, cast

from rich.console import Console

from rlbench.base.errors import BadInput
from rlbench.base.files import clear_partial, drop, leads_outside
from rlbench.base.program import own_words
from rlbench.base.records import Damaged
from rlbench.runs.record import ATTEMPT, MEASUREMENTS, AttemptFacts

FOLDER = "attempts"
RESERVED = "RLBENCH_ATTEMPT"
"""Environment variable with the attempt folder that a launcher reserved for the process it starts."""
RUNNING, UNKNOWN = "running", "unknown"
"""Outcomes besides the words used in STATUS. `unknown` means the process was killed or the machine went down."""
TAIL = 1 << 18
"""Number of trailing bytes of metrics.jsonl to search for the last update."""


@dataclass(frozen=True)
class Attempt:
    """One start of a run."""

    folder: Path

    @property
    def number(self) -> int:
        return int(self.folder.name)

    @property
    def begun(self) -> bool:
        return (self.folder / ATTEMPT.name).is_file()

    @property
    def log_file(self) -> Path:
        return self.folder / "log.txt"

    @property
    def output_file(self) -> Path:
        return self.folder / "output.txt"

    def read(self) -> AttemptFacts:
        """Return the content of attempt.json, or an empty dict if the attempt never began.

        A damaged file is reported as an outcome, not raised: no decision depends on an attempt.
        """
        if not self.begun:
            return {}
        try:
            return ATTEMPT.load(self.folder)
        except Damaged:
            return {"outcome": UNKNOWN, "reason": f"{ATTEMPT.name} is damaged"}

    def note(self, **facts: Unpack[AttemptFacts]) -> None:
        """Add fields to attempt.json."""
        ATTEMPT.write(self.folder, {**self.read(), **facts})

    def close(self, outcome: str, reason: str, reached: int | None) -> None:
        """Write the outcome."""
        self.note(outcome=outcome, reason=reason, reached_update=reached, ended=_now())


def attempts(root: Path) -> list[Attempt]:
    """Return the attempts of a run, oldest first."""
    numbers = sorted(int(path.name) for path in (root / FOLDER).glob("*") if path.name.isdecimal() and path.is_dir())
    return [Attempt(root / FOLDER / str(number)) for number in numbers]


def counts(root: Path) -> bool:
    """Whether `attempts` is a file that only stores the attempt count (older run directories)."""
    path = root / FOLDER
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace").strip().isdecimal()


def count(root: Path) -> int:
    """Return the number of the last attempt, or 0. Older run directories store it in a file."""
    if counts(root):
        return int((root / FOLDER).read_text(encoding="utf-8"))
    return max((attempt.number for attempt in attempts(root)), default=0)


def reserve(root: Path) -> Attempt:
    """Create the folder of the next attempt. Two concurrent launchers get different folders."""
    _unfold(root)
    while True:
        attempt = Attempt(root / FOLDER / str(count(root) + 1))
        if attempt.folder.parent.is_file():
            raise BadInput(f"{attempt.folder.parent} is a file, but a folder is needed there: move it away")
        if leads_outside(attempt.folder.parent, root):
            raise BadInput(
                f"{attempt.folder.parent} is a link to a place outside {root}: replace it with the folder itself"
            )
        attempt.folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            attempt.folder.mkdir()
            return attempt


def reserved(root: Path) -> Attempt | None:
    """Return the attempt of this run that a launcher reserved for this process, unless it has already begun."""
    named = os.environ.get(RESERVED)
    if named is None or Path(named).resolve().parent != (root / FOLDER).resolve():
        return None
    attempt = Attempt(root / FOLDER / Path(named).name)
    return attempt if attempt.folder.is_dir() and not attempt.begun else None


def reserved_root() -> Path | None:
    """Return the run directory for which a launcher started this process, or None."""
    named = os.environ.get(RESERVED)
    return None if named is None else Path(named).resolve().parent.parent


def started_for(root: Path) -> tuple[IO[bytes], dict[str, str]]:
    """Reserve the next attempt for a process that a launcher is about to start.

    Returns:
        The open file for the process's output, and the environment variables to add.
    """
    attempt = reserve(root)
    return attempt.output_file.open("ab"), {RESERVED: str(attempt.folder.resolve())}


def begin(root: Path) -> Attempt:
    """Begin the next attempt. The process must hold the run.

    An earlier attempt that is still marked as running is closed as unknown.
    """
    for earlier in attempts(root):
        clear_partial(earlier.folder)
        if earlier.read().get("outcome") == RUNNING:
            earlier.note(outcome=UNKNOWN, reached_update=last_update(root))
    attempt = reserved(root) or reserve(root)
    attempt.note(
        number=attempt.number,
        started=_now(),
        ended=None,
        outcome=RUNNING,
        reason="",
        from_update=None,
        reached_update=None,
        command=own_words(),
        pid=os.getpid(),
    )
    return attempt


def _unfold(root: Path) -> None:
    """Replace the file that stores the attempt count by a folder; the last attempt keeps its number."""
    path = root / FOLDER
    if not counts(root):
        return
    last, beside = count(root), root / f".{FOLDER}.partial"
    if beside.exists():
        drop(beside)
    Attempt(beside / str(last)).note(number=last, outcome=UNKNOWN)
    path.unlink()
    beside.rename(path)


def last_update(root: Path) -> int | None:
    """Return the last update recorded in metrics.jsonl, or None."""
    path = root / MEASUREMENTS.name
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL, 0))
        lines = file.read().split(b"\n")[:-1]  # the part after the last newline is empty or truncated
        whole = lines if path.stat().st_size <= TAIL else lines[1:]
    return max((step for line in whole if (step := _step(line)) is not None), default=None)


def _step(line: bytes) -> int | None:
    """Return the update of one line, or None if the line is damaged. Readers that need the line report the damage."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else None


class RunConsole(Console):
    """A console that also writes to the log of the current attempt, including lines printed before it began."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._said: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._copies: list[Console] = []

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        if not self._copies:
            self._said.append((objects, options))
        for copy in self._copies:
            copy.print(*objects, **options)

    @contextlib.contextmanager
    def copied_to(self, file: io.TextIOBase) -> Iterator[None]:
        """Write all earlier lines to the file, then copy every line printed inside the block."""
        copy = Console(file=cast(IO[str], file), highlight=False, soft_wrap=True, no_color=True)
        for objects, options in self._said:
            copy.print(*objects, **options)
        self._copies.append(copy)
        try:
            yield
        finally:
            self._copies.remove(copy)


class Once(logging.Filter):
    """Pass each warning from other packages only once. Trainers repeat theirs at every step."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("rlbench"):
            return True
        key = (record.name, record.getMessage())
        new = key not in self._seen
        self._seen.add(key)
        return new


@contextlib.contextmanager
def logged(attempt: Attempt | None, console: RunConsole) -> Iterator[None]:
    """Write the attempt's log.txt while the block runs: console, logging, warnings, and the traceback of an error.

    Terminal output is unchanged. With None nothing is logged.
    """
    if attempt is None:
        yield
        return
    root, ours = logging.getLogger(), logging.getLogger("rlbench")
    with LogFile(attempt.log_file) as log:
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        added: list[logging.Handler] = [handler]
        handler.addFilter(Once())
        if not root.handlers:
            shown_too = logging.StreamHandler()
            shown_too.setLevel(logging.WARNING)
            shown_too.addFilter(Once())
            added.append(shown_too)  # without a handler, logging itself would print warnings to stderr
        level, shown = ours.level, warnings.showwarning

        def show(message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None) -> None:
            shown(message, category, filename, lineno, file, line)
            log.write(warnings.formatwarning(message, category, filename, lineno, line))

        for one in added:
            root.addHandler(one)
        ours.setLevel(min(level or logging.INFO, logging.INFO))
        warnings.showwarning = show
        try:
            with console.copied_to(log):
                yield
        except BaseException as error:
            log.write("".join(traceback.format_exception(error)))
            raise
        finally:
            warnings.showwarning = shown
            ours.setLevel(level)
            for one in added:
                root.removeHandler(one)


class LogFile(io.TextIOBase):
    """An unbuffered text file opened for appending. It drops writes that fail, for example on a full disk."""

    def __init__(self, path: Path):
        self._file = path.open("ab", buffering=0)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._file.write(text.encode())
        return len(text)

    def close(self) -> None:
        self._file.close()
        super().close()


def failure(root: Path) -> tuple[str, Path | None]:
    """Return one line on why the last attempt failed and the file with details, or ("", None) if unknown."""
    for attempt in attempts(root)[-1:]:
        if reason := attempt.read().get("reason", ""):
            return reason.split("\n")[0], attempt.log_file
        said = (root / "STATUS").read_text(encoding="utf-8", errors="replace").split("\n") if attempt.begun else []
        if len(said) > 2:  # on a full disk it contains only the reason
            return said[1], attempt.log_file
        if attempt.output_file.is_file():
            lines = attempt.output_file.read_text(encoding="utf-8", errors="replace").rstrip().split("\n")
            return lines[-1], attempt.output_file
    return "", None


def note_failure(attempt: Attempt, error: BaseException, outcome: str) -> None:
    """Write log.txt and attempt.json for an attempt that failed before its run began."""
    attempt.log_file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    attempt.note(
        number=attempt.number,
        started=None,
        ended=_now(),
        outcome=outcome,
        reason=reason_of(error),
        command=own_words(),
        pid=os.getpid(),
    )


def reason_of(error: BaseException) -> str:
    """Return the text for an exception in STATUS."""
    return f"{type(error).__name__}: {error}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
