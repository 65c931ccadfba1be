"""Signals that end a run: what is recorded, what is raised, and at which update training stops."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import distributed, multiprocessing
from transformers import TrainerControl, TrainerState

from rlbench.base import preemption
from rlbench.base.preemption import SIGNALS, Preempted
from rlbench.runs.claiming import claim
from rlbench.runs.directory import INTERRUPTED, locate
from rlbench.training.callbacks import Stopper
from tests.conftest import SMALL, composed


@pytest.fixture
def installed(monkeypatch):
    """Install the handlers of a run for one test."""
    earlier = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr(preemption, "_state", preemption._State())
    preemption.install()
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


def test_a_signal_outside_training_ends_the_run_there_and_is_obeyed_once(installed):
    with pytest.raises(Preempted, match="^SIGUSR1; run the same command again to continue from there$"):
        os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)  # the run is already ending, so nothing is raised
    with pytest.raises(Preempted, match="SIGUSR1"):  # in case a finaliser swallowed the first exception
        preemption.check()
    with pytest.raises(Preempted), preemption.training():
        raise AssertionError("a training was begun after the signal")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_training_waits_for_its_end(installed, number):
    reached = []
    with pytest.raises(Preempted, match=f"{number.name} at update 7;"), preemption.training() as training:
        assert not preemption.requested()
        for each in (number, *SIGNALS):
            os.kill(os.getpid(), each)
        assert preemption.requested()
        preemption.check()  # an evaluation during training is not interrupted either
        training.stopped_at = 7
        reached.append("the end")
    assert reached == ["the end"]


def test_a_training_without_a_signal_ends_as_ever(installed):
    with preemption.training() as training:
        pass
    assert training.stopped_at is None
    with pytest.raises(Preempted, match="^SIGTERM; "):  # outside training, it ends the run at once
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_training_that_another_process_stopped_ends_the_run(installed):
    said = "^another process of this run was asked to stop at update 3; "
    with pytest.raises(Preempted, match=said), preemption.training() as training:
        training.stopped_at = 3


@pytest.mark.parametrize(
    ("step", "num_iterations", "logging_steps", "stops"),
    [(4, 2, 1, True), (5, 2, 1, False), (5, 1, 1, True), (20, 1, 10, True), (15, 1, 10, False), (99, 2, 10, True)],
)
def test_a_training_stops_where_it_goes_on_exactly_or_at_its_end(installed, step, num_iterations, logging_steps, stops):
    args = SimpleNamespace(world_size=1, logging_steps=logging_steps)
    state = TrainerState(global_step=step, max_steps=99)
    with pytest.raises(Preempted), preemption.training() as training:
        stopper, control = Stopper(training, num_iterations), TrainerControl()
        stopper.on_step_end(args, state, control)
        assert not control.should_save and not control.should_training_stop and training.stopped_at is None
        os.kill(os.getpid(), signal.SIGTERM)
        stopper.on_step_end(args, state, control)
        assert control.should_save == control.should_training_stop == stops
        assert training.stopped_at == (step if stops else None)


def test_the_status_says_when(installed, tmp_path):
    config = composed(*SMALL, f"runs_dir={tmp_path}")
    run = locate(config, "rl")
    with pytest.raises(Preempted), claim(run, config):
        os.kill(os.getpid(), signal.SIGUSR2)
    assert (
        run.root / "STATUS"
    ).read_text() == f"{INTERRUPTED}\nSIGUSR2; run the same command again to continue from there\n"
    with claim(run, config) as mine:
        assert mine and run.attempts() == 2


def test_children_that_must_not_hear_a_signal_do_not_hear_it():
    program = "import time; print('up', flush=True); time.sleep(0.5); print('alive')"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with preemption.children_deaf_to(*SIGNALS):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert child.stdout.readline() == "up\n"
    for number in SIGNALS:
        child.send_signal(number)
    assert child.communicate(timeout=10)[0] == "alive\n" and child.returncode == 0


def _process(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", world_size=2, rank=rank)
    preemption.install()
    training, control = preemption.Training(), TrainerControl()
    args = SimpleNamespace(world_size=2, logging_steps=1, device=torch.device("cpu"))
    stopped = []
    preemption._state.training = True
    for step in range(1, 7):
        if (rank, step) == (1, 3):
            os.kill(os.getpid(), signal.SIGTERM)
        Stopper(training, 2).on_step_end(args, TrainerState(global_step=step, max_steps=99), control)
        stopped.append(control.should_training_stop)
    (folder / str(rank)).write_text(str(stopped.index(True) + 1))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_of_a_run_stop_at_the_same_update(tmp_path):
    multiprocessing.spawn(_process, (tmp_path,), nprocs=2)
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["4", "4"]
