"""What is sampled in training never reaches an evaluation: no hint, expert, given word or limit of ranks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlbench.runs.record import COMPLETIONS
from tests.conftest import composed, slow
from tests.contract.test_resume_of_state import train
from tests.contract.test_sampling_runs import CHOICES, SEVERAL

STILL = [*SEVERAL, "trainer.rl.learning_rate=1e-30", "trainer.rl.updates=2", "evaluation.every=1"]
"""A rate so small that no weight changes, so all runs evaluate the same policy."""
CHANGING = {
    **CHOICES,
    "perturbed": ["rollout=perturbed"],
    "beams": ["rollout=beams"],
    "siri": ["schedule=siri_stair"],
}
FAST = ("candidates", "expert", "modes")


def evaluations(folder: Path, choice: Sequence[str], start: Path, mini) -> tuple[list[Any], list[Any]]:
    """Validation metrics of a run, and its prompts and lists on validation."""
    run = train(composed(*STILL, *choice, f"runs_dir={folder}"), start, mini)
    lists = [(row["step"], row["prompt"], row["text"]) for row in COMPLETIONS.read(run.root, "")]
    return [row for row in run.read_metrics() if row["split"] == "validation"], lists


@pytest.fixture(scope="module")
def plain(mini, start, tmp_path_factory) -> tuple[list[Any], list[Any]]:
    return evaluations(tmp_path_factory.mktemp("plain"), [], start, mini)


@pytest.mark.parametrize("choice", [*FAST, *slow(*(one for one in CHANGING if one not in FAST))])
def test_evaluation_stays(choice, plain, mini, start, tmp_path):
    metrics, lists = evaluations(tmp_path, CHANGING[choice], start, mini)
    assert metrics and lists and any(text for _, _, text in lists)
    assert (metrics, lists) == plain
