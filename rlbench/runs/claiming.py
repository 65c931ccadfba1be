"""Life cycle of a run directory: lock it, begin an attempt, and record how it ends."""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from dataclasses import asdict

import yaml

from rlbench.base.errors import BadInput
from rlbench.base.files import (
    PARTIAL,
    clear_partial,
    disk_full,
    is_disk_full,
    new_folder,
    overwrite,
    sync,
    write_text,
)
from rlbench.base.preemption import Preempted
from rlbench.config.schema import Config
from rlbench.runs import attempts
from rlbench.runs.attempts import Attempt, reason_of
from rlbench.runs.directory import (
    DONE,
    FAILED,
    INTERRUPTED,
    RUNNING,
    Run,
    check_done,
    misplaced,
    seal,
    status_of,
)
from rlbench.runs.existing import check_recorded, differing_from_recorded
from rlbench.runs.record import IDENTITY, SETTINGS


@contextlib.contextmanager
def claim(run: Run, config: Config, waiting: Callable[[], None] | None = None) -> Iterator[Attempt | None]:
    """Lock a run directory. Yields the new attempt, or None if the run is done.

    A second process that needs the same directory waits (`waiting` is called once), then finds it done. The lock is
    released when the process ends. A killed run therefore leaves a directory that says `running` but is free, and it is
    resumed.

    Raises:
        BadInput: if the directory holds a run with another config (says what differs), or if something in it is damaged
            (names it).
        DiskFull: if the disk was full in the block or while writing here.
    """
    new_folder(run.root, "runs_dir")
    if problems := misplaced(run.root):
        raise BadInput(*problems)
    with (run.root / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        if problems := check_recorded(run):
            raise BadInput(*problems)
        if run.status() == DONE:
            check_done(run.root)
            yield None
            return
        attempt = None
        try:
            clear_partial(run.root)
            IDENTITY.write(run.root, dict(run.identity))
            write_text(run.root / SETTINGS, yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))
            attempt = attempts.begin(run.root)
            run.set_status(RUNNING)
            yield attempt
            attempt.close(DONE, run.stopped_early(), attempts.last_update(run.root))
            for path in (*run.logs, run.root):
                sync(path)
            seal(run.root)
            run.set_status(DONE, run.stopped_early())
        except BaseException as error:
            full = _without_halves(run, error) if is_disk_full(error) else None
            # If the disk is too full even for this, the directory says `running` and is free.
            with contextlib.suppress(OSError) if full else contextlib.nullcontext():
                # Of several processes, the first to fail has written the reason. The others fail because they lost it.
                said = run.reason() if attempt is not None and run.status() == FAILED else ""
                if isinstance(error, Exception) and not said:
                    _fail(run, reason_of(full or error))
                elif isinstance(error, Preempted | KeyboardInterrupt) and not said:
                    run.set_status(INTERRUPTED, _why_stopped(error))
                status = run.status()
                if attempt is not None:
                    outcome = INTERRUPTED if status in (RUNNING, None) else status
                    reason = _why_stopped(error) if outcome == INTERRUPTED else reason_of(full or error)
                    attempt.close(outcome, said or reason, attempts.last_update(run.root))
            if full is not None and full is not error:
                raise full from error
            raise


def _why_stopped(error: BaseException) -> str:
    """Return the reason of an interruption."""
    if isinstance(error, KeyboardInterrupt):
        return "Ctrl-C; run the same command again to continue from the last checkpoint"
    return str(error) if isinstance(error, Preempted) else reason_of(error)


def _without_halves(run: Run, error: BaseException) -> OSError:
    """Return the error for a full disk, naming the unfinished file or folder, and remove unfinished files."""
    halves = [half for folder in (run.checkpoints, run.root) for half in folder.glob(f".*{PARTIAL}") if half.is_dir()]
    places = [run.checkpoints / path.name for half in halves for path in half.glob("checkpoint-*")]
    places += [half.with_name(half.name[1:].removesuffix(PARTIAL)) for half in halves]
    full = disk_full(error, run.root, f"{places[0] if places else run.root}")
    for folder in (run.checkpoints, run.root):
        clear_partial(folder)
    return full


def _fail(run: Run, reason: str) -> None:
    """Set the status to failed, even if the disk is full."""
    try:
        run.set_status(FAILED, reason)
    except OSError as error:
        if not is_disk_full(error):
            raise
        overwrite(run.root / "STATUS", f"{FAILED}\n{reason}\n")


@contextlib.contextmanager
def noted(run: Run) -> Iterator[None]:
    """Record failures before a run begins, or in a stage that it needs, in the attempt that a launcher reserved.

    Raises:
        DiskFull: instead of the block's error, if the disk was full.
    """
    try:
        yield
    except Exception as error:
        full = disk_full(error, run.root, f"below {run.root.parent}") if is_disk_full(error) else None
        with contextlib.suppress(OSError) if full else contextlib.nullcontext():
            if (attempt := attempts.reserved(run.root)) is not None:
                attempts.note_failure(attempt, error, FAILED)
                _say_failed(run, reason_of(full or error))
        if full is not None and full is not error:
            raise full from error
        raise


def note_unlocated(error: BadInput) -> None:
    """Record why a run directory could not be determined, in the attempt that a launcher reserved."""
    root = attempts.reserved_root()
    attempt = attempts.reserved(root) if root is not None else None
    if root is None or attempt is None:
        return
    attempts.note_failure(attempt, error, FAILED)
    with (root / ".lock").open("a") as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if status_of(root) != DONE:
            write_text(root / "STATUS", f"{FAILED}\n{reason_of(error)}\n")


def _say_failed(run: Run, reason: str) -> None:
    """Set the status to failed if nobody holds the run, it is not done, and the directory is not another run's."""
    with (run.root / ".lock").open("a") as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if run.status() != DONE and not differing_from_recorded(run):
            run.set_status(FAILED, reason)
