"""The runs of a folder as one `Collection`, and `python -m analysis.collect`, which stores them as parquet.

A run that cannot be averaged with the others is excluded entirely and reported; nothing is repaired. Small facts are
kept in memory; per-query scores and curves are read on demand. The format of a run directory is in
docs/results-schema.md, the form of a collection in docs/collections.md.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from analysis import collected
from analysis.command import (
    COLLECTED,
    add_folder,
    default_folder,
    make_parser,
    refuse,
    refusing,
    show_problems,
    terminal,
)
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
from analysis.screening import screened
from analysis.sources import CURVES, SPENT, Queries, RunFolders, Source, stack
from rlbench.base.errors import BadInput

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
        runs: one row per run, sorted by name: run, experiment, dataset, model, stage, label, algorithm, reward, seed,
            hash, list_length, cutoffs (tuple), checkpoint_rule, checkpoint_step, stopped_update (NaN unless it stopped
            early), demonstrations_count and demonstrations_without_end (NaN if none were used), the budget (prompts,
            completions, generated_tokens, updates; seconds and seconds_<phase>; trained_tokens, evaluation_tokens,
            attempts, peak_memory_bytes_<of>, energy_joules_<of>, each NaN if unknown), adopted_from (directory of the
            run of another experiment that spent the budget, else None; totals count it once, see `analysis.costs`),
            validation.<metric> and test.<metric>.
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
    """Read every run below a folder, or in a stored collection of such a folder (`analysis.collected`).

    Raises:
        BadInput: if there is no such folder, or it is a collection with another format version.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}")
    if collected.is_collection(folder):
        records = collected.load_records(folder)
        return assemble(*collected.told(records), collected.Parts(folder, records))
    runs, problems = [], []
    for path in tqdm(find_runs(folder), desc="reading", unit="run", delay=2, disable=None, dynamic_ncols=True):
        name = path.relative_to(folder).as_posix()
        try:
            runs.append(read_run(path, name)[0])
        except Unusable as error:
            problems.append(Problem(name, str(error)))
    return assemble(runs, problems, RunFolders(folder, {run.name: run.result for run in runs}))


def assemble(runs: Sequence[Run], problems: Sequence[Problem], source: Source) -> Collection:
    """A collection of the runs that can be compared.

    Args:
        runs: all readable runs, sorted by name.
        problems: problems of the other runs.
        source: source of all runs.
    """
    kept, said = screened(runs, problems)
    columns = ["run", "experiment", "dataset", "model", "stage", "label", "algorithm", "reward", "seed"]
    return Collection(
        runs=pd.DataFrame([run_row(run) for run in kept]) if kept else pd.DataFrame(columns=columns),
        queries=Queries(source, {run.name: run.metrics for run in kept}),
        source=source,
        problems=said,
        settings={run.name: flatten(run.identity) for run in kept if run.identity is not None},
    )


DESCRIPTION = """\
Make one collection of all runs below RUNS: tables that pandas, pyarrow and duckdb read, and that every command of
analysis takes in place of RUNS.

Writes to the --out folder:
  queries/       run, context_id, sample, cluster_id, metric, value: per-query scores on test, a part a run
  curves/        run, step, split, metric, value: what was measured over training, a part a run
  runs.parquet   one row a run: result, budget, settings, provenance
  problems.json  what is left out or odd, and why

Given again, it reads the runs that have changed, adds and removes others, and takes the rest over. Stopped, it leaves
the collection as it was, and goes on the next time. Needs no model and no GPU.
"""
EPILOG = """\
example:  python -m analysis.collect runs/mini --out reports/mini/collected
          python -m analysis.report reports/mini/collected --out reports/mini
exit code: 0 written or up to date (whatever was left out); 2 no such folder, or --out holds something else
"""


@refusing("collect")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = make_parser("collect", DESCRIPTION, EPILOG, "folder with run directories at any depth")
    add_folder(parser, f"reports/<RUNS below runs/>/{COLLECTED}")
    options = parser.parse_args(arguments)
    out = options.out or default_folder(options.runs) / COLLECTED
    try:
        done = collected.update(options.runs, out)
        collection = collect(out)
    except BadInput as error:
        return refuse("collect", error)
    console = terminal()
    show_problems(console, options.runs, collection.problems)
    counts = f"{len(collection.runs)} runs used; {done.read} read, {done.kept} taken over, {done.gone} gone"
    console.print(f"{out}: {counts}", markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
