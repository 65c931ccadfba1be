"""Every benchmark script runs, at its smallest size. What it measures then means nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from rlbench.running.cli import CONF

SMALL: dict[str, list[str]] = {
    "benchmarks.data": ["{folder}"],
    "benchmarks.collect": ["--runs", "40", "--samples", "20", "--updates", "3", "--resamples", "20"],
    "benchmarks.convergence": ["--trials", "3"],
    "benchmarks.coverage": ["--trials", "3"],
    "benchmarks.lists": ["--turns", "1"],
    "benchmarks.objective": ["--algorithm", "grpo", "--repeats", "1"],
    "benchmarks.overhead": ["--turns", "1"],
    "benchmarks.overhead_of_checkpoints": ["--updates", "2", "--repeats", "1", "--folder", "{folder}"],
    "benchmarks.report": ["--rows", "2", "--seeds", "2", "--updates", "3", "--times", "1"],
    "benchmarks.stage1": ["--share", "1000", "--folder", "{folder}"],
    "benchmarks.reproduction": ["--trials", "3"],
}
"""Arguments by module. Tests of their own run the others: step, gpu and before_after in `test_speed.py`."""
TOO_SLOW = 1
"""Exit code of a benchmark that keeps no promise, as at these sizes or on a busy machine."""


@pytest.mark.slow
@pytest.mark.parametrize("module", SMALL)
def test_runs(module: str, tmp_path: Path) -> None:
    arguments = [each.format(folder=tmp_path) for each in SMALL[module]]
    if module == "benchmarks.data":
        subprocess.run(
            [sys.executable, "-m", module, str(tmp_path), "--make", "--share", "2000"], check=True, cwd=CONF.parent
        )
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, cwd=CONF.parent)
    assert done.returncode in (0, TOO_SLOW), done.stderr
    assert "Traceback" not in done.stderr and done.stdout
