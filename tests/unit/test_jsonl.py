"""JSONL files: which lines are appended, kept, left out and refused."""

from pathlib import Path

import pytest

from rlbench.base.errors import BadInput
from rlbench.base.jsonl import append_rows, keep_rows, read_rows


def test_rows_are_added_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "rows.jsonl"
    assert read_rows(file) == []
    append_rows(file, [{"a": 1}, {"a": 2}])
    append_rows(file, [{"a": "\u2028é"}])
    assert read_rows(file) == [{"a": 1}, {"a": 2}, {"a": "\u2028é"}]


def test_rows_that_are_not_wanted_go(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    append_rows(file, [{"a": 1}, {"a": 2}, {"a": 3}])
    keep_rows(file, lambda row: row["a"] != 2)
    assert file.read_text() == '{"a": 1}\n{"a": 3}\n'
    keep_rows(tmp_path / "none.jsonl", lambda row: True)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_cut_line_is_left_out_and_goes_when_rows_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n{"a": "\xc3')
    assert read_rows(file) == [{"a": 1}]
    keep_rows(file, lambda row: True)
    append_rows(file, [{"a": 2}])
    assert file.read_text() == '{"a": 1}\n{"a": 2}\n'


@pytest.mark.parametrize("line", ["", "{", "[1]", "null", "a"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"a": 1}}\n{line}\n{{"a": 3}}\n')
    with pytest.raises(BadInput, match="rows.jsonl is damaged: line 2 is not a JSON object"):
        read_rows(file)
