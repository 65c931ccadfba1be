"""Policy-optimisation algorithms as an algebra: a unit of credit plus one small pure function for each place."""

from rlbench.objective import aggregation, baselines, credit, forward, ratios, regularisers, surrogates
from rlbench.objective.inputs import Course, LossInputs, Window
from rlbench.objective.objective import Objective, Rollout

PIECES = (forward, credit, baselines, ratios, surrogates, aggregation, regularisers)
"""The modules that register their pieces on import."""

__all__ = ["PIECES", "Course", "LossInputs", "Objective", "Rollout", "Window"]
