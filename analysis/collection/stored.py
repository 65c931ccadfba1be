"""A collection: the runs of a folder as parquet, kept up to date run by run.

    queries/<key>.parquet   run, context_id, sample, cluster_id, metric, value: one file per run, a row group per metric
    curves/<key>.parquet    run, step, split, metric, value: one file per run; spending has the split "budget"
    runs.parquet            the run table
    problems.json           excluded or unusual runs, with the reason
    index/<key>.json        record of each run, used or not, with the fingerprint of its files and digests of its parts
    collection.json         format version, and the folder that was searched

`update` reads the runs whose files have changed, one at a time. It keeps all other parts unchanged (as hard links if
the file system supports them) and moves the complete folder into place at the end. An interrupted update leaves its
work in a folder next to the collection, and the next update continues from there.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from analysis.collection.provenance import settings_and_provenance
from analysis.collection.reading import (
    CLUSTER,
    KEYS,
    N_TRUTH,
    SPENDING,
    Content,
    FinishedRun,
    find_runs,
    read_run,
    run_row,
)
from analysis.collection.screening import screened
from analysis.collection.sources import Source
from analysis.problems import Problem, Unusable
from rlbench.base.digests import LIST_FILE, Entries, difference, entry, is_entry, own_digest
from rlbench.base.errors import BadInput
from rlbench.base.files import (
    PARTIAL,
    SYNCS_AT_ONCE,
    clear_partial,
    held,
    partial_folder,
    publish,
    sync,
    whole_file,
    write_json,
    write_text,
)
from rlbench.base.records import Damaged, RecordFile, Text, Values, checked, read_object, refused
from rlbench.runs.record import BUDGET_ROWS, IDENTITY, MANIFEST, MEASUREMENTS, RESULT, SETTINGS, Result

FORM = 3
"""Format version. A collection with another version is rebuilt."""
MARKER = "collection.json"
PARTS = ("queries", "curves")
FOLDERS = ("index", *PARTS)
CONTENT = {*FOLDERS, MARKER, "runs.parquet", "problems.json"}
"""All files and folders in a collection."""
BUDGET = "budget"
"""Split of the rows in `curves` with `SPENDING`."""

READ = (
    *("STATUS", RESULT.name, IDENTITY.name, SETTINGS, MANIFEST.name, MEASUREMENTS.name, BUDGET_ROWS.name),
    LIST_FILE,
)
"""Files of a run that a collection reads, in addition to its test predictions."""

STORED: Any = {"compression": "zstd", "use_dictionary": ["run", "context_id", "cluster_id", "split", "metric", "value"]}
NAMES = pa.dictionary(pa.int32(), pa.string())
OF_METRIC = {"metric": NAMES, "value": pa.float64()}
QUERIES_SCHEMA = pa.schema({"run": NAMES, "context_id": NAMES, "sample": pa.int64(), CLUSTER: NAMES} | OF_METRIC)
CURVES_SCHEMA = pa.schema({"run": NAMES, "step": pa.int64(), "split": NAMES} | OF_METRIC)

REMEDY = "remove the collection, and collect the runs again"

Fingerprint = dict[str, list[int]]
"""File to its size in bytes and its modification time in ns."""


class Marker(TypedDict):
    """collection.json."""

    form: int
    """`FORM` of the code that wrote the collection."""
    runs: Text
    """The folder that was searched, as an absolute path."""


MARK = RecordFile(MARKER, Marker)
PartEntry = Annotated[dict[str, Any], Values("size and digest of a part", lambda value: is_entry("part", value))]


class StoredRun(TypedDict):
    """`FinishedRun` in a record of the index."""

    name: str
    result: Result
    identity: dict[str, Any] | None
    metrics: list[str]
    samples: int
    queries: str
    notices: list[str]


class StoredRecord(TypedDict):
    """`RunRecord` in the index, with further columns of the run table."""

    name: str
    fingerprint: dict[str, list[int]]
    run: StoredRun | None
    reason: str
    parts: dict[str, PartEntry]
    columns: dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """Record of one run in a collection.

    Attributes:
        name: its directory, relative to the folder that was searched.
        fingerprint: fingerprint of the files it was read from.
        run: as read; None if it cannot be used.
        reason: why it cannot be used, or "".
        parts: size and sha256 of its files in `PARTS`; empty if it cannot be used.
    """

    name: str
    fingerprint: Fingerprint
    run: FinishedRun | None
    reason: str
    parts: Entries

    @property
    def key(self) -> str:
        return key_of(self.name)


@dataclass(frozen=True)
class Update:
    """Result of an update: number of runs that were read, kept unchanged, and gone since the last update."""

    read: int
    kept: int
    gone: int


def is_collection(folder: Path) -> bool:
    """Whether a folder is a collection rather than a folder of runs."""
    return (folder / MARKER).is_file()


def key_of(run: str) -> str:
    """File name (without suffix) of a run's parts."""
    return hashlib.sha256(run.encode()).hexdigest()[:16]


def fingerprint(path: Path) -> Fingerprint:
    """Fingerprint of those files of a run that a collection reads."""
    found = {}
    for file in os.scandir(path):
        if file.name in READ or (file.name.startswith("predictions-test-") and file.name.endswith(".parquet")):
            stat = file.stat()
            found[file.name] = [stat.st_size, stat.st_mtime_ns]
    return dict(sorted(found.items()))


# Reading a collection.


def load_records(folder: Path) -> list[RunRecord]:
    """All records of a collection, sorted by run.

    Raises:
        BadInput: if it has another format version.
    """
    form = _marker(folder).get("form")
    if form != FORM:
        raise BadInput(f"{folder} is a collection of form {form!r}, and this code knows {FORM}: collect the runs again")
    return sorted(_records(folder).values(), key=attrgetter("name"))


def _records(folder: Path) -> dict[str, RunRecord]:
    """Run to its record in this format version; empty if there is no folder."""
    records = {}
    for file in (folder / "index").glob("*.json"):
        content = read_object(file, REMEDY)
        if content.get("form") != FORM:
            continue
        if content.pop("sha256", None) != own_digest(content):
            raise BadInput(f"{file} is damaged: it has changed since it was written; {REMEDY}")
        with refused(file, REMEDY):
            checked(StoredRecord, content)
            known, run = content["run"], None
            if known is not None and not content["parts"].keys() >= set(PARTS):
                raise Damaged(f"lacks one of the parts {', '.join(PARTS)}")
        if known is not None:
            run = FinishedRun(**known | {key: tuple(known[key]) for key in ("metrics", "notices")})
        name = content["name"]
        records[name] = RunRecord(name, content["fingerprint"], run, content["reason"], content["parts"])
    return records


def _marker(folder: Path) -> Marker:
    """Content of a collection's collection.json.

    Raises:
        BadInput: if it is damaged.
    """
    return MARK.read(folder, REMEDY, "runs")


def _columns(folder: Path, run: str) -> dict[str, Any]:
    """Additional columns of a run in the run table: settings and provenance."""
    return read_object(folder / "index" / f"{key_of(run)}.json", REMEDY)["columns"]


class Parts(Source):
    """The parts of the collection in a folder, for the runs of these records."""

    def __init__(self, folder: Path, records: Iterable[RunRecord]):
        self._folder = folder
        self.folder = _near(Path(_marker(folder)["runs"]))
        self._records = {record.name: record for record in records}
        self._checked: set[Path] = set()

    def _part(self, run: str, part: str) -> Path:
        """Return the file of a part of a run. Its digest is checked on first use.

        Raises:
            BadInput: if the file has changed since it was written.
        """
        record = self._records[run]
        file = self._folder / part / f"{record.key}.parquet"
        if file not in self._checked:
            if wrong := difference(file, f"{file} ({run})", record.parts[part]):
                raise BadInput(f"{wrong}: {REMEDY}")
            self._checked.add(file)
        return file

    def scores(self, run: str, columns: Sequence[str]) -> pd.DataFrame:
        record = self._records[run]
        assert record.run is not None
        file = pq.ParquetFile(self._part(run, "queries"))
        place = {name: group for group, name in enumerate(_metrics(record.run))}
        frame = (
            file.read_row_group(0, columns=[*KEYS, CLUSTER]).to_pandas().astype({"context_id": "str", CLUSTER: "str"})
        )
        for name in columns:
            values = file.read_row_group(place[name], columns=["value"])["value"].to_numpy()
            frame[name] = values.astype(np.int64) if name == N_TRUTH else values
        return frame

    def curves(self, run: str) -> pd.DataFrame:
        curves = self._curves(run)
        return curves[curves["split"] != BUDGET].reset_index(drop=True)

    def spending(self, run: str) -> pd.DataFrame:
        curves = self._curves(run)
        wide = curves[curves["split"] == BUDGET].pivot(index="step", columns="metric", values="value")
        return wide.reindex(columns=list(SPENDING)).rename_axis(index="update", columns=None).reset_index()

    def _curves(self, run: str) -> pd.DataFrame:
        rows = pq.read_table(self._part(run, "curves"), columns=CURVES_SCHEMA.names[1:]).to_pandas()
        return rows.astype({"split": "str", "metric": "str"})

    def config(self, run: str) -> Mapping[str, Any]:
        columns = _columns(self._folder, run).items()
        config = {key.removeprefix("config."): value for key, value in columns if key.startswith("config.")}
        if not config:
            raise BadInput(f"{run} had no config.yaml that could be read when it was collected")
        return config


def _near(folder: Path) -> Path:
    """The folder, relative to the working directory if it is below it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _metrics(run: FinishedRun) -> list[str]:
    """Metrics in a run's part of `queries`, in order."""
    return sorted((*run.metrics, N_TRUTH))


def told(records: Iterable[RunRecord]) -> tuple[list[FinishedRun], list[Problem]]:
    """The runs that could be read, and a problem for each of the others."""
    known = list(records)
    return (
        [record.run for record in known if record.run is not None],
        [Problem(record.name, record.reason) for record in known if record.run is None],
    )


# Updating a collection.


def update(runs: Path, out: Path) -> Update:
    """Create or update the collection of a folder of runs.

    Raises:
        BadInput: if there is no folder of runs, or `out` has other content.
        OSError: on a disk error; an earlier collection stays unchanged.
    """
    problems = [f"there is no folder {runs}"] if not runs.is_dir() else []
    if is_collection(runs):
        problems.append(f"{runs} is a collection itself: name the folder of runs")
    problems += _not_ours(out, runs)
    if problems:
        raise BadInput(*problems)
    with held(out.with_name(f".{out.name}.lock")):
        return _update(runs, out)


def _not_ours(out: Path, runs: Path) -> list[str]:
    """Reasons why a folder must not be replaced by the collection of these runs."""
    if not out.exists():
        return []
    there = {path.name for path in out.iterdir()} if out.is_dir() else {""}
    if there and not is_collection(out):
        return [f"--out {out} is there and no collection: name another folder"]
    if foreign := sorted(there - CONTENT):
        return [f"--out {out} holds {', '.join(foreign)} beside a collection: move it elsewhere"]
    if there:
        known = _marker(out)["runs"]
        if known != str(runs.resolve()):
            return [f"--out {out} is the collection of {known}: name another folder, or remove it"]
    return []


def _update(runs: Path, out: Path) -> Update:
    beside = partial_folder(out)
    begun, before = _records(beside), _records(out)
    paths = {path.relative_to(runs).as_posix(): path for path in find_runs(runs)}
    now = {name: fingerprint(path) for name, path in paths.items()}
    records = {
        name: known[name]
        for known in (before, begun)
        for name in known
        if name in paths and known[name].fingerprint == now[name]
    }
    changed, gone = sorted(paths.keys() - records.keys()), before.keys() - paths.keys()
    if not changed and not gone and not begun and is_collection(out):
        return Update(0, len(records), 0)

    for folder in FOLDERS:
        (beside / folder).mkdir(parents=True, exist_ok=True)
        clear_partial(beside / folder)
    _keep_only(beside, {record.key for name, record in begun.items() if records.get(name) is record}, FOLDERS)
    records |= _read_all({name: (paths[name], now[name]) for name in changed}, beside)
    ordered = sorted(records.values(), key=attrgetter("name"))
    used, problems = screened(*told(ordered))
    names = {run.name for run in used}
    lacking = {}
    for record in ordered:
        _take_over(f"index/{record.key}.json", out, beside)
        parts = [f"{part}/{record.key}.parquet" for part in PARTS]
        if record.name in names and not all(_take_over(part, out, beside) for part in parts):
            lacking[record.name] = paths[record.name], record.fingerprint  # it was excluded until now
    _read_all(lacking, beside)
    _keep_only(beside, {record.key for record in ordered}, ("index",))
    _keep_only(beside, {key_of(name) for name in names}, PARTS)
    table = run_table(run_row(run) | _columns(beside, run.name) for run in used)
    with whole_file(beside / "runs.parquet") as file:
        pq.write_table(table, file, compression="zstd")
    write_json(beside / "problems.json", [asdict(problem) for problem in problems])
    MARK.write(beside, {"form": FORM, "runs": str(runs.resolve())})
    publish(beside, out)
    return Update(len(changed), len(paths) - len(changed), len(gone))


def _read_all(found: Mapping[str, tuple[Path, Fingerprint]], folder: Path) -> dict[str, RunRecord]:
    """Read runs one at a time and write their parts, then, once these are on disk, their records.

    Parts are synced to disk while the next run is read, because syncing takes far longer than reading.
    """
    records = {}
    with ThreadPoolExecutor(SYNCS_AT_ONCE) as pool:
        waiting = []
        for name in tqdm(found, desc="collecting", unit="run", delay=1, disable=None, dynamic_ncols=True):
            records[name], made, known = _read(*found[name], name, folder)
            waiting.append(pool.submit(_settle, made, folder / "index" / f"{records[name].key}.json", known))
    for one in waiting:
        one.result()
    return records


def _read(path: Path, of: Fingerprint, name: str, folder: Path) -> tuple[RunRecord, list[Path], str]:
    """Read a run and write its parts. Returns its record, the files written, and the record as text."""
    columns: dict[str, Any] = {}
    made = []
    try:
        run, content = read_run(path, name)
    except Unusable as error:
        record = RunRecord(name, of, None, str(error), {})
    else:
        columns, odd = settings_and_provenance(path)
        made = [folder / part / f".{key_of(name)}.parquet{PARTIAL}" for part in PARTS]
        write_queries(made[0], run, content.queries)
        write_curves(made[1], name, content)
        parts = {part: entry(file) for part, file in zip(PARTS, made, strict=True)}
        record = RunRecord(name, of, replace(run, notices=(*run.notices, *odd)), "", parts)
    known = json.loads(json.dumps({"form": FORM, "columns": columns} | asdict(record), default=str))
    return record, made, json.dumps({**known, "sha256": own_digest(known)}) + "\n"


def _settle(made: Sequence[Path], index: Path, known: str) -> None:
    """Sync the parts of a run to disk and move them into place, then write its record."""
    for beside in made:
        sync(beside)
        os.replace(beside, beside.with_name(beside.name[1:].removesuffix(PARTIAL)))
    write_text(index, known)


def _take_over(part: str, there: Path, here: Path) -> bool:
    """Whether a part is already here, or could be linked (or else copied) from there."""
    if (here / part).exists():
        return True
    try:
        os.link(there / part, here / part)
    except FileNotFoundError:
        return False
    except OSError:
        with whole_file(here / part) as beside:
            shutil.copyfile(there / part, beside)
    return True


def _keep_only(folder: Path, keys: set[str], parts: Sequence[str]) -> None:
    """Remove the files of these parts whose key is not in `keys`."""
    for part in parts:
        for file in (folder / part).iterdir():
            if file.stem not in keys:
                file.unlink()


def write_queries(file: Path, run: FinishedRun, queries: pd.DataFrame) -> None:
    """Write a run's part of `queries` (`Content`): one row group per metric, in order of name, each sorted by query."""
    size = len(queries)
    contexts, clusters = (
        pa.array(queries[name].astype("str"), pa.string()).dictionary_encode() for name in ("context_id", CLUSTER)
    )
    samples = pa.array(queries["sample"].to_numpy(np.int64))
    with pq.ParquetWriter(file, QUERIES_SCHEMA, **STORED, column_encoding={"sample": "DELTA_BINARY_PACKED"}) as writer:
        for name in _metrics(run):
            values = pa.array(queries[name].to_numpy(np.float64))
            columns = [_one_name(run.name, size), contexts, samples, clusters, _one_name(name, size), values]
            writer.write_table(pa.Table.from_arrays(columns, schema=QUERIES_SCHEMA), row_group_size=size)


def write_curves(file: Path, run: str, content: Content) -> None:
    """Write a run's part of `curves`, sorted by split, metric and step. Spending has the split `BUDGET`."""
    spent = content.spending.melt("update", var_name="metric", value_name="value").rename(columns={"update": "step"})
    rows = pd.concat([spent.assign(split=BUDGET), content.curves], ignore_index=True)
    rows = rows.sort_values(["split", "metric", "step"], kind="stable")
    columns = [
        _one_name(run, len(rows)),
        pa.array(rows["step"].to_numpy(np.int64)),
        *(pa.array(rows[name].astype("category")).cast(NAMES) for name in ("split", "metric")),
        pa.array(rows["value"].to_numpy(np.float64)),
    ]
    table = pa.Table.from_arrays(columns, schema=CURVES_SCHEMA)
    with pq.ParquetWriter(file, CURVES_SCHEMA, **STORED, column_encoding={"step": "DELTA_BINARY_PACKED"}) as writer:
        writer.write_table(table, row_group_size=max(1, len(rows)))


def _one_name(name: str, size: int) -> pa.DictionaryArray:
    return pa.repeat(name, size).dictionary_encode()


def run_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """A table of these rows, with columns in order of first occurrence.

    A column contains integers, numbers, booleans or text; cut-offs are lists of integers. A column with other values
    (such as lists, or both numbers and text) becomes JSON text. Missing values are null.
    """
    columns: dict[str, list[Any]] = {}
    seen: dict[str, str] = {}
    size = 0
    for size, row in enumerate(rows, start=1):
        for name, value in row.items():
            column = columns.setdefault(name, [])
            column += [None] * (size - 1 - len(column))
            column.append(seen.setdefault(value, value) if isinstance(value, str) else value)
    return pa.table({name: _column(name, column + [None] * (size - len(column))) for name, column in columns.items()})


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    if name == "cutoffs":
        return pa.array([list(value) for value in values], pa.list_(pa.int64()))
    kinds = {type(value) for value in values if value is not None}
    fitting = ({bool}, pa.bool_()), ({int}, pa.int64()), ({int, float}, pa.float64()), ({str}, pa.string())
    for allowed, kind in fitting:
        if kinds and kinds <= allowed and all(abs(value) < 2**63 for value in values if type(value) is int):
            return pa.array(values, kind, from_pandas=True)
    as_text = [None if value is None else json.dumps(value, sort_keys=True, default=str) for value in values]
    return pa.array(as_text, pa.string())
