"""Finished runs of a folder, as tables: `collect` reads run directories or a stored collection.

Imports `statistics`, and of `rlbench` the rooms up to `runs`.
"""

from analysis.collection.collection import Collection, collect
from analysis.collection.reading import KEYS, SPENDING, STAGES, Problem, find_runs, required_metrics
from analysis.collection.sources import Queries

__all__ = ["KEYS", "SPENDING", "STAGES", "Collection", "Problem", "Queries", "collect", "find_runs", "required_metrics"]
