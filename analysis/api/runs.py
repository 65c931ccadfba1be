"""Runs as pandas frames: one run, a sweep, or several folders."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.collection import Collection, collect, find_runs, read_runs
from analysis.collection.sources import RunFolders
from analysis.collection.stored import is_collection
from rlbench.base.errors import BadInput, nearest
from rlbench.base.records import Damaged
from rlbench.runs import tables
from rlbench.runs.record import ROLLOUTS
from rlbench.runs.tables import predictions_file

PUT_BACK = "restore the file from a backup, or make the run again"
LISTS = ("run", "context_id", "sample", "rank", "title", "year", "verdict")
CREDIT = ("completion", "rank", "title", "year", "verdict", "return", "advantage", "reward")
"""Columns of a group of completions: one row per completion and rank, both from 1. `rlbench.sample_group` gives the
same."""
ROLLOUT = ("run", "step", "context_id", *CREDIT)
SHOWN = ("run", "experiment", "dataset", "model", "label", "seed")


class Runs:
    """Finished runs as pandas frames. Large frames are read when they are first asked for.

    `rlbench.read` makes it. Runs that cannot be compared with the others are in `problems` and in no frame.

    Attributes:
        collection: the runs in the form that the commands of `analysis` use.
    """

    def __init__(self, collection: Collection):
        self.collection = collection

    @property
    def runs(self) -> pd.DataFrame:
        """One row per run: names, settings, `test.<metric>`, `validation.<metric>` and what the run spent."""
        return self.collection.runs

    @property
    def curves(self) -> pd.DataFrame:
        """One row per measurement: run, step, split (train, validation), metric, value. A step is an update."""
        return self.collection.curves

    @property
    def budget(self) -> pd.DataFrame:
        """One row per run and logged update: what the run had spent until then."""
        return self.collection.spending

    @cached_property
    def contexts(self) -> pd.DataFrame:
        """One row per run and test sample: run, context_id, sample, cluster_id, n_truth, and every metric of a list."""
        queries, parts = self.collection.queries, []
        for run in self._names:
            parts.append(queries.read(run, ["n_truth", *queries.metrics([run])]).assign(run=run))
        return pd.concat(parts, ignore_index=True).pipe(_run_first)

    @cached_property
    def lists(self) -> pd.DataFrame:
        """One row per run, test sample and rank: the recommended item, and its verdict.

        Raises:
            BadInput: the runs were read from a stored collection, which holds no lists.
        """
        parts = []
        for run, step in zip(self._names, self.runs["checkpoint_step"], strict=True):
            file = self._folder(run) / predictions_file("test", step)
            try:
                found = tables.read_columns(file, ["context_id", "sample", "titles", "years", "verdicts"])
            except Damaged as error:
                raise BadInput(f"{file} {error}: {PUT_BACK}") from None
            parts.append(_of_ranks(found).assign(run=run))
        return pd.concat(parts, ignore_index=True)[list(LISTS)].astype({"year": "Int64"})

    @cached_property
    def rollouts(self) -> pd.DataFrame:
        """Groups of completions that were sampled during training, rank by rank, with their credit.

        One row per run, step, completion and rank. `plot_credit` draws the rows of one step. A run without
        policy optimisation has none.

        Raises:
            BadInput: the runs were read from a stored collection, which holds no rollouts.
        """
        rows = []
        for run in self._names:
            for group in ROLLOUTS.read(self._folder(run), PUT_BACK):
                for completion, one in enumerate(group["lists"], start=1):
                    for rank, ranked in enumerate(one["ranks"], start=1):
                        rows.append((run, group["step"], group["context_id"], completion, rank, *ranked, one["reward"]))
        return pd.DataFrame(rows, columns=list(ROLLOUT)).astype({"year": "Int64"})

    @property
    def problems(self) -> pd.DataFrame:
        """One row per excluded or unusual run: run, reason, left_out."""
        rows = [(one.run, one.reason, one.left_out) for one in self.collection.problems]
        return pd.DataFrame(rows, columns=["run", "reason", "left_out"])

    def config(self, run: str | None = None) -> Mapping[str, Any]:
        """The settings of a run, dotted key to value.

        Args:
            run: its name in `runs`; may be left out if there is one run.

        Raises:
            BadInput: there is no such run, or there are several.
        """
        return self.collection.config(self._one(run))

    def path(self, run: str | None = None) -> Path:
        """The directory of a run, with its model, logs and files (docs/results-schema.md).

        Args:
            run: as for `config`.

        Raises:
            BadInput: there is no such run, there are several, or the runs are a stored collection.
        """
        return self._folder(self._one(run))

    def _one(self, run: str | None) -> str:
        names = self._names
        if run is None and len(names) > 1:
            raise BadInput(f"run is missing, and there are {len(names)} runs: give one of the column `run`")
        if run is not None and run not in names:
            raise BadInput(f"run = {run!r} is none of the {len(names)} runs.{nearest(run, names)}")
        return names[0] if run is None else run

    def where(self, **columns: Any) -> "Runs":
        """The runs whose columns have these values, such as `where(algorithm="grpo", seed=[0, 1])`.

        Args:
            **columns: a column of `runs` with a value, or a list of values.

        Raises:
            BadInput: there is no such column, or no run has these values.
        """
        known = list(map(str, self.runs.columns))
        if unknown := [name for name in columns if name not in known]:
            raise BadInput(*(f"runs have no column '{name}'.{nearest(name, known)}" for name in unknown))
        kept = pd.Series(True, index=self.runs.index)
        for name, value in columns.items():
            wanted = list(value) if isinstance(value, list | set | tuple) else [value]
            fits = self.runs[name].isin(wanted)
            if not fits.any():
                has = ", ".join(sorted(map(str, self.runs[name].unique()))[:10])
                raise BadInput(f"no run has {name} = {value!r}; they have {has}")
            kept &= fits
        if not kept.any():
            raise BadInput(f"no run has {' and '.join(f'{name} = {value!r}' for name, value in columns.items())}")
        return self._of(kept)

    def group(self) -> Collection:
        """The runs as one group, which shares experiment, dataset and model.

        Raises:
            BadInput: there are several groups.
        """
        groups = self.collection.groups()
        if len(groups) > 1:
            names = [" / ".join(one.runs.iloc[0][["experiment", "dataset", "model"]]) for one in groups]
            raise BadInput(
                f"the runs belong to {len(names)} experiments, datasets or models ({', '.join(names)}): choose one, as "
                "in runs.where(experiment='...')"
            )
        return groups[0]

    def _of(self, kept: pd.Series) -> "Runs":
        runs, whole = self.runs[kept].reset_index(drop=True), self.collection
        settings = {run: whole.settings[run] for run in runs["run"] if run in whole.settings}
        return Runs(Collection(runs, whole.queries.of(runs["run"]), whole.source, whole.problems, settings))

    @property
    def _names(self) -> list[str]:
        return list(map(str, self.runs["run"]))

    def _folder(self, run: str) -> Path:
        source = self.collection.source
        if not isinstance(source, RunFolders):
            raise BadInput("these runs are a stored collection, which holds scores and curves only: read their folder")
        return source.folder / run

    def __len__(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        return f"{self._summary()}\n{self.runs[list(SHOWN)].to_string(index=False, max_rows=20)}"

    def _repr_html_(self) -> str:
        return f"<p>{self._summary()}</p>{self.runs[list(SHOWN)].to_html(index=False, max_rows=20)}"

    def _summary(self) -> str:
        left_out = sum(one.left_out for one in self.collection.problems)
        said = f"{len(self)} run{'s' if len(self) != 1 else ''}"
        return f"{said}, {left_out} left out (see .problems)" if left_out else said


def read(*folders: str | os.PathLike[str]) -> Runs:
    """Read finished runs as pandas frames.

    Args:
        *folders: run directories, folders of runs such as "runs/mini", or one collection that `rlbench collect` made.

    Raises:
        BadInput: a folder does not exist, or holds no finished run.

    Example:
        >>> runs = rlbench.read("runs/mini")
        >>> runs.runs[["label", "seed", "test.ndcg@10"]]
    """
    paths = list(map(Path, folders))
    problems = [f"there is no folder {path}" for path in paths if not path.is_dir()]
    if not paths:
        problems.append("read needs a folder, such as rlbench.read('runs/mini')")
    if problems:
        raise BadInput(*problems)
    collection = collect(paths[0]) if len(paths) == 1 and not _is_run(paths[0]) else _several(paths)
    if collection.runs.empty:
        said = [f"{one.run}: {one.reason}" for one in collection.problems]
        where = ", ".join(map(str, paths))
        raise BadInput(*(said or [f"{where}: there is no run in it"]))
    return Runs(collection)


def _several(paths: Sequence[Path]) -> Collection:
    """The runs of several folders, named by their places below the deepest folder that they share.

    Raises:
        BadInput: a folder is a stored collection.
    """
    if stored := [path for path in paths if is_collection(path)]:
        raise BadInput(f"{stored[0]} is a stored collection, which is read alone: give the folders of the runs")
    found = sorted({run.resolve() for path in paths for run in find_runs(path)})
    # A run's name has its row: row/seed0-hash.
    shared = Path(os.path.commonpath([run.parent.parent for run in found])) if found else paths[0]
    return read_runs(shared, found)


def _is_run(path: Path) -> bool:
    return (path / "STATUS").is_file()


def _run_first(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[["run", *(name for name in frame.columns if name != "run")]]


def _of_ranks(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per rank of each list."""
    verdicts = predictions["verdicts"].map(len).to_numpy()
    rows = np.repeat(np.arange(len(predictions)), verdicts)
    ranked: dict[str, Any] = {name: predictions[name].to_numpy()[rows] for name in ("context_id", "sample")}
    ranked["rank"] = np.arange(len(rows)) - np.repeat(verdicts.cumsum() - verdicts, verdicts) + 1
    for name, column in (("title", "titles"), ("year", "years"), ("verdict", "verdicts")):
        ranked[name] = [
            value
            for of_list, count in zip(predictions[column], verdicts, strict=True)
            for value in list(of_list)[:count]
        ]
    return pd.DataFrame(ranked)
