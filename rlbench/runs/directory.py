"""Run directories: identity, life cycle and files of one cell.

The name of a run directory depends only on its config, never on time:
`runs/<experiment>/<dataset>-<model>/<label>/seed<k>-<hash8>`. `STATUS` holds its state. `done` is written last and
atomically, so a directory is either finished or not.
"""

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from rlbench.base import digests
from rlbench.base.content import SHOWN
from rlbench.base.errors import BadInput
from rlbench.base.files import (
    PARTIAL,
    clear_partial,
    disk_full,
    is_disk_full,
    leads_outside,
    new_folder,
    overwrite,
    read_object,
    sync,
    write_json,
    write_text,
)
from rlbench.base.jsonl import append_rows, keep_rows, read_rows
from rlbench.base.preemption import Preempted
from rlbench.config.decoding import greedy_identity, sampling_identity
from rlbench.config.engines import rollout_identity
from rlbench.config.schema import Config, TinyModelConfig
from rlbench.runs import attempts
from rlbench.runs.attempts import Attempt, reason_of
from rlbench.runs.inputs import inputs

SCHEMA = 2
RUNNING, DONE, FAILED = "running", "done", "failed"
INTERRUPTED = "interrupted"
"""Status of a run that was told to stop, after a checkpoint if it was training. STATUS says when."""
PREEMPTED = 75
"""Exit code of such a run: EX_TEMPFAIL in sysexits.h ("try again")."""
PRUNED = "pruned"
"""Status of a run stopped as hopeless by a search. STATUS gives the reason."""
SWEEP_FILE = "sweep.json"
"""File in an experiment's folder: {"cells": {folder below it: {"command": [...], "updates": n}}, "sha256": digest}."""

MEASUREMENT: dict[str, type | tuple[type, ...]] = {"step": int, "split": str, "metric": str, "value": (int, float)}
"""Fields of a line in metrics.jsonl."""
FOLDERS = ("attempts", "checkpoints", "model", "preferences")
FILES = ("STATUS", ".lock", "*.json", "*.jsonl", "*.yaml", "*.parquet")
"""Contents of a run directory, except the folders of trackers."""
ATTEMPT_FILES = (attempts.FOLDER, f"{attempts.FOLDER}/*", f"{attempts.FOLDER}/*/*")
UNLISTED = (digests.LIST_FILE, "progress.json", "slurm.json")
"""Files of a finished run that nothing relies on. A launcher may write them after the run's end."""


DESCRIPTION = ("title", "paper", "evidence", "differs")
"""Descriptive keys of algorithms and rewards: names and sources."""
INPUTS = "inputs"
"""Key in an identity for the digests of inputs: data and the model's source."""


def stage_config(config: Config, stage: str) -> dict[str, Any]:
    """Return the identity of a stage: its settings, and digests of the data and model files that it reads.

    Raises:
        BadInput: problems of the data or of the model's files.
    """
    return canonical(stage_settings(config, stage)) | {INPUTS: inputs(config).of(stage)}


def stage_settings(config: Config, stage: str) -> dict[str, Any]:
    """Return the part of a config that affects a stage's results.

    Paths, tracker, progress, threads, the number of kept checkpoints and the frequency of SFT evaluations are left out.
    The shared stages (oracle, zero_shot, sft) depend neither on the algorithm nor on the run's seed, so all cells of a
    sweep share them. RL without SFT does not depend on SFT settings, except the demonstrations' maximum length.
    """
    full = asdict(config)
    evaluation = dict(full["evaluation"])
    identity: dict[str, Any] = {"stage": stage, "schema": SCHEMA, "dataset": _dataset(config, stage)}
    identity["matching"] = full["matching"]
    described = {key: value for key, value in full["algorithm"].items() if key not in DESCRIPTION}
    rewarded = {key: value for key, value in full["reward"].items() if key not in DESCRIPTION}
    contexts = {key: evaluation[key] for key in ("validation_contexts", "test_contexts")}
    if stage == "oracle":
        return identity | {"evaluation": contexts}
    identity |= {"model": _model(config), "decoding": greedy_identity(config.generation)}
    contexts |= {key: evaluation[key] for key in ("samples", "pass_at")}
    if evaluation["samples"]:
        contexts |= sampling_identity(config.generation)
        contexts |= {key: evaluation[key] for key in ("batch_size", "batch_tokens")}  # numbers are drawn per batch
    if stage == "zero_shot":
        return identity | {"evaluation": contexts}
    rl = full["trainer"]["rl"]
    sft = {key: value for key, value in full["trainer"]["sft"].items() if key != "evaluate_every"}
    shared = {"bf16": full["trainer"]["bf16"]}
    if stage == "sft":
        return identity | {"evaluation": contexts, "sft": sft, **shared}
    left_out = ["keep_checkpoints"]
    if rl["start"] == "base":
        sft = {"max_length": sft["max_length"]}  # for demonstrations in the loss; there is no SFT stage
    else:
        left_out.append("start")
    if not evaluation["samples"]:
        for key in ("batch_size", "batch_tokens"):
            evaluation.pop(key)
    if not rl["learning_rate_steps"]:
        left_out.append("learning_rate_steps")
    return identity | {
        "evaluation": evaluation,
        "sft": sft,
        "rl": {key: value for key, value in rl.items() if key not in left_out},
        "algorithm": described,
        "reward": rewarded,
        "generation": rollout_identity(config.generation),
        "safety": full["safety"],
        "seed": config.seed,
        **shared,
    }


def _dataset(config: Config, stage: str) -> dict[str, Any]:
    """Dataset settings without paths. Demonstrations count only if read by the stage and not the default."""
    dataset = config.dataset
    own = {k: v for k, v in asdict(dataset).items() if k not in (*dataset.paths, "demonstrations_from")}
    read = stage in ("sft", "rl") and "demonstrations_from" not in dataset.paths and dataset.demonstration_source
    return own | ({"demonstrations_from": read} if read else {})


def _model(config: Config) -> dict[str, Any]:
    """Model settings without the name. For a model read from files, the digest of the files identifies it."""
    model = config.model
    if isinstance(model, TinyModelConfig):
        return {key: value for key, value in asdict(model).items() if key != "name"}
    return {"dtype": model.dtype}


def canonical(value: Any) -> Any:
    """Normalise a value for an identity: equal numbers get one form, and tuples become lists.

    Options defined by a function's signature keep the form in the config, for example 1 or 1.0.
    `rlbench.config.options.filled` converts them to the annotated type, so both are the same value.
    """
    if isinstance(value, Mapping):
        return {key: canonical(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # also for -0.0
    return value


def config_hash(identity: Mapping[str, Any]) -> str:
    """Return the first 8 hex digits of the identity's sha256, independent of key order."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def status_of(root: Path) -> str | None:
    """Return the first line of a run directory's STATUS, or None before the first start."""
    path = root / "STATUS"
    return path.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0] if path.is_file() else None


@dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        root: the directory.
        stage: oracle, zero_shot, sft or rl.
        label: its table row.
        seed: the seed in its name.
        hash: the hash in its name.
        identity: the content of the hash.
    """

    root: Path
    stage: str
    label: str
    seed: int
    hash: str
    identity: Mapping[str, Any]

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def final_model(self) -> Path:
        """Weights and tokenizer for the next stage or for users."""
        return self.root / "model"

    @property
    def metrics_file(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def logs(self) -> list[Path]:
        """Files that a running run appends to: metrics.jsonl and similar."""
        return sorted(self.root.glob("*.jsonl"))

    @property
    def name(self) -> str:
        return "/".join(self.root.parts[-3:])

    def status(self) -> str | None:
        """Return the first line of STATUS, or None before the first start."""
        return status_of(self.root)

    def reason(self) -> str:
        """Return the reason in STATUS for a failure or stop, or ""."""
        path = self.root / "STATUS"
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return text.partition("\n")[2].strip()

    def set_status(self, status: str, reason: str = "") -> None:
        write_text(self.root / "STATUS", f"{status}\n{reason}".rstrip() + "\n")

    def stopped_early(self) -> str:
        """Return the note of a run whose training stopped early according to its result, or "".

        Raises:
            BadInput: if the result is damaged.
        """
        path = self.root / "result.json"
        if not path.exists():
            return ""
        remedy = f"move {self.root} away, and the same command makes it again"
        stopped = read_object(path, remedy).get("stopped")
        if stopped is None:
            return ""
        if not (isinstance(stopped, dict) and isinstance(stopped.get("reason"), str)):
            raise BadInput(f"{path} is damaged, its 'stopped' has no reason: {remedy}")
        return f"stopped early at update {stopped.get('update')}: {stopped['reason']}"

    def attempts(self) -> int:
        """Return the number of times this run was started."""
        return attempts.count(self.root)

    def attempt(self) -> Attempt | None:
        """Return the running attempt, or None if the directory is not claimed."""
        last = attempts.attempts(self.root)[-1:]
        return last[0] if last and last[0].read().get("outcome") == attempts.RUNNING else None

    def append_metrics(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Append one line per metric to metrics.jsonl."""
        append_rows(
            self.metrics_file,
            [{"step": step, "split": split, "metric": name, "value": value} for name, value in metrics.items()],
        )

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl. A truncated last line is skipped.

        Raises:
            BadInput: if a line is no measurement.
        """
        rows = read_rows(self.metrics_file)
        for number, row in enumerate(rows, start=1):
            if not all(isinstance(row.get(key), kind) for key, kind in MEASUREMENT.items()):
                raise BadInput(f"{self.metrics_file} is damaged: line {number} is no measurement: {row}")
        return rows

    def replace_metrics(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Append metrics, and remove those that an interrupted attempt wrote for the same step and split."""
        keep_rows(
            self.metrics_file,
            lambda row: (row["step"], row["split"]) != (step, split) or row["metric"] not in metrics,
        )
        self.append_metrics(step, split, metrics)


def label_of(config: Config, stage: str) -> str:
    """Return the name of a stage's table row."""
    if stage == "rl":
        return config.label
    read = config.dataset.demonstration_source if stage == "sft" else ""
    return f"{stage}@{read}" if read else stage


def locate(config: Config, stage: str) -> Run:
    """Return the directory of a stage.

    Raises:
        BadInput: problems of the data or of the model's files, on which the directory's name depends.
    """
    identity = stage_config(config, stage)
    label = label_of(config, stage)
    seed = config.seed if stage == "rl" else config.trainer.sft.seed
    digest = config_hash(identity)
    return Run(config.group_dir / label / f"seed{seed}-{digest}", stage, label, seed, digest, identity)


def unmeasured(run: Run, steps: Iterable[int]) -> list[int]:
    """Return the given updates at which the run has no validation measurements."""
    measured = {row["step"] for row in run.read_metrics() if row["split"] == "validation"}
    return [step for step in steps if step not in measured]


def check_curve(config: Config) -> list[str]:
    """Return an error if a finished SFT stage lacks evaluations that the config requests."""
    run, every = locate(config, "sft"), config.trainer.sft.evaluate_every
    if "sft" not in config.stages or every is None or run.status() != DONE:
        return []
    return curve_problems(run, every, unmeasured(run, config.trainer.sft.evaluated))


def check_start(config: Config) -> list[str]:
    """Return an error if RL starts from a finished SFT stage whose model is missing."""
    if config.stages[-2:] != ("sft", "rl"):
        return []
    run = locate(config, "sft")
    there = (run.final_model / "config.json").is_file() and any(run.final_model.glob("*.safetensors"))
    if run.status() != DONE or there:
        return []
    return [
        f"{run.final_model} is gone, and RL starts from it: put it back, or move {run.root} away, and the same command "
        "trains that stage again"
    ]


def curve_problems(run: Run, every: int, missing: Sequence[int]) -> list[str]:
    """Return an error if an SFT run has passed updates at which it should have been evaluated."""
    if not missing:
        return []
    first = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
    return [
        f"{run.root} has been trained without evaluations at {len(missing)} of the updates that "
        f"trainer.sft.evaluate_every = {every} asks for ({first}), and its weights of then are gone: move it away, and "
        "the same command trains it again, to the same weights; or use another experiment_name; or set "
        "trainer.sft.evaluate_every=null"
    ]


def differing_keys(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "", shown: Callable[[Any], str] = repr
) -> list[str]:
    """Return the dotted keys whose values differ, with both values.

    Args:
        shown: formats a value.
    """
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differing_keys(a, b, f"{prefix}{key}.", shown)
        elif a != b:
            lines.append(f"{prefix}{key}: {shown(a)} there, {shown(b)} now")
    return lines


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
            write_json(run.root / "identity.json", run.identity)
            write_text(run.root / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))
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
                elif isinstance(error, Preempted):
                    run.set_status(INTERRUPTED, str(error))
                status = run.status()
                if attempt is not None:
                    outcome = INTERRUPTED if status in (RUNNING, None) else status
                    attempt.close(outcome, said or reason_of(full or error), attempts.last_update(run.root))
            if full is not None and full is not error:
                raise full from error
            raise


def foreign_links(root: Path) -> list[Path]:
    """Return the files of a run directory, including its attempts, that are links to targets outside it.

    A run directory may come from someone else. Such a link could expose or overwrite any file of the user.
    """
    found = [path for pattern in (*FILES, *ATTEMPT_FILES) for path in root.glob(pattern)]
    return [path for path in found if leads_outside(path, root)]


def misplaced(root: Path) -> list[str]:
    """Return an error for each folder in place of a file, each file in place of a folder, and each link to outside."""
    if links := foreign_links(root):
        return [f"{path} is a link that leads out of {root}: put the file itself there" for path in links]
    folders = [path for path in (root / name for name in FOLDERS) if path.exists() and not path.is_dir()]
    files = [path for pattern in FILES for path in root.glob(pattern) if path.is_dir()]
    return [
        f"{path} is a {is_a}, and a {wanted} belongs there: move it away"
        for paths, is_a, wanted in ((folders, "file", "folder"), (files, "folder", "file"))
        for path in paths
        if path.name != attempts.FOLDER or not attempts.counts(root)
    ]


def seal(root: Path) -> None:
    """Write the list of a finished run's files that a later stage or the analysis reads.

    For the model it includes only the list of the model's files.
    """
    found = {path for pattern in FILES[2:] for path in root.glob(pattern) if path.name not in UNLISTED}
    model = root / "model" / digests.LIST_FILE
    digests.seal(root, found | ({model} if model.is_file() else set()))


def check_done(root: Path) -> None:
    """Compare a finished run's files with their list. `digests.check_model` compares the weights.

    Raises:
        BadInput: if a file has changed, or is a link to a target outside the directory.
    """
    if links := foreign_links(root):
        raise BadInput(f"{links[0]} is a link that leads out of {root}: put the file itself there")
    if wrong := digests.damage(root):
        raise BadInput(
            f"{root} says done, but {wrong}. Put the file back from a copy, or move the folder away, and the same "
            "command makes it again"
        )


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


def check_recorded(run: Run) -> list[str]:
    """Return an error if the directory's identity.json is not this run's: edited, or of another run."""
    differences = differing_from_recorded(run)
    if not differences:
        return []
    return [
        f"{run.root} holds another run: {'; '.join(differences)} (identity.json). Move the folder away or use another "
        "runs_dir."
    ]


def superseded(run: Run) -> list[str]:
    """Return a notice for each run of the same row, seed and settings that was made from other inputs."""
    notices = []
    for path in sorted(run.root.parent.glob(f"seed{run.seed}-*")):
        recorded = path / "identity.json"
        if path == run.root or not recorded.is_file():
            continue
        try:
            there = json.loads(recorded.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            continue  # reported when that directory is used
        now = json.loads(json.dumps(run.identity))
        if not isinstance(there, dict) or not isinstance(there.get(INPUTS), dict):
            continue
        if {**there, INPUTS: None} == {**now, INPUTS: None}:
            differences = differing_keys(there[INPUTS], now[INPUTS], shown=_shortened)
            notices.append(
                f"{path.name} is the same run on other inputs and stays where it is ({path}); this one is "
                f"{run.root.name}: {'; '.join(differences)}"
            )
    return notices


def _shortened(value: Any) -> str:
    return str(value)[:SHOWN]


def read_cells(path: Path) -> dict[str, Any]:
    """Return the cells of a `SWEEP_FILE`: directory below its folder to {"command": [...], "updates": n}.

    Raises:
        BadInput: if it is damaged.
    """
    remedy = "move it away, and the commands of its sweeps write it anew"
    content = read_object(path, remedy)
    if content.pop("sha256", None) != digests.own_digest(content):
        raise BadInput(f"{path} is damaged, it has another content than was written: {remedy}")
    cells = content.get("cells")
    if not isinstance(cells, dict):
        raise BadInput(f"{path} is damaged, it has no 'cells': {remedy}")
    for name, cell in cells.items():
        below = Path(name)
        if below.is_absolute() or ".." in below.parts or not isinstance(cell, dict) or not _is_cell(cell):
            raise BadInput(f"{path} is damaged, '{name}' is no cell in it: {remedy}")
    return cells


def write_cells(path: Path, cells: Mapping[str, Any]) -> None:
    """Write a `SWEEP_FILE` with its digest."""
    content = {"cells": dict(cells)}
    write_json(path, content | {"sha256": digests.own_digest(content)})


def _is_cell(cell: Mapping[str, Any]) -> bool:
    command = cell.get("command")
    words = isinstance(command, list) and all(isinstance(word, str) for word in command)
    return words and isinstance(cell.get("updates"), int)


def differing_from_recorded(run: Run) -> list[str]:
    """Return how the recorded identity differs from the run's; empty if none is recorded yet."""
    recorded = run.root / "identity.json"
    if not recorded.exists():
        return []
    there = read_object(recorded, "remove it, and give the same command again; it writes the file anew")
    return differing_keys(there, json.loads(json.dumps(run.identity)))


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
