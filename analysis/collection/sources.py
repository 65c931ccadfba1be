"""Sources of the large parts of runs (per-query scores, curves and spending), read on demand.

A thousand runs of ten thousand samples do not fit into memory, and no table needs all of them at once. Tables read from
`Queries`, which stores names only and reads the columns of one run at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_string_dtype, union_categoricals

from analysis.collection.reading import SPENDING, read_curves, read_scores, read_spending
from rlbench.base.errors import BadInput
from rlbench.base.nested import flatten
from rlbench.base.user_files import read_user_yaml
from rlbench.runs.record import SETTINGS, Result
from rlbench.runs.tables import predictions_file


class Source(ABC):
    """The large parts of the runs of one folder, by run name.

    Attributes:
        folder: folder from which the run directories were read. Only `RunFolders` needs them to exist still.
    """

    folder: Path

    @abstractmethod
    def scores(self, run: str, columns: Sequence[str]) -> pd.DataFrame:
        """context_id, sample, cluster_id and these columns (per-query metrics, n_truth), one row per test sample."""

    @abstractmethod
    def curves(self, run: str) -> pd.DataFrame:
        """step, split, metric, value; sorted by split, metric and step."""

    @abstractmethod
    def spending(self, run: str) -> pd.DataFrame:
        """update and `SPENDING` until then, sorted by update; empty if the run wrote none."""

    @abstractmethod
    def config(self, run: str) -> Mapping[str, Any]:
        """config.yaml, dotted key to value."""


class RunFolders(Source):
    """Run directories below a folder.

    Args:
        folder: the folder that was searched.
        results: result.json of each available run.
    """

    def __init__(self, folder: Path, results: Mapping[str, Result]):
        self.folder = folder
        steps = {run: result["checkpoint"]["step"] for run, result in results.items()}
        self._files = {run: folder / run / predictions_file("test", step) for run, step in steps.items()}

    def scores(self, run: str, columns: Sequence[str]) -> pd.DataFrame:
        return read_scores(self._files[run], columns)

    def curves(self, run: str) -> pd.DataFrame:
        return read_curves(self._files[run].parent)

    def spending(self, run: str) -> pd.DataFrame:
        return read_spending(self._files[run].parent)

    def config(self, run: str) -> Mapping[str, Any]:
        return read_config(self._files[run].parent)


def read_config(path: Path) -> dict[str, Any]:
    """A run's config.yaml, dotted key to value.

    Raises:
        BadInput: if there is none, or it is not a YAML mapping.
    """
    file = path / SETTINGS
    if not file.exists():
        raise BadInput(f"{path} has no config.yaml")
    content = read_user_yaml(file)
    if not isinstance(content, dict):
        raise BadInput(f"{file} holds no settings")
    try:
        return flatten(content)
    except RecursionError:
        raise BadInput(f"{file} is nested too deeply") from None


class Queries:
    """Per-query test scores of some runs, not kept in memory.

    Args:
        source: source of the scores.
        metrics: run to the names of its per-query metrics.
    """

    def __init__(self, source: Source, metrics: Mapping[str, Sequence[str]]):
        self._source, self._metrics = source, metrics

    def of(self, runs: Iterable[str]) -> "Queries":
        """Scores of a subset of the runs."""
        return Queries(self._source, {run: self._metrics[run] for run in runs})

    def metrics(self, runs: Sequence[str]) -> list[str]:
        """Per-query metrics that all these runs have, in the order of the first run."""
        have = [set(self._metrics[run]) for run in runs]
        return [name for name in self._metrics[runs[0]] if all(name in names for names in have)] if runs else []

    def read(self, run: str, columns: Sequence[str]) -> pd.DataFrame:
        """context_id, sample, cluster_id and these columns (per-query metrics, n_truth) of one run, sorted by query.

        Raises:
            KeyError: if there is no such run.
        """
        if run not in self._metrics:
            raise KeyError(run)
        return self._source.scores(run, columns)


def stack(parts: Sequence[tuple[str, pd.DataFrame]], columns: Sequence[str]) -> pd.DataFrame:
    """Concatenate frames of runs, with `run` as first column. Names are categories, to save memory.

    Args:
        parts: run and frame; empty frames are skipped.
        columns: columns of the frames.
    """
    full = [(run, frame) for run, frame in parts if len(frame)]
    if not full:
        return pd.DataFrame(columns=["run", *columns])
    frames = [frame for _, frame in full]
    codes = np.repeat(np.arange(len(full)), [len(frame) for frame in frames])
    stacked: dict[str, Any] = {"run": pd.Categorical.from_codes(codes, categories=pd.Index([run for run, _ in full]))}
    for name in columns:
        values = [frame[name] for frame in frames]
        if is_string_dtype(values[0]):
            stacked[name] = union_categoricals([one.astype("category") for one in values], sort_categories=True)
        else:
            stacked[name] = np.concatenate([one.to_numpy() for one in values])
    return pd.DataFrame(stacked)


CURVES = ("step", "split", "metric", "value")
SPENT = ("update", *SPENDING)
