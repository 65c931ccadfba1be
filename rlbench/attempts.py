"""Attempts at a run: a folder for each start, with what was said and what became of it.

`attempts/<n>/` holds `attempt.json` (when, from where, how far, how it ended), `log.txt` (the run's own lines, logging,
warnings, and the traceback of what ended it), and `output.txt` (all that its process printed) where a launcher started
it. Importing this module loads no torch.
"""

import contextlib
import io
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console

from rlbench.errors import BadInput
from rlbench.files import clear_partial, drop, write_json

FOLDER = "attempts"
RESERVED = "RLBENCH_ATTEMPT"
"""Environment variable in which a launcher names the folder that it has reserved for the attempt it starts."""
RUNNING, UNKNOWN = "running", "unknown"
"""Outcomes beside the words of STATUS; unknown: killed, or the machine went down."""
TAIL = 1 << 18
"""Bytes from the end of metrics.jsonl in which the last update is looked for."""


@dataclass(frozen=True)
class Attempt:
    """One start of a run."""

    folder: Path

    @property
    def number(self) -> int:
        return int(self.folder.name)

    @property
    def begun(self) -> bool:
        return (self.folder / "attempt.json").is_file()

    @property
    def log_file(self) -> Path:
        return self.folder / "log.txt"

    @property
    def output_file(self) -> Path:
        return self.folder / "output.txt"

    def read(self) -> dict[str, Any]:
        """What attempt.json holds; nothing where a launcher started it and it never began.

        An attempt decides nothing: where its file is damaged, that is its outcome.
        """
        if not self.begun:
            return {}
        try:
            content = json.loads((self.folder / "attempt.json").read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            content = None
        return content if isinstance(content, dict) else {"outcome": UNKNOWN, "reason": "attempt.json is damaged"}

    def note(self, **facts: Any) -> None:
        """Add to attempt.json."""
        write_json(self.folder / "attempt.json", self.read() | facts)

    def close(self, outcome: str, reason: str, reached: int | None) -> None:
        """Write how it ended."""
        self.note(outcome=outcome, reason=reason, reached_update=reached, ended=_now())


def attempts(root: Path) -> list[Attempt]:
    """The attempts at a run, the first one first."""
    numbers = sorted(int(path.name) for path in (root / FOLDER).glob("*") if path.name.isdecimal() and path.is_dir())
    return [Attempt(root / FOLDER / str(number)) for number in numbers]


def counts(root: Path) -> bool:
    """Whether a run directory only counts its attempts, in a file."""
    path = root / FOLDER
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace").strip().isdecimal()


def count(root: Path) -> int:
    """The number of the last attempt; run directories that only count their attempts keep it in a file."""
    if counts(root):
        return int((root / FOLDER).read_text(encoding="utf-8"))
    return max((attempt.number for attempt in attempts(root)), default=0)


def reserve(root: Path) -> Attempt:
    """Make the folder of the next attempt; of two launchers at the same time each has its own."""
    _unfold(root)
    while True:
        attempt = Attempt(root / FOLDER / str(count(root) + 1))
        if attempt.folder.parent.is_file():
            raise BadInput(f"{attempt.folder.parent} is a file, and a folder belongs there: move it away")
        attempt.folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            attempt.folder.mkdir()
            return attempt


def reserved(root: Path) -> Attempt | None:
    """The attempt at this run that a launcher has started this process for, if it has not begun yet."""
    named = os.environ.get(RESERVED)
    if named is None or Path(named).resolve().parent != (root / FOLDER).resolve():
        return None
    attempt = Attempt(root / FOLDER / Path(named).name)
    return attempt if attempt.folder.is_dir() and not attempt.begun else None


def reserved_root() -> Path | None:
    """The run directory that a launcher has started this process for."""
    named = os.environ.get(RESERVED)
    return None if named is None else Path(named).resolve().parent.parent


def started_for(root: Path) -> tuple[IO[bytes], dict[str, str]]:
    """Reserve the next attempt, for a launcher that starts a process for it.

    Returns:
        The open file that gets what the process prints, and what its environment has more.
    """
    attempt = reserve(root)
    return attempt.output_file.open("ab"), {RESERVED: str(attempt.folder.resolve())}


def begin(root: Path) -> Attempt:
    """Start the next attempt, by a process that holds the run; one that ended without a word is closed as unknown."""
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
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        pid=os.getpid(),
    )
    return attempt


def _unfold(root: Path) -> None:
    """Make a folder of the file in which a run directory counted its attempts; the last one keeps its number."""
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
    """The last update of which metrics.jsonl tells; None where it tells of none."""
    path = root / "metrics.jsonl"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL, 0))
        lines = file.read().split(b"\n")[:-1]  # what follows the last newline is empty, or cut short
        whole = lines if path.stat().st_size <= TAIL else lines[1:]
    return max((step for line in whole if (step := _step(line)) is not None), default=None)


def _step(line: bytes) -> int | None:
    """The update that a line tells of; None where it is damaged, which whoever relies on it will say."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else None


class RunConsole(Console):
    """A console whose lines also go to the logs of attempts: those of the attempt that is running, and from before."""

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
        """Repeat there what was said before any attempt, and copy what is said in the block."""
        copy = Console(file=cast(IO[str], file), highlight=False, soft_wrap=True, no_color=True)
        for objects, options in self._said:
            copy.print(*objects, **options)
        self._copies.append(copy)
        try:
            yield
        finally:
            self._copies.remove(copy)


class Once(logging.Filter):
    """Lets each warning of other packages through once; trainers repeat theirs at every step."""

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
    """Write the attempt's log.txt while the block runs: console, logging, warnings, and the traceback of what ends it.

    What goes to the terminal stays as it is. None logs nothing.
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
            added.append(shown_too)  # without a handler logging would write warnings to stderr itself
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
    """A text file to append to, unbuffered. A full disk cuts it short: the run's own files tell of that."""

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
    """Why the last attempt at a run failed, in a line, and the file that tells more; ("", None) where nothing tells."""
    for attempt in attempts(root)[-1:]:
        if reason := attempt.read().get("reason", ""):
            return reason.split("\n")[0], attempt.log_file
        said = (root / "STATUS").read_text(encoding="utf-8", errors="replace").split("\n") if attempt.begun else []
        if len(said) > 2:  # on a full disk the reason stands there alone
            return said[1], attempt.log_file
        if attempt.output_file.is_file():
            lines = attempt.output_file.read_text(encoding="utf-8", errors="replace").rstrip().split("\n")
            return lines[-1], attempt.output_file
    return "", None


def note_failure(attempt: Attempt, error: BaseException, outcome: str) -> None:
    """Write log.txt and attempt.json of an attempt that failed before its run was begun."""
    attempt.log_file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    attempt.note(
        number=attempt.number,
        started=None,
        ended=_now(),
        outcome=outcome,
        reason=reason_of(error),
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        pid=os.getpid(),
    )


def reason_of(error: BaseException) -> str:
    """An exception as STATUS names it."""
    return f"{type(error).__name__}: {error}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
