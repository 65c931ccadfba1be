"""Where Hydra finds `hydra/launcher=slurm`."""

from rlbench.launching.slurm import SlurmLauncher as _SlurmLauncher


class SlurmLauncher(_SlurmLauncher):
    """`hydra/launcher=slurm`."""
