"""The runs of a folder as one `Collection`.

A run that cannot be averaged with the others is excluded entirely and reported; nothing is repaired. Small facts are
kept in memory; per-query scores and curves are read on demand. The format of a run directory is in
docs/results-schema.md, the form of a collection in docs/collections.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from analysis.collection import stored
from analysis.collection.measurements import Measurements
from analysis.collection.plugged import load_metrics
from analysis.collection.reading import FinishedRun, find_runs, read_run, run_row
from analysis.collection.screening import screened
from analysis.collection.sources import CURVES, SPENT, Queries, RunFolders, Source, stack
from analysis.problems import Problem, Unusable
from rlbench.base.errors import BadInput
from rlbench.base.nested import flatten


@dataclass(frozen=True)
class Collection:
    """Every usable run below a folder.

    Attributes:
        runs: one row per run, sorted by name: run, experiment, dataset, model, stage, label, algorithm, reward, seed,
            hash, list_length, cutoffs (tuple), checkpoint_rule, checkpoint_step, token_budget (NaN unless training ends
            after a number of tokens), stopped_update (NaN unless it stopped early), demonstrations_count and
            demonstrations_without_end (NaN if none were used), the budget (prompts, completions, generated_tokens,
            updates; seconds and seconds_<phase>; trained_tokens, evaluation_tokens, attempts, peak_memory_bytes_<of>,
            energy_joules_<of>, reference_tokens, tokens_per_second_<phase>, mfu_<phase>, operations_<phase>, peak_<of>,
            each NaN if unknown), adopted_from (directory of the run of another experiment that spent the budget, else
            None; totals count it once, see `costs`), validation.<metric> and test.<metric>. If there are clones:
            clone_of (the parent's update and row), clone_changed (changed settings), parent (its directory below the
            folder of all runs), inherited_<key> (the part of the budget that the parent spent); absent or NaN in other
            runs.
        queries: per-query test scores, read one run at a time (`analysis.tables.row_scores`).
        source: source of scores and curves.
        problems: excluded or unusual runs.
        settings: run to the settings in its hash, dotted key to value, without training seeds; a run without
            identity.json is absent.
    """

    runs: pd.DataFrame
    queries: Queries
    source: Source
    problems: tuple[Problem, ...] = field(default=())
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row per run and measurement: run, step, split, metric, value (NaN where the run wrote NaN)."""
        return stack([(run, self.source.curves(run)) for run in self.runs["run"]], CURVES)

    @cached_property
    def spending(self) -> pd.DataFrame:
        """One row per run and logged update: run, update and `SPENDING` since the start of training.

        A run without budget.jsonl is absent.
        """
        return stack([(run, self.source.spending(run)) for run in self.runs["run"]], SPENT)

    @cached_property
    def measurements(self) -> Measurements:
        """`curves` by run, split and metric."""
        return Measurements(self.curves)

    @cached_property
    def spending_of(self) -> dict[str, pd.DataFrame]:
        """`spending` of each run that has any, sorted by update."""
        return {str(run): part for run, part in self.spending.groupby("run", observed=True)}

    def config(self, run: str) -> Mapping[str, Any]:
        """config.yaml of a run, dotted key to value.

        Raises:
            BadInput: if there is none, or it is not a YAML mapping.
        """
        return self.source.config(run)

    def groups(self) -> "list[Collection]":
        """One collection per experiment, dataset and model, in order of name, without problems."""
        parts = []
        for _, runs in self.runs.groupby(["experiment", "dataset", "model"], sort=True):
            settings = {run: self.settings[run] for run in runs["run"] if run in self.settings}
            whole = runs.reset_index(drop=True)
            parts.append(Collection(whole, self.queries.of(runs["run"]), self.source, settings=settings))
        return parts


def collect(folder: Path) -> Collection:
    """Read every run below a folder, or in a stored collection of such a folder (`analysis.collection.stored`).

    Raises:
        BadInput: if there is no such folder, or it is a collection with another format version.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}")
    if stored.is_collection(folder):
        records = stored.load_records(folder)
        return assemble(*stored.told(records), stored.Parts(folder, records))
    return read_runs(folder, find_runs(folder))


def read_runs(folder: Path, paths: Sequence[Path]) -> Collection:
    """Read run directories. Their names are their places below `folder`."""
    runs, problems = [], []
    for path in tqdm(paths, desc="reading", unit="run", delay=2, disable=None, dynamic_ncols=True):
        name = path.relative_to(folder).as_posix()
        try:
            runs.append(read_run(path, name)[0])
        except Unusable as error:
            problems.append(Problem(name, str(error)))
    return assemble(runs, problems, RunFolders(folder, {run.name: run.result for run in runs}))


def assemble(runs: Sequence[FinishedRun], problems: Sequence[Problem], source: Source) -> Collection:
    """A collection of those readable runs, sorted by name, that can be compared. `problems` are of other runs."""
    kept, said = screened(runs, problems)
    said += tuple(load_metrics(kept, source))
    columns = ["run", "experiment", "dataset", "model", "stage", "label", "algorithm", "reward", "seed"]
    return Collection(
        runs=pd.DataFrame([run_row(run) for run in kept]) if kept else pd.DataFrame(columns=columns),
        queries=Queries(source, {run.name: run.metrics for run in kept}),
        source=source,
        problems=said,
        settings={run.name: flatten(run.identity) for run in kept if run.identity is not None},
    )
