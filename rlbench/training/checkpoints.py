"""Checkpoints of the training stages. They are written in a temporary folder, renamed, and checked before loading.

transformers writes into `checkpoints/.writing.partial/checkpoint-N`. When everything is written, including the files of
callbacks, the folder is listed (`files.json`), synced to disk and renamed to `checkpoints/checkpoint-N`. Only then are
older ones deleted. So a folder named like a checkpoint is complete, unless the disk damaged it later. Its list shows
such damage.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rlbench.base.digests import damage, difference, read_list, seal
from rlbench.base.errors import BadInput
from rlbench.base.files import (
    ADVICE,
    PARTIAL,
    DiskFull,
    clear_partial,
    drop,
    free_bytes,
    megabytes,
    naming,
    partial_folder,
    publish,
    size_of,
    sync,
)
from rlbench.runs.directory import Run
from rlbench.training.metered import Metered

log = logging.getLogger(__name__)

RESUME_FILE = "rlbench.json"
"""File in a checkpoint with data that transformers does not keep: the stage's totals."""
BEST = "best"
SFT_KEPT = 2
"""Number of checkpoints that the SFT stage keeps: the last, and one as a fallback."""


def writing_folder(checkpoints: Path) -> Path:
    """The folder into which transformers writes: its `output_dir`."""
    return checkpoints / f".writing{PARTIAL}"


def checkpoint_being_written(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder of this update's checkpoint, for callbacks that add files in `on_save`."""
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def steps_of(folder: Path, prefix: str = PREFIX_CHECKPOINT_DIR) -> dict[int, Path]:
    """The checkpoints in a folder by update, newest last. With `prefix`, other folders named `<prefix>-<update>`."""
    found = {path.name.removeprefix(f"{prefix}-"): path for path in folder.glob(f"{prefix}-*")}
    return {int(step): found[step] for step in sorted((s for s in found if s.isdecimal()), key=int)}


@dataclass(frozen=True)
class ResumePoint:
    """A complete checkpoint, from which a run can resume.

    Attributes:
        folder: its folder.
        update: number of updates made before it.
        totals: the stage's totals at that point (`RESUME_FILE`).
    """

    folder: Path
    update: int
    totals: dict[str, Any]


def last_checkpoint(folder: Path) -> ResumePoint | None:
    """The newest complete checkpoint. A warning names damaged ones.

    A checkpoint also counts as damaged if a log of its run (such as `metrics.jsonl`) has changed since.

    Args:
        folder: `checkpoints` of a run.

    Raises:
        BadInput: complete checkpoints exist, but a log is damaged for all of them.
    """
    logs: dict[str, Path] = {}
    for step, path in reversed(steps_of(folder).items()):
        wrong = damage(path)
        if not wrong and (wrong := _damaged_log(path)):
            logs.setdefault(wrong, path)
        if not wrong:
            return ResumePoint(path, step, json.loads((path / RESUME_FILE).read_text(encoding="utf-8")))
        log.warning(
            "%s is damaged (%s) and is not used. The checkpoint before it is used, if there is one.", path, wrong
        )
    if logs:
        raise BadInput(
            f"{folder.parent} cannot be resumed: {next(iter(logs))}, and no checkpoint is older than the damage. "
            f"Restore the file from a backup, or remove {folder} and run the same command again to train from the "
            "start"
        )
    return None


def _damaged_log(checkpoint: Path) -> str:
    """The difference of the first log that no longer matches the checkpoint; "" if all match."""
    run = checkpoint.parent.parent
    for name, wanted in read_list(checkpoint, "logs").items():
        if wrong := difference(run / name, name, wanted, grows=True):
            return wrong
    return ""


def rewind_logs(run: Run, checkpoint: Path | None) -> None:
    """Truncate the logs of a run to their state at a checkpoint. Without a checkpoint they are deleted.

    The resumed run repeats the later updates and their measurements.
    """
    kept = {} if checkpoint is None else read_list(checkpoint, "logs")
    for path in run.logs:
        if path.name not in kept:
            path.unlink()
        elif path.stat().st_size > kept[path.name]["bytes"]:
            os.truncate(path, kept[path.name]["bytes"])


def train(trainer: Metered, checkpoint: Path | None) -> None:
    """`trainer.train`, from a checkpoint if there is one.

    If the checkpoint is of the last update and the epoch has not ended, transformers 5.23 makes one more update. Then a
    run that stopped between its last checkpoint and its end would differ from a run that never stopped.
    """
    with trainer.ledger.phase("update"):
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except _NothingLeft:
            trainer.model.train()  # TRL files its measurements by the model's mode
            trainer.log({})  # everything measured since the last line, as at the end of a training


class _NothingLeft(Exception):
    """Raised after the checkpoint has been loaded, with its weights, if it is of the last update."""


class CheckpointWriter(TrainerCallback):
    """Completes each checkpoint that transformers has written, publishes it, and deletes surplus ones.

    It must be the last callback of its trainer, after all others have added files in `on_save` and set their requests
    in `on_step_end`.

    Args:
        run: the run.
        trainer: its trainer.
        totals: the JSON content of `RESUME_FILE`: the budget so far, and other state that the stage resumes from.
        keep: number of checkpoints to keep.
        best: the update of the best validation so far, whose weights are kept too; None before the first.
        is_over: whether the training is over after a number of updates, although more are possible.
    """

    def __init__(
        self,
        run: Run,
        trainer: Metered,
        totals: Callable[[], dict[str, Any]],
        keep: int,
        best: Callable[[], int | None] = lambda: None,
        is_over: Callable[[int], bool] = lambda _: False,
    ):
        self.run, self.trainer, self.totals, self.keep, self.best = run, trainer, totals, keep, best
        self.is_over = is_over
        self.needed = sum(p.numel() * p.element_size() for p in trainer.model.parameters() if p.requires_grad)
        """Estimated bytes of the next checkpoint: those of the last, or at first the size of the weights."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = self.run.checkpoints
        there = steps_of(folder)
        if state.global_step in there:
            self.needed = size_of(there[state.global_step])
            self._restore_window(there[state.global_step])
        if state.is_world_process_zero:
            if (attempt := self.run.attempt()) is not None:
                attempt.note(from_update=state.global_step)
            clear_partial(folder)
            newer = [p for steps in (there, steps_of(folder, BEST)) for n, p in steps.items() if n > state.global_step]
            for path in newer:  # damaged, or of updates that are made again
                drop(path)
        PartialState().wait_for_everyone()
        if state.global_step >= state.max_steps or self.is_over(state.global_step):
            raise _NothingLeft

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if control.should_save and state.is_world_process_zero:
            folder = checkpoint_being_written(args, state)
            if (free := free_bytes(folder)) < self.needed:
                raise DiskFull(
                    f"no room to write {self.run.checkpoints / folder.name}: it needs {megabytes(self.needed)}, but "
                    f"only {megabytes(free)} are free on its disk. {ADVICE}"
                )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        made = checkpoint_being_written(args, state)
        place = self.run.checkpoints / made.name
        with self.trainer.ledger.phase("checkpoint"):
            self._complete(made, place, state.is_world_process_zero)

    def _complete(self, made: Path, place: Path, is_main: bool) -> None:
        with naming(place):
            self._keep_window(made)
            if is_main:
                (made / RESUME_FILE).write_text(json.dumps(self.totals(), indent=2, sort_keys=True), encoding="utf-8")
        PartialState().wait_for_everyone()  # every process writes its random states
        if is_main:
            with naming(place):
                for path in self.run.logs:
                    sync(path)  # a resumed run does not repeat measurements from before its checkpoint
                seal(made, logs=self.run.logs)
                publish(made, place)
            self.needed = size_of(place)
            self._drop_others()

    def _drop_others(self) -> None:
        """Keep the last checkpoints, and the best weights so far."""
        too_many = list(steps_of(self.run.checkpoints).values())[: -self.keep]
        best = self.best()
        for path in too_many + [p for n, p in steps_of(self.run.checkpoints, BEST).items() if n != best]:
            drop(path)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        PartialState().wait_for_everyone()  # until here, transformers reads the folder in every process
        if state.is_world_process_zero:
            clear_partial(self.run.checkpoints)

    def _window_file(self, folder: Path) -> Path:
        return folder / f"window-{PartialState().process_index}.json"

    def _keep_window(self, folder: Path) -> None:
        """Save everything measured since the last log line, for runs that do not log every update."""
        trainer = self.trainer
        window = {
            "loss": trainer._tr_loss.item(),
            "logged": trainer._globalstep_last_logged,
            "metrics": dict(trainer._metrics["train"]),
        }
        self._window_file(folder).write_text(json.dumps(window), encoding="utf-8")

    def _restore_window(self, folder: Path) -> None:
        if (path := self._window_file(folder)).is_file():
            window, trainer = json.loads(path.read_text(encoding="utf-8")), self.trainer
            trainer._tr_loss.fill_(window["loss"])
            trainer._globalstep_last_logged = window["logged"]
            trainer._metrics["train"].update(window["metrics"])


class BestKeeper:
    """Keeps the weights of the best validation so far, in `checkpoints/best-<update>`.

    The best weights at the last checkpoint are kept until the next checkpoint, because a run that resumes there may
    need them.

    Args:
        run: its metrics contain the validations so far, up to the update that it resumes from.
        metric: the metric to compare; higher is better.
        trainer: the trainer of the weights.
    """

    def __init__(self, run: Run, metric: str, trainer: Trainer):
        self.checkpoints, self.metric, self.trainer = run.checkpoints, metric, trainer
        self.values = validations(run, metric)

    def check(self, update: int) -> None:
        """Check the weights needed by a run that resumes from `update` now, instead of after training.

        If the newest checkpoint is damaged and the run resumes from an earlier one, these weights may be gone. The run
        then makes better ones again.

        Raises:
            BadInput: they are missing or damaged.
        """
        step = self.best()
        newest = max(steps_of(self.checkpoints), default=0)
        if step is not None and (update == newest or (self.checkpoints / f"{BEST}-{step}").exists()):
            self.folder(step)

    def best(self) -> int | None:
        """The update of the best validation after the start; the earliest if tied."""
        return max(self.values, key=lambda step: (self.values[step], -step)) if self.values else None

    def folder(self, step: int) -> Path:
        """The weights of the best update.

        Raises:
            BadInput: they are missing or damaged.
        """
        folder = self.checkpoints / f"{BEST}-{step}"
        wrong = damage(folder) if folder.is_dir() else "they are missing"
        if wrong:
            raise BadInput(
                f"{folder} has the weights of the best validation, but {wrong}. Remove {self.checkpoints} and run "
                "the same command again to train from the start"
            )
        return folder

    def offer(self, step: int, value: float) -> None:
        """Save the current weights if this update's validation is the best. All processes call it together."""
        self.values[step] = value
        (chosen,) = broadcast_object_list([self.best() == step])
        if not chosen:
            return
        save_model(self.trainer, self.checkpoints / f"{BEST}-{step}")
        if PartialState().is_main_process:
            secured = max(steps_of(self.checkpoints), default=0)
            for earlier, path in steps_of(self.checkpoints, BEST).items():
                if secured < earlier < step:
                    drop(path)


def validations(run: Run, metric: str) -> dict[int, float]:
    """The values of a metric on validation after the start, by update."""
    rows = (row for row in run.read_metrics() if row["split"] == "validation" and row["metric"] == metric)
    return {row["step"]: row["value"] for row in rows if row["step"] > 0}


def save_model(trainer: Trainer, folder: Path) -> None:
    """`trainer.save_model` by `save_folder`. Of a policy with an adapter, the adapter is saved."""
    save_folder(folder, lambda beside: trainer.save_model(str(beside)))


def save_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a model into a temporary folder, which is listed and renamed. All processes call it together.

    Args:
        folder: where the model will be.
        write: writes it into a given folder, in every process.
    """
    state, beside = PartialState(), partial_folder(folder)
    if state.is_main_process and beside.exists():
        shutil.rmtree(beside)
    state.wait_for_everyone()
    write(beside)
    state.wait_for_everyone()
    if state.is_main_process:
        seal(beside)
        publish(beside, folder)
    state.wait_for_everyone()


def publish_copy(source: Path, folder: Path) -> None:
    """Copy a folder under a temporary name, then rename it."""
    beside = partial_folder(folder)
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(source, beside)
    publish(beside, folder)
