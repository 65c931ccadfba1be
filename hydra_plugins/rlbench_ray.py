"""Registers `hydra/launcher=ray` with Hydra."""

from rlbench.launching.ray import RayLauncher as _RayLauncher


class RayLauncher(_RayLauncher):
    """`hydra/launcher=ray`."""
