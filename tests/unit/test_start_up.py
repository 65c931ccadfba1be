"""Help, typos and bad values of every command load no large package, so that their answer comes at once."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlbench.__main__ import COMMANDS
from tests.conftest import slow
from tests.helpers import ROOT

HEAVY = ("torch", "transformers", "trl", "datasets", "pandas", "pyarrow", "matplotlib", "scipy")
PROBE = """
import contextlib, io, json, os, sys
from rlbench.__main__ import main
heavy, loaded = json.loads(sys.argv[1]), {}
for words in json.loads(sys.argv[2]):
    sys.argv = ["rlbench", *words]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
    text = out.getvalue() + errors.getvalue()
    loaded[" ".join(words)] = (code, [name for name in heavy if name in sys.modules], text)
    for name in heavy:
        sys.modules.pop(name, None)  # so that each command is blamed for its own
print(json.dumps(loaded))
"""


def outcomes(commands: list[list[str]], folder: Path) -> dict[str, tuple[int, list[str], str]]:
    """Exit code, large packages that were imported, and output of each command, all run in one process."""
    command = [sys.executable, "-c", PROBE, json.dumps(HEAVY), json.dumps(commands)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def options(text: str) -> set[str]:
    """Long options that the help of a command describes."""
    return set(re.findall(r"^  (?:-\w, )?(--[a-z][a-z-]*)", text, flags=re.MULTILINE)) - {"--help"}


def rows_of_page() -> dict[str, str]:
    """Command to its row in the table of options in docs/commands.md."""
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \|(.*)$", page, flags=re.MULTILINE)
    assert [name for name, _ in rows] == list(COMMANDS)
    return dict(rows)


def test_help_loads_no_large_package(tmp_path: Path) -> None:
    found = outcomes([[name, "--help"] for name in COMMANDS], tmp_path)
    assert {words: loaded for words, (_, loaded, _) in found.items() if loaded} == {}
    assert {code for code, _, _ in found.values()} <= {0, None}
    assert all("example" in text for _, _, text in found.values())
    assert all("exit code" in text for words, (_, _, text) in found.items() if words != "run --help")
    assert {words.split()[0]: options(text) for words, (_, _, text) in found.items() if words != "run --help"} == {
        name: set(re.findall("`(--[a-z-]+)", row)) for name, row in rows_of_page().items() if name != "run"
    }


def test_a_wrong_option_loads_no_large_package(tmp_path: Path) -> None:
    found = outcomes([[name, "--no-such-option"] for name in COMMANDS], tmp_path)
    assert {words: loaded for words, (_, loaded, _) in found.items() if loaded} == {}
    assert {code for code, _, _ in found.values()} == {2}
    assert all("no-such-option" in text or "required" in text for _, _, text in found.values())


@pytest.mark.parametrize("sweep", [[], *slow(["-m", "reward=relevance,dcg"])])
def test_bad_words_and_values_of_a_run_load_no_large_package(tmp_path: Path, sweep: list[str]) -> None:
    wrong = ["sed=0", "algorithm=grop", "trainer.rl.updates=-1", "trainer.rl.updates=x", "runtime.device=tpu", "foo"]
    found = outcomes([["run", *sweep, word] for word in wrong], tmp_path)
    assert {words: loaded for words, (_, loaded, _) in found.items() if loaded} == {}
    assert {code for code, _, _ in found.values()} == {2}
    assert list(tmp_path.iterdir()) == []
