"""Parquet files of runs: the types of columns in which nothing is."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlbench.base.records import Damaged
from rlbench.runs.tables import PREDICTIONS, Kind, check_columns, read_columns, table_of, write_table

KINDS: dict[str, Kind] = {column.name: column.kind for column in PREDICTIONS}


def predictions(titles: list[list[str]], years: list[list[int | None]], verdicts: list[list[str]]) -> pd.DataFrame:
    size = len(titles)
    values = {
        "context_id": [str(row) for row in range(size)],
        "sample": range(size),
        "cluster_id": ["c"] * size,
        "text": ["x"] * size,
        "titles": titles,
        "years": years,
        "verdicts": verdicts,
        "confidence": [np.full(len(one), np.nan) for one in titles],
        "n_truth": [1] * size,
        "finished": [True] * size,
    }
    return table_of(PREDICTIONS, values, {"recall@5": np.zeros(size)})


FILLED = predictions([["Heat"], ["Ran"]], [[1995], [1985]], [["hit"], ["miss"]])
NOTHING = {
    "no entry in any list": predictions([[], []], [[], []], [[], []]),
    "no year in any list": predictions([["Heat"], []], [[None], []], [["hit"], []]),
}


@pytest.mark.parametrize("case", NOTHING)
def test_types_do_not_depend_on_values(case: str, tmp_path: Path) -> None:
    write_table(NOTHING[case], PREDICTIONS, tmp_path / "own")
    write_table(FILLED, PREDICTIONS, tmp_path / "filled")
    kinds = dict.fromkeys(NOTHING[case].columns.difference([*KINDS]), "float") | KINDS
    found = check_columns(tmp_path / "own", kinds)  # type: ignore[arg-type]
    filled = pq.read_schema(tmp_path / "filled")
    assert found.names == filled.names
    assert {name: _plain(found.field(name).type) for name in KINDS} == {
        name: _plain(filled.field(name).type) for name in KINDS
    }
    back = read_columns(tmp_path / "own", ["titles", "years", "verdicts"])
    for name in back:
        for own, before in zip(back[name], NOTHING[case][name], strict=True):
            assert [None if pd.isna(one) else one for one in own] == before


def _plain(kind: pa.DataType) -> str:
    return str(kind).replace("large_", "").replace("item", "element")


def test_what_has_values_is_written_as_pandas_writes_it(tmp_path: Path) -> None:
    write_table(FILLED, PREDICTIONS, tmp_path / "own")
    FILLED.to_parquet(tmp_path / "of_pandas")
    assert (tmp_path / "own").read_bytes() == (tmp_path / "of_pandas").read_bytes()


@pytest.mark.parametrize("case", NOTHING)
def test_older_files_with_the_type_null_are_read(case: str, tmp_path: Path) -> None:
    NOTHING[case].to_parquet(tmp_path / "old")
    assert check_columns(tmp_path / "old", KINDS).field("years").type == pa.list_(pa.null())


def test_a_column_without_values_that_is_no_list_is_refused(tmp_path: Path) -> None:
    FILLED.assign(titles=[None, None], text=[None, None]).to_parquet(tmp_path / "odd")
    with pytest.raises(Damaged, match="must hold text under text; must hold lists of text under titles"):
        check_columns(tmp_path / "odd", KINDS)
