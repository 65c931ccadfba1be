"""Numbers that change at rollouts (`rlbench.config.schedules`), in the trainer."""

import logging
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlbench.config.schedules import Schedules, with_values
from rlbench.config.schema import Config
from rlbench.objective import Objective
from rlbench.runs import processes
from rlbench.training.callbacks import training_metrics
from rlbench.training.schedule import Factor
from rlbench.training.trainer import RankedListTrainer

log = logging.getLogger(__name__)

STATISTIC, MEMORY = "statistic/", "schedule/"
"""Beginnings of the keys under which the trainer carries the latest metrics and what shapes remember."""
RATE = "trainer.rl.learning_rate"


def scheduled_rate(config: Config) -> Factor | None:
    """Factor on the learning rate as a function of finished updates; None if it has no schedule."""
    schedules = Schedules(config)
    if RATE not in schedules.of_key:
        return None
    return lambda done: schedules.at(done)[RATE] / config.trainer.rl.learning_rate


class Scheduled(TrainerCallback):
    """Gives the trainer the values of the schedules at each rollout.

    Args:
        config: the run's configuration.
        trainer: its trainer. What schedules remember is kept in `carried`, so that it is saved and resumed.
    """

    def __init__(self, config: Config, trainer: RankedListTrainer):
        self.trainer, self.schedules = trainer, Schedules(config)
        self.values: dict[str, float] = {}
        self.warned = False

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        config, carried = self.schedules.config, self.trainer.carried
        if state.global_step % config.trainer.rl.num_iterations == 0:
            statistics = {name: carried[f"{STATISTIC}{name}"] for name in self.schedules.statistics & self._known()}
            memory = {name.removeprefix(MEMORY): value for name, value in carried.items() if name.startswith(MEMORY)}
            values = self.schedules.at(state.global_step, statistics, memory)
            carried.update({f"{MEMORY}{name}": value for name, value in memory.items()})
            now = with_values(config, values)
            objective = Objective(now.policy_optimisation, now.reward, now.dataset.list_length)
            self.trainer.retune(objective, now.generation, now.sampler, now.rollout)
            self.values = values
        for key, value in self.values.items():
            self.trainer.log_number(f"schedule/{key}", value)

    def _known(self) -> set[str]:
        return {name.removeprefix(STATISTIC) for name in self.trainer.carried if name.startswith(STATISTIC)}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        metrics = training_metrics(logs or {})
        # Those of the main process, so that all processes have the same.
        found = processes.gather({name: metrics[name] for name in self.schedules.statistics if name in metrics})[0]
        self.trainer.carried.update({f"{STATISTIC}{name}": float(value) for name, value in found.items()})
        if metrics and not self.warned:
            self.warned = True
            self._warn("has not been recorded so far")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._warn("was never recorded")

    def _warn(self, what: str) -> None:
        """Warn of metrics that shapes read and that the training does not record."""
        for name in sorted(self.schedules.statistics - self._known()):
            keys = " and ".join(f"schedule.values.{key}" for key in self.schedules.readers[name])
            log.warning("%s: the training metric '%s' %s, so the value is as without it", keys, name, what)
