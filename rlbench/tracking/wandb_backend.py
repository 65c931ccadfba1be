"""Weights & Biases: each attempt at a run is a W&B run of its own; the attempts share a group, the run identity.

An offline W&B run can be neither resumed nor merged. `wandb` is imported only where a W&B tracker is made.
"""

import contextlib
import errno
import functools
import logging
import os
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlbench.tracking.identity import Scalar, TrackerIdentity

if TYPE_CHECKING:
    import wandb

log = logging.getLogger("rlbench.tracking")

STEP = "update"
"""The history column that holds the optimiser update, the x axis of every curve."""
SECTIONS = ("train", "validation", "test")
"""Splits, of which each has curves under its own name and under `<split>_by_rank`."""

ONLINE_START_SECONDS = 20.0
"""How long an online run may wait for the W&B server before it is tracked offline instead."""
FINISH_SECONDS = 60.0
"""How long the end of an online run may wait for uploads; the rest stays on disk, for `wandb sync`."""
SERVICE_SECONDS = 5.0
"""How long a service that is given up may take to write what it has, before it is killed."""
TAG_LENGTH = 64
"""W&B refuses longer tags."""


class WandbBackend:
    """One W&B run; see `make_tracker` for the arguments. Asked to be online, it is offline where that cannot be."""

    name = "W&B"
    remedy = "`wandb sync --include-online` can send what W&B has under wandb/ there."

    _unreachable = False
    """Set once the server could not be reached, for all later runs of this process."""

    def __init__(
        self,
        mode: Literal["online", "offline"],
        directory: Path,
        identity: TrackerIdentity,
        config: Mapping[str, Any],
    ):
        self._mode, self._directory, self._identity = mode, directory.absolute(), identity
        self._config = config
        self._run: wandb.Run | None = None

    def prepare(self) -> None:
        """Start wandb's service, and set its variables: both change the environment, which threads must not."""
        # wandb 0.31 sends usage counts and errors to its servers even from an offline run. This is its documented
        # switch, read when its service starts; a user who has set it keeps the choice.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # wandb would move to the system's temporary folder without a word (it is made silent below); a run whose view
        # lies elsewhere is worse than a warning.
        self._directory.mkdir(parents=True, exist_ok=True)
        if not os.access(self._directory, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self._directory))
        _stage_in(self._directory / "wandb")
        import wandb

        wandb.setup(wandb.Settings(silent=True))

    def start(self) -> None:
        # From the system's source and not from the seeded generators: two attempts must differ.
        run_id = secrets.token_hex(4)
        if self._mode == "online" and not WandbBackend._unreachable and _logged_in():
            try:
                self._run = _init("online", run_id, self._directory, self._identity, self._config)
                log.info("W&B run: %s", self._run.url)
                return
            except wandb_failures() as error:
                WandbBackend._unreachable = True
                _say_once(f"W&B could not be reached, so this run is tracked offline: {error}")
                # The service still holds the id of the run that did not start, and still tries.
                _forget_service()
                import wandb

                wandb.setup(wandb.Settings(silent=True))
        self._mode = "offline"
        self._run = _init("offline", run_id, self._directory, self._identity, self._config)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        # The update is a column and not W&B's own step, which must grow with every call: a validation point may follow
        # the training point of the same update.
        self._history({**metrics, STEP: step})

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Scalar]], step: int) -> None:
        import wandb

        # Mixed types: a column of numbers may hold "-" or None where a run has no value.
        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        self._history({name: table, STEP: step})

    def log_image(self, name: str, file: Path, step: int) -> None:
        import wandb

        self._history({name: wandb.Image(str(file)), STEP: step})

    def summary(self, values: Mapping[str, float]) -> None:
        assert self._run is not None
        self._run.summary.update(dict(values))

    def finish(self, failed: bool) -> None:
        assert self._run is not None
        self._run.finish(exit_code=int(failed))

    def abandon(self) -> None:
        if self._mode == "online":
            WandbBackend._unreachable = True
        _forget_service()

    def _history(self, row: Mapping[str, Any]) -> None:
        assert self._run is not None
        self._run.log(dict(row))


@functools.cache
def wandb_failures() -> tuple[type[Exception], ...]:
    """Return the exceptions by which wandb 0.31 says that an online run cannot be started."""
    import wandb
    from wandb.sdk.lib.service.service_token import WandbServiceConnectionError
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
    from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

    return (
        wandb.Error,
        OSError,
        WandbServiceConnectionError,
        MailboxClosedError,
        HandleAbandonedError,
        ServerResponseError,
    )


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
    config: Mapping[str, Any],
) -> "wandb.Run":
    """Start a W&B run whose curves are drawn over updates."""
    import wandb

    run = wandb.init(
        mode=mode,
        id=run_id,
        dir=directory,
        project=identity.project,
        entity=identity.entity,
        group=identity.group,
        job_type=identity.job_type,
        name=identity.display_name,
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
    for split in SECTIONS:
        run.define_metric(f"{split}/*", step_metric=STEP)
        run.define_metric(f"{split}_by_rank/*", step_metric=STEP)
    return run


_staged: str | None = None
"""What `_stage_in` has set WANDB_DATA_DIR to."""


def _stage_in(folder: Path) -> None:
    """Have W&B keep its copies of tables in a folder, unless the user chose another.

    wandb stages a table under its data folder, by default in the home directory, and an offline run refers to that
    copy until it is synced, so it must live as long as the run directory does.
    """
    global _staged
    if os.environ.get("WANDB_DATA_DIR") in (None, _staged):
        _staged = os.environ["WANDB_DATA_DIR"] = str(folder)


def _forget_service() -> None:
    """Drop wandb's service process, so that the next run of this process gets a new one.

    The service may be dead, or hang. `wandb.teardown`, which wandb also calls at the end of this process, waits for it
    without end, so it is killed where it does not go; and calls `sys.exit` where it ended with an error.
    """
    import wandb
    from wandb.sdk import wandb_setup

    singleton = wandb_setup._singleton  # wandb 0.31 has no other way to its process
    connection = singleton._connection if singleton else None
    process = connection._proc._process if connection and connection._proc else None
    timer = threading.Timer(SERVICE_SECONDS, lambda: process and process.kill())
    timer.start()
    with contextlib.suppress(SystemExit, *wandb_failures()):
        wandb.teardown()
    timer.cancel()


@functools.cache
def _say_once(message: str) -> None:
    """Log a warning the first time that this process has cause for it; a sweep has the same cause in every cell."""
    log.warning(message)
