"""Which prompts an update trains on, and how the members of their groups are drawn.

A choice is one pure function in a registry, as in `rlbench.objective`. Importing this package registers all of them.
"""

from rlbench.sampling import keeping, making, structures, weighing

__all__ = ["keeping", "making", "structures", "weighing"]
