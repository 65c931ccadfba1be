"""The planted bugs can be planted, and the command that plants them tells a caught bug from a survivor."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.__main__ import by_file
from tests.mutants.bugs import BadBug, Bug, read_bugs

ROOT = Path(__file__).resolve().parents[2]
BUGS = read_bugs()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.area}/{bug.id}")
def test_each_bug_can_be_planted(bug: Bug) -> None:
    bug.planted(ROOT)
    for test in bug.tests:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not name or f"def {name.split('[')[0].split('::')[-1]}(" in text, f"{bug.id}: there is no test {test}"


def bug(**changes: object) -> Bug:
    values = {
        "area": "a",
        "id": "b",
        "file": "code.py",
        "old": "x + 1",
        "new": "x - 1",
        "consequence": "c",
        "tests": (),
    }
    return Bug(**{**values, **changes})  # type: ignore[arg-type]


def test_a_bug_must_change_one_place_and_still_compile(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("def f(x):\n    return x + 1\n")
    assert bug().planted(tmp_path) == "def f(x):\n    return x - 1\n"
    with pytest.raises(BadBug, match="occurs 0 times"):
        bug(old="x + 2").planted(tmp_path)
    with pytest.raises(BadBug, match="occurs 2 times"):
        bug(old="x").planted(tmp_path)
    with pytest.raises(BadBug, match="does not compile"):
        bug(new="x +").planted(tmp_path)
    with pytest.raises(BadBug, match="no file"):
        bug(file="other.py").planted(tmp_path)


def test_ids_and_keys_are_checked(tmp_path: Path) -> None:
    entry = '[[bug]]\nid = "{}"\nfile = "f"\nold = "a"\nnew = "b"\nconsequence = "c"\ntests = ["t"]\n'
    (tmp_path / "one.toml").write_text(entry.format("same"))
    (tmp_path / "two.toml").write_text(entry.format("same"))
    with pytest.raises(BadBug, match="twice: same"):
        read_bugs(tmp_path)
    (tmp_path / "two.toml").write_text(entry.format("other") + "extra = 1\n")
    with pytest.raises(BadBug, match="unknown keys \\['extra'\\]"):
        read_bugs(tmp_path)


def test_tests_of_one_file_run_together() -> None:
    assert by_file(["b.py", "a.py::two", "a.py::one", "a.py::two"]) == [("a.py::one", "a.py::two"), ("b.py",)]


def project(folder: Path, test: str) -> list[str]:
    """Make a repository with two functions, a test and a planted bug in each. Return the command that plants them."""
    root, planted = folder / "project", folder / "planted"
    planted.mkdir()
    (root / "tests").mkdir(parents=True)
    (root / "sums.py").write_text("def add(a, b):\n    return a + b\n\n\ndef double(a):\n    return 2 * a\n")
    (root / "tests" / "test_sums.py").write_text(test)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    shutil.copy(ROOT / "pyproject.toml", root)
    line = '[[bug]]\nid = "{}"\nfile = "sums.py"\nold = "{}"\nnew = "{}"\n'
    line += 'consequence = "c"\ntests = ["tests/test_sums.py"]\n'
    (planted / "sums.toml").write_text(line.format("minus", "a + b", "a - b") + line.format("thrice", "2 * a", "3 * a"))
    options = ["--root", str(root), "--bugs", str(planted), "--jobs", "1", "--out", str(folder / "out.json")]
    return [sys.executable, "-m", "tests.mutants", *options]


@pytest.mark.slow
def test_the_command_tells_caught_from_survived(tmp_path: Path) -> None:
    command = project(tmp_path, "from sums import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    statuses = {row["id"]: row["status"] for row in json.loads((tmp_path / "out.json").read_text())}
    assert statuses == {"minus": "caught", "thrice": "survived"}
    assert "sums               2       1           0   50.0%  too few" in done.stdout


@pytest.mark.slow
def test_a_test_that_always_fails_has_caught_nothing(tmp_path: Path) -> None:
    command = project(tmp_path, "from sums import add\n\n\ndef test_add():\n    assert add(1, 2) == 4\n")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "a test that caught a bug fails without any, too: tests/test_sums.py::test_add" in done.stderr
