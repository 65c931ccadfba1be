"""Runs from Python, in child processes."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

import rlbench

pytestmark = pytest.mark.slow
SMOKE = ("+debug=smoke", "tracker=none", "baselines=[]", "runtime.device=cpu", "runtime.threads=1")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_and_a_sweep(capfd: pytest.CaptureFixture[str]) -> None:
    experiment = rlbench.Experiment(*SMOKE, algorithm="rank_grpo")
    assert experiment.check() == [] and not Path("runs").exists()
    run = experiment.run()
    assert run.runs["label"].tolist() == ["rank_grpo-relevance"] and len(run.rollouts)
    said = capfd.readouterr().out
    assert "rank_grpo" in said and "2/2" in said  # the output of the run, with its progress
    again = experiment.run()
    assert "already done" in capfd.readouterr().out and again.runs.equals(run.runs)

    runs = rlbench.Experiment(*SMOKE, sweep={"algorithm": ["grpo", "rank_grpo"], "seed": [0, 1]}).run()
    trained = runs.where(stage="rl")
    assert len(trained) == 4 and set(runs.runs["stage"]) == {"rl", "sft", "zero_shot", "oracle"}
    rlbench.plot_curves(runs, metrics=["ndcg@10"])
    group = runs.rollouts.query("run == @trained._names[0] and step == 0")
    rlbench.plot_credit(group)


def test_problems_of_data_come_before_anything_runs() -> None:
    experiment = rlbench.Experiment(*SMOKE, dataset="redial")
    (problem,) = experiment.check()
    assert "dataset.path is not set" in problem
    with pytest.raises(rlbench.BadInput, match="dataset.path is not set"):
        experiment.run()
    assert not Path("runs").exists()


def test_a_failure_shows_the_end_of_the_output() -> None:
    Path("mine.py").write_text("raise RuntimeError('my plugin is broken')\n")
    with pytest.raises((rlbench.ExperimentFailed, rlbench.BadInput), match="my plugin is broken"):
        rlbench.Experiment(*SMOKE, plugins=["mine.py"]).run()


def test_an_interrupted_run_stops_as_with_ctrl_c(capfd: pytest.CaptureFixture[str]) -> None:
    experiment = rlbench.Experiment(*SMOKE, "trainer.rl.updates=400", "trainer.rl.save_every=2", algorithm="grpo")
    interrupter = threading.Thread(target=interrupt_when_training)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        experiment.run()
    interrupter.join()
    assert "interrupted; run the same command again" in capfd.readouterr().out
    (cell,) = Path("runs/smoke/mini-tiny/grpo-relevance").glob("seed0-*")
    assert not (cell / "result.json").exists() and list((cell / "checkpoints").iterdir())


def interrupt_when_training() -> None:
    """Interrupt this process once the run has written a checkpoint, as a notebook's button does."""
    for _ in range(1200):
        if list(Path("runs").glob("smoke/mini-tiny/grpo-relevance/seed0-*/checkpoints/checkpoint-*")):
            break
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
