"""Finished runs of a folder, as tables: `collect` reads run directories or a stored collection.

Imports `statistics`, and of `rlbench` the rooms up to `runs`.
"""

from analysis.collection.collection import Collection, collect, read_runs
from analysis.collection.reading import KEYS, SPENDING, find_runs
from analysis.collection.sources import Queries

__all__ = ["KEYS", "SPENDING", "Collection", "Queries", "collect", "find_runs", "read_runs"]
