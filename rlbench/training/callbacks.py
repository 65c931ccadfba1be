"""Callbacks of the training stages: metrics, progress, evaluation, and a reference that follows the policy."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.callbacks import SyncRefModelCallback

from rlbench.base import preemption
from rlbench.base.progress import Progress
from rlbench.base.sharding import fill, whole
from rlbench.lists.metric_catalogue import TRAINING, entry_of
from rlbench.rewards.reward_model import RewardModel
from rlbench.runs.budget import Ledger, named_speed, since
from rlbench.runs.directory import Run
from rlbench.runs.record import BUDGET_ROWS
from rlbench.tracking import Tracker
from rlbench.training.checkpoints import checkpoint_being_written
from rlbench.training.collecting import Collector
from rlbench.training.safety import Guard

RENAMED = {
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "truncated",
    "mean_token_accuracy": "token_accuracy",
    "sampling/sampling_logp_difference/mean": "engine_logp_difference_mean",
    "sampling/sampling_logp_difference/max": "engine_logp_difference_max",
    "sampling/importance_sampling_ratio/min": "engine_ratio_min",
    "sampling/importance_sampling_ratio/mean": "engine_ratio_mean",
    "sampling/importance_sampling_ratio/max": "engine_ratio_max",
}
"""Names of TRL and transformers that differ from those of the metric catalogue."""

ORDER = {metric.name: place for place, metric in enumerate(TRAINING)}


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
        metrics = training_metrics(logs or {})
        if not metrics or not state.is_world_process_zero:
            return
        self.run.append_metrics(state.global_step, "train", metrics)
        self.tracker.log({f"train/{name}": value for name, value in metrics.items()}, state.global_step)
        if self.shown in metrics:
            self.note = f"{self.shown} {metrics[self.shown]:.3f}"

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.to(state.global_step, self.note)


def training_metrics(logs: Mapping[str, Any]) -> dict[str, float]:
    """The logged values that the catalogue has under training, by their names there and in its order.

    Metrics of ranks, reward terms and regularisers come last, in the order of the log.
    """
    named = {RENAMED.get(name, name): value for name, value in logs.items()}
    known = [name for name in named if entry_of(name) in TRAINING]
    return {name: float(named[name]) for name in sorted(known, key=lambda name: ORDER.get(name, len(ORDER)))}


class SpendingLog(TrainerCallback):
    """`budget.jsonl`: the run's spending by each logged update, over all attempts. The tracker gets the speed since the
    line before.

    Both are separate from metrics.jsonl because seconds differ between repeated runs.
    """

    def __init__(self, run: Run, ledger: Ledger, tracker: Tracker):
        self.run, self.ledger, self.tracker = run, ledger, tracker
        self._before = ledger.totals()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs and state.is_world_process_zero:
            BUDGET_ROWS.append(self.run.root, [self.ledger.so_far(state.global_step)])
            now = self.ledger.totals()
            self.tracker.log(named_speed(self.ledger.speed(since(now, self._before)), "speed"), state.global_step)
            self._before = now


class Evaluator(TrainerCallback):
    """Evaluates every k updates, before the checkpoint of the same update is written."""

    def __init__(self, every: int, evaluate: Callable[[int], None]):
        self.every, self.evaluate = every, evaluate

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.evaluate(state.global_step)


class TokenBudget(TrainerCallback):
    """Ends a training at the first boundary after a number of generated tokens.

    Args:
        ledger: counts the tokens.
        limit: the number; None for no end.
        draws_after: (update) -> whether lists are drawn next after this number of updates.
    """

    def __init__(self, ledger: Ledger, limit: int | None, draws_after: Callable[[int], bool]):
        self.ledger, self.limit, self.draws_after = ledger, limit, draws_after

    def is_spent(self, update: int) -> bool:
        """Whether the training is over after this number of updates."""
        generated = self.ledger.counts["generated_tokens"]
        return self.limit is not None and self.draws_after(update) and generated >= self.limit

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.is_spent(state.global_step):
            control.should_training_stop = True


class Stopper(TrainerCallback):
    """Ends a training whose process was told to stop, at the next update from which it can resume exactly.

    This is a boundary both between generations and between two lines of the log, which are means over the updates
    between them. All processes of a run stop if any of them was told to.

    Args:
        training: records the update.
        num_iterations: updates per generation.
    """

    def __init__(self, training: preemption.Training, num_iterations: int):
        self.training, self.num_iterations = training, num_iterations

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step = state.global_step
        exact = step % self.num_iterations == 0 and step % args.logging_steps == 0
        if (exact or step >= state.max_steps) and self._told(args):
            self.training.stopped_at = step
            control.should_save = control.should_training_stop = True

    def _told(self, args: TrainingArguments) -> bool:
        if args.world_size == 1:
            return preemption.requested()
        told = torch.tensor(int(preemption.requested()), device=args.device)
        torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
        return bool(told.item())


class StopTraining(TrainerCallback):
    """Ends a training that its guard finds collapsed, without a checkpoint of that update: a run that resumes from an
    earlier one ends in the same way. After the last update there is nothing to stop."""

    def __init__(self, guard: Guard):
        self.guard = guard

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if state.global_step >= state.max_steps:
            self.guard.stop = None
            return
        self.guard.train(state.global_step, logs or {})
        if self.guard.stop is not None:
            control.should_training_stop, control.should_save = True, False


REFERENCE_FILE = "reference.safetensors"
COLLECTOR_FILE = "collector.npz"
REWARD_MODEL_FILE = "reward_model.pt"


class ReferenceSync(TrainerCallback):
    """Makes the reference policy follow the policy (TR-DPO, arXiv 2404.09656; every update in Humanline, 2509.24207).

    It copies the weights from before an update, as Humanline's code does. So the next update compares with a different
    policy even if the reference follows at every update. The reference's weights are saved with each checkpoint.

    Args:
        policy: the model that is trained.
        reference: the model that follows.
        every: updates between two syncs.
        mixup: share of the policy's weights in the new reference.
        start: folder of the checkpoint to resume from, or None.
    """

    def __init__(
        self, policy: torch.nn.Module, reference: torch.nn.Module, every: int, mixup: float, start: Path | None
    ):
        self.policy, self.reference, self.every, self.mixup = policy, reference, every, mixup
        if start is not None:
            fill(reference, load_file(start / REFERENCE_FILE))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step and state.global_step % self.every == 0:
            SyncRefModelCallback.sync_target_model(self.policy, self.reference, self.mixup)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        weights = {name: whole(p.detach()).contiguous() for name, p in self.reference.named_parameters()}
        if state.is_world_process_zero:
            save_file(weights, checkpoint_being_written(args, state) / REFERENCE_FILE)


class CollectorState(TrainerCallback):
    """Saves with each checkpoint what a sampler remembers. All processes remember the same."""

    def __init__(self, collector: Collector):
        self.collector = collector

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            arrays: dict[str, Any] = self.collector.state()
            np.savez(checkpoint_being_written(args, state) / COLLECTOR_FILE, **arrays)


class RewardModelState(TrainerCallback):
    """Saves a reward model and its optimiser with each checkpoint. All processes have the same.

    Args:
        model: the model.
        start: folder of the checkpoint to resume from, or None.
    """

    def __init__(self, model: RewardModel, start: Path | None):
        self.model = model
        if start is not None:
            model.restore(torch.load(start / REWARD_MODEL_FILE, weights_only=True))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            torch.save(self.model.whole_state(), checkpoint_being_written(args, state) / REWARD_MODEL_FILE)
