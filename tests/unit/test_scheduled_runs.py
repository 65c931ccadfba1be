"""A scheduled run whose data change or disappear before its process starts."""

import fcntl
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rlbench.base.errors import BadInput
from rlbench.config.schema import Config
from rlbench.running.runner import run
from rlbench.runs import attempts, inputs
from rlbench.runs.attempts import Attempt
from rlbench.runs.directory import DONE, FAILED, RUNNING, Run, locate
from tests.conftest import composed
from tests.helpers_inputs import OF_REDIAL, write_redial


@pytest.fixture(autouse=True)
def fresh():
    inputs.forget()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = composed(*OF_REDIAL, "runtime.device=cpu", f"runs_dir={tmp_path / 'runs'}")
    return replace(config, dataset=replace(config.dataset, path=str(write_redial(tmp_path / "data"))))


@pytest.fixture
def scheduled(config: Config, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run as the launcher located it; calling `run` acts as its process."""
    found = locate(config, "rl")
    monkeypatch.setenv(attempts.RESERVED, str(attempts.reserve(found.root).folder.resolve()))
    return found


def attempt_of(found: Run) -> Attempt:
    (attempt,) = attempts.attempts(found.root)
    return attempt


def test_changed_data_are_refused_and_both_directories_named(config: Config, scheduled: Run, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "data")
    write_redial(tmp_path / "data", swap="test")
    with pytest.raises(BadInput, match="have changed since this run was scheduled") as error:
        run(config)
    now = locate(config, "rl")
    assert now.root != scheduled.root and not now.root.exists()
    (problem,) = error.value.problems
    assert (
        f"scheduled as {scheduled.root}; its directory would now be {now.root}. Run the command of the sweep" in problem
    )
    assert scheduled.status() == FAILED and scheduled.reason() == f"BadInput: {problem}"
    assert attempt_of(scheduled).read()["outcome"] == FAILED


def test_a_run_that_nobody_scheduled_reads_the_data_as_they_are(config: Config) -> None:
    """Without a reservation nothing is compared, so only a later check fails."""
    with pytest.raises(BadInput) as error:
        run(replace(config, seed=-1))
    assert "scheduled" not in str(error.value)


def test_data_that_are_gone_are_told_in_the_reserved_attempt(config: Config, scheduled: Run, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(BadInput):
        run(replace(config, trainer=replace(config.trainer, rl=replace(config.trainer.rl, group_size=1))))
    attempt = attempt_of(scheduled)
    log = attempt.log_file.read_text()
    assert str(tmp_path / "data") in log and "trainer.rl.group_size = 1" in log  # all problems are reported together
    assert attempt.read()["outcome"] == scheduled.status() == FAILED
    said, file = attempts.failure(scheduled.root)
    assert said.startswith("BadInput: ") and file == attempt.log_file


@pytest.mark.parametrize("held", [False, True])
def test_a_run_that_is_done_or_at_work_keeps_its_status(
    config: Config, scheduled: Run, tmp_path: Path, held: bool
) -> None:
    """Another command may have finished or started it with data that it read earlier."""
    scheduled.set_status(RUNNING if held else DONE)
    shutil.rmtree(tmp_path / "data")
    with (scheduled.root / ".lock").open("w") as lock:
        if held:
            fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BadInput):
            run(config)
    assert scheduled.status() == (RUNNING if held else DONE)
    assert attempt_of(scheduled).read()["outcome"] == FAILED


def test_without_a_reserved_attempt_nothing_is_written(config: Config, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(BadInput):
        run(config)
    assert not (tmp_path / "runs").exists()
