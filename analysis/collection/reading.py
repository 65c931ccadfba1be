"""Read and check one run directory, or say why it cannot be used.

The format of a run directory is in docs/results-schema.md. Nothing is repaired.
"""

import contextlib
import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from analysis.problems import Unusable
from rlbench.base.digests import LIST_FILE, difference, read_list
from rlbench.base.nested import flatten
from rlbench.base.records import SHOWN, Damaged, RowsFile
from rlbench.config.row_names import short_names
from rlbench.runs import tables
from rlbench.runs.directory import foreign_links
from rlbench.runs.identity import config_hash
from rlbench.runs.record import (
    BUDGET,
    BUDGET_ROWS,
    COMPLETIONS,
    COMPUTING,
    IDENTITY,
    MANIFEST,
    MEASUREMENTS,
    PHASES,
    RESULT,
    ROLLOUTS,
    SETTINGS,
    OtherVersion,
    Result,
    Spent,
    read_result,
    required_metrics,
)
from rlbench.runs.tables import Kind, predictions_file

READ = (
    *(RESULT.name, IDENTITY.name, SETTINGS, MANIFEST.name, BUDGET.name),
    *(MEASUREMENTS.name, BUDGET_ROWS.name, COMPLETIONS.name, ROLLOUTS.name),
    *("predictions-*.parquet", "samples-*.parquet"),
)
"""Files of a finished run that the analysis reads. The run's file list must name each one that exists."""
KEYS = (tables.CONTEXT.name, tables.SAMPLE.name)
"""Columns that identify a query."""
CLUSTER = tables.CLUSTER.name
"""Column of the unit that intervals resample. Queries in one cluster are not independent."""
N_TRUTH = tables.N_TRUTH.name
"""Column with the number of relevant items: integers, not a metric."""
SPENDING = tuple(key for key in Spent.__annotations__ if key != "update")
"""Quantities in budget.jsonl, counted from the start of training to an update."""
BUDGET_FIELDS = ("prompts", "completions", "generated_tokens", "updates")
LATER_BUDGET_FIELDS = (
    *("trained_tokens", "evaluation_tokens", "attempts"),
    *("peak_memory_bytes.process", "peak_memory_bytes.gpu", "energy_joules.cpu", "energy_joules.gpu"),
    "reference_tokens",
    *(f"{group}.{phase}" for group in ("tokens_per_second", "mfu", "operations") for phase in COMPUTING),
    *("mfu.total", "peak.operations_per_second", "peak.devices"),
)
"""Dotted keys in a budget that may be absent or null, and are then NaN."""
NAMED_IN_ROWS = ("algorithm", "reward")
"""Changed settings of a clone that the name of its row has anyway."""
MEAN_TOLERANCE = 1e-6
"""Allowed difference between result.json and the mean of the predictions, due to rounding."""


@contextlib.contextmanager
def usable(name: str) -> Iterator[None]:
    """Turn a missing or damaged file of a finished run into `Unusable`."""
    try:
        yield
    except FileNotFoundError:
        raise Unusable(f"half-written: says done but has no {name}") from None
    except OtherVersion as error:
        raise Unusable(f"{name} {error}") from None
    except Damaged as error:
        raise Unusable(f"{name} {error}: put the file back from a copy, or make the run again") from None


@dataclass(frozen=True)
class FinishedRun:
    """One finished run, without its per-query scores and curves (`Content`).

    Attributes:
        name: its directory, relative to the folder that was searched.
        result: result.json.
        identity: the settings in its hash (identity.json), without training seeds; None without the file.
        metrics: names of the per-query test metrics, in the order of the predictions.
        samples: number of test samples.
        queries: digest of the test samples: their context_id, sample, cluster_id and n_truth.
        notices: warnings about a run that is still used.
    """

    name: str
    result: Result
    identity: Mapping[str, Any] | None
    metrics: tuple[str, ...]
    samples: int
    queries: str
    notices: tuple[str, ...] = ()

    @property
    def cell(self) -> tuple[Any, ...]:
        """Table row and seed. Only one run may have them."""
        return (*self.row, self.result["seed"])

    @property
    def row(self) -> tuple[str, ...]:
        return (*self.group, self.result["label"])

    @property
    def group(self) -> tuple[str, ...]:
        """Experiment, dataset and model: runs that share a table."""
        return tuple(self.result[key] for key in ("experiment", "dataset", "model"))

    @property
    def protocol(self) -> tuple[Any, ...]:
        """What two runs must share for a comparison of test numbers: list length, cut-offs and queries."""
        return self.result["list_length"], tuple(self.result["cutoffs"]), self.samples, self.queries


@dataclass(frozen=True)
class Content:
    """The large parts of a run.

    Attributes:
        queries: one row per test sample, sorted by context_id and sample: context_id, sample, cluster_id, n_truth and
            one float column per per-query metric.
        curves: metrics.jsonl: step, split, metric, value; for a step measured twice, the later value.
        spending: budget.jsonl: update and `SPENDING` until then, sorted by update; empty without the file.
    """

    queries: pd.DataFrame
    curves: pd.DataFrame
    spending: pd.DataFrame


def find_runs(folder: Path) -> list[Path]:
    """Sorted directories with a STATUS file, at any depth. Run directories are not searched for further runs."""
    found = []
    for directory, below, files in os.walk(folder):
        if "STATUS" in files:
            found.append(Path(directory))
            below.clear()
    return sorted(found)


def read_run(path: Path, name: str) -> tuple[FinishedRun, Content]:
    """Read one run directory.

    Raises:
        Unusable: if it is not done, is damaged or half-written, has another schema version, or has NaN test metrics.
    """
    if links := foreign_links(path):
        raise Unusable(
            f"{links[0].relative_to(path)} is a link to a place outside the run: replace it with the file itself"
        )
    status, _, reason = (path / "STATUS").read_text(encoding="utf-8", errors="replace").partition("\n")
    if status != "done":
        raise Unusable(_unfinished(status, reason.strip()))
    check_files(path)
    with usable(RESULT.name):
        result = read_result(path)
    content = Content(_read_queries(path, result), read_curves(path), read_spending(path))
    queries = content.queries
    return FinishedRun(
        name=name,
        result=result,
        identity=_read_identity(path, result),
        metrics=tuple(name for name in queries.columns if name not in (*KEYS, CLUSTER, N_TRUTH)),
        samples=len(queries),
        queries=_digest(queries),
        notices=(*_stop_notices(result), *_nan_notices(content.curves)),
    ), content


def _unfinished(status: str, reason: str) -> str:
    if status == "pruned":
        return reason
    if status == "running":
        return "not finished (running or interrupted); the command that started it resumes it"
    if status in ("failed", "interrupted"):
        return f"{status}{f' ({reason})' if reason else ''}; the command that started it resumes it"
    return f"STATUS says '{status[:SHOWN]}', which is none of running, interrupted, done, failed, pruned"


def check_files(path: Path) -> None:
    """Compare the files of a finished run with the list that it wrote at its end.

    Folders in it (model, checkpoints) may be gone, because the analysis does not read them.

    Raises:
        Unusable: names the first file that has changed or is not in the list; also if there is no list.
    """
    try:
        listed = read_list(path)
    except Damaged as error:
        wrong = str(error)
    else:
        own = {name: wanted for name, wanted in listed.items() if "/" not in name}
        wrong = next((words for name, wanted in own.items() if (words := difference(path / name, name, wanted))), "")
        found = sorted(file.name for pattern in READ for file in path.glob(pattern))
        if added := [] if wrong else [name for name in found if name not in own]:
            wrong = f"{added[0]} was not there when the run ended ({LIST_FILE} does not name it)"
    if wrong:
        raise Unusable(
            f"damaged: {wrong}. Restore the file from a backup, or move the folder away and repeat the command that "
            "made it"
        )


def _read_identity(path: Path, result: Result) -> dict[str, Any] | None:
    """The settings of a run, without training seeds; None without identity.json.

    Raises:
        Unusable: if they do not match the run's hash.
    """
    if not (path / IDENTITY.name).exists():
        return None
    with usable(IDENTITY.name):
        identity = IDENTITY.load(path)
    made = config_hash(identity)
    named = re.fullmatch(r"seed\d+-([0-9a-f]{8})", path.name)
    for where, digest in ((RESULT.name, result["hash"]), ("its folder's name", named[1] if named else made)):
        if digest != made:
            raise Unusable(
                f"identity.json has been edited, or is another run's: its hash is {made}, and {where} says {digest}. "
                "Put back the file that the run has written, or make the run again"
            )
    return _without_seeds(identity)


def read_scores(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """KEYS, CLUSTER and these columns of a run's predictions, sorted by query."""
    table = tables.read_columns(file, [*KEYS, CLUSTER, *columns])
    return table.sort_values(list(KEYS), kind="stable", ignore_index=True)


def _read_queries(path: Path, result: Result) -> pd.DataFrame:
    """The test predictions, checked."""
    file = path / predictions_file("test", result["checkpoint"]["step"])
    wanted = required_metrics(result["cutoffs"])
    named = (tables.CONTEXT, tables.SAMPLE, tables.CLUSTER, tables.N_TRUTH)
    kinds: dict[str, Kind] = {column.name: column.kind for column in named} | dict.fromkeys(wanted, "float")
    with usable(file.name):
        schema = tables.check_columns(file, kinds)
        metrics = [column.name for column in schema if pa.types.is_floating(column.type)]
        queries = read_scores(file, [N_TRUTH, *metrics])
    if queries.empty:
        raise Unusable(f"{file.name} holds no sample")
    if odd := [name for name in (*KEYS, CLUSTER, N_TRUTH) if queries[name].isna().any()]:
        raise Unusable(f"{file.name} has no {', '.join(odd)} in some rows")
    if queries.duplicated(list(KEYS)).any():
        raise Unusable(f"{file.name} holds the same (context_id, sample) twice")
    if (queries.groupby("context_id")[CLUSTER].nunique() > 1).any():
        raise Unusable(f"{file.name} puts samples of one context_id into several {CLUSTER}")
    values = queries[metrics].to_numpy(float)
    if not np.isfinite(values).all():
        columns = [name for name, bad in zip(metrics, ~np.isfinite(values).all(axis=0), strict=True) if bad]
        rows = int((~np.isfinite(values)).any(axis=1).sum())
        raise Unusable(f"{', '.join(columns)} NaN or infinite in {rows} of {len(queries)} samples of {file.name}")
    means = queries[wanted].mean()
    for name in wanted:
        if abs(means[name] - result["metrics"]["test"][name]) > MEAN_TOLERANCE:
            raise Unusable(
                f"result.json says {name} = {result['metrics']['test'][name]:.6f} on test, "
                f"but {file.name} averages {means[name]:.6f}"
            )
    return queries


def _digest(queries: pd.DataFrame) -> str:
    """Digest of the scored samples, independent of their scores."""
    digest = hashlib.sha256()
    for name in ("context_id", CLUSTER):
        digest.update("\0".join(map(str, queries[name])).encode())
    for name in ("sample", N_TRUTH):
        digest.update(queries[name].to_numpy("<i8").tobytes())
    return digest.hexdigest()[:16]


def _read_rows(path: Path, file: RowsFile[Any], kinds: Mapping[str, str]) -> pd.DataFrame:
    """The lines of a run's file as columns of these kinds; no rows without the file."""
    with usable(file.name):
        rows = file.load(path)
    return pd.DataFrame({key: list(map(itemgetter(key), rows)) for key in kinds}).astype(kinds)


def read_curves(path: Path) -> pd.DataFrame:
    """metrics.jsonl as step, split, metric, value; empty if the run measured nothing."""
    frame = _read_rows(path, MEASUREMENTS, {"step": "int64", "split": "str", "metric": "str", "value": "float64"})
    keys = ["split", "metric", "step"]
    return frame.drop_duplicates(keys, keep="last").sort_values(keys, kind="stable", ignore_index=True)


def read_spending(path: Path) -> pd.DataFrame:
    """budget.jsonl as update and `SPENDING`; empty without the file. The last line of an update counts."""
    frame = _read_rows(path, BUDGET_ROWS, {"update": "int64"} | dict.fromkeys(SPENDING, "float64"))
    return frame.drop_duplicates("update", keep="last").sort_values("update", ignore_index=True)


def _stop_notices(result: Mapping[str, Any]) -> tuple[str, ...]:
    stopped = result.get("stopped")
    return (f"stopped early at update {stopped['update']}: {stopped['reason']}",) if stopped else ()


def _nan_notices(curves: pd.DataFrame) -> tuple[str, ...]:
    """One sentence per curve with values that are not finite."""
    keys = ["split", "metric"]
    odd = curves[~np.isfinite(curves["value"])]
    if odd.empty:
        return ()
    points = curves.merge(odd[keys].drop_duplicates(), on=keys).groupby(keys).size()
    notices = []
    for (split, metric), bad in odd.groupby(keys, sort=True):
        where = f"{len(bad)} of {points[split, metric]} points, first at update {bad['step'].min()}"
        notices.append(f"{split} {metric} is NaN or infinite at {where}: a gap in the curve")
    return tuple(notices)


def _without_seeds(identity: Mapping[str, Any]) -> dict[str, Any]:
    """All settings except training seeds, which the runs of one row must share."""
    shared = {key: value for key, value in identity.items() if key != "seed"}
    if isinstance(shared.get("sft"), dict):
        shared["sft"] = {key: value for key, value in shared["sft"].items() if key != "seed"}
    if isinstance(shared.get("external"), dict):  # the lists of another seed are others
        shared["external"] = {key: value for key, value in shared["external"].items() if key != "sha256"}
    if isinstance(shared.get("clone"), dict):  # the parent of another seed is another run
        shared["clone"] = {key: value for key, value in shared["clone"].items() if key != "parent"}
    return shared


def run_row(run: FinishedRun) -> dict[str, Any]:
    """A run's row in `Collection.runs`."""
    result, budget = run.result, cast(dict[str, Any], run.result["budget"])
    flat = flatten(cast(dict[str, Any], result))
    row: dict[str, Any] = {"run": run.name}
    row |= {key: result[key] for key in ("experiment", "dataset", "model", "stage", "label")}
    row |= {key: result.get(key) for key in ("algorithm", "reward", "variant")}
    if row["variant"] and row["reward"]:
        row["reward"] = f"{row['reward']} @ {row['variant']}"
    row |= {key: result[key] for key in ("seed", "hash", "list_length")}
    row |= {"cutoffs": tuple(result["cutoffs"]), "checkpoint_rule": result["checkpoint"].get("rule")}
    row |= {"checkpoint_step": result["checkpoint"]["step"]} | {key: budget[key] for key in BUDGET_FIELDS}
    stopped = result.get("stopped")
    row["token_budget"] = result.get("token_budget", math.nan)
    row["stopped_update"] = stopped["update"] if stopped else math.nan
    row |= {f"demonstrations_{name}": _number(flat, f"demonstrations.{name}") for name in ("count", "without_end")}
    row |= {key.replace(".", "_"): _number(flat, f"budget.{key}") for key in LATER_BUDGET_FIELDS}
    row["adopted_from"] = budget.get("adopted_from")
    if clone := result.get("clone"):
        row["clone_of"] = f"step {clone['step']} of {clone['name']}"
        settings = dict(word.split("=", 1) for word in clone["changed"])
        names = short_names([key for key in settings if key not in NAMED_IN_ROWS])
        row["clone_changed"] = ", ".join(f"{name}={settings[key]}" for key, name in names.items())
        row["parent"] = clone["run"]
        row |= {f"inherited_{key}": value for key, value in (budget.get("inherited") or {}).items()}
    seconds = budget["seconds"]
    row |= {"seconds": seconds["total"]} | {f"seconds_{k}": v for k, v in seconds.items() if k in PHASES}
    for split in ("validation", "test"):
        row |= {f"{split}.{name}": value for name, value in result["metrics"].get(split, {}).items()}
    return row


def _number(flat: Mapping[str, Any], key: str) -> float:
    """The number with this dotted key, or NaN."""
    found = flat.get(key)
    return float(found) if isinstance(found, int | float) else math.nan
