"""Mistakes on a command line are reported before slow imports, and unusable folders before any work."""

import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from rlbench.config.names import check_paths
from rlbench.config.places import check_places
from rlbench.running.cli import CONF
from tests.conftest import composed

ROOT = CONF.parent
WATCHED = """
import runpy, sys

sys.argv = sys.argv[1:]
code = 0
try:
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code
print("LOADED", [name for name in ("torch", "transformers", "datasets") if name in sys.modules])
raise SystemExit(code)
"""


def refused(*arguments: str, cwd: Path = ROOT) -> str:
    """Return the output of a refused command. It has no traceback and did not load torch."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WATCHED, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert "LOADED []" in result.stdout, result.stdout
    return result.stderr


RUN = str(ROOT / "run.py")


def test_a_run_with_bad_values(tmp_path):
    said = refused(RUN, "trainer.rl.group_size=1", "seed=-1", "algorithm.layout=alined", f"runs_dir={tmp_path}")
    assert "trainer.rl.group_size = 1 must be at least 2" in said and "seed = -1" in said
    assert "Did you mean 'aligned'?" in said and "3 problems" in said
    assert not list(tmp_path.iterdir())


def test_a_sweep_with_bad_values(tmp_path):
    said = refused(RUN, "-m", "seed=0,4294967296", "trainer.rl.adam_beta2=0.9,1", f"runs_dir={tmp_path}")
    assert "seed = 4294967296 must be at most 4294967295" in said and "adam_beta2 = 1.0 must lie in [0, 1)" in said
    assert not list(tmp_path.glob("*"))


def test_a_seed_of_five_thousand_digits():
    assert "command line: Exceeds the limit" in refused(RUN, f"seed={'9' * 5000}")


def test_a_runs_dir_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(RUN, f"runs_dir={tmp_path / 'file'}", "seed=-1")
    assert f"runs_dir = {tmp_path / 'file'}: it is not a folder" in said and "seed = -1" in said
    assert "it is not a folder" in refused(RUN, "-m", "seed=0,1", f"runs_dir={tmp_path / 'file'}")


def test_a_search_with_bad_values(tmp_path):
    space = "trainer.rl.learning_rate=interval(1e-5,1e-3)"
    search = ("-m", "hydra/sweeper=optuna", space, f"runs_dir={tmp_path}")
    said = refused(RUN, *search, "seed=-1", "trainer.rl.group_size=1")
    assert "seed = -1" in said and "trainer.rl.group_size = 1 must be at least 2" in said
    said = refused(RUN, *search, "hydra.sweeper.trials=0", "hydra.sweeper.seed=4294967296")
    assert "hydra.sweeper.trials = 0 must be a whole number of at least 1" in said
    assert "hydra.sweeper.seed = 4294967296 must be at most 4294967295" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("launcher.processes=1.5", "hydra.launcher.processes = 1.5 must be a whole number of at least 1"),
        ("launcher.processes=true", "hydra.launcher.processes = True must be a whole number of at least 1"),
        ("sweeper.max_batch_size=0", "hydra.sweeper.max_batch_size = 0 must be a whole number of at least 1"),
    ],
)
def test_a_sweep_with_bad_numbers_of_its_launcher_or_sweeper(option, words, tmp_path):
    assert words in refused(RUN, "-m", "seed=0,1", f"hydra.{option}", f"runs_dir={tmp_path}")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def a_run(tmp_path):
    """A run directory with the files that `inspect` reads before it loads the model."""
    (tmp_path / "run" / "model").mkdir(parents=True)
    text = yaml.safe_dump(asdict(composed()), sort_keys=False)
    (tmp_path / "run" / "config.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "run"


def test_inspect_with_bad_values(a_run):
    inspect = ("rlbench.inspect", str(a_run))
    said = refused(*inspect, "--prompt", "1000000", "--completion", "1000")
    assert "--prompt 1000000 is outside 0.." in said and "--completion 1000 is outside 0.." in said
    assert "argument --seed: 4294967296 must be at most 4294967295" in refused(*inspect, "--seed", "4294967296")
    assert "argument --group-size: 1 must be at least 2" in refused(*inspect, "--group-size", "1")
    text = (a_run / "config.yaml").read_text(encoding="utf-8")
    (a_run / "config.yaml").write_text(text.replace("group_size:", "group_sise:"), encoding="utf-8")
    assert "group_sise" in refused(*inspect)
    (a_run / "config.yaml").write_text("dataset: 3\n")
    assert "config.yaml: config key 'stage' is missing" in refused(*inspect)
    (a_run / "config.yaml").write_text(re.sub(r"^dataset:\n(  .*\n)+", "dataset: 3\n", text, flags=re.M))
    assert "config.yaml: dataset = 3 must be a section" in refused(*inspect)
    assert "has no config.yaml" in refused("rlbench.inspect", str(a_run / "model"))


@pytest.mark.slow
def test_demonstrate_with_bad_values(tmp_path):
    command = ("rlbench.demonstrate", str(tmp_path / "lists.jsonl"), "--out", str(tmp_path / "out.jsonl"))
    assert "lists.jsonl: there is no such file" in refused(*command, "--steps", "teacher", "dataset=mini")
    said = refused(*command, "--steps", "teacher", "dataset=mini", "dataset.list_length=0")
    assert "dataset.list_length = 0 must be at least 1" in said


@pytest.mark.parametrize("key", ["runs_dir", "cache_dir", "runtime.data_cache"])
def test_places_that_cannot_be_used(key, tmp_path, monkeypatch):
    def said(folder: str | Path) -> str:
        places = {"runs_dir": tmp_path / "r", "cache_dir": tmp_path / "c"} | {key: folder}
        config = composed(*(f"{name}='{place}'" for name, place in places.items()))
        return "\n".join(check_places(config, to_write=True))

    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("")
    link.symlink_to(tmp_path / "gone")
    assert said(tmp_path / "new" / "deeper") == said(tmp_path) == ""
    assert f"{key} = {file}: it is not a folder" in said(file)
    assert f"{key} = {file}/below/it: {file} is not a folder" in said(f"{file}/below/it")
    assert f"{key} = {link}: it is not a folder" in said(link)
    assert said(" ") == ""  # the check of texts has reported it
    assert check_paths(composed(f"{key}=' '")) == [f"{key} = ' ' is empty; give a path"]
    assert f"{key} = /proc/x: no folder can be created in /proc (" in said("/proc/x")  # even where access is granted
    assert sorted(tmp_path.iterdir()) == [file, link]  # nothing is left behind
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)  # root can write anywhere
    assert f"you have no permission to write to {tmp_path}" in said(tmp_path / "new")
