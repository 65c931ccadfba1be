"""Files and folders are written completely or not at all."""

import os
from pathlib import Path

import pytest

from rlbench.base import files


def test_a_file_takes_its_place_in_one_step(tmp_path: Path) -> None:
    """A reader with the old file open keeps the old content, because the new file only takes over the name."""
    path = tmp_path / "file"
    path.write_text("old")
    with path.open() as opened:
        before = os.fstat(opened.fileno()).st_ino
        with files.whole_file(path) as beside:
            beside.write_text("new")
            made = beside.stat().st_ino
            assert path.read_text() == "old"
        assert opened.read() == "old"
    assert path.read_text() == "new" and path.stat().st_ino == made != before
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ValueError), files.whole_file(path) as beside:
        beside.write_text("half")
        raise ValueError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_everything_of_a_folder_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, place = tmp_path / ".folder.partial", tmp_path / "folder"
    (made / "below").mkdir(parents=True)
    (made / "below" / "weights").write_text("w")
    (made / "list").write_text("l")
    place.mkdir()
    (place / "earlier").write_text("e")
    sent: list[tuple[str, bool]] = []
    sync = files.sync

    def watched(path: Path) -> None:
        sent.append((path.name, made.exists()))
        sync(path)

    monkeypatch.setattr(files, "sync", watched)
    files.publish(made, place)
    before = {name for name, still_beside in sent if still_beside}
    assert before == {".folder.partial", "below", "weights", "list"} and sent[-1] == (tmp_path.name, False)
    assert sorted(p.name for p in place.rglob("*")) == ["below", "list", "weights"] and not made.exists()
