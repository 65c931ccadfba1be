"""Where Hydra looks for sweepers: it takes them from the package `hydra_plugins` alone."""

from rlbench.launching.sweepers import PlainSweeper as _PlainSweeper


class PlainSweeper(_PlainSweeper):
    """`hydra/sweeper=plain`."""
