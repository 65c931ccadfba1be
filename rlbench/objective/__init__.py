"""The algebra of policy-optimisation algorithms: a choice of unit and of one small pure function in each place."""

from rlbench.objective import aggregation, baselines, credit, forward, ratios, regularisers, surrogates
from rlbench.objective.inputs import Course, LossInputs, Window
from rlbench.objective.objective import Objective, Rollout

PIECES = (forward, credit, baselines, ratios, surrogates, aggregation, regularisers)
"""The modules that enter their pieces when they are imported."""

__all__ = ["PIECES", "Course", "LossInputs", "Objective", "Rollout", "Window"]
