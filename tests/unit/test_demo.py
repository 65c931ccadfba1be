"""`rlbench demo` needs no argument, trains two methods and prints a table that is not all zero (measured: 60 s)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlbench.base.program import CONF
from tests.conftest import composed

ROOT = Path(__file__).parents[2]


def test_the_demo_is_the_recorded_experiment() -> None:
    config = composed("experiment=demo")
    assert config.experiment_name == "demo" and config.dataset.name == "mini" and config.tracker.mode == "none"


@pytest.mark.slow
def test_the_demo_shows_a_table_and_the_next_commands(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(CONF.parent)}
    command = [sys.executable, "-m", "rlbench", "demo"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stderr
    assert "demo: too small for conclusions" in said and "rlbench report runs/demo" in said
    for name in ("SFT", "grpo · relevance", "rank_grpo · relevance"):
        (line,) = re.findall(rf"^{name} †? +\.\d{{3}}.*$", said, re.MULTILINE)  # a sentence below may begin so too
        assert max(map(float, re.findall(r"\.\d{3}", line))) > 0.05
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "2 already done, 0 to run" in again.stderr and "SFT" in again.stderr
