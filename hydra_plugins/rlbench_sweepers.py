"""Where Hydra looks for sweepers: it takes them from the package `hydra_plugins` alone."""

from rlbench.launching.sweepers import PlainSweeper as _PlainSweeper
from rlbench.launching.sweepers import SearchSweeper as _SearchSweeper


class PlainSweeper(_PlainSweeper):
    """`hydra/sweeper=plain`."""


class SearchSweeper(_SearchSweeper):
    """`hydra/sweeper=optuna`."""
