"""A folder that cannot be written is refused in one message that names it."""

import subprocess
import sys
from pathlib import Path

import pytest

from analysis import curves, report, reported
from analysis.command import set_aside, write_texts
from analysis.outputs import WRITTEN
from analysis.tables import __main__ as tables
from rlbench.base.errors import BadInput
from rlbench.base.files import held, new_folder
from tests.helpers_report import write_full_sweep

ROOT = Path(__file__).parents[2]


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


def test_a_file_of_another_call_is_moved_and_named(tmp_path, capsys):
    for content in ("first", "second"):
        (tmp_path / "curves.png").write_text(content)
        set_aside(tmp_path, ["curves.png", "absent.png"])
    (older,) = tmp_path.iterdir()
    assert {path.name: path.read_text() for path in older.iterdir()} == {
        "curves.png": "first",
        "1-curves.png": "second",
    }
    assert f"curves.png is not of this call; moved to {older / '1-curves.png'}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_file_that_the_user_made_or_changed_is_kept(runs, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "table.md").write_text("my own table")
    elsewhere = tmp_path / "elsewhere.html"
    elsewhere.write_text("my own page")
    (out / "report.html").symlink_to(elsewhere)
    command = [str(runs), "--out", str(out), "--resamples", "20"]
    assert report.main(command) == 0
    said = capsys.readouterr().out
    for name in ("table.md", "report.html"):
        assert f"{out / name} was made or changed by someone else; moved to {out / 'older' / name}\n" in said
    assert (out / "older/table.md").read_text() == "my own table"
    assert (out / "older/report.html").is_symlink() and elsewhere.read_text() == "my own page"
    written = (out / "table.md").read_bytes()

    assert report.main(command) == 0  # its own files are replaced
    assert "someone else" not in capsys.readouterr().out and len(list((out / "older").iterdir())) == 2

    (out / "table.md").write_bytes(written + b"a remark")
    assert report.main(command) == 0
    assert f"moved to {out / 'older/1-table.md'}" in capsys.readouterr().out
    assert (out / "older/1-table.md").read_bytes() == written + b"a remark" and (
        out / "table.md"
    ).read_bytes() == written


def test_a_damaged_record_of_written_files_loses_nothing(tmp_path, capsys):
    for content in ("first", "second"):
        write_texts(tmp_path, {"a.md": content})
    assert not (tmp_path / "older").exists()
    (tmp_path / WRITTEN).write_text("damaged")
    write_texts(tmp_path, {"a.md": "second"})
    assert not (tmp_path / "older").exists()  # the same content
    (tmp_path / WRITTEN).write_text("[]")
    write_texts(tmp_path, {"a.md": "third"})
    assert (tmp_path / "older/a.md").read_text() == "second"


def test_a_reader_that_stops_reading_loses_no_file(runs, tmp_path):
    """`head -1` closes the pipe while the table is printed, before any file is written."""
    command = [sys.executable, "-m", "analysis.tables", str(runs), "--out", str(tmp_path / "out"), "--resamples", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.close()
    assert process.returncode == 0 and (tmp_path / "out/table.md").is_file()
