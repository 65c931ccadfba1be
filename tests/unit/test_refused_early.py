"""A slip on a command line is told before anything slow is loaded, and places that cannot be used before any work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlbench.cli import CONF
from rlbench.places import check_places
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
    """What a command prints that must be refused, without a traceback and without torch."""
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
    assert f"runs_dir = {tmp_path / 'file'}: it is no folder" in said and "seed = -1" in said
    assert "it is no folder" in refused(RUN, "-m", "seed=0,1", f"runs_dir={tmp_path / 'file'}")


@pytest.mark.parametrize("key", ["runs_dir", "cache_dir"])
def test_places_that_cannot_be_used(key, tmp_path, monkeypatch):
    def said(folder: str | Path) -> str:
        places = {"runs_dir": tmp_path / "r", "cache_dir": tmp_path / "c"} | {key: folder}
        config = composed(*(f"{name}='{place}'" for name, place in places.items()))
        return "\n".join(check_places(config, to_write=True))

    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("")
    link.symlink_to(tmp_path / "gone")
    assert said(tmp_path / "new" / "deeper") == said(tmp_path) == ""
    assert f"{key} = {file}: it is no folder" in said(file)
    assert f"{key} = {file}/below/it: {file} is no folder" in said(f"{file}/below/it")
    assert f"{key} = {link}: it is no folder" in said(link)
    assert f"{key} = ' ' names no folder" in said(" ")
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)  # root may write everywhere
    assert f"you may not write to {tmp_path}" in said(tmp_path / "new")
