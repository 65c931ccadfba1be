"""What trainers do around transformers' loop: time, counts, and losses and gradients that must be finite."""

import math
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import Trainer

from rlbench.budget import Ledger
from rlbench.safety import NotFinite


class Metered(Trainer):
    """Stands before a trainer of transformers. Attributes: `ledger`, which knows what the run spends."""

    ledger: Ledger

    def _account(self, loss: torch.Tensor, mask: torch.Tensor) -> None:
        """Count the tokens of a micro-batch (B, T) of every process.

        Raises:
            NotFinite: on all processes, where the loss of one is not, before any gradient is taken of it.
        """
        of_all = self.accelerator.reduce(torch.stack([loss.detach().double(), mask.sum().double()]), reduction="sum")
        value, tokens = of_all.tolist()
        if not math.isfinite(value):
            raise NotFinite("loss", self.state.global_step + 1, value)
        self.ledger.add(trained_tokens=int(tokens))

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
