"""Callbacks that the two training stages hang on their trainer: metrics, progress, evaluation, resumable totals."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl.trainer.callbacks import SyncRefModelCallback

from rlbench.progress import Progress
from rlbench.runs import Run, write_json
from rlbench.tracking import Tracker

RESUME_FILE = "rlbench.json"
"""Written into a checkpoint last of all: a checkpoint without it was cut short and is not resumed from."""

# TRL's and transformers' names -> ours. What is not named here is not recorded.
TRAIN_METRICS = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "reward": "reward",
    "reward_std": "reward_std",
    "hits": "hits",
    "success": "success",
    "list_length": "list_length",
    "entropy": "entropy",
    "kl": "kl",
    "kl_rollout": "kl_rollout",
    "clip_low": "clip_low",
    "clip_high": "clip_high",
    "max_abs_log_ratio": "max_abs_log_ratio",
    "frac_zero_variance_units": "frac_zero_variance_units",
    "effective_units": "effective_units",
    "advantage_mean": "advantage_mean",
    "advantage_std": "advantage_std",
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "truncated",
    "mean_token_accuracy": "token_accuracy",
    "sampling/sampling_logp_difference/mean": "engine_logp_difference_mean",
    "sampling/sampling_logp_difference/max": "engine_logp_difference_max",
    "sampling/importance_sampling_ratio/min": "engine_ratio_min",
    "sampling/importance_sampling_ratio/mean": "engine_ratio_mean",
    "sampling/importance_sampling_ratio/max": "engine_ratio_max",
}

FAMILIES = ("term/", "regulariser/", "advantage_mean@", "advantage_std@")
"""Beginnings of names of which there are as many as the reward has terms, the algorithm regularisers, the list ranks;
these are recorded under the names they have."""


class Recorder(TrainerCallback):
    """Writes training metrics to metrics.jsonl and the tracker, and moves the progress bar."""

    def __init__(self, run: Run, tracker: Tracker, progress: Progress, shown: str):
        self.run, self.tracker, self.progress, self.shown = run, tracker, progress, shown
        self.note = ""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        metrics = {ours: float(logs[theirs]) for theirs, ours in TRAIN_METRICS.items() if logs and theirs in logs}
        metrics |= {name: float(value) for name, value in (logs or {}).items() if name.startswith(FAMILIES)}
        if not metrics or not state.is_world_process_zero:
            return
        self.run.append_metrics(state.global_step, "train", metrics)
        self.tracker.log({f"train/{name}": value for name, value in metrics.items()}, state.global_step)
        if self.shown in metrics:
            self.note = f"{self.shown} {metrics[self.shown]:.3f}"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.to(state.global_step, self.note)


class Evaluator(TrainerCallback):
    """Evaluates every k updates, before the checkpoint of the same update is written."""

    def __init__(self, every: int, evaluate: Callable[[int], None]):
        self.every, self.evaluate = every, evaluate

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.evaluate(state.global_step)


class Clock:
    """Seconds since the start of the run, all attempts together."""

    def __init__(self, earlier: float = 0.0):
        self._earlier, self._started = earlier, time.perf_counter()

    def seconds(self) -> float:
        return self._earlier + time.perf_counter() - self._started


REFERENCE_FILE = "reference.safetensors"


class ReferenceSync(TrainerCallback):
    """Lets the reference policy follow the policy (TR-DPO, arXiv 2404.09656; every update in Humanline, 2509.24207).

    It takes the weights from before an update, as Humanline's code does, so that the update after it compares with
    another policy even where the reference follows at every update. What it holds is kept beside each checkpoint.

    Args:
        policy: the model that is trained.
        reference: the model that follows.
        every: updates between two syncs.
        mixup: share of the policy in the mixture of weights that the reference becomes.
        start: folder of the checkpoint that the run goes on from, if it does.
    """

    def __init__(
        self, policy: torch.nn.Module, reference: torch.nn.Module, every: int, mixup: float, start: Path | None
    ):
        self.policy, self.reference, self.every, self.mixup = policy, reference, every, mixup
        if start is not None:
            reference.load_state_dict(load_file(start / REFERENCE_FILE), strict=False)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step and state.global_step % self.every == 0:
            SyncRefModelCallback.sync_target_model(self.policy, self.reference, self.mixup)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            save_file(
                {name: p.detach().contiguous() for name, p in self.reference.named_parameters()},
                folder / REFERENCE_FILE,
            )


class ResumeWriter(TrainerCallback):
    """Keeps beside each checkpoint what transformers does not know of: totals, and what pieces keep."""

    def __init__(self, totals: Callable[[], dict[str, Any]]):
        self.totals = totals

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            write_json(folder / RESUME_FILE, self.totals())


def last_checkpoint(folder: Path) -> tuple[Path, int, dict[str, Any]] | None:
    """The newest whole checkpoint: its folder, its update and its totals."""
    found = []
    for marker in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{RESUME_FILE}"):
        found.append((int(marker.parent.name.rsplit("-", 1)[1]), marker))
    if not found:
        return None
    step, marker = max(found)
    return marker.parent, step, json.loads(marker.read_text(encoding="utf-8"))
