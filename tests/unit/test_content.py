"""Digests of files and values."""

import hashlib
from pathlib import Path

from rlbench.base.content import combined, file_digest, forget, remembered_digest


def test_parts_count_by_name_and_not_by_order() -> None:
    assert combined({"a": "1", "b": "2"}) == combined({"b": "2", "a": "1"}) != combined({"a": "2", "b": "1"})
    assert combined({}) == hashlib.sha256(b"{}").hexdigest()


def test_a_file_counts_by_its_content_as_it_was_when_it_was_read_first(tmp_path: Path) -> None:
    files = [tmp_path / name / "list.json" for name in "ab"]
    for number, file in enumerate(files):
        file.parent.mkdir()
        file.write_text(str(number))
    forget()
    first, other = map(remembered_digest, files)
    assert first == file_digest(files[0]) == hashlib.sha256(b"0").hexdigest() != other
    files[0].write_text("1")
    assert remembered_digest(files[0]) == first
    forget()
    assert remembered_digest(files[0]) == other
