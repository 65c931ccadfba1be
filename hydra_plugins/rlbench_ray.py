"""Where Hydra finds `hydra/launcher=ray`."""

from rlbench.launching.ray import RayLauncher as _RayLauncher


class RayLauncher(_RayLauncher):
    """`hydra/launcher=ray`."""
