"""A short but complete run of every algorithm."""

import json
from pathlib import Path

import pytest

from rlbench.running.cli import groups
from rlbench.running.runner import run
from tests.conftest import SMALL, composed, shares

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


@pytest.mark.parametrize("algorithm", shares(groups()["algorithm"], parts=6, fast=1))
def test_every_algorithm_trains(folder: Path, algorithm: str) -> None:
    assert_trains(folder, algorithm, "relevance")


@pytest.mark.parametrize("algorithm", ["grpo", "rank_grpo"])
def test_both_rewards_of_the_paper(folder: Path, algorithm: str) -> None:
    assert_trains(folder, algorithm, "log_decay")


def assert_trains(folder: Path, algorithm: str, reward: str) -> None:
    places = [f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    root = run(composed(*SHORT, *places, f"algorithm={algorithm}", f"reward={reward}")).root
    assert json.loads((root / "result.json").read_text())["algorithm"] == algorithm
