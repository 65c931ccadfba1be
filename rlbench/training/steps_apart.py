"""Updates that keep away from what earlier rounds of preference optimisation have learned."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlbench.preference.steps import as_matrix, without

if TYPE_CHECKING:
    from rlbench.training.preference import PreferenceTrainer


class StepsApart(TrainerCallback):
    """Projects each update of the weights, after the optimiser has made it.

    An optimiser that scales each weight would turn a projected gradient back into the subspace, so the update itself is
    projected. The subspace follows from the weights that earlier rounds have stored, so a resumed run finds the same.

    Args:
        trainer: its weights change.
        rule: what earlier rounds have added to a weight -> columns that no update may use, or None.
    """

    def __init__(
        self, trainer: "PreferenceTrainer", rule: Callable[[Sequence[torch.Tensor]], torch.Tensor | None]
    ) -> None:
        self.trainer, self.rule = trainer, rule
        self._round = -1
        self._bases: dict[str, torch.Tensor] = {}
        self._before: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        number = self.trainer.round_at(state.global_step)
        if number != self._round:
            self._round, self._bases = number, self._subspaces(number)
        weights = self.trainer.trained_weights()
        self._before = {name: weights[name].detach().clone() for name in self._bases}

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        weights = self.trainer.trained_weights()
        with torch.no_grad():
            for name, before in self._before.items():
                step = weights[name] - before
                weights[name].copy_(before + without(step, self._bases[name]).to(step.dtype))
        self._before = {}

    def _subspaces(self, number: int) -> dict[str, torch.Tensor]:
        """The columns that updates of a round may not use, for each weight that has some."""
        store = self.trainer.lists.store
        starts = [store.read_weights(earlier) for earlier in range(number)]
        now = store.read_weights(number)
        if not starts:
            return {}
        found = {}
        for name, weight in self.trainer.trained_weights().items():
            # The contribution of the last round ends where this round's comparisons begin, which is stored by then.
            values = [start[name] for start in starts] + [now[name]]
            moves = [as_matrix(later - first) for first, later in zip(values, values[1:], strict=False)]
            basis = self.rule([move for move in moves if move.any()])
            if basis is not None:
                found[name] = basis.to(weight.device)
        return found
