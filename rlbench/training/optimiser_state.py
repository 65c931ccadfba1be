"""Hyperparameters of an optimiser whose state was loaded from the checkpoint of a run with other settings."""

from collections.abc import Mapping, Sequence
from typing import Any


def hyperparameters(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The hyperparameters of an optimiser's groups: everything but the parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in groups]


def apply_hyperparameters(optimizer: Any, scheduler: Any, wanted: Sequence[Mapping[str, Any]]) -> None:
    """Put a clone's own hyperparameters in the place of its parent's, which were loaded with the optimiser's state.

    Args:
        optimizer: with its loaded state.
        scheduler: the loaded LambdaLR. Its factors are the clone's, since they are not stored.
        wanted: hyperparameters of each group before the state was loaded.
    """
    scheduler.base_lrs = [group["initial_lr"] for group in wanted]
    factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
    for group, own, factor in zip(optimizer.param_groups, wanted, factors, strict=True):
        group.update(own, lr=own["initial_lr"] * factor)
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
