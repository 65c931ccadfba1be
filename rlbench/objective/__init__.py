"""Policy-optimisation algorithms as an algebra: a unit of credit plus one small pure function for each place."""

import importlib
import sys
from types import ModuleType
from typing import Any

from rlbench.objective import aggregation, baselines, credit, forward, ratios, regularisers, surrogates
from rlbench.objective.inputs import Course, LossInputs, Window
from rlbench.objective.objective import Objective, Rollout

PIECES = (forward, credit, baselines, ratios, surrogates, aggregation, regularisers)
"""The modules that register their pieces on import."""

__all__ = ["PIECES", "Course", "LossInputs", "Objective", "Rollout", "Window"]


class _Room(ModuleType):
    """This room, which users also call: `rlbench.objective("rank_grpo")`. Importing a room sets it as the attribute
    `objective` of `rlbench`, so the function of that name must be the room itself."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return importlib.import_module("rlbench.api.objectives").objective(*args, **settings)


sys.modules[__name__].__class__ = _Room
