"""The algebra of policy-optimisation algorithms: a choice of unit and of one small pure function in each place."""

from rlbench.objective.objective import LossInputs, Objective

__all__ = ["LossInputs", "Objective"]
