"""Trackers: a view of a run for people who watch many of them. The run directory stays the truth.

A tracker receives what the runner has already written to its own files: curves over updates, tables, final values.
Whatever becomes of it (no login, no network, a full disk, a killed service), the run goes on and loses nothing but
the view: a tracker that fails says so once and does nothing from then on.

`wandb` is imported only where a W&B tracker is made. Each attempt at a run is a W&B run of its own, because an offline
W&B run can be neither resumed nor merged; the attempts share a group, which is the run identity.
"""

import contextlib
import errno
import functools
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rlbench.errors import BadInput, nearest

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

MODES = ("wandb", "offline", "none")
STEP = "update"
"""The history column that holds the optimiser update, the x axis of every curve."""

ONLINE_START_SECONDS = 20.0
"""How long an online run may wait for the W&B server before it is tracked offline instead."""
FINISH_SECONDS = 60.0
"""How long the end of an online run may wait for uploads; the rest stays on disk, for `wandb sync`."""
TAG_LENGTH = 64
"""W&B refuses longer tags."""


@dataclass(frozen=True)
class TrackerIdentity:
    """What a tracker calls a run.

    Args:
        experiment: name of the experiment (sweep) that the run belongs to.
        group: the run identity without the attempt, for example `mini-tiny/rank_grpo-relevance/seed0-1a2b3c4d`.
        job_type: the stage: oracle, zero_shot, sft or rl.
        name: the label that a person reads; later attempts get their number after it.
        tags: short words to filter by; longer than 64 characters are cut.
        attempt: 1 for the first start of this run, 2 for the next, ...
        project: W&B project.
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


class Tracker(Protocol):
    """What the runner asks of a tracker. No method raises for the tracker's own troubles."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add one point at update `step` to each named curve, for example `validation/ndcg@10` or `train/reward`."""

    def log_table(self, name: str, columns: list[str], rows: list[list]) -> None:
        """Add a table; a cell is a str, a number, a bool or None, and a row has one for each column."""

    def summary(self, values: Mapping[str, float]) -> None:
        """Set final values of the run, for example the test metrics."""

    def finish(self, *, failed: bool = False) -> None:
        """Close the tracker; calls after this do nothing. `failed` marks the run as failed in the view.

        W&B's service may still be writing the end of its file when this returns; it ends with the process.
        """


def make_tracker(mode: str, *, directory: Path, identity: TrackerIdentity, config: dict[str, Any]) -> Tracker:
    """Return a started tracker.

    Args:
        mode: `wandb` (online where the user is logged in, else offline), `offline` or `none`.
        directory: the run directory; W&B writes below `directory/wandb`.
        identity: names of the run; also stored in the tracked config under the key `identity`.
        config: the resolved config, made of plain dicts, lists, strings, numbers, bools and None.

    Raises:
        BadInput: `mode` is none of these.
    """
    if mode not in MODES:
        raise BadInput(f"tracker.mode is {mode!r}; it must be one of {', '.join(MODES)}.{nearest(mode, list(MODES))}")
    if mode == "none":
        return NoTracker()
    return WandbTracker(mode, directory, identity, config)


class NoTracker:
    """The tracker of `mode=none`."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def log_table(self, name: str, columns: list[str], rows: list[list]) -> None:
        pass

    def summary(self, values: Mapping[str, float]) -> None:
        pass

    def finish(self, *, failed: bool = False) -> None:
        pass


class WandbTracker:
    """One W&B run, online or offline; see `make_tracker` for the arguments."""

    def __init__(self, mode: str, directory: Path, identity: TrackerIdentity, config: dict[str, Any]):
        # wandb 0.31 sends usage counts and errors to its servers even from an offline run. This is its documented
        # switch, read when its service starts; a user who has set it keeps the choice.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._directory = directory.absolute()
        self._run: wandb.Run | None = None
        with self._guarded("start"):
            self._run = _start(mode, self._directory, identity, config)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._run is not None:
            # The update is a column and not W&B's own step, which must grow with every call: a validation point may
            # follow the training point of the same update.
            with self._guarded("log metrics"):
                self._run.log({**metrics, STEP: step})

    def log_table(self, name: str, columns: list[str], rows: list[list]) -> None:
        if self._run is not None:
            import wandb

            # Mixed types: a column of numbers may hold "-" or None where a run has no value.
            table = wandb.Table(columns=list(columns), data=rows, allow_mixed_types=True)
            with self._guarded("log a table"), _staged_in(self._directory):
                self._run.log({name: table})

    def summary(self, values: Mapping[str, float]) -> None:
        if self._run is not None:
            with self._guarded("write the summary"):
                self._run.summary.update(dict(values))

    def finish(self, *, failed: bool = False) -> None:
        if self._run is not None:
            with self._guarded("finish"):
                self._run.finish(exit_code=int(failed))
            self._run = None

    @contextlib.contextmanager
    def _guarded(self, action: str) -> Iterator[None]:
        """Turn a failure of W&B inside the block into one warning and a tracker that does nothing from then on."""
        try:
            yield
        except wandb_failures() as error:
            self._run = None
            log.warning(
                "W&B failed to %s (%s: %s). The run goes on without it and keeps its own files in %s; "
                "`wandb sync` can send what W&B has under wandb/ there.",
                action,
                type(error).__name__,
                error,
                self._directory,
            )
            _forget_service()


@functools.cache
def wandb_failures() -> tuple[type[Exception], ...]:
    """Return the exceptions by which wandb says that it cannot do its work.

    They are caught around each call because a tracker shows a run and must not end one. They are named, and are not
    `Exception`, so that a mistake in our own code (a table row of the wrong length, a metric that is no mapping) is
    still an error. `wandb.Error` alone is not enough: with wandb 0.31, a call after the death of its service process
    raises ConnectionResetError (an OSError, as are a full disk and the time-out of `finish`), and a start after it
    raises one of the service errors below, which derive from Exception alone. A value in a WANDB_* variable
    that wandb does not accept is a ValidationError.
    """
    import wandb
    from pydantic import ValidationError
    from wandb.sdk.lib.asyncio_manager import AlreadyJoinedError, ForkedError, RunCancelledError
    from wandb.sdk.lib.service.service_token import WandbServiceConnectionError
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
    from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

    return (
        wandb.Error,
        OSError,
        ValidationError,
        WandbServiceConnectionError,
        MailboxClosedError,
        HandleAbandonedError,
        ServerResponseError,
        RunCancelledError,
        AlreadyJoinedError,
        ForkedError,
    )


def _start(mode: str, directory: Path, identity: TrackerIdentity, config: dict[str, Any]) -> "wandb.Run":
    """Return a W&B run: online if asked for and possible, else offline. Raises one of `wandb_failures()`."""
    import wandb

    # wandb would move to the system's temporary folder without a word (it is made silent below); a run whose view
    # lies elsewhere is worse than a warning.
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))

    # From the system's source and not from the seeded generators: two attempts must differ.
    run_id = secrets.token_hex(4)
    wandb.setup(wandb.Settings(silent=True))
    if mode == "wandb" and _logged_in():
        try:
            run = _init("online", run_id, directory, identity, config)
            log.info("W&B run: %s", run.url)
            return run
        except wandb_failures() as error:
            _say_once(f"W&B could not be reached, so this run is tracked offline: {error}")
            # The service still holds the id of the run that did not start, and still tries.
            _forget_service()
            wandb.setup(wandb.Settings(silent=True))
    return _init("offline", run_id, directory, identity, config)


def _logged_in() -> bool:
    """Return whether wandb finds credentials (WANDB_API_KEY, its settings file, netrc), without asking or connecting.

    `wandb.login(prompt=False)` also answers False where WANDB_MODE asks for offline.
    """
    import wandb

    reason = "no W&B login was found"
    try:
        if wandb.login(prompt=False, verify=False):
            return True
    except wandb.Error as error:
        reason = f"the W&B login cannot be used ({error})"
    _say_once(
        f"{reason}: tracking offline. `wandb sync <run directory>/wandb/offline-run-*` sends a run later; "
        "`wandb login` makes the next ones online; tracker=none is silent."
    )
    return False


def _init(
    mode: Literal["online", "offline"],
    run_id: str,
    directory: Path,
    identity: TrackerIdentity,
    config: dict[str, Any],
) -> "wandb.Run":
    """Start a W&B run whose curves are drawn over updates. Raises one of `wandb_failures()`."""
    import wandb

    run = wandb.init(
        mode=mode,
        id=run_id,
        dir=directory,
        project=identity.project,
        entity=identity.entity,
        group=identity.group,
        job_type=identity.job_type,
        name=identity.name if identity.attempt == 1 else f"{identity.name} (attempt {identity.attempt})",
        tags=[tag[:TAG_LENGTH] for tag in identity.tags if tag],
        config={**config, "identity": asdict(identity)},
        # A sweep in one process makes one run after another, and leaves any run of the user's own alone.
        reinit="create_new",
        settings=wandb.Settings(
            # Nothing on the terminal, and nothing of the terminal in W&B: both belong to the runner.
            silent=True,
            console="off",
            # No code, no git state, no packages, no host: manifest.json has what a reader needs of them.
            save_code=False,
            disable_code=True,
            disable_git=True,
            label_disable=True,
            x_save_requirements=False,
            x_disable_machine_info=True,
            # No samples of this machine's load every 15 s: budget.json has the times that a comparison needs.
            x_disable_stats=True,
            # A run directory that can be copied: no links, and a folder whose name is always the same.
            symlink=False,
            use_dot_wandb=False,
            # Bounds on what a lost network may cost. A finish that takes longer raises, and is reported.
            init_timeout=ONLINE_START_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
        ),
    )
    run.define_metric(STEP, hidden=True)
    for split in ("train", "validation", "test"):
        run.define_metric(f"{split}/*", step_metric=STEP)
    return run


@contextlib.contextmanager
def _staged_in(directory: Path) -> Iterator[None]:
    """Keep W&B's copies of tables in the run directory while the block runs, unless the user chose a place.

    wandb stages a table under its data folder, by default in the home directory, and an offline run refers to that
    copy until it is synced, so it must live as long as the run directory does.
    """
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(directory / "wandb")
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def _forget_service() -> None:
    """Drop wandb's service process, which may be dead, so that the next run of this process gets a new one.

    `wandb.teardown` calls `sys.exit` where the service ended with an error.
    """
    import wandb

    with contextlib.suppress(SystemExit, *wandb_failures()):
        wandb.teardown()


@functools.cache
def _say_once(message: str) -> None:
    """Log a warning the first time that this process has cause for it; a sweep has the same cause in every cell."""
    log.warning(message)
