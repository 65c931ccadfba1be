"""Additions to transformers' training loop: times, counts, stepped learning rates, checks for finite values."""

import math
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from rlbench.models.adapters import note_base
from rlbench.models.operations import ModelShape
from rlbench.runs import processes
from rlbench.runs.budget import Ledger
from rlbench.training.optimiser_state import apply_hyperparameters, hyperparameters
from rlbench.training.safety import NotFinite
from rlbench.training.schedule import Factor


class Metered(Trainer):
    """Mixin placed before a trainer of transformers.

    Attributes:
        ledger: records the run's spending.
        rate: maps the number of finished updates to a factor on the learning rate; replaces the arguments' schedule.
        is_clone: whether the hyperparameters of the run's own settings count, and not those in the checkpoint.
    """

    is_clone: bool = False
    ledger: Ledger
    rate: Factor | None = None
    lr_scheduler: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.shape = ModelShape.of(self.model)  # later the weights may be sharded
        self._uncounted = dict.fromkeys(("rollout", "reference", "update"), 0)
        self._unscored = 0

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.rate is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self.rate)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        wanted = hyperparameters(self.optimizer.param_groups) if self.is_clone else []
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.is_clone:
            apply_hyperparameters(self.optimizer, self.lr_scheduler, wanted)

    def _account(self, loss: torch.Tensor, mask: torch.Tensor) -> None:
        """Count the tokens of a micro-batch (B, T) over all processes.

        Raises:
            NotFinite: the loss of one process is not finite. Raised on all processes, before any gradient is computed.
        """
        mine = [loss.detach().double(), mask.sum().double()]
        mine += [loss.new_tensor(number, dtype=torch.double) for number in (self._unscored, *self._uncounted.values())]
        of_all = self.accelerator.reduce(torch.stack(mine), reduction="sum")
        value, tokens, scored, *operations = of_all.tolist()
        if not math.isfinite(value):
            found = processes.gather("" if math.isfinite(float(loss.detach())) else self._not_finite(mask))
            raise NotFinite("loss", self.state.global_step + 1, value, next(filter(None, found), ""))
        self.ledger.add(trained_tokens=int(tokens), reference_tokens=int(scored))
        self.ledger.needed(**{phase: int(n) for phase, n in zip(self._uncounted, operations, strict=True)})
        self._uncounted, self._unscored = dict.fromkeys(self._uncounted, 0), 0

    def _count_pass(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        completion_mask: torch.Tensor,
        *,
        rollout: bool = False,
        times: int = 1,
    ) -> None:
        """Count the operations that a pass of this process needs, each distinct prompt once.

        A pass with gradient includes its backward pass. `_account` adds the numbers of all processes to the ledger.

        Args:
            prompt_ids: (B, P).
            prompt_mask: (B, P) 1 at tokens of the prompt.
            completion_mask: (B, T) 1 at tokens.
            rollout: whether the pass has made the completions.
            times: number of such passes.
        """
        prompts = prompt_ids.masked_fill(prompt_mask == 0, -1)
        of_prompts, completions = (prompts >= 0).sum(1).tolist(), completion_mask.sum(1).tolist()
        distinct = (prompts.unique(dim=0) >= 0).sum(1).tolist()
        trains = torch.is_grad_enabled() and not rollout
        operations = times * self.shape.completions(distinct, of_prompts, completions, trains=trains)
        if rollout:
            self._uncounted["rollout"] += operations
        elif trains:
            self._uncounted["update"] += operations
        else:
            self._uncounted["reference"] += operations
            self._unscored += times * sum(completions)

    def _not_finite(self, mask: torch.Tensor) -> str:
        """The first part of the latest loss's computation that is not finite; "" if the trainer cannot tell."""
        return ""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        note_base(Path(output_dir or str(self.args.output_dir)), self.model)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.ledger.phase("checkpoint"):
            super()._save_checkpoint(model, trial)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called after a window's last backward pass and before the optimiser's step.

        Raises:
            NotFinite: the gradient is not finite.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        value, update = float(norm), self.state.global_step + 1
        if not math.isfinite(value):
            if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
                raise RuntimeError(f"the gradient of update {update} is {value}, but DeepSpeed has already applied it")
            raise NotFinite("gradient", update, value)
        return norm
