"""What trainers do around transformers' loop: time, counts, rates that fall in steps, finite losses and gradients."""

import math
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from rlbench import processes
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

    def _account(self, loss: torch.Tensor, mask: torch.Tensor) -> None:
        """Count the tokens of a micro-batch (B, T) of every process.

        Raises:
            NotFinite: on all processes, where the loss of one is not, before any gradient is taken of it.
        """
        of_all = self.accelerator.reduce(torch.stack([loss.detach().double(), mask.sum().double()]), reduction="sum")
        value, tokens = of_all.tolist()
        if not math.isfinite(value):
            found = processes.gather("" if math.isfinite(float(loss.detach())) else self._not_finite(mask))
            raise NotFinite("loss", self.state.global_step + 1, value, next(filter(None, found), ""))
        self.ledger.add(trained_tokens=int(tokens))

    def _not_finite(self, mask: torch.Tensor) -> str:
        """What of the latest loss's computation is not finite first; "" where a trainer cannot tell."""
        return ""

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
