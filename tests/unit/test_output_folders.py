"""A folder that cannot be written is refused in one message that names it."""

from pathlib import Path

import pytest

from analysis import curves, report, reported
from analysis.tables import __main__ as tables
from rlbench.base.errors import BadInput
from rlbench.base.files import held, new_folder
from tests.helpers_report import write_full_sweep


@pytest.fixture
def runs(tmp_path):
    write_full_sweep(tmp_path / "runs" / "mini", {"grpo-relevance": 0.02}, seeds=1, contexts=8, updates=50)
    return tmp_path / "runs" / "mini"


@pytest.mark.parametrize("command", [report, curves, tables, reported])
def test_an_output_that_is_a_file_is_refused(command, runs, tmp_path, capsys):
    there = tmp_path / "notes.md"
    there.write_text("mine")
    folders = [] if command is reported else [str(runs)]
    assert command.main([*folders, "--out", str(there)]) == 2
    assert f"{there}" in capsys.readouterr().err and there.read_text() == "mine"


def test_what_is_said_of_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        BadInput, match=r"--out = .*file: the folder cannot be created \(it is a file\); choose another"
    ):
        new_folder(tmp_path / "file", "--out")
    with pytest.raises(BadInput, match=r"cannot be created \(not a directory\)"):
        new_folder(tmp_path / "file" / "below", "--out")


def test_a_folder_where_nobody_may_write_is_refused():
    with pytest.raises(BadInput, match=r"--out = /proc/new: the folder cannot be created \("):
        new_folder(Path("/proc/new"), "--out")
    with pytest.raises(BadInput, match="/proc: the folder cannot be created"), held(Path("/proc/.new.lock")):
        pass
