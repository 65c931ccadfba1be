"""A learning rate that falls in steps, in real training: its value at each update, also after a resume."""

from pathlib import Path

import pytest

from rlbench.runs.directory import Run
from tests.conftest import composed
from tests.contract.test_resume_of_state import SHORT, Stopped, StopsAt, equal, train, weights

STEPS = ["trainer.rl.updates=6", "evaluation.every=6", "+trainer.rl.learning_rate_steps={2:5e-4,4:1e-4}"]


def rates(run: Run) -> list[float]:
    return [row["value"] for row in run.read_metrics() if row["metric"] == "learning_rate"]


def test_each_update_has_its_rate_and_a_stopped_run_goes_on_with_it(mini, start: Path, tmp_path: Path) -> None:
    whole = train(composed(*SHORT, *STEPS, f"runs_dir={tmp_path / 'whole'}"), start, mini)
    assert rates(whole) == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 1e-4, 1e-4])
    config = composed(*SHORT, *STEPS, f"runs_dir={tmp_path / 'stopped'}")
    with pytest.raises(Stopped):
        train(config, start, mini, StopsAt(3))
    resumed = train(config, start, mini)
    assert rates(resumed) == rates(whole) and equal(weights(resumed), weights(whole))


def test_a_step_changes_what_is_learnt_after_it_alone(mini, start: Path, tmp_path: Path) -> None:
    """The run equals one at a constant rate up to the step, and differs after it."""
    runs = []
    for name, steps in (("constant", []), ("steps", ["+trainer.rl.learning_rate_steps={4:1e-9}"])):
        overrides = [*SHORT, "trainer.rl.updates=6", "evaluation.every=6", *steps, "algorithm.layout=published"]
        overrides += ["+reward.terms.tokens={weight:1.0,normaliser:16.0}"]
        runs.append(train(composed(*overrides, f"runs_dir={tmp_path / name}"), start, mini))
    losses = [[row["value"] for row in run.read_metrics() if row["metric"] == "loss"] for run in runs]
    assert losses[0][:5] == losses[1][:5] and losses[0][5] != losses[1][5]
