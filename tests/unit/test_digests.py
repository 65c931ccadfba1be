"""File lists: which changes they detect."""

import json
import shutil
from pathlib import Path

import pytest

from rlbench.base import digests
from rlbench.base.digests import LIST_FILE, Damaged, add, check_cached, check_model, damage, read_list, seal
from rlbench.base.errors import BadInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a" / "below").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(bytes(range(256)) * 9000)  # larger than one block
    (tmp_path / "a" / "below" / "two").write_text("2")
    (tmp_path / "log").write_text("x\n")
    seal(tmp_path / "a", logs=[tmp_path / "log"])
    return tmp_path / "a"


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_the_digest_is_that_of_sha256sum(folder):
    """Matches `printf 2 | sha256sum`."""
    two = "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"
    assert read_list(folder)["below/two"] == {"bytes": 1, "sha256": two}
    assert set(read_list(folder)) == {"one", "below/two"} and set(read_list(folder, "logs")) == {"log"}


def test_every_byte_counts(folder):
    assert damage(folder) == ""
    for place in (0, digests.BLOCK, -1):
        flip(folder / "one", place)
        assert damage(folder) == "one has changed since it was written"
        flip(folder / "one", place)
    (folder / "below" / "two").write_text("")
    assert damage(folder) == "below/two has 0 bytes instead of 1"
    (folder / "below" / "two").unlink()
    assert damage(folder) == "below/two is missing"
    (folder / "below" / "two").mkdir()
    assert damage(folder) == "below/two is missing"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"files": {}}', '{"files": [], "sha256": "x"}', "\x80"])
def test_a_list_of_another_content_is_damaged(folder, text):
    (folder / LIST_FILE).write_text(text, encoding="latin-1")
    assert damage(folder).startswith(LIST_FILE)


def test_no_entry_can_be_taken_out_of_a_list(folder):
    content = json.loads((folder / LIST_FILE).read_text())
    del content["files"]["one"]
    (folder / LIST_FILE).write_text(json.dumps(content))
    with pytest.raises(Damaged, match="has changed since"):
        read_list(folder)


def test_a_log_may_grow_but_not_change(folder):
    log, wanted = folder.parent / "log", read_list(folder, "logs")["log"]
    log.write_text("x\ny\n")
    assert digests.difference(log, "log", wanted, grows=True) == ""
    assert digests.difference(log, "log", wanted) == "log has 4 bytes instead of 2"
    log.write_text("z\ny\n")
    assert digests.difference(log, "log", wanted, grows=True) == "log has changed since it was written"


def test_a_file_is_added_beside_the_others(folder):
    before = read_list(folder)
    (folder / "three").write_text("3")
    flip(folder / "one", 0)
    add(folder, folder / "three")
    assert damage(folder).startswith("one has changed")  # files already listed are not hashed again
    assert read_list(folder) == {**before, "three": digests.entry(folder / "three")}
    assert set(read_list(folder, "logs")) == {"log"}


def test_a_damaged_model_names_the_folder_to_move_away(folder):
    run = folder.parent
    check_model(folder)
    flip(folder / "one", 3)
    with pytest.raises(BadInput, match=rf"model in {folder} is damaged: one has .*move {folder} away"):
        check_model(folder)
    (run / "STATUS").write_text("done\n")
    with pytest.raises(BadInput, match=f"move {run} away"):
        check_model(folder)
    with pytest.raises(BadInput, match=f"{folder} is damaged: one has .*Remove it"):
        check_cached(folder)
    (folder / LIST_FILE).unlink()
    check_model(folder)  # without a list there is nothing to compare with
    with pytest.raises(BadInput, match="files.json is missing"):
        check_cached(folder)


def test_a_model_is_read_once(folder, monkeypatch):
    check_model(folder)
    monkeypatch.setattr(digests, "damage", None)
    check_model(folder)


def test_a_cached_tiny_model_is_checked(mini, tmp_path):
    from rlbench.models import tiny
    from tests.conftest import SMALL, composed

    config = composed(*SMALL).model
    made = tiny.build(config, mini, tmp_path)
    assert tiny.build(config, mini, tmp_path) == made
    kept = tmp_path / "kept"
    shutil.copytree(made, kept)
    flip(made / "tokenizer.json", 5000)
    with pytest.raises(BadInput, match=f"{made} is damaged: tokenizer.json has changed"):
        tiny.build(config, mini, tmp_path)
    shutil.rmtree(made)
    again = tiny.build(config, mini, tmp_path)
    assert read_list(again) == read_list(kept)
