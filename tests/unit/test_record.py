"""The form of a run's files: what is refused, and that docs/results-schema.md agrees."""

import json
import re
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pytest

from rlbench.base.errors import BadInput
from rlbench.base.records import Damaged, Finite, RecordFile, RowsFile, Text, Whole, checked, fields_of
from rlbench.runs import record, tables
from rlbench.runs.record import RESULT, SCHEMA, OtherVersion, read_result
from tests.helpers_analysis import queries, write_run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results-schema.md"


class Inner(TypedDict):
    size: Whole
    note: NotRequired[Text | None]


class Outer(TypedDict):
    name: Text
    rate: Finite
    inner: Inner
    parts: NotRequired[dict[str, Inner] | None]


FILE = RecordFile("outer.json", Outer)
GOOD: dict[str, Any] = {"name": "a", "rate": 0.5, "inner": {"size": 1}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": None, "inner": None}, "lacks name, inner"),
        ({"name": 3}, "has name 3, which is not text"),
        ({"name": "\ud800"}, "contains half a character"),
        ({"rate": True}, "has rate True, which is not a finite number"),
        ({"rate": float("nan")}, "has rate nan, which is not a finite number"),
        ({"inner": []}, "has inner [], which is not an object"),
        ({"inner": {}}, "lacks inner.size"),
        ({"inner": {"size": -1}}, "has inner.size -1, which is not a whole number"),
        ({"inner": {"size": 1, "note": 2}}, "has inner.note 2, which is not text and not null"),
        ({"parts": {"x": {"size": "1"}}}, "has parts.x.size '1', which is not a whole number"),
        ({"rate": None, "name": 1}, "lacks rate; has name 1, which is not text"),
        ({"name": [1] * 50}, f"has name {str([1] * 50)[:40]}..., which is not text"),
    ],
)
def test_one_error_names_file_keys_values_and_remedy(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    (tmp_path / FILE.name).write_text(json.dumps(GOOD | changes))
    with pytest.raises(BadInput) as error:
        FILE.read(tmp_path, "make it again")
    (problem,) = error.value.problems
    assert problem.startswith(f"{tmp_path / FILE.name} is damaged: it {says}") and problem.endswith("; make it again")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    further = GOOD | {"parts": None, "unknown": [1]}
    FILE.write(tmp_path, further)  # type: ignore[arg-type]
    assert FILE.read(tmp_path, "") == further
    assert (tmp_path / FILE.name).read_text() == json.dumps(further, indent=2, sort_keys=True) + "\n"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"outer\.json is missing; make it"):
        FILE.read(tmp_path, "make it")


def test_a_part_of_a_record_can_be_read_alone(tmp_path: Path) -> None:
    (tmp_path / FILE.name).write_text('{"inner": {"size": 1}}')
    assert FILE.read(tmp_path, "", "inner")["inner"]["size"] == 1
    with pytest.raises(BadInput, match="it lacks rate; make it"):
        FILE.read(tmp_path, "make it", "inner", "rate")


def test_null_is_missing_only_where_it_is_no_value() -> None:
    with pytest.raises(Damaged, match="^has step True, which is not a whole number$"):
        checked(record.CheckpointUsed, {"rule": None, "step": True})
    with pytest.raises(Damaged, match="^lacks rule, step$"):
        checked(record.CheckpointUsed, {"step": None})


def test_rows_are_checked_by_line(tmp_path: Path) -> None:
    file = RowsFile[Inner]("rows.jsonl", Inner, "size")
    file.append(tmp_path, [{"size": 1}, {"size": 2}])
    with (tmp_path / file.name).open("a") as opened:
        opened.write('{"size": 3')
    assert file.read(tmp_path, "") == [{"size": 1}, {"size": 2}]  # a running run may be killed in the middle of a line
    with pytest.raises(Damaged, match="is damaged: line 3 is not a size"):
        file.load(tmp_path)
    file.keep(tmp_path, lambda row: row["size"] > 1)
    assert file.load(tmp_path) == [{"size": 2}] and file.load(tmp_path / "nowhere") == []
    (tmp_path / file.name).write_text('{"size": -1}\n')
    with pytest.raises(BadInput, match=r"rows\.jsonl is damaged: line 1 is not a size; make it"):
        file.read(tmp_path, "make it")


def test_the_version_of_a_result_is_checked_before_its_fields(tmp_path: Path) -> None:
    scores = {name: [0.5, 0.5] for name in record.required_metrics((5, 10))}
    path = write_run(tmp_path, "sft", 0, queries(scores, ["a", "b"]))
    assert read_result(path)["schema"] == SCHEMA
    RESULT.write(path, {"schema": SCHEMA + 1})  # type: ignore[typeddict-item]
    with pytest.raises(OtherVersion, match=f"schema version {SCHEMA + 1} and this reader knows {SCHEMA}"):
        read_result(path)


# The documentation.


def section(title: str) -> str:
    """Return the part of the page under a heading."""
    return re.split(r"(?m)^##", PAGE.read_text(encoding="utf-8").split(f"# {title}\n", 1)[1])[0]


def names_of(form: Any) -> set[str]:
    """Return all keys of a form and of its nested forms."""
    found = set()
    for key, kind in fields_of(form).items():
        found.add(key)
        inner = [part for part in (kind, *getattr(kind, "__args__", ())) if hasattr(part, "__required_keys__")]
        found |= {name for part in inner for name in names_of(part)}
    return found


@pytest.mark.parametrize(
    ("title", "columns"),
    [("`predictions-<split>-<step>.parquet`", tables.PREDICTIONS), ("`samples-test-<step>.parquet`", tables.SAMPLES)],
)
def test_the_page_has_the_columns(title: str, columns: tuple[tables.ParquetColumn, ...]) -> None:
    page = section(title)
    for column in columns:
        assert f"| `{column.name}` | {column.kind} | {column.meaning} |\n" in page


@pytest.mark.parametrize(
    ("title", "form"),
    [
        ("`metrics.jsonl`", record.Measurement),
        ("`attempts/<n>/`", record.AttemptFacts),
        ("`completions.jsonl`", record.GreedyList),
        ("`rollouts.jsonl`", record.RolloutGroup),
        ("`budget.jsonl`", record.Spent),
        ("`result.json`", record.Result),
        ("`budget.json`", record.Budget),
        ("`manifest.json`", record.Manifest),
    ],
)
def test_the_page_names_every_field_and_no_other(title: str, form: Any) -> None:
    page = section(title)
    inside = {record.Result: names_of(record.Budget), record.AttemptFacts: names_of(record.Hardware)}.get(form, set())
    elsewhere = inside - {"budget", "hardware"}
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", page))))
    assert names_of(form) - elsewhere - told == set()
    first = {
        name
        for line in page.split("\n")
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    if form in (record.Result, record.Budget, record.Manifest):
        assert first == set(fields_of(form))
