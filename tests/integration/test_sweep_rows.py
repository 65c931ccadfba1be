"""A real sweep over a setting, without a variant: every row appears in the table."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from rlbench.running.cli import CONF
from tests.conftest import SMALL

RUN = [
    *SMALL,
    "trainer.sft.updates=1",
    "trainer.sft.save_every=1",
    "trainer.rl.updates=1",
    "trainer.rl.num_iterations=1",
    "trainer.rl.save_every=1",
    "evaluation.every=1",
    "trainer.rl.completions_per_update=8",
    "trainer.rl.group_size=4",
    "trainer.rl.micro_batch_size=8",
    "generation.max_new_tokens=8",
]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=CONF.parent, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_row_of_a_sweep_appears(tmp_path: Path) -> None:
    own = [*RUN, f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", "algorithm=grpo"]
    swept = command("run.py", "-m", *own, "trainer.rl.learning_rate=1e-4,1e-3")
    assert swept.returncode == 0, swept.stderr
    # Two more commands without a sweep, whose runs have one label.
    for temperature in ("0.7", "0.9"):
        alone = command("run.py", *own, f"generation.temperature={temperature}")
        assert alone.returncode == 0, alone.stderr
    made = command("-m", "analysis.tables", str(tmp_path / "runs"), "--out", str(tmp_path / "tables"))
    assert made.returncode == 0, made.stderr
    (table,) = (tmp_path / "tables").glob("table.csv")
    with table.open(encoding="utf-8") as file:
        labels = {row["label"] for row in csv.DictReader(file)}
    assert labels >= {
        "grpo-relevance@learning_rate=0.0001",
        "grpo-relevance@learning_rate=0.001",
        "grpo-relevance@temperature=0.7",
        "grpo-relevance@temperature=0.9",
        "sft",
        "zero_shot",
    }
