"""How the program names, starts and identifies itself, from a checkout and as the installed command `rlbench`."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rlbench
from analysis.collection.origins import origin
from analysis.commands.status import commands, survey
from hydra_plugins.rlbench_experiments import ExperimentsSearchPath
from rlbench.__main__ import COMMANDS, main
from rlbench.base import program
from rlbench.base.files import write_json
from rlbench.base.git import NO_COMMIT, code_state, git_state
from tests.helpers import ROOT

NOT_FOR_USERS = {"__main__", "metric_catalogue", "page", "paper_index", "trackio_process"}
"""Modules that developers run with `python -m`, or that the program itself starts."""


@pytest.fixture
def by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that `rlbench status runs` started this process."""
    monkeypatch.setattr(sys, "argv", ["rlbench status", "runs"])


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An installed copy with three files."""
    for name in ("rlbench/a.py", "analysis/b.py", "rlbench/conf/config.yaml", "rlbench/__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n")
    monkeypatch.setattr(program, "INSTALLED", True)
    monkeypatch.setattr(program, "ROOT", tmp_path)
    monkeypatch.setattr(program, "FOLDERS", (tmp_path / "rlbench", tmp_path / "analysis", tmp_path / "hydra_plugins"))
    return tmp_path


def test_every_module_with_a_main_is_a_command() -> None:
    files = [file for folder in ("rlbench", "analysis") for file in (ROOT / folder).rglob("*.py")]
    runnable = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if '\nif __name__ == "__main__":' in file.read_text(encoding="utf-8")
    }
    left_out = {
        name for name in runnable if name.split(".")[-1] in NOT_FOR_USERS and name != "analysis.tables.__main__"
    }
    listed = {module for module, _, _ in COMMANDS.values()}
    assert runnable - left_out == listed - {COMMANDS["run"][0]}
    for module, function, _ in COMMANDS.values():
        text = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        assert f"\ndef {function}(" in text, module


def test_help_fits_a_screen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        monkeypatch.setattr(sys, "argv", ["rlbench", *arguments])
        assert main() == 0
        said = capsys.readouterr().out
        lines = said.splitlines()
        assert len(lines) <= 36 and max(map(len, lines)) <= 110
        assert all(re.search(rf"^  {name} ", said, re.MULTILINE) for name in COMMANDS)


def test_an_unknown_command_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["rlbench", "reprot", "runs/mini"])
    assert main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "rlbench: there is no command 'reprot'. Did you mean 'report'? rlbench --help lists them all.\n"


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["rlbench", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"rlbench {rlbench.__version__}\n"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "run"])
def test_a_command_names_itself_as_it_was_started(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlbench", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert said.startswith(f"usage: rlbench {name} [-h]")
    assert "python" not in said


def test_help_of_runs_names_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["rlbench", "run", "--help"])
    assert main() is None
    said = capsys.readouterr().out
    assert "\n  rlbench run +debug=smoke\n" in said and "rlbench report runs/mini" in said
    assert "python" not in said and "run.py" not in said


def test_messages_of_a_command_begin_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["rlbench", "status", str(tmp_path / "none")])
    assert main() == 2
    assert capsys.readouterr().err == f"rlbench status: there is no folder {tmp_path / 'none'}\n"


TEXT = "python run.py -m a=1; python -m analysis.wandb_check runs; torchrun --nproc_per_node N run.py; as for run.py"


def test_texts_name_commands_as_the_process_was_started(by_name: None) -> None:
    assert program.as_started(TEXT) == (
        "rlbench run -m a=1; rlbench wandb-check runs; torchrun --nproc_per_node N -m rlbench run; as for rlbench run"
    )
    assert program.run_words() == program.written(1) == ["rlbench", "run"]
    assert program.written(2)[-4:] == ["--nproc_per_node=2", "-m", "rlbench", "run"]
    assert program.own_words() == ["rlbench", "status", "runs"]


def test_every_module_becomes_its_subcommand(by_name: None) -> None:
    modules = {name: module.removesuffix(".__main__") for name, (module, _, _) in COMMANDS.items() if name != "run"}
    assert {name: program.as_started(f"python -m {module}") for name, module in modules.items()} == {
        name: f"rlbench {name}" for name in modules
    }


def test_texts_stay_as_they_are_from_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/run.py", "seed=1"])
    assert program.as_started(TEXT) == TEXT
    assert program.run_words() == program.written(1) == ["python", "run.py"]
    torchrun = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "run.py"]
    assert program.written(2) == torchrun
    assert program.own_words() == ["run.py", "seed=1"]


def test_cells_of_a_checkout_are_started_by_run_py(by_name: None) -> None:
    """True even if the command was `rlbench`, because other folders may not be able to import a checkout."""
    assert program.started(1) == [sys.executable, str(ROOT / "run.py")]
    assert program.started(2)[-2:] == ["--nproc_per_node=2", str(ROOT / "run.py")]
    assert program.import_path() == [str(ROOT)]
    assert program.install("ray") == "python -m pip install -r requirements-ray.txt -c constraints.txt"
    assert program.install("trackio", pinned=False) == "python -m pip install -r requirements-trackio.txt"


def test_cells_of_an_installed_copy_are_started_by_module(installed: Path) -> None:
    """An installed copy has no run.py. The option -P ignores modules in the working folder."""
    run = [sys.executable, "-P", "-m", "rlbench", "run"]
    assert program.started(1) == run
    assert program.started(2) == [
        sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python",
        sys.executable, "-P", "-u", "-m", "rlbench", "run",
    ]  # fmt: skip
    assert program.import_path() == []
    assert program.install("ray") == "python -m pip install 'rlbench[ray]'"


def test_an_installed_copy_is_known_by_version_and_files(installed: Path) -> None:
    state = code_state()
    assert {key: state[key] for key in NO_COMMIT} == NO_COMMIT
    assert state["version"] == rlbench.__version__ and len(state["sha256"]) == 64
    (installed / "rlbench/__pycache__/a.pyc").write_text("2\n")
    assert code_state() == state
    for name in ("analysis/b.py", "rlbench/conf/config.yaml"):
        before = code_state()["sha256"]
        (installed / name).write_text("2\n")
        assert code_state()["sha256"] != before
    (installed / "rlbench/a.py").rename(installed / "rlbench/c.py")
    assert code_state()["sha256"] != before


def test_a_checkout_is_known_by_its_commit() -> None:
    assert not program.INSTALLED
    assert code_state() == git_state(ROOT)


def test_the_page_names_an_installed_copy(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"git": NO_COMMIT | {"version": "1.2.3", "sha256": "ab" * 32}})
    assert origin(tmp_path).copy == "version 1.2.3 (abababababab)"
    write_json(tmp_path / "manifest.json", {"git": NO_COMMIT})
    assert origin(tmp_path).copy == ""


def test_status_repeats_the_command_that_was_typed(tmp_path: Path) -> None:
    for name, command in (("a", ["rlbench", "run", "seed=0"]), ("b", ["run.py", "seed=1"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "STATUS").write_text("failed\n")
        write_json(tmp_path / name / "manifest.json", {"command": command})
    assert commands(survey(tmp_path, now=2e9)) == ["rlbench run seed=0", "python run.py seed=1"]


def test_other_programs_that_use_hydra_do_not_find_our_experiments() -> None:
    for main_path, found in ((str(program.CONF), True), (f"file://{program.CONF}", True), ("/other/conf", False)):
        search_path = ConfigSearchPathImpl()
        search_path.append("main", main_path)
        ExperimentsSearchPath().manipulate_search_path(search_path)
        ours = [element.path for element in search_path.get_path() if element.provider == "rlbench"]
        assert ours == ([f"file://{program.EXPERIMENTS}"] if found else [])


def _requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]


def test_pinned_versions_satisfy_the_requirements() -> None:
    pins = {canonicalize_name(one.name): str(one.specifier)[2:] for one in _requirements("constraints.txt")}
    pins["torch"] = re.search(r"torch==(\S+)", (ROOT / "Makefile").read_text())[1]  # type: ignore[index]
    for name in ("requirements.txt", "requirements-tests.txt", "requirements-search.txt", "requirements-slurm.txt"):
        for one in _requirements(name):
            assert one.specifier.contains(pins[canonicalize_name(one.name)]), one
    assert all(one.specifier for one in _requirements("requirements.txt"))


def test_metadata_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["tool"]["setuptools"]["dynamic"]["optional-dependencies"]
    files = {file.stem.removeprefix("requirements-") for file in ROOT.glob("requirements-*.txt")} - {
        "tests",
        "docs",
    }  # developer tools
    assert extras == {name: {"file": f"requirements-{name}.txt"} for name in files}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == rlbench.__version__
    assert citation["license"] == project["project"]["license"] == "Apache-2.0"
    assert f"## {rlbench.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
