"""The tracker used by the runner. It checks its input and passes it to every backend."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlbench.base.errors import BadInput, nearest
from rlbench.base.program import install
from rlbench.lists.metric_catalogue import metric_of
from rlbench.tracking.identity import Backend, Scalar, TrackerIdentity
from rlbench.tracking.tensorboard_backend import TensorBoardBackend
from rlbench.tracking.trackio_backend import TrackioBackend
from rlbench.tracking.wandb_backend import WandbBackend
from rlbench.tracking.worker import Worker

Factory = Callable[[Path, Path, TrackerIdentity, Mapping[str, Any]], Backend]
BACKENDS: dict[str, Factory] = {
    "wandb": lambda directory, shared, identity, config: WandbBackend("online", directory, identity, config),
    "offline": lambda directory, shared, identity, config: WandbBackend("offline", directory, identity, config),
    "tensorboard": lambda directory, shared, identity, config: TensorBoardBackend(directory, identity, config),
    "trackio": lambda directory, shared, identity, config: TrackioBackend(shared, identity, config),
}
"""For each mode, a function that creates its backend from run directory, shared folder, identity and config."""
MODES = (*BACKENDS, "none")
UPLOADS = {
    "predictions": ("predictions-*.parquet", "samples-*.parquet"),
    "checkpoint": ("model/**/*",),
}
"""What `tracker.upload` may name, with the patterns of its files below a run directory."""
UPLOADERS = ("wandb", "offline")
"""Modes of W&B, whose backend keeps files."""

PACKAGES = {
    "tensorboard": ("tensorboard", "pip install -r requirements.txt -c constraints.txt"),
    "trackio": ("trackio", install("trackio", pinned=False)),
}
"""For each mode with a package that may be missing: the package and the command to install it."""


class Tracker:
    """A run shown in several backends. Only `finish` waits for them, and no method raises because of their errors.

    Args:
        backends: where to show the run; with none, the tracker does nothing.
        directory: the run directory, named in warnings.
    """

    def __init__(self, backends: Sequence[Backend], directory: Path):
        self._directory = directory
        self._workers = [Worker(backend, directory) for backend in backends]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add one point at update `step` to each named curve, for example `validation/ndcg@10` or `train/reward`.

        Metrics of one rank get their own section: `validation/rank_hit_rate@3` becomes
        `validation_by_rank/rank_hit_rate@3`.
        """
        points = {curve_name(name): float(value) for name, value in metrics.items()}
        for worker in self._workers:
            worker.call("log", points, step)

    def log_table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Scalar]], step: int | None = None
    ) -> None:
        """Add a table, optionally for update `step`.

        Raises:
            ValueError: if a row's length differs from the number of columns.
        """
        copied = [tuple(row) for row in rows]
        for number, row in enumerate(copied):
            if len(row) != len(columns):
                raise ValueError(
                    f"row {number} of table {name} has {len(row)} cells, but the table has {len(columns)} columns"
                )
        for worker in self._workers:
            worker.call("log_table", name, tuple(columns), copied, step or 0)

    def log_image(self, name: str, file: Path, step: int | None = None) -> None:
        """Add a PNG file. It must exist until `finish`.

        Raises:
            FileNotFoundError: if the file does not exist.
        """
        if not file.is_file():
            raise FileNotFoundError(f"there is no image {file}")
        for worker in self._workers:
            worker.call("log_image", name, file, step or 0)

    def summary(self, values: Mapping[str, float]) -> None:
        """Set final values of the run, for example the test metrics."""
        copied = {name: float(value) for name, value in values.items()}
        for worker in self._workers:
            worker.call("summary", copied)

    def upload(self, kinds: Sequence[str]) -> None:
        """Send files of the run directory to the backends that keep files. They must exist until `finish`.

        Args:
            kinds: keys of `UPLOADS`. Kinds without a file in this run are left out.
        """
        for kind in kinds:
            found = sorted({file for pattern in UPLOADS[kind] for file in self._directory.glob(pattern)})
            files = {file.relative_to(self._directory).as_posix(): file for file in found if file.is_file()}
            for worker in self._workers if files else ():
                worker.upload(kind, files)

    def finish(self, *, failed: bool = False) -> None:
        """Close the tracker; later calls do nothing. `failed` marks the run as failed in the view.

        Waits at most `worker.FINISH_SECONDS` for pending calls, and `worker.UPLOAD_SECONDS` more for files. W&B's
        service may still be writing the end of its file when this returns; it ends with the process.
        """
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.finish(failed)


class NoTracker(Tracker):
    """The tracker of `mode=none`."""

    def __init__(self) -> None:
        super().__init__([], Path())


def curve_name(name: str) -> str:
    """Return the displayed name of a curve: `<split>/<metric>`, or `<split>_by_rank/<metric>` for one rank's metric."""
    split, _, metric = name.partition("/")
    return f"{split}_by_rank/{metric}" if metric_of(metric).k == "rank" else name


def check_modes(mode: str, also: Sequence[str], upload: Sequence[str] = ()) -> list[str]:
    """Return one sentence per problem with `tracker.mode`, `also` and `upload`, including missing packages."""
    known = ", ".join(MODES)
    problems = [
        f"{key} = '{name}' is unknown; known: {known}.{nearest(name, list(MODES))}"
        for key, name in [("tracker.mode", mode), *(("tracker.also", name) for name in also)]
        if name not in MODES
    ]
    chosen = [mode, *also]
    if "none" in also:
        problems.append("tracker.also contains 'none'; leave it empty instead")
    problems += [f"tracker names '{name}' twice" for name in dict.fromkeys(chosen) if chosen.count(name) > 1]
    if {"wandb", "offline"} <= {*chosen}:
        problems.append("tracker names 'wandb' and 'offline', which are the same W&B run; choose one")
    problems += [
        f"tracker.upload names '{name}', which is unknown; known: {', '.join(UPLOADS)}.{nearest(name, list(UPLOADS))}"
        for name in upload
        if name not in UPLOADS
    ]
    problems += [f"tracker.upload names '{name}' twice" for name in dict.fromkeys(upload) if upload.count(name) > 1]
    if upload and not {*UPLOADERS} & {*chosen}:
        problems.append(
            f"tracker.upload = [{','.join(upload)}] needs a tracker that keeps files, but tracker = "
            f"'{','.join(chosen)}' has none; use tracker=wandb or tracker=offline, or remove tracker.upload"
        )
    for name in dict.fromkeys(chosen):
        if name in PACKAGES and importlib.util.find_spec(PACKAGES[name][0]) is None:
            package, command = PACKAGES[name]
            problems.append(f"tracker = '{name}' needs the package {package}, which is not installed: {command}")
    return problems


def make_tracker(
    modes: str | Sequence[str],
    *,
    directory: Path,
    identity: TrackerIdentity,
    config: Mapping[str, Any],
    shared: Path | None = None,
) -> Tracker:
    """Return a tracker and start its backends in the background.

    Args:
        modes: one or several of `wandb` (online if the user is logged in, else offline), `offline`, `tensorboard`,
            `trackio` and `none`.
        directory: the run directory. W&B writes below `directory/wandb`, TensorBoard below `directory/tensorboard`.
        identity: names of the run; also stored in the tracked config under the key `identity`.
        config: the resolved config, made of plain dicts, lists, strings, numbers, bools and None.
        shared: folder for data of many runs. Trackio writes below `shared/trackio`, or to TRACKIO_DIR if set. Default:
            `directory`.

    Raises:
        BadInput: the problems found by `check_modes`.
    """
    first, *also = [modes] if isinstance(modes, str) else modes
    if problems := check_modes(first, also):
        raise BadInput(*problems)
    makers = [BACKENDS[mode] for mode in (first, *also) if mode != "none"]
    return Tracker([make(directory, shared or directory, identity, config) for make in makers], directory)
