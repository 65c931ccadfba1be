"""The curves of several runs, indexed by run, split and metric in one pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.statistics import Floats


class Measurements:
    """Measurements of runs over training.

    Args:
        curves: as `Collection.curves`: run, step, split, metric, value; at most one row per run, step, split, metric.

    Attributes:
        series: (T,) ascending updates and (T,) values of each run, split and metric; NaN where the run wrote NaN.
        names: sorted splits and metrics that any run measured.
    """

    def __init__(self, curves: pd.DataFrame):
        keys = ["run", "split", "metric"]
        ordered = curves.sort_values([*keys, "step"], kind="stable")
        steps, values = ordered["step"].to_numpy(float), ordered["value"].to_numpy(float)
        found: dict[Any, Any] = ordered.groupby(keys, sort=False, observed=True).indices
        self.series: dict[tuple[str, str, str], tuple[Floats, Floats]] = {
            key: (steps[at], values[at]) for key, at in found.items()
        }
        self.names = sorted({(split, metric) for _, split, metric in self.series})

    def together(self, runs: Sequence[str], split: str, metric: str) -> tuple[Floats, Floats] | None:
        """(T,) updates that all S runs measured, and (S, T) values; None if there are none."""
        parts = [self.series[key] for run in runs if (key := (run, split, metric)) in self.series]
        if not parts or len(parts) < len(runs):
            return None
        common = parts[0][0]
        for steps, _ in parts[1:]:
            common = np.intersect1d(common, steps, assume_unique=True)
        if not len(common):
            return None
        return common, np.stack([values[np.isin(steps, common)] for steps, values in parts])
