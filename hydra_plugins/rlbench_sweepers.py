"""Registers the sweepers. Hydra searches only the package `hydra_plugins`."""

from rlbench.launching.sweepers import PlainSweeper as _PlainSweeper
from rlbench.launching.sweepers import SearchSweeper as _SearchSweeper


class PlainSweeper(_PlainSweeper):
    """`hydra/sweeper=plain`."""


class SearchSweeper(_SearchSweeper):
    """`hydra/sweeper=optuna`."""
