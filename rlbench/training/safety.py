"""Early stopping of collapsed trainings: bounds on measured values, and the reason given for a stop.

A training stops if a bound is broken in several consecutive measurements. Every process sees the values of the whole
run, and checkpoints hold the counters, so every process and every attempt decides the same.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlbench.config.schema import SafetyConfig
from rlbench.lists.metric_catalogue import inside, metric_title
from rlbench.runs.record import Stopped


@dataclass(frozen=True)
class Stop:
    """Where and why a training stopped early.

    Attributes:
        update: number of updates in the weights.
        reason: one clause.
    """

    update: int
    reason: str

    @property
    def result(self) -> Stopped:
        """The value of `stopped` in result.json."""
        return {"update": self.update, "reason": self.reason}


class CannotGoOn(ArithmeticError):
    """A training has to end before its next update.

    Attributes:
        stop: where and why.
    """

    stop: Stop


class NotFinite(CannotGoOn):
    """A loss or a gradient is NaN or infinite. Its update has not been applied.

    Args:
        what: "loss" or "gradient".
        update: number of the update.
        value: NaN or infinite.
        first: the first non-finite value in its computation, or "" if unknown.
    """

    def __init__(self, what: str, update: int, value: float, first: str = ""):
        from_there = f" (first non-finite value: {first})" if first else ""
        super().__init__(f"the {what} of update {update} is {value}{from_there}")
        self.stop = Stop(update - 1, f"{self}; it was not applied")


class NoTuples(CannotGoOn):
    """In a round, no list scores higher than another of the same prompt, so there are no preferences."""

    def __init__(self, number: int, update: int, prompts: int):
        super().__init__(
            f"in round {number + 1} no list scores higher than another list of its prompt, for any of {prompts} prompts"
        )
        self.stop = Stop(update, f"{self}, so there are no preferences to learn from")


@dataclass(frozen=True)
class SafetyBound:
    """One bound on one metric.

    Attributes:
        metric: name of the metric on its split.
        limit: largest valid value, or smallest valid share of the initial value; None for no bound.
        share: whether the limit is such a share.
    """

    metric: str
    limit: float | None
    share: bool


class Guard:
    """Checks the bounds during training.

    Args:
        config: the bounds.
        catalogue_rate: catalogue rate of the initial policy on validation.
        state: `state` from the last checkpoint; empty at the start.

    Attributes:
        stop: set once a bound has been broken for `patience` measurements.
        state: counters and initial values by metric, as JSON.
    """

    def __init__(self, config: SafetyConfig, catalogue_rate: float, state: Mapping[str, Any]):
        self.config = config
        self.stop: Stop | None = None
        self.state: dict[str, dict[str, float]] = {name: dict(of_metric) for name, of_metric in state.items()}
        self._train = (
            SafetyBound("kl", config.max_kl, share=False),
            SafetyBound("entropy", config.min_entropy_share, share=True),
            SafetyBound("list_length", config.min_list_length_share, share=True),
        )
        self._validation = (SafetyBound("in_catalog", config.min_catalogue_rate_share, share=True),)
        self.state.setdefault("in_catalog", {"sum": catalogue_rate, "count": 1, "streak": 0})

    def train(self, update: int, metrics: Mapping[str, float]) -> None:
        """Check the metrics of an update. Counters of metrics that it did not measure stay unchanged."""
        for bound in self._train:
            if bound.metric in metrics:
                self._look(bound, update, metrics[bound.metric])

    def validation(self, update: int, metrics: Mapping[str, float]) -> None:
        """Check the means of an evaluation."""
        for bound in self._validation:
            self._look(bound, update, metrics[bound.metric])

    def _look(self, bound: SafetyBound, update: int, value: float) -> None:
        state = self.state.setdefault(bound.metric, {"sum": 0.0, "count": 0, "streak": 0})
        if update <= self.config.warmup or not state["count"]:
            if bound in self._train and math.isfinite(value):  # accumulate the initial value
                state["sum"], state["count"] = state["sum"] + value, state["count"] + 1
            return
        start = state["sum"] / state["count"]
        broken = _is_broken(bound, value, start)
        state["streak"] = state["streak"] + 1 if broken else 0
        if self.stop is None and state["streak"] >= self.config.patience:
            self.stop = Stop(update, _reason(bound, value, start, self.config.patience))


def _is_broken(bound: SafetyBound, value: float, start: float) -> bool:
    if bound.limit is None:
        return False
    return value < bound.limit * start if bound.share else value > bound.limit


def _reason(bound: SafetyBound, value: float, start: float, patience: int) -> str:
    limit = f"below {bound.limit} of {start:.4g} at the start" if bound.share else f"above {bound.limit}"
    times = f"{patience} measurements in a row" if patience > 1 else "once"
    return f"{inside(metric_title(bound.metric))} {value:.4g}, {limit}, {times}"
