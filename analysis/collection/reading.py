"""Read and check one run directory, or say why it cannot be used.

The format of a run directory is in docs/results-schema.md. Nothing is repaired.
"""

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rlbench.base.digests import LIST_FILE, Damaged, difference, read_list
from rlbench.base.user_files import BAD_JSON
from rlbench.config.bounds import LONGEST_LIST
from rlbench.config.names import odd_name
from rlbench.runs.directory import foreign_links
from rlbench.runs.identity import config_hash
from rlbench.runs.record import SCHEMA

STAGES = ("oracle", "zero_shot", "sft", "rl")
READ = (
    *("result.json", "identity.json", "config.yaml", "manifest.json", "budget.json"),
    *("metrics.jsonl", "budget.jsonl", "completions.jsonl", "rollouts.jsonl"),
    *("predictions-*.parquet", "samples-*.parquet"),
)
"""Files of a finished run that the analysis reads. The run's file list must name each one that exists."""
KEYS = ("context_id", "sample")
"""Columns that identify a query."""
CLUSTER = "cluster_id"
"""Column of the unit that intervals resample. Queries in one cluster are not independent."""
N_TRUTH = "n_truth"
"""Column with the number of relevant films: integers, not a metric."""

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
NAMES = ("experiment", "dataset", "model", "label", "hash")
"""Fields that become parts of paths or are shown as names."""
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
"""Paths in a budget that may be absent or null, and are then NaN."""
SPENDING = ("completions", "prompts", "generated_tokens", "trained_tokens", "seconds")
"""Quantities in budget.jsonl, counted from the start of training to an update."""
SPLITS = ("train", "validation", "test")
NUMBER = (int, float)
SHOWN = 40
"""Number of characters of an invalid value that a message shows."""
NESTED = 100
"""Largest nesting depth of a run's JSON files. Real ones have about ten levels."""
MEAN_TOLERANCE = 1e-6
"""Allowed difference between result.json and the mean of the predictions, due to rounding."""


@dataclass(frozen=True)
class Problem:
    """A problem of one run.

    Attributes:
        run: its directory, relative to the folder that was searched.
        reason: what is wrong, and what to do about it if anything.
        left_out: whether the run is excluded from all tables and curves.
    """

    run: str
    reason: str
    left_out: bool = True

    def __str__(self) -> str:
        return printable(f"{self.run}: {self.reason}")


CONTROL = ("Cc", "Cf", "Cs")
"""Unicode categories that a terminal obeys or cannot show: control, format, lone surrogate."""


def printable(text: str) -> str:
    """Escape control characters for a terminal, so that a name cannot move the cursor."""
    return "".join(
        letter.encode("unicode_escape").decode() if letter != "\n" and category(letter) in CONTROL else letter
        for letter in text
    )


class Unusable(Exception):
    """Raised for a run that cannot be used; the message says why."""


@dataclass(frozen=True)
class Run:
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
    result: Mapping[str, Any]
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


def read_run(path: Path, name: str) -> tuple[Run, Content]:
    """Read one run directory.

    Raises:
        Unusable: if it is not done, is damaged or half-written, has another schema version, or has NaN test metrics.
    """
    if links := foreign_links(path):
        raise Unusable(f"{links[0].relative_to(path)} is a link that leads out of the run: put the file itself there")
    status, _, reason = (path / "STATUS").read_text(encoding="utf-8", errors="replace").partition("\n")
    if status != "done":
        raise Unusable(_unfinished(status, reason.strip()))
    check_files(path)
    result = _read_result(path)
    content = Content(_read_queries(path, result), read_curves(path), read_spending(path))
    queries = content.queries
    return Run(
        name=name,
        result=result,
        identity=_read_identity(path, result),
        metrics=tuple(name for name in queries.columns if name not in (*KEYS, CLUSTER, N_TRUTH)),
        samples=len(queries),
        queries=_digest(queries),
        notices=(*_stop_notices(result), *_nan_notices(content.curves)),
    ), content


def _unfinished(status: str, reason: str) -> str:
    if status == "failed":
        return f"failed{f' ({reason})' if reason else ''}; the command that started it resumes it"
    if status == "running":
        return "not finished (running or interrupted); the command that started it resumes it"
    if status == "interrupted":
        return f"interrupted{f' ({reason})' if reason else ''}; the command that started it resumes it"
    if status == "pruned":
        return reason
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
            f"damaged: {wrong}. Put the file back from a copy, or move the folder away, and the command that made it "
            "makes it again"
        )


def read_text(path: Path) -> str:
    """The text of a file of a finished run.

    Raises:
        Unusable: if there is no such file, or it is not text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Unusable(f"half-written: says done but has no {path.name}") from None
    except IsADirectoryError:
        raise Unusable(f"{path.name} is a folder, and a file belongs there") from None
    except UnicodeDecodeError as error:
        raise Unusable(f"half-written: {path.name} is not text in UTF-8 ({error})") from None


def whole_number(value: object) -> bool:
    """Whether a value is a non-negative integer that fits into 64 bits. Booleans do not count."""
    return type(value) is int and 0 <= value < 2**63


def finite(value: object) -> bool:
    """Whether a value is a finite number that fits into a float. Booleans do not count."""
    if type(value) is int:
        return abs(value) < 2**1023
    return isinstance(value, float) and math.isfinite(value)


def is_text(value: object) -> bool:
    """Whether a value is text that can be written, without lone surrogates."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def is_deep(content: Any) -> bool:
    """Return whether lists and objects are nested deeper than `NESTED` levels."""
    level = [content]
    for _ in range(NESTED):
        inner = [value for one in level for value in (one.values() if isinstance(one, dict) else one)]
        level = [value for value in inner if isinstance(value, dict | list)]
    return bool(level)


def is_measurement(row: Mapping[str, Any]) -> bool:
    """Return whether a line of metrics.jsonl has all fields with the right types."""
    value = row.get("value")
    named = is_text(row.get("split")) and is_text(row.get("metric"))
    return whole_number(row.get("step")) and named and (isinstance(value, float) or finite(value))


def parse_json(text: str) -> Any:
    """`json.loads` with interned keys, so that keys shared by many runs are stored once."""
    return json.loads(text, object_pairs_hook=lambda pairs: {sys.intern(key): value for key, value in pairs})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a finished run.

    Raises:
        Unusable: if there is none, or it has text that cannot be written.
    """
    text = read_text(path)
    try:
        content = parse_json(text)
        halves = not is_text(json.dumps(content, ensure_ascii=False))
    except BAD_JSON as error:
        raise Unusable(f"half-written: {path.name} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise Unusable(f"half-written: {path.name} holds no object")
    if is_deep(content):
        raise Unusable(f"{path.name} is nested more than {NESTED} levels deep: put the file back from a copy")
    if halves:
        raise Unusable(f"{path.name} holds half a character (a lone surrogate): put the file back from a copy")
    return content


def _read_result(path: Path) -> dict[str, Any]:
    """result.json, with all fields that the analysis relies on checked."""
    result = read_json(path / "result.json")
    if result.get("schema") != SCHEMA:
        raise Unusable(
            f"result.json is of schema version {result.get('schema')!r} and this reader knows {SCHEMA}: read it with "
            "the version of rlbench that made it, or make the run again"
        )
    bad = [key for key, kind in RESULT_FIELDS.items() if not isinstance(result.get(key), kind)]
    if bad:
        raise Unusable(f"half-written: result.json lacks {', '.join(bad)}, or has another type there")
    if result["stage"] not in STAGES:
        raise Unusable(f"result.json names the stage '{result['stage']}', which is none of {', '.join(STAGES)}")
    if odd := [f"{key} = {result[key]!r} {why}" for key in NAMES if (why := odd_name(result[key]))]:
        raise Unusable(f"result.json has names that are none: {'; '.join(odd)}")
    if not result["cutoffs"]:
        raise Unusable("result.json has no cut-offs")
    budget = result["budget"]
    bad = [key for key in ("seed", "list_length") if not whole_number(result[key])]
    bad += [] if all(whole_number(k) and 0 < k <= LONGEST_LIST for k in result["cutoffs"]) else ["cutoffs"]
    bad += [] if "list_length" in bad or result["list_length"] <= LONGEST_LIST else ["list_length"]
    bad += [f"budget.{key}" for key in BUDGET_FIELDS if not finite(budget.get(key))]
    seconds = budget.get("seconds")
    if not isinstance(seconds, dict) or not finite(seconds.get("total")):
        bad.append("budget.seconds.total")
    else:
        bad += [f"budget.seconds.{key}" for key, value in seconds.items() if not (value is None or finite(value))]
    bad += ["budget." + ".".join(keys) for keys in LATER_BUDGET_FIELDS if not _later(budget, keys)]
    bad += [] if isinstance(budget.get("adopted_from"), str | None) else ["budget.adopted_from"]
    checkpoint = result["checkpoint"]
    bad += [] if whole_number(checkpoint.get("step")) else ["checkpoint.step"]
    bad += [] if isinstance(checkpoint.get("rule"), str | None) else ["checkpoint.rule"]
    for key in ("algorithm", "reward", "variant"):
        needed = result["stage"] == "rl" and key != "variant"
        if not isinstance(result.get(key), str if needed else str | None):
            bad.append(key)
    stopped = result.get("stopped")
    if stopped is not None and not (
        isinstance(stopped, dict) and whole_number(stopped.get("update")) and isinstance(stopped.get("reason"), str)
    ):
        bad.append("stopped")
    metrics = result["metrics"]
    for split in ("validation", "test"):
        values = metrics.get(split, {})
        if not isinstance(values, dict):
            bad.append(f"metrics.{split}")
            continue
        wanted = required_metrics(result["cutoffs"]) if split == "test" and "cutoffs" not in bad else []
        bad += [f"metrics.{split}.{name}" for name in wanted if not isinstance(values.get(name), NUMBER)]
        bad += [f"metrics.{split}.{name}" for name, value in values.items() if not _mean(value)]
        nan = [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
        if nan:
            raise Unusable(f"{split} metrics that are NaN or infinite in result.json: {', '.join(sorted(nan))}")
    if bad:
        raise Unusable(f"half-written: result.json lacks {', '.join(dict.fromkeys(bad))}, or has another type there")
    return result


def _mean(value: object) -> bool:
    """Whether a value can be a metric: a number, or null if there was nothing to measure."""
    return value is None or isinstance(value, float) or finite(value)


def _later(budget: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Whether the value at a path of keys in a budget is a number, null or absent."""
    found: Any = budget
    for key in keys:
        if found is None:
            return True
        if not isinstance(found, dict):
            return False
        found = found.get(key)
    return found is None or finite(found)


def _read_identity(path: Path, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of a run, without training seeds; None without identity.json.

    Raises:
        Unusable: if they do not match the run's hash.
    """
    file = path / "identity.json"
    if not file.exists():
        return None
    identity = read_json(file)
    made = config_hash(identity)
    named = re.fullmatch(r"seed\d+-([0-9a-f]{8})", path.name)
    for where, digest in (("result.json", result["hash"]), ("its folder's name", named[1] if named else made)):
        if digest != made:
            raise Unusable(
                f"identity.json has been edited, or is another run's: its hash is {made}, and {where} says {digest}. "
                "Put back the file that the run has written, or make the run again"
            )
    return _without_seeds(identity)


def required_metrics(cutoffs: Sequence[int]) -> list[str]:
    """Per-query test metrics that every run must have."""
    return [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in cutoffs] + ["in_catalog"]


def predictions_file(result: Mapping[str, Any]) -> str:
    """Name of the file of test predictions at the checkpoint of the result."""
    return f"predictions-test-{result['checkpoint']['step']}.parquet"


def read_scores(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """KEYS, CLUSTER and these columns of a run's predictions, sorted by query."""
    table = pq.read_table(file, columns=[*KEYS, CLUSTER, *columns])
    return table.to_pandas().sort_values(list(KEYS), kind="stable", ignore_index=True)


def _read_queries(path: Path, result: Mapping[str, Any]) -> pd.DataFrame:
    """The test predictions, checked."""
    file = path / predictions_file(result)
    wanted = required_metrics(result["cutoffs"])
    try:
        schema = pq.read_schema(file)
        if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
            raise Unusable(f"{file.name} has several columns {', '.join(twice)}")
        absent = [name for name in [*KEYS, CLUSTER, N_TRUTH, *wanted] if name not in schema.names]
        if absent:
            raise Unusable(f"{file.name} has no column {', '.join(absent)}")
        if odd := [name for name in ("context_id", CLUSTER) if not is_name(schema.field(name).type)]:
            raise Unusable(f"{file.name}: {', '.join(odd)} must hold text")
        if odd := [name for name in ("sample", N_TRUTH) if not pa.types.is_integer(schema.field(name).type)]:
            raise Unusable(f"{file.name}: {', '.join(odd)} must hold whole numbers")
        if odd := [name for name in wanted if not pa.types.is_floating(schema.field(name).type)]:
            raise Unusable(f"{file.name}: {', '.join(odd)} must hold numbers (floating-point)")
        metrics = [column.name for column in schema if pa.types.is_floating(column.type)]
        queries = read_scores(file, [N_TRUTH, *metrics])
    except FileNotFoundError:
        raise Unusable(f"half-written: says done but has no {file.name}") from None
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: not UTF-8
        raise Unusable(f"half-written: {file.name} is not parquet ({error})") from None
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


def is_name(kind: pa.DataType) -> bool:
    """Whether a column of this type can identify a query: text, plain or dictionary-encoded."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _digest(queries: pd.DataFrame) -> str:
    """Digest of the scored samples, independent of their scores."""
    digest = hashlib.sha256()
    for name in ("context_id", CLUSTER):
        digest.update("\0".join(map(str, queries[name])).encode())
    for name in ("sample", N_TRUTH):
        digest.update(queries[name].to_numpy("<i8").tobytes())
    return digest.hexdigest()[:16]


def read_curves(path: Path) -> pd.DataFrame:
    """metrics.jsonl as step, split, metric, value; empty if the run measured nothing."""
    file = path / "metrics.jsonl"
    rows = []
    for number, row in enumerate(_read_lines(file), start=1):
        if not is_measurement(row):
            raise Unusable(f"half-written: line {number} of metrics.jsonl is not a measurement")
        rows.append((row["step"], row["split"], row["metric"], float(row["value"])))
    kinds = {"step": "int64", "split": "str", "metric": "str", "value": "float64"}
    frame = pd.DataFrame(rows, columns=list(kinds)).astype(kinds)
    keys = ["split", "metric", "step"]
    return frame.drop_duplicates(keys, keep="last").sort_values(keys, kind="stable", ignore_index=True)


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, with {} for a line that is not an object; empty if there is no file."""
    lines = read_text(file).split("\n") if file.exists() else [""]
    return [_line(line) for line in (lines if lines[-1] else lines[:-1])]


def _line(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except BAD_JSON:
        return {}
    return row if isinstance(row, dict) else {}


def read_spending(path: Path) -> pd.DataFrame:
    """budget.jsonl as update and `SPENDING`; empty without the file. The last line of an update counts."""
    file = path / "budget.jsonl"
    rows = []
    for number, row in enumerate(_read_lines(file), start=1):
        if not (whole_number(row.get("update")) and all(finite(row.get(key)) for key in SPENDING)):
            raise Unusable(f"half-written: line {number} of budget.jsonl is not what an update had spent")
        rows.append((row["update"], *(float(row[key]) for key in SPENDING)))
    kinds = {"update": "int64"} | dict.fromkeys(SPENDING, "float64")
    frame = pd.DataFrame(rows, columns=list(kinds)).astype(kinds)
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
    return shared


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted key to value."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def run_row(run: Run) -> dict[str, Any]:
    """A run's row in `Collection.runs`."""
    result, budget = run.result, run.result["budget"]
    row = {"run": run.name} | {key: result[key] for key in ("experiment", "dataset", "model", "stage", "label")}
    row |= {"algorithm": result.get("algorithm"), "reward": result.get("reward"), "variant": result.get("variant")}
    if row["variant"] and row["reward"]:
        row["reward"] = f"{row['reward']} @ {row['variant']}"
    row |= {"seed": result["seed"], "hash": result["hash"], "list_length": result["list_length"]}
    row |= {"cutoffs": tuple(result["cutoffs"]), "checkpoint_rule": result["checkpoint"].get("rule")}
    row |= {"checkpoint_step": result["checkpoint"]["step"]} | {key: budget[key] for key in BUDGET_FIELDS}
    row["stopped_update"] = (result.get("stopped") or {}).get("update", math.nan)
    row |= {f"demonstrations_{name}": _number(result, ("demonstrations", name)) for name in ("count", "without_end")}
    row |= {"_".join(path): _number(budget, path) for path in LATER_BUDGET_FIELDS}
    row["adopted_from"] = budget.get("adopted_from")
    seconds = budget["seconds"]
    row |= {"seconds": seconds["total"]} | {f"seconds_{k}": v for k, v in seconds.items() if k != "total"}
    for split in ("validation", "test"):
        row |= {f"{split}.{name}": value for name, value in result["metrics"].get(split, {}).items()}
    return row


def _number(values: Mapping[str, Any], path: Sequence[str]) -> float:
    """The number at a path of keys, or NaN."""
    found: Any = values
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, NUMBER) else math.nan
