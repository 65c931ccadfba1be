"""The runs of a folder as one `Collection`: what is finished and sound, and by name what is not.

A run that cannot be averaged with the others is left out whole and reported; nothing is mended here. Small facts are in
memory, per-query scores and curves are read when they are asked for. The form of a run directory is in
docs/results-schema.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.reading import (
    KEYS,
    SPENDING,
    STAGES,
    Problem,
    Run,
    Unusable,
    find_runs,
    flatten,
    read_run,
    required_metrics,
    run_row,
)
from analysis.screening import screen
from analysis.sources import CURVES, SPENT, Queries, RunFolders, Source, stack
from rlbench.errors import BadInput

__all__ = [
    "KEYS",
    "SPENDING",
    "STAGES",
    "Collection",
    "Problem",
    "Queries",
    "collect",
    "find_runs",
    "required_metrics",
]


@dataclass(frozen=True)
class Collection:
    """Every usable run below a folder.

    Attributes:
        runs: one row a run: run, experiment, dataset, model, stage, label, algorithm, reward, seed, hash, list_length,
            cutoffs (tuple), checkpoint_rule, checkpoint_step, stopped_update (NaN unless it stopped early), the budget
            (prompts, completions, generated_tokens, updates; seconds and seconds_<phase>; trained_tokens,
            evaluation_tokens, attempts, peak_memory_bytes_<of>, energy_joules_<of>, each NaN where it is unknown) and
            validation.<metric>, test.<metric>. Sorted by name.
        queries: per-query scores on test, read run by run (`analysis.tables.row_scores`).
        source: what scores and curves are read from.
        problems: what is left out or odd, by run.
        settings: run to the settings that its hash was made from, dotted key to value, without seeds of training; a run
            without identity.json is absent.
    """

    runs: pd.DataFrame
    queries: Queries
    source: Source
    problems: tuple[Problem, ...] = field(default=())
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row a run and measurement: run, step, split, metric, value (NaN where the run wrote NaN)."""
        return stack([(run, self.source.curves(run)) for run in self.runs["run"]], CURVES)

    @cached_property
    def spending(self) -> pd.DataFrame:
        """One row a run and logged update: run, update and `SPENDING` from the start of training to it; a run without
        budget.jsonl is absent."""
        return stack([(run, self.source.spending(run)) for run in self.runs["run"]], SPENT)

    def config(self, run: str) -> Mapping[str, Any]:
        """config.yaml of a run, dotted key to value.

        Raises:
            BadInput: where there is none, or it is no mapping in YAML.
        """
        return self.source.config(run)

    def groups(self) -> "list[Collection]":
        """One collection for each experiment, dataset and model, in the order of their names; without problems."""
        parts = []
        for _, runs in self.runs.groupby(["experiment", "dataset", "model"], sort=True):
            settings = {run: self.settings[run] for run in runs["run"] if run in self.settings}
            whole = runs.reset_index(drop=True)
            parts.append(Collection(whole, self.queries.of(runs["run"]), self.source, settings=settings))
        return parts


def collect(folder: Path) -> Collection:
    """Read every run below a folder.

    Raises:
        BadInput: where there is no such folder.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}")
    runs, problems = [], []
    for path in find_runs(folder):
        name = path.relative_to(folder).as_posix()
        try:
            runs.append(read_run(path, name)[0])
        except Unusable as error:
            problems.append(Problem(name, str(error)))
    return assemble(runs, problems, RunFolders(folder, {run.name: run.result for run in runs}))


def assemble(runs: Sequence[Run], problems: Sequence[Problem], source: Source) -> Collection:
    """A collection of the runs that can stand beside each other.

    Args:
        runs: all that could be read, sorted by name.
        problems: with those that could not.
        source: of all runs.
    """
    kept, refused = screen(runs)
    notices = [Problem(run.name, notice, left_out=False) for run in kept for notice in run.notices]
    said = sorted([*problems, *refused, *notices], key=lambda problem: (not problem.left_out, problem.run))
    columns = ["run", "experiment", "dataset", "model", "stage", "label", "algorithm", "reward", "seed"]
    return Collection(
        runs=pd.DataFrame([run_row(run) for run in kept]) if kept else pd.DataFrame(columns=columns),
        queries=Queries(source, {run.name: run.metrics for run in kept}),
        source=source,
        problems=tuple(said),
        settings={run.name: flatten(run.identity) for run in kept if run.identity is not None},
    )
