"""Which files make the code count as uncommitted, in real repositories."""

import subprocess
from pathlib import Path

import pytest

from rlbench.base.git import affects_runs, git_state

NOTHING = {"commit": None, "dirty": None, "changed": None, "diff_sha256": None}


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=folder, check=True)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    for name in ("run.py", "rlbench/a.py", "README.md", "conf/config.yaml", "reports/kept/table.md"):
        write(folder / name, "1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        git(folder, *command)
    return folder


def test_a_clean_tree(root: Path) -> None:
    state = git_state(root)
    assert len(state["commit"]) == 40
    assert state == {"commit": state["commit"], "dirty": False, "changed": [], "diff_sha256": None}


@pytest.mark.parametrize(
    "name",
    [
        "figures/mini/validation.png",
        "reports/mini/table.md",
        "reports/kept/table.md",
        "runs/mini/x/config.yaml",
        "notes.txt",
        "data/films.yaml",
        "my-scripts/plot.py",
    ],
)
def test_outputs_and_files_that_no_run_reads_do_not_count(root: Path, name: str) -> None:
    write(root / name, "2\n")
    state = git_state(root)
    assert (state["dirty"], state["changed"], state["diff_sha256"]) == (False, [], None)


def test_what_differs_is_named(root: Path) -> None:
    write(root / "run.py", "2\n")
    (root / "README.md").unlink()
    write(root / "staged.txt", "3\n")
    git(root, "add", "staged.txt")
    for name in ("torch.py", "rlbench/new.py", "rlbench/data/films.csv", "conf/algorithm/mine.yaml", "figures/a.py"):
        write(root / name, "4\n")
    state = git_state(root)
    assert state["dirty"] is True
    assert state["changed"] == [
        "README.md", "conf/algorithm/mine.yaml", "rlbench/data/films.csv", "rlbench/new.py", "run.py", "staged.txt",
        "torch.py",
    ]  # fmt: skip


def test_each_change_has_a_digest_of_its_own(root: Path) -> None:
    seen = set()
    for file, text in (("run.py", "2\n"), ("rlbench/new.py", "3\n"), ("rlbench/new.py", "4\n"), ("torch.py", "4\n")):
        write(root / file, text)
        state = git_state(root)
        assert state == git_state(root)
        seen.add(state["diff_sha256"])
    assert len(seen) == 4
    write(root / "figures/mini/validation.png", "5\n")
    assert git_state(root)["diff_sha256"] == state["diff_sha256"]


def test_no_commit_is_named_where_no_repository_tracks_the_code(root: Path, tmp_path: Path) -> None:
    assert git_state(tmp_path) == NOTHING
    installed = root / ".venv/lib/rlbench"
    write(installed / "a.py", "1\n")
    assert git_state(installed) == NOTHING


def test_a_repository_may_lie_around_the_code(tmp_path: Path) -> None:
    write(tmp_path / "whole/harness/run.py", "1\n")
    write(tmp_path / "whole/other.py", "1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        git(tmp_path / "whole", *command)
    write(tmp_path / "whole/other.py", "2\n")
    assert git_state(tmp_path / "whole/harness")["changed"] == []
    write(tmp_path / "whole/harness/run.py", "2\n")
    write(tmp_path / "whole/harness/reports/a.py", "2\n")
    assert git_state(tmp_path / "whole/harness")["changed"] == ["run.py"]


def test_what_takes_part_in_a_run() -> None:
    assert [name for name in ("a.py", "b/c.py", "b-c/d.py", "x.cpython-311.so", "a.md") if affects_runs(name)] == [
        "a.py", "b/c.py", "x.cpython-311.so",
    ]  # fmt: skip
