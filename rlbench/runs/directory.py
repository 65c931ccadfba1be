"""Run directories: paths, status and files of one cell.

The name of a run directory depends only on its config, never on time:
`runs/<experiment>/<dataset>-<model>/<label>/seed<k>-<hash8>`. `STATUS` holds its state. `done` is written last and
atomically, so a directory is either finished or not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlbench.base import digests
from rlbench.base.errors import BadInput
from rlbench.base.files import leads_outside, write_text
from rlbench.base.progress import PROGRESS
from rlbench.base.records import PUT_BACK
from rlbench.config.baselines import expanded
from rlbench.config.schema import Config
from rlbench.runs import attempts
from rlbench.runs.attempts import Attempt
from rlbench.runs.identity import config_hash, stage_config
from rlbench.runs.record import JOB, MEASUREMENTS, RESULT, Measurement

RUNNING, DONE, FAILED = "running", "done", "failed"
INTERRUPTED = "interrupted"
"""Status of a run that was told to stop, after a checkpoint if it was training. STATUS says when."""
PREEMPTED = 75
"""Exit code of such a run: EX_TEMPFAIL in sysexits.h ("try again")."""
PRUNED = "pruned"
"""Status of a run stopped as hopeless by a search. STATUS gives the reason."""
FOLDERS = ("attempts", "checkpoints", "model", "preferences")
FILES = ("STATUS", ".lock", "*.json", "*.jsonl", "*.yaml", "*.parquet")
"""Contents of a run directory, except the folders of trackers."""
ATTEMPT_FILES = (attempts.FOLDER, f"{attempts.FOLDER}/*", f"{attempts.FOLDER}/*/*")
UNLISTED = (digests.LIST_FILE, PROGRESS.name, JOB.name)
"""Files of a finished run that nothing relies on. A launcher may write them after the run's end."""


def status_of(root: Path) -> str | None:
    """Return the first line of a run directory's STATUS, or None before the first start."""
    path = root / "STATUS"
    return path.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0] if path.is_file() else None


@dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        root: the directory.
        stage: one of `STAGES`.
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
        return self.root / MEASUREMENTS.name

    @property
    def logs(self) -> list[Path]:
        """Files that a running run appends to: metrics.jsonl and similar."""
        return sorted(self.root.glob("*.jsonl"))

    @property
    def remedy(self) -> str:
        """What to do if a file of the finished run is damaged."""
        return f"move {self.root} away and run the same command again"

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
        if not (self.root / RESULT.name).exists():
            return ""
        stopped = RESULT.read(self.root, self.remedy, "stopped").get("stopped")
        return f"stopped early at update {stopped['update']}: {stopped['reason']}" if stopped else ""

    def attempts(self) -> int:
        """Return the number of times this run was started."""
        return attempts.count(self.root)

    def attempt(self) -> Attempt | None:
        """Return the running attempt, or None if the directory is not claimed."""
        last = attempts.attempts(self.root)[-1:]
        return last[0] if last and last[0].read().get("outcome") == attempts.RUNNING else None

    def append_metrics(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Append one line per metric to metrics.jsonl."""
        rows = [Measurement(step=step, split=split, metric=name, value=value) for name, value in metrics.items()]
        MEASUREMENTS.append(self.root, rows)

    def read_metrics(self) -> list[Measurement]:
        """Return the rows of metrics.jsonl. A truncated last line is skipped.

        Raises:
            BadInput: if a line is no measurement.
        """
        return MEASUREMENTS.read(self.root, PUT_BACK)

    def replace_metrics(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Append metrics, and remove those that an interrupted attempt wrote for the same step and split."""
        MEASUREMENTS.keep(
            self.root, lambda row: (row["step"], row["split"]) != (step, split) or row["metric"] not in metrics
        )
        self.append_metrics(step, split, metrics)


def validation_means(run: Run) -> dict[str, float]:
    """Return the validation metrics of a finished run.

    Raises:
        BadInput: if its result is damaged.
    """
    return RESULT.read(run.root, run.remedy, "metrics")["metrics"].get("validation", {})


def label_of(config: Config, stage: str, baseline: str = "") -> str:
    """Return the name of a stage's table row. The row of a baseline has the baseline's name."""
    if stage == "baseline":
        return baseline
    if stage == "rl":
        return config.label
    variant = config.sft_variant if stage == "sft" else ""
    return f"{stage}@{variant}" if variant else stage


def locate(config: Config, stage: str, baseline: str = "") -> Run:
    """Return the directory of a stage.

    Args:
        baseline: which baseline, for the stage `baseline`.

    Raises:
        BadInput: problems of the data or of the model's files, on which the directory's name depends.
    """
    identity = stage_config(config, stage, baseline)
    label = label_of(config, stage, baseline)
    seed = config.seed if stage == "rl" else config.trainer.sft.seed
    digest = config_hash(identity)
    return Run(config.group_dir / label / f"seed{seed}-{digest}", stage, label, seed, digest, identity)


def locate_all(config: Config) -> list[Run]:
    """Return the directories of a cell's own stages, of the oracle, and of the baselines. Not all need to exist.

    Raises:
        BadInput: as `locate`.
    """
    found = [locate(config, stage) for stage in (*config.stages, "oracle")]
    return found + [locate(config, "baseline", name) for name in expanded(config.baselines)]


def foreign_links(root: Path) -> list[Path]:
    """Return the files of a run directory, including its attempts, that are links to targets outside it.

    A run directory may come from someone else. Such a link could expose or overwrite any file of the user.
    """
    found = [path for pattern in (*FILES, *ATTEMPT_FILES) for path in root.glob(pattern)]
    return [path for path in found if leads_outside(path, root)]


def misplaced(root: Path) -> list[str]:
    """Return an error for each folder in place of a file, each file in place of a folder, and each link to outside."""
    if links := foreign_links(root):
        return [f"{path} is a link to a place outside {root}: replace it with the file itself" for path in links]
    folders = [path for path in (root / name for name in FOLDERS) if path.exists() and not path.is_dir()]
    files = [path for pattern in FILES for path in root.glob(pattern) if path.is_dir()]
    return [
        f"{path} is a {is_a}, but a {wanted} is needed there: move it away"
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
        raise BadInput(f"{links[0]} is a link to a place outside {root}: replace it with the file itself")
    if wrong := digests.damage(root):
        raise BadInput(
            f"{root} has the status done, but {wrong}. Restore the file from a backup, or move the folder away and "
            "run the same command again"
        )
