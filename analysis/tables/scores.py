"""Scores of a row's runs, and table cells from estimates."""

import hashlib
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pandas as pd

from analysis.collection import Queries
from analysis.collection.reading import CLUSTER, N_TRUTH
from analysis.render.numbers import Interval
from analysis.statistics import Estimate, Scores


def row_scores(queries: Queries, runs: pd.DataFrame, metrics: Sequence[str]) -> Scores:
    """Scores of the runs of one row, in their order. Queries keep the order of (context_id, sample).

    The contexts of the returned `Scores` are clusters. A cluster is one context, unless the dataset declares several
    contexts as dependent.
    """
    parts = (queries.read(name, metrics) for name in runs["run"])
    first = next(parts)
    clusters, _ = pd.factorize(first[CLUSTER], sort=True)
    values = np.stack([part[list(metrics)].to_numpy(float) for part in chain([first], parts)])
    return Scores(values, clusters, tuple(int(seed) for seed in runs["seed"]))


def samples_digest(queries: Queries, run: str) -> str:
    """Digest of a run's samples: contexts, clusters, sample numbers and number of relevant items.

    It is equal for runs scored on the same samples.
    """
    part = queries.read(run, [N_TRUTH])
    digest = hashlib.sha256("\n".join(map(str, (*part["context_id"], *part[CLUSTER]))).encode())
    digest.update(part[["sample", N_TRUTH]].to_numpy(np.int64).tobytes())
    return digest.hexdigest()


def split_sizes(queries: Queries, run: str) -> tuple[int, int, int]:
    """Number of samples, contexts and clusters that a run was scored on."""
    part = queries.read(run, [])
    return len(part), part["context_id"].nunique(), part[CLUSTER].nunique()


def one_metric(scores: Scores, column: int) -> Scores:
    """One metric alone, so that its resampling does not depend on the other metrics shown."""
    return Scores(scores.values[:, :, [column]], scores.contexts, scores.seeds)


def cell_of(estimate: Estimate, column: int) -> Interval:
    """One metric of an estimate."""
    return Interval(float(estimate.mean[column]), float(estimate.low[column]), float(estimate.high[column]))


def share_of(estimate: Estimate, column: int) -> Interval:
    """A cell of a metric in 0..1, with its interval clipped to 0..1."""
    found = cell_of(estimate, column)
    return Interval(found.mean, max(found.low, 0.0), min(found.high, 1.0))
