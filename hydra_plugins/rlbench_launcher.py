"""Where Hydra looks for launchers: it takes them from the package `hydra_plugins` alone."""

from rlbench.launching.local import LocalLauncher as _LocalLauncher


class LocalLauncher(_LocalLauncher):
    """`hydra/launcher=local`."""
