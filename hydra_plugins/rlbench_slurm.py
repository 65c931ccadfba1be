"""Registers `hydra/launcher=slurm` with Hydra."""

from rlbench.launching.slurm import SlurmLauncher as _SlurmLauncher


class SlurmLauncher(_SlurmLauncher):
    """`hydra/launcher=slurm`."""
