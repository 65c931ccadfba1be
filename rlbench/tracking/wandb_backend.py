"""Weights & Biases: each attempt of a run is a separate W&B run. The attempts share a group, the run's identity.

The attempts are separate because offline W&B runs can be neither resumed nor merged. `wandb` is imported only when a
W&B tracker is created.
"""

import contextlib
import errno
import functools
import logging
import os
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlbench.tracking.identity import Scalar, TrackerIdentity
from rlbench.tracking.wandb_agent import AGENT, AgentRun, with_parameters

if TYPE_CHECKING:
    import wandb

log = logging.getLogger("rlbench.tracking")

STEP = "update"
"""History column with the optimiser update, the x axis of every curve."""
SECTIONS = ("train", "validation", "test")
"""Splits. Each has curves under its own name and under `<split>_by_rank`."""

ONLINE_START_SECONDS = 20.0
"""Seconds that an online run may wait for the W&B server before it is tracked offline."""
FINISH_SECONDS = 60.0
"""Seconds that the end of an online run may wait for uploads. The rest stays on disk for `wandb sync`."""
UPLOAD_SECONDS = 285.0
"""Seconds that an online run may take to send one artefact; less than `worker.UPLOAD_SECONDS`."""
SERVICE_SECONDS = 5.0
"""Seconds that an abandoned service may take to write its data before it is killed."""
TAG_LENGTH = 64
"""Maximum length of W&B tags."""
NAME_LENGTH = 128
"""Maximum length of W&B's names of artefacts."""
ARTIFACT_TYPES = {"checkpoint": "model"}
"""W&B's usual type of an artefact, where it is not our word."""


class WandbBackend:
    """One W&B run. `make_tracker` documents the arguments. An online run falls back to offline if it cannot start."""

    name = "W&B"
    remedy = "`wandb sync --include-online` can upload what W&B stored under wandb/ in that directory."

    _unreachable = False
    """Set once the server could not be reached; applies to all later runs of this process."""

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
        """Start wandb's service and set its environment variables. Threads must not change the environment."""
        # wandb 0.31 sends usage counts and errors to its servers even from an offline run. This is its documented
        # switch, read when its service starts. A value set by the user is kept.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # Without this check wandb would silently use the system's temporary folder. A view in an unknown place is worse
        # than a warning.
        self._directory.mkdir(parents=True, exist_ok=True)
        if not os.access(self._directory, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self._directory))
        _stage_in(self._directory / "wandb")
        AGENT.notice()
        import wandb
        from wandb.sdk.lib.service.service_token import WandbServiceConnectionError

        try:
            wandb.setup(wandb.Settings(silent=True))
        except WandbServiceConnectionError:
            # WANDB_SERVICE comes from a process whose service has ended, for example a notebook's.
            os.environ.pop("WANDB_SERVICE", None)
            wandb.setup(wandb.Settings(silent=True))

    def start(self) -> None:
        # An agent starts a cell for the sake of its last stage.
        agents = AGENT.take() if self._identity.job_type == self._config.get("stage") else None
        # Uses the system's random source, not the seeded generators: two attempts must differ.
        run_id = secrets.token_hex(4) if agents is None else agents.id
        if self._mode == "online" and not WandbBackend._unreachable and _logged_in():
            try:
                self._run = _init("online", run_id, self._directory, self._identity, self._config, agents)
                log.info("W&B run: %s", self._run.url)
                return
            except wandb_failures() as error:
                WandbBackend._unreachable = True
                _say_once(f"W&B could not be reached, so this run is tracked offline: {error}")
                # The service still holds the id of the run that did not start, and keeps trying.
                _forget_service()
                import wandb

                wandb.setup(wandb.Settings(silent=True))
        self._mode = "offline"
        self._run = _init("offline", run_id, self._directory, self._identity, self._config, agents)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        # The update is a separate column, because W&B's own step must increase with every call: a validation point may
        # follow the training point of the same update.
        self._history({**metrics, STEP: step})

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Scalar]], step: int) -> None:
        import wandb

        # Mixed types, because a column of numbers may contain "-" or None for missing values.
        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        self._history({name: table, STEP: step})

    def log_image(self, name: str, file: Path, step: int) -> None:
        import wandb

        self._history({name: wandb.Image(str(file)), STEP: step})

    def summary(self, values: Mapping[str, float]) -> None:
        assert self._run is not None
        self._run.summary.update(dict(values))

    def upload(self, kind: str, files: Mapping[str, Path]) -> None:
        import wandb
        from wandb.sdk.artifacts.exceptions import WaitTimeoutError
        from wandb.sdk.lib.service.service_connection import WandbApiFailedError

        assert self._run is not None
        artifact = wandb.Artifact(artifact_name(kind, self._identity.group), ARTIFACT_TYPES.get(kind, kind))
        for name, file in files.items():
            # The files stay where they are until they are sent: no copy in the run directory, none in W&B's cache.
            artifact.add_file(str(file), name, policy="immutable", skip_cache=True)
        logged = self._run.log_artifact(artifact)
        if self._mode == "offline":
            return
        try:  # `finish` would wait for it too, but only as long as for a few curves, and reports no error
            logged.wait(timeout=int(UPLOAD_SECONDS))
        except WaitTimeoutError:
            # `finish` writes the end of W&B's file. An abandoned service may be killed before it has done so.
            with contextlib.suppress(TimeoutError, *wandb_failures()):
                self.finish(failed=False)
            raise TimeoutError(f"{kind} was not sent after {UPLOAD_SECONDS:.0f} s") from None
        except (wandb.Error, WandbApiFailedError, ValueError) as error:  # refused, for example above a quota
            log.warning("W&B did not take %s of %s: %s", kind, self._directory, error)

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
    """Return the exceptions that wandb 0.31 raises if an online run cannot be started."""
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
    """Whether wandb finds credentials (WANDB_API_KEY, its settings file, netrc), without asking or connecting.

    `wandb.login(prompt=False)` also returns False if WANDB_MODE requests offline.
    """
    import wandb

    reason = "no W&B login was found"
    try:
        if wandb.login(prompt=False, verify=False):
            return True
    except wandb.Error as error:
        reason = f"the W&B login cannot be used ({error})"
    _say_once(
        f"{reason}, so this run is tracked offline. Upload it later with `wandb sync <run "
        "directory>/wandb/offline-run-*`. Run `wandb login` to track the next runs online, or use tracker=none to "
        "turn tracking off."
    )
    return False


def _init(
    mode: Literal["online", "offline"],
    run_id: str,
    directory: Path,
    identity: TrackerIdentity,
    config: Mapping[str, Any],
    agents: AgentRun | None,
) -> "wandb.Run":
    """Start a W&B run with curves over updates. `agents` is the run that an agent has made, with the id `run_id`."""
    import wandb
    from wandb.sdk.lib import config_util

    config = {**config, "identity": asdict(identity)}
    if agents is not None and agents.file is not None:
        config = with_parameters(config, config_util.dict_from_config_file(agents.file, must_exist=True))
    run = wandb.init(
        mode=mode,
        id=run_id,
        # The server has the agent's run already, and again if the agent resumes it.
        resume="allow" if agents is not None and mode == "online" else None,
        dir=directory,
        # The agent has set WANDB_PROJECT and WANDB_ENTITY. A run elsewhere would not be in the sweep.
        project=None if AGENT.is_here else identity.project,
        entity=None if AGENT.is_here else identity.entity,
        group=identity.group,
        job_type=identity.job_type,
        name=identity.display_name,
        tags=[tag[:TAG_LENGTH] for tag in identity.tags if tag],
        config=config,
        # A sweep in one process creates several runs in turn. The user's own runs are left alone.
        reinit="create_new",
        settings=wandb.Settings(
            # Print nothing to the terminal and do not capture it: both are the runner's job.
            silent=True,
            console="off",
            # No code, git state, packages or host: manifest.json records what is needed.
            save_code=False,
            disable_code=True,
            disable_git=True,
            label_disable=True,
            x_save_requirements=False,
            x_disable_machine_info=True,
            # No samples of the machine's load every 15 s: budget.json has the times for comparisons.
            x_disable_stats=True,
            # Keep the run directory easy to copy: no links, and a fixed folder name.
            symlink=False,
            use_dot_wandb=False,
            # Limit the delay caused by a lost network. A finish that takes longer raises and is reported.
            init_timeout=ONLINE_START_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
            sweep_id=None if agents is None else agents.sweep,
        ),
    )
    run.define_metric(STEP, hidden=True)
    for split in SECTIONS:
        run.define_metric(f"{split}/*", step_metric=STEP)
        run.define_metric(f"{split}_by_rank/*", step_metric=STEP)
    return run


def artifact_name(kind: str, group: str) -> str:
    """Return the name of a run's artefact, made of letters, digits and `-_.`; the group's end has the run's hash."""
    whole = re.sub(r"[^\w.-]", "-", f"{group}-{kind}", flags=re.ASCII)
    return whole[-NAME_LENGTH:]


_staged: str | None = None
"""The value that `_stage_in` set WANDB_DATA_DIR to."""


def _stage_in(folder: Path) -> None:
    """Make W&B keep its copies of tables in a folder, unless the user chose another one.

    wandb stages tables under its data folder, by default in the home directory. An offline run refers to that copy
    until it is synced, so the copy must live as long as the run directory.
    """
    global _staged
    if os.environ.get("WANDB_DATA_DIR") in (None, _staged):
        _staged = os.environ["WANDB_DATA_DIR"] = str(folder)


def _forget_service() -> None:
    """Drop wandb's service process, so that the next run of this process gets a new one.

    The service may be dead or hang. `wandb.teardown`, which wandb also calls when this process ends, waits for it
    without limit. Therefore the service is killed if it does not end in time. `teardown` also calls `sys.exit` if the
    service ended with an error.
    """
    import wandb
    from wandb.sdk import wandb_setup

    singleton = wandb_setup._singleton  # wandb 0.31 gives no other access to its process
    connection = singleton._connection if singleton else None
    process = connection._proc._process if connection and connection._proc else None
    timer = threading.Timer(SERVICE_SECONDS, lambda: process and process.kill())
    timer.start()
    with contextlib.suppress(SystemExit, *wandb_failures()):
        wandb.teardown()
    timer.cancel()


@functools.cache
def _say_once(message: str) -> None:
    """Log a warning once per process; every cell of a sweep would repeat it."""
    log.warning(message)
