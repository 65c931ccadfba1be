"""A short but complete run of every algorithm."""

import json
from pathlib import Path

import pytest

from rlbench.running.cli import groups
from rlbench.running.runner import run
from tests.conftest import SMALL, composed, halves

SHORT = [
    *SMALL,
    "+debug=smoke",
    "trainer.rl.num_iterations=2",
    "evaluation.validation_contexts=null",
    "evaluation.test_contexts=null",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the runs share their first stages."""
    return tmp_path_factory.mktemp("algorithms")


@pytest.mark.parametrize(
    ("algorithm", "reward"),
    [
        *(pytest.param(*half.values, "relevance", marks=half.marks) for half in halves(groups()["algorithm"], fast=1)),
        ("grpo", "log_decay"),
        ("rank_grpo", "log_decay"),
    ],
)
def test_every_algorithm_trains(folder: Path, algorithm: str, reward: str) -> None:
    places = [f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    root = run(composed(*SHORT, *places, f"algorithm={algorithm}", f"reward={reward}")).root
    assert json.loads((root / "result.json").read_text())["algorithm"] == algorithm
