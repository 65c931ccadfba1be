"""Parquet files of a run: their names and columns, for the code that writes and reads them. Imports no torch."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rlbench.base.records import Damaged

Kind = Literal["string", "int", "bool", "float", "number", "list of string", "list of int", "list of float"]


@dataclass(frozen=True)
class ParquetColumn:
    """A column of a parquet file.

    Attributes:
        name: its name.
        kind: type of its values.
        meaning: what it holds, in Markdown.
    """

    name: str
    kind: Kind
    meaning: str


CONTEXT = ParquetColumn("context_id", "string", "the dialogue up to the answer")
SAMPLE = ParquetColumn("sample", "int", "index in the split; with `context_id` it names the query")
CLUSTER = ParquetColumn(
    "cluster_id",
    "string",
    "samples that share it are not independent; intervals resample clusters. ReDial: the dialogue. Elsewhere: the "
    "context",
)
N_TRUTH = ParquetColumn("n_truth", "int", "different items in the truth")
PREDICTIONS = (
    CONTEXT,
    SAMPLE,
    CLUSTER,
    ParquetColumn("text", "string", "the completion as generated"),
    ParquetColumn("titles", "list of string", "titles of the parsed entries, the first N"),
    ParquetColumn("years", "list of int", "their years; null in lists without years"),
    ParquetColumn("verdicts", "list of string", "one an entry: a [verdict](metrics.md#verdicts)"),
    ParquetColumn(
        "confidence",
        "list of float",
        "one an entry: [confidence](metrics.md#calibration-of-per-rank-confidence) in it; NaN without a model",
    ),
    N_TRUTH,
    ParquetColumn("finished", "bool", "the model ended the list by itself"),
)
"""Columns of the predictions that are no metrics. Every further column is a float: a metric of the query."""
SAMPLES = (
    CONTEXT,
    ParquetColumn("list", "int", "0 .. `evaluation.samples` − 1"),
    ParquetColumn("text", "string", "the sampled list as generated"),
)


def predictions_file(split: str, step: int) -> str:
    """Name of the predictions of a split at an update."""
    return f"predictions-{split}-{step}.parquet"


def samples_file(split: str, step: int) -> str:
    """Name of the sampled lists of a split at an update."""
    return f"samples-{split}-{step}.parquet"


def table_of(
    columns: Sequence[ParquetColumn], values: Mapping[str, Any], metrics: Mapping[str, NDArray[Any]] | None = None
) -> pd.DataFrame:
    """Return a table with these columns, and metrics after them.

    Args:
        columns: the columns.
        values: the values of each, by name.
        metrics: further columns.
    """
    return pd.DataFrame({column.name: values[column.name] for column in columns} | dict(metrics or {}))


def write_table(table: pd.DataFrame, columns: Sequence[ParquetColumn], file: Path) -> None:
    """Write a table to a parquet file.

    pandas finds types from values, so a column of empty lists would get the type null.

    Args:
        table: the table.
        columns: the columns that have a kind; the others keep their type.
        file: the file.
    """
    kinds = {column.name: column.kind for column in columns}
    made = pa.Table.from_pandas(table)
    for place, field in enumerate(made.schema):
        if _is_null(field.type) and field.name in kinds:
            typed = field.with_type(_type_of(kinds[field.name]))
            made = made.set_column(place, typed, made.column(place).cast(typed.type))
    pq.write_table(made, file)


_TYPES = {"string": pa.string(), "int": pa.int64(), "bool": pa.bool_(), "float": pa.float64(), "number": pa.float64()}


def _type_of(kind: Kind) -> pa.DataType:
    of_item = kind.removeprefix("list of ")
    return _TYPES[kind] if of_item == kind else pa.list_(_TYPES[of_item])


def _is_null(kind: pa.DataType) -> bool:
    """Whether a type is that of a column without any value, or whose lists have none."""
    return bool(pa.types.is_null(kind.value_type if pa.types.is_list(kind) else kind))


def is_string(kind: pa.DataType) -> bool:
    """Whether an arrow type holds text, plain or dictionary-encoded."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


_IS = {
    "string": is_string,
    "int": pa.types.is_integer,
    "bool": pa.types.is_boolean,
    "float": pa.types.is_floating,
    "number": lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind),
}
_WORDS = {
    "string": "text",
    "int": "whole numbers",
    "bool": "true or false",
    "float": "numbers (floating-point)",
    "number": "numbers",
}


def _is_kind(kind: Kind, of_file: pa.DataType) -> bool:
    of_item = kind.removeprefix("list of ")
    if of_item != kind:
        # Files from before `write_table` have the type null where every list is empty, or has no value.
        return pa.types.is_list(of_file) and (_is_null(of_file) or _IS[of_item](of_file.value_type))
    return _IS[kind](of_file)


def check_columns(file: Path, kinds: Mapping[str, Kind]) -> pa.Schema:
    """Check columns of a parquet file.

    Returns:
        The columns of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        Damaged: if it is not parquet, lacks a column, has one twice, or holds other values in it.
    """
    with _parquet():
        schema = pq.read_schema(file)
    names = schema.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Damaged(f"has several columns {', '.join(twice)}")
    if absent := [name for name in kinds if name not in names]:
        raise Damaged(f"has no column {', '.join(absent)}")
    odd: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        if not _is_kind(kind, schema.field(name).type):
            odd.setdefault(_words(kind), []).append(name)
    if odd:
        raise Damaged("; ".join(f"must hold {words} under {', '.join(under)}" for words, under in odd.items()))
    return schema


def read_columns(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return columns of a parquet file.

    Raises:
        FileNotFoundError: if there is no such file.
        Damaged: if it is not parquet.
    """
    with _parquet():
        return pq.read_table(file, columns=list(columns)).to_pandas()


@contextlib.contextmanager
def _parquet() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: not UTF-8
        raise Damaged(f"is not parquet ({error})") from None


def _words(kind: Kind) -> str:
    of_item = kind.removeprefix("list of ")
    return _WORDS[of_item] if of_item == kind else f"lists of {_WORDS[of_item]}"
