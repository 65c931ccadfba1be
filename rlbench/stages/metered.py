"""What both trainers do around transformers' loop: time, rates that fall in steps, gradients that must be finite."""

import math
from typing import Any

from accelerate.utils import DistributedType
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from rlbench.budget import Ledger
from rlbench.safety import NotFinite
from rlbench.stages.schedule import Factor


class Metered(Trainer):
    """Stands before a trainer of transformers.

    Attributes:
        ledger: what the run spends.
        rate: factor on the learning rate once so many updates are done, in place of the schedule of the arguments.
    """

    ledger: Ledger
    rate: Factor | None = None
    lr_scheduler: Any

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.rate is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self.rate)
            self._created_lr_scheduler = True
        return self.lr_scheduler

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
