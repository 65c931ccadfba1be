"""What both trainers do around transformers' loop: time, tokens, finite gradients, an end."""

import contextlib
import math
from typing import Any

from accelerate.utils import DistributedType
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from rlbench.budget import Ledger
from rlbench.safety import NotFinite


class Metered(Trainer):
    """Stands before a trainer of transformers. Attributes: `ledger`, which knows what the run spends."""

    ledger: Ledger

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.ledger.phase("checkpoint"):
            super()._save_checkpoint(model, trial)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called after a window's last backward pass and before the optimiser's step.

        Raises:
            NotFinite: where the gradient is not.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        value, update = float(norm), self.state.global_step + 1
        if not math.isfinite(value):
            if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
                raise RuntimeError(f"the gradient of update {update} is {value}, and DeepSpeed has applied it already")
            raise NotFinite("gradient", update, value)
        return norm


class MeteredSFTTrainer(Metered, SFTTrainer):
    """TRL's trainer, which counts the tokens that it trains on."""

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, tokens = super().get_batch_samples(*args, **kwargs)
        self.ledger.add(trained_tokens=int(tokens))
        return batches, tokens


class NothingLeft(Exception):
    """The checkpoint that a run goes on from is of its last update."""


class AtTheEnd(TrainerCallback):
    """Transformers makes one update at least, whatever the checkpoint; this ends a run that has none left to make."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            raise NothingLeft


def train_what_is_left(trainer: Metered, checkpoint: str | None) -> None:
    """Train to the end, from a checkpoint or from the start; from one of the last update, only load it."""
    trainer.add_callback(AtTheEnd())
    with trainer.ledger.phase("update"), contextlib.suppress(NothingLeft):
        trainer.train(resume_from_checkpoint=checkpoint)
