"""Scores of a row's runs, and the numbers that tables take from estimates."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.collect import KEYS
from analysis.statistics import Estimate, Scores
from analysis.tables.model import Cell


def row_scores(queries: pd.DataFrame, runs: pd.DataFrame, metrics: Sequence[str]) -> Scores:
    """Scores of the runs of one row, in their order; queries in the order of (context_id, sample), as read."""
    of_run = {name: part for name, part in queries.groupby("run", sort=False)}
    parts = [of_run[name] for name in runs["run"]]
    contexts, _ = pd.factorize(parts[0]["context_id"], sort=True)
    values = np.stack([part[list(metrics)].to_numpy(float) for part in parts])
    return Scores(values, contexts, tuple(int(seed) for seed in runs["seed"]))


def query_metrics(queries: pd.DataFrame, runs: Sequence[str]) -> list[str]:
    """Per-query metrics that all of these runs have."""
    part = queries[queries["run"].isin(list(runs))]
    floats = part.drop(columns=[*KEYS, "n_truth"]).select_dtypes("float")
    return list(floats.columns[floats.notna().all()])


def samples_digest(queries: pd.DataFrame, run: str) -> str:
    """What runs that were judged on the same samples share: contexts, samples and how many films are relevant."""
    part = queries[queries["run"] == run]
    digest = hashlib.sha256("\n".join(map(str, part["context_id"])).encode())
    digest.update(part[["sample", "n_truth"]].to_numpy(np.int64).tobytes())
    return digest.hexdigest()


def one_metric(scores: Scores, column: int) -> Scores:
    """One metric alone: what is drawn for it then does not depend on which others are shown."""
    return Scores(scores.values[:, :, [column]], scores.contexts, scores.seeds)


def cell_of(estimate: Estimate, column: int) -> Cell:
    """One metric of an estimate."""
    return Cell(float(estimate.mean[column]), float(estimate.low[column]), float(estimate.high[column]))


def share_of(estimate: Estimate, column: int) -> Cell:
    """A cell of a metric that lies in 0..1, and so does its interval."""
    found = cell_of(estimate, column)
    return Cell(found.mean, max(found.low, 0.0), min(found.high, 1.0))
