"""Registers the local launcher. Hydra searches only the package `hydra_plugins`."""

from rlbench.launching.local import LocalLauncher as _LocalLauncher


class LocalLauncher(_LocalLauncher):
    """`hydra/launcher=local`."""
