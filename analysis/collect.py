"""Run directories to data frames: what is finished and sound, and by name what is not.

A run that cannot be averaged with the others is left out whole and reported; nothing is mended here. The form of a run
directory is in docs/results-schema.md.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rlbench.errors import BadInput

SCHEMA = 1
"""Version of result.json that this reader knows."""

STAGES = ("oracle", "zero_shot", "sft", "rl")
KEYS = ("context_id", "sample")
"""Columns that name a query."""

RESULT_FIELDS: dict[str, type | tuple[type, ...]] = {
    "experiment": str,
    "dataset": str,
    "model": str,
    "stage": str,
    "label": str,
    "seed": int,
    "hash": str,
    "list_length": int,
    "cutoffs": list,
    "checkpoint": dict,
    "metrics": dict,
    "budget": dict,
}
BUDGET_FIELDS = ("prompts", "completions", "generated_tokens", "updates")
LATER_BUDGET_FIELDS = (
    ("trained_tokens",),
    ("evaluation_tokens",),
    ("attempts",),
    ("peak_memory_bytes", "process"),
    ("peak_memory_bytes", "gpu"),
    ("energy_joules", "cpu"),
    ("energy_joules", "gpu"),
)
"""Paths in a budget that not every run of the schema has, or that may be null: NaN there."""
SPLITS = ("train", "validation", "test")
NUMBER = (int, float)
MEAN_TOLERANCE = 1e-6
"""How far result.json may be from the mean of the predictions, for rounding."""


@dataclass(frozen=True)
class Problem:
    """What a user must know about one run.

    Attributes:
        run: its directory, below the folder that was searched.
        reason: what is wrong and, where there is something to do, what.
        left_out: whether the run is left out of every table and curve.
    """

    run: str
    reason: str
    left_out: bool = True

    def __str__(self) -> str:
        return f"{self.run}: {self.reason}"


class Unusable(Exception):
    """A run that cannot be used; the message says why."""


@dataclass(frozen=True)
class Run:
    """One finished run as read from its directory.

    Attributes:
        name: its directory, below the folder that was searched.
        result: result.json.
        identity: the settings that its hash was made from (identity.json), seed aside; None where there is none.
        queries: one row a test sample: context_id, sample, n_truth and the float column of each per-query metric.
        curves: metrics.jsonl: step, split, metric, value; for a step that was measured twice, the later value.
        notices: what the user should know though the run is used.
    """

    name: str
    result: Mapping[str, Any]
    identity: Mapping[str, Any] | None
    queries: pd.DataFrame
    curves: pd.DataFrame
    notices: tuple[str, ...] = ()

    @property
    def cell(self) -> tuple[Any, ...]:
        """What may occur once: a seed of a row of a table."""
        return (*self.row, self.result["seed"])

    @property
    def row(self) -> tuple[str, ...]:
        return (*self.group, self.result["label"])

    @property
    def group(self) -> tuple[str, ...]:
        """What one table shows together."""
        return tuple(self.result[key] for key in ("experiment", "dataset", "model"))

    @property
    def protocol(self) -> tuple[Any, ...]:
        """What two runs must share for their test numbers to be compared: lists, cut-offs, and the queries."""
        queries = pd.util.hash_pandas_object(self.queries[[*KEYS, "n_truth"]], index=False).to_numpy()
        return self.result["list_length"], tuple(self.result["cutoffs"]), len(queries), int(queries.sum())


@dataclass(frozen=True)
class Collection:
    """Every usable run below a folder, as frames that share the column `run`.

    Attributes:
        runs: one row a run: run, experiment, dataset, model, stage, label, algorithm, reward, seed, hash, list_length,
            cutoffs (tuple), checkpoint_rule, checkpoint_step, stopped_update (NaN unless it stopped early), the budget
            (prompts, completions, generated_tokens, updates; seconds and seconds_<phase>; trained_tokens,
            evaluation_tokens, attempts, peak_memory_bytes_<of>, energy_joules_<of>, each NaN where it is unknown) and
            validation.<metric>, test.<metric>. Sorted by name.
        queries: one row a run and test sample: run, context_id, sample, n_truth and the per-query metrics.
        curves: one row a run and measurement: run, step, split, metric, value (NaN where the run wrote NaN).
        problems: what is left out or odd, by run.
        settings: run to the settings that its hash was made from, dotted key to value, without seeds of training; a run
            without identity.json is absent.
    """

    runs: pd.DataFrame
    queries: pd.DataFrame
    curves: pd.DataFrame
    problems: tuple[Problem, ...] = field(default=())
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def groups(self) -> "list[Collection]":
        """One collection for each experiment, dataset and model, in the order of their names; without problems."""
        parts = []
        for _, runs in self.runs.groupby(["experiment", "dataset", "model"], sort=True):
            names = set(runs["run"])
            queries, curves = (frame[frame["run"].isin(names)] for frame in (self.queries, self.curves))
            settings = {run: known for run, known in self.settings.items() if run in names}
            parts.append(Collection(runs.reset_index(drop=True), queries, curves, settings=settings))
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
            runs.append(read_run(path, name))
        except Unusable as error:
            problems.append(Problem(name, str(error)))
    for screen in (_duplicates, _mixed_settings, _other_protocols):
        refused = screen(runs)
        problems += refused
        names = {problem.run for problem in refused}
        runs = [run for run in runs if run.name not in names]
    problems += [Problem(run.name, notice, left_out=False) for run in runs for notice in run.notices]
    return _frames(runs, tuple(sorted(problems, key=lambda problem: (not problem.left_out, problem.run))))


def find_runs(folder: Path) -> list[Path]:
    """Directories that hold STATUS, at any depth, in the order of their names; none is searched inside a run."""
    found = []
    for directory, below, files in os.walk(folder):
        if "STATUS" in files:
            found.append(Path(directory))
            below.clear()
    return sorted(found)


def read_run(path: Path, name: str) -> Run:
    """Read one run directory.

    Raises:
        Unusable: where it is not done, half-written, of another schema version or holds NaN test metrics.
    """
    status, _, reason = (path / "STATUS").read_text(encoding="utf-8").partition("\n")
    if status != "done":
        raise Unusable(_unfinished(status, reason.strip()))
    result = _read_result(path)
    queries = _read_queries(path, result)
    curves = _read_curves(path)
    identity = path / "identity.json"
    return Run(
        name=name,
        result=result,
        identity=_without_seeds(_read_json(identity)) if identity.exists() else None,
        queries=queries,
        curves=curves,
        notices=(*_stop_notices(result), *_nan_notices(curves)),
    )


def _unfinished(status: str, reason: str) -> str:
    if status == "failed":
        return f"failed{f' ({reason})' if reason else ''}; the command that started it resumes it"
    if status == "running":
        return "not finished (running or interrupted); the command that started it resumes it"
    if status == "interrupted":
        return f"interrupted{f' ({reason})' if reason else ''}; the command that started it resumes it"
    if status == "pruned":
        return reason
    return f"STATUS says '{status}', which is none of running, interrupted, done, failed, pruned"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Unusable(f"half-written: says done but has no {path.name}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Unusable(f"half-written: {path.name} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise Unusable(f"half-written: {path.name} holds no object")
    return content


def _read_result(path: Path) -> dict[str, Any]:
    """result.json, checked against the fields that every reader here relies on."""
    result = _read_json(path / "result.json")
    if result.get("schema") != SCHEMA:
        raise Unusable(f"result.json is of schema version {result.get('schema')!r}; this reader knows {SCHEMA}")
    bad = [key for key, kind in RESULT_FIELDS.items() if not isinstance(result.get(key), kind)]
    if bad:
        raise Unusable(f"half-written: result.json lacks {', '.join(bad)}, or has another type there")
    if result["stage"] not in STAGES:
        raise Unusable(f"result.json names the stage '{result['stage']}', which is none of {', '.join(STAGES)}")
    if not result["cutoffs"]:
        raise Unusable("result.json has no cut-offs")
    budget = result["budget"]
    bad = [f"budget.{key}" for key in BUDGET_FIELDS if not isinstance(budget.get(key), NUMBER)]
    seconds = budget.get("seconds")
    if not isinstance(seconds, dict) or not isinstance(seconds.get("total"), NUMBER):
        bad.append("budget.seconds.total")
    if not isinstance(result["checkpoint"].get("step"), int):
        bad.append("checkpoint.step")
    for key in ("algorithm", "reward") if result["stage"] == "rl" else ():
        if not isinstance(result.get(key), str):
            bad.append(key)
    metrics = result["metrics"]
    for split in ("validation", "test"):
        values = metrics.get(split, {})
        wanted = required_metrics(result["cutoffs"]) if split == "test" else []
        bad += [f"metrics.{split}.{name}" for name in wanted if not isinstance(values.get(name), NUMBER)]
        nan = [name for name, value in values.items() if isinstance(value, NUMBER) and not math.isfinite(value)]
        if nan:
            raise Unusable(f"{split} metrics that are NaN or infinite in result.json: {', '.join(sorted(nan))}")
    if bad:
        raise Unusable(f"half-written: result.json lacks {', '.join(bad)}, or has another type there")
    return result


def required_metrics(cutoffs: Sequence[int]) -> list[str]:
    """Per-query metrics that every run must have on test."""
    return [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in cutoffs] + ["in_catalog"]


def _read_queries(path: Path, result: Mapping[str, Any]) -> pd.DataFrame:
    """Per-query metrics on test at the checkpoint that the result is of, sorted by query."""
    file = path / f"predictions-test-{result['checkpoint']['step']}.parquet"
    wanted = required_metrics(result["cutoffs"])
    try:
        schema = pq.read_schema(file)
        absent = [name for name in [*KEYS, "n_truth", *wanted] if name not in schema.names]
        if absent:
            raise Unusable(f"{file.name} has no column {', '.join(absent)}")
        metrics = [column.name for column in schema if pa.types.is_floating(column.type)]
        table = pq.read_table(file, columns=[*KEYS, "n_truth", *metrics])
    except FileNotFoundError:
        raise Unusable(f"half-written: says done but has no {file.name}") from None
    except pa.ArrowInvalid as error:
        raise Unusable(f"half-written: {file.name} is not parquet ({error})") from None
    queries = table.to_pandas().sort_values(list(KEYS), kind="stable", ignore_index=True)
    if queries.empty:
        raise Unusable(f"{file.name} holds no sample")
    if queries.duplicated(list(KEYS)).any():
        raise Unusable(f"{file.name} holds the same (context_id, sample) twice")
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


def _read_curves(path: Path) -> pd.DataFrame:
    """metrics.jsonl as step, split, metric, value; empty where the run measured nothing."""
    file = path / "metrics.jsonl"
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file.exists() else (), start=1):
        try:
            row = json.loads(line)
            rows.append((int(row["step"]), str(row["split"]), str(row["metric"]), float(row["value"])))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            raise Unusable(f"half-written: line {number} of metrics.jsonl is not a measurement") from None
    kinds = {"step": "int64", "split": "str", "metric": "str", "value": "float64"}
    frame = pd.DataFrame(rows, columns=list(kinds)).astype(kinds)
    keys = ["split", "metric", "step"]
    return frame.drop_duplicates(keys, keep="last").sort_values(keys, kind="stable", ignore_index=True)


def _stop_notices(result: Mapping[str, Any]) -> tuple[str, ...]:
    stopped = result.get("stopped")
    return (f"stopped early at update {stopped['update']}: {stopped['reason']}",) if stopped else ()


def _nan_notices(curves: pd.DataFrame) -> tuple[str, ...]:
    """One sentence for each curve that is not finite somewhere."""
    notices = []
    for (split, metric), part in curves.groupby(["split", "metric"], sort=True):
        bad = part[~np.isfinite(part["value"])]
        if len(bad):
            where = f"{len(bad)} of {len(part)} points, first at update {bad['step'].min()}"
            notices.append(f"{split} {metric} is NaN or infinite at {where}: a gap in the curve")
    return tuple(notices)


def _without_seeds(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs of one row must share: all settings but the seeds of training."""
    shared = {key: value for key, value in identity.items() if key != "seed"}
    if isinstance(shared.get("sft"), dict):
        shared["sft"] = {key: value for key, value in shared["sft"].items() if key != "seed"}
    return shared


def _by(runs: Sequence[Run], key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    parts: dict[Any, list[Run]] = {}
    for run in runs:
        parts.setdefault(key(run), []).append(run)
    return parts


def _duplicates(runs: Sequence[Run]) -> list[Problem]:
    """Runs of one label and seed: which of them is meant, only the user knows."""
    problems = []
    for same in _by(runs, lambda run: run.cell).values():
        for run in same if len(same) > 1 else ():
            others = [other for other in same if other is not run]
            problems.append(
                Problem(
                    run.name,
                    f"duplicate cell: {run.result['label']} seed {run.result['seed']} is also in "
                    f"{', '.join(other.name for other in others)}{_difference(same)}; all are left out: move away all "
                    "but one, or give each setting an experiment name of its own",
                )
            )
    return problems


def _mixed_settings(runs: Sequence[Run]) -> list[Problem]:
    """Runs of one label whose settings differ in more than the seed: their mean would be of nothing."""
    problems = []
    for row in _by(runs, lambda run: run.row).values():
        known = [run for run in row if run.identity is not None]
        if any(run.identity != known[0].identity for run in known):
            problems += [
                Problem(
                    run.name,
                    f"the runs of {run.result['label']} differ in more than the seed{_difference(known)}; all are left "
                    "out: give each setting an experiment name of its own",
                )
                for run in row
            ]
    return problems


def _other_protocols(runs: Sequence[Run]) -> list[Problem]:
    """Runs that were judged on other queries, lists or cut-offs than most runs beside them."""
    problems = []
    for group in _by(runs, lambda run: run.group).values():
        counts = Counter(run.protocol for run in group)
        kept = max(counts, key=lambda protocol: (counts[protocol], protocol[2], protocol))
        for run in group:
            if run.protocol != kept:
                problems.append(
                    Problem(
                        run.name,
                        f"judged on {_words(run.protocol)}, but most runs beside it on {_words(kept)}"
                        f"{'' if run.protocol[:3] != kept[:3] else ' that are not the same'}",
                    )
                )
    return problems


def _words(protocol: tuple[Any, ...]) -> str:
    length, cutoffs, queries, _ = protocol
    return f"{queries} samples, lists of {length}, cut-offs {', '.join(map(str, cutoffs))}"


def _difference(runs: Sequence[Run]) -> str:
    """ " (they differ in a.b: 1, 2)" where the settings are known and differ, else ""."""
    flat = [_flatten(run.identity) for run in runs if run.identity is not None]
    keys = sorted({key for settings in flat for key in settings})
    parts = []
    for key in keys:
        values = list(dict.fromkeys(repr(settings.get(key)) for settings in flat))
        if len(values) > 1:
            parts.append(f"{key}: {', '.join(values)}")
    return f" (they differ in {'; '.join(parts)})" if parts else ""


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _frames(runs: Sequence[Run], problems: tuple[Problem, ...]) -> Collection:
    columns = ["run", "experiment", "dataset", "model", "stage", "label", "algorithm", "reward", "seed"]
    table = pd.DataFrame([_run_row(run) for run in runs]) if runs else pd.DataFrame(columns=columns)
    return Collection(
        runs=table,
        queries=_stack([(run.name, run.queries) for run in runs]),
        curves=_stack([(run.name, run.curves) for run in runs]),
        problems=problems,
        settings={run.name: _flatten(run.identity) for run in runs if run.identity is not None},
    )


def _stack(parts: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    if not parts:
        return pd.DataFrame(columns=["run"])
    return pd.concat([frame.assign(run=name) for name, frame in parts], ignore_index=True)


def _run_row(run: Run) -> dict[str, Any]:
    result, budget = run.result, run.result["budget"]
    row = {"run": run.name} | {key: result[key] for key in ("experiment", "dataset", "model", "stage", "label")}
    row |= {"algorithm": result.get("algorithm"), "reward": result.get("reward"), "variant": result.get("variant")}
    if row["variant"] and row["reward"]:
        row["reward"] = f"{row['reward']} @ {row['variant']}"
    row |= {"seed": result["seed"], "hash": result["hash"], "list_length": result["list_length"]}
    row |= {"cutoffs": tuple(result["cutoffs"]), "checkpoint_rule": result["checkpoint"].get("rule")}
    row |= {"checkpoint_step": result["checkpoint"]["step"]} | {key: budget[key] for key in BUDGET_FIELDS}
    row["stopped_update"] = (result.get("stopped") or {}).get("update", math.nan)
    row |= {"_".join(path): _number(budget, path) for path in LATER_BUDGET_FIELDS}
    seconds = budget["seconds"]
    row |= {"seconds": seconds["total"]} | {f"seconds_{k}": v for k, v in seconds.items() if k != "total"}
    for split in ("validation", "test"):
        row |= {f"{split}.{name}": value for name, value in result["metrics"].get(split, {}).items()}
    return row


def _number(values: Mapping[str, Any], path: Sequence[str]) -> float:
    """The number at a path of keys; NaN where there is none."""
    found: Any = values
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, NUMBER) else math.nan
