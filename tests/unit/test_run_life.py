"""Statuses, locks and file lists of a run directory, and files left by earlier commands."""

import fcntl
import json
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from rlbench.base.errors import BadInput
from rlbench.base.files import write_json
from rlbench.config.schema import Config
from rlbench.launching.slurm import noted_job
from rlbench.launching.study import check_journal
from rlbench.runs import attempts, claiming, processes
from rlbench.runs.attempts import RunConsole, failure, last_update, logged, reserve
from rlbench.runs.claiming import claim, noted
from rlbench.runs.directory import (
    DONE,
    FAILED,
    RUNNING,
    Run,
    label_of,
    locate,
    status_of,
)
from rlbench.runs.existing import unmeasured
from rlbench.runs.identity import canonical, config_hash, differing_keys
from rlbench.runs.record import JOB
from rlbench.runs.sweep_file import read_cells, write_cells
from tests.conftest import SMALL, composed


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return composed(*SMALL, f"runs_dir={tmp_path}")


@pytest.fixture
def run(config: Config) -> Run:
    return locate(config, "rl")


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when the time is up."""

    def over(number: int, frame: object) -> NoReturn:
        raise TimeoutError

    earlier = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def test_numbers_at_any_depth_are_written_alike() -> None:
    assert json.dumps(canonical({"a": [1.0, {"b": (2.0, 0.5)}]})) == '{"a": [1, {"b": [2, 0.5]}]}'


def test_the_hash_is_eight_digits_of_sha256() -> None:
    assert config_hash({}) == "44136fa3"
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})


def test_differences_name_the_whole_key_and_both_sides() -> None:
    found = differing_keys({"gone": 1, "b": {"c": 1}}, {"b": {"c": 2}, "new": 3})
    assert found == ["b.c: was 1, is now 2", "gone: was 1, is now None", "new: was None, is now 3"]


def test_rows_are_named_by_all_that_sets_them_apart() -> None:
    overrides = ["variant=slow", "trainer.rl.start=base", "dataset.demonstrations_from=teacher"]
    config = composed(*SMALL, *overrides, "algorithm=grpo", "reward=dcg")
    assert config.label == "grpo-dcg@slow-teacher-base"
    assert (label_of(config, "sft"), label_of(config, "zero_shot")) == ("sft@teacher", "zero_shot")
    assert config.group_dir.name == "mini-tiny"


def test_cells_do_not_share_what_can_be_changed() -> None:
    for _ in range(3):  # the first is read from its YAML, later ones from a cache
        terms = composed(*SMALL).reward.terms
        assert "planted" not in terms
        terms["planted"] = {}


def test_a_status_is_its_first_line_and_a_reason_the_rest(run: Run) -> None:
    run.set_status(FAILED, "why\nmore")
    assert (run.status(), run.reason()) == (FAILED, "why\nmore")
    run.set_status(DONE)
    assert (run.status(), run.reason()) == (DONE, "")


def test_done_is_written_last(run: Run, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str | None] = []
    monkeypatch.setattr(claiming, "seal", lambda root: found.append(status_of(root)))
    with claim(run, config):
        pass
    assert found == [RUNNING] and run.status() == DONE


def test_a_run_that_stopped_early_says_so(run: Run, config: Config) -> None:
    with claim(run, config):
        write_json(run.root / "result.json", {"stopped": {"update": 4, "reason": "collapsed"}})
    assert (run.status(), run.reason()) == (DONE, "stopped early at update 4: collapsed")


@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "config.yaml", "model/files.json"])
def test_damage_of_a_finished_run_is_noticed(run: Run, config: Config, name: str) -> None:
    with claim(run, config):
        write_json(run.root / "result.json", {"updates": 1})
        write_json(run.root / "model" / "files.json", {"files": {}})
        run.append_metrics(1, "test", {"ndcg@10": 0.5})
    text = (run.root / name).read_text()
    (run.root / name).write_text(text.replace(text[-3], "#"))
    with pytest.raises(BadInput, match=f"has the status done, but {name}"), claim(run, config):
        pass


def test_a_finished_run_without_its_list_is_refused(run: Run, config: Config) -> None:
    with claim(run, config):
        write_json(run.root / "result.json", {"updates": 1})
    (run.root / "files.json").unlink()
    with (
        pytest.raises(BadInput, match="has the status done, but files.json is missing. Restore the file"),
        claim(run, config),
    ):
        pass


def test_what_a_killed_attempt_was_writing_is_removed(run: Run, config: Config) -> None:
    run.root.mkdir(parents=True)
    (run.root / ".result.json.0.partial").write_text("{")
    with claim(run, config):
        assert not list(run.root.glob(".*.partial"))


def test_a_command_says_that_it_waits_and_waits(run: Run, config: Config) -> None:
    run.root.mkdir(parents=True)
    said: list[str] = []
    with (run.root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError), at_most(0.3), claim(run, config, lambda: said.append("waiting")):
            said.append("entered")
    assert said == ["waiting"] and run.status() is None


def test_a_measurement_replaces_that_of_its_split(run: Run) -> None:
    run.append_metrics(3, "validation", {"ndcg@10": 0.1})
    run.replace_metrics(3, "test", {"ndcg@10": 0.2})
    assert [(row["split"], row["value"]) for row in run.read_metrics()] == [("validation", 0.1), ("test", 0.2)]


def test_training_is_no_evaluation(run: Run) -> None:
    run.append_metrics(1, "train", {"loss": 0.1})
    run.append_metrics(2, "validation", {"ndcg@10": 0.1})
    assert unmeasured(run, [1, 2, 3]) == [1, 3]


def test_a_finished_run_does_not_fail_by_a_later_command(run: Run, config: Config, monkeypatch) -> None:
    with claim(run, config):
        pass
    monkeypatch.setenv(attempts.RESERVED, str(reserve(run.root).folder))
    with pytest.raises(BadInput), noted(run):
        raise BadInput("no such folder")
    assert run.status() == DONE


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x"])
def test_cells_lie_below_their_experiment(tmp_path: Path, name: str) -> None:
    file = tmp_path / "sweep.json"
    write_cells(file.parent, {"a/b": {"command": ["python"], "updates": 3}})
    assert read_cells(file.parent)["a/b"]["updates"] == 3
    write_cells(file.parent, {name: {"command": ["python"], "updates": 3}})
    with pytest.raises(BadInput, match="is not a cell"):
        read_cells(file.parent)


def test_a_changed_letter_in_the_cells_of_a_sweep_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    write_cells(file.parent, {"a/b": {"command": ["python", "seed=1"], "updates": 3}})
    good = file.read_text()
    for old, new in (("seed=1", "seed=2"), ("3", "4"), ("a/b", "a/c"), ("sha256", "sha257")):
        file.write_text(good.replace(old, new))
        with pytest.raises(BadInput, match=r"sweep\.json is damaged: .*; move it away; the commands of its sweeps"):
            read_cells(file.parent)


def test_attempts_are_in_the_order_of_their_numbers_and_the_last_tells(tmp_path: Path) -> None:
    for number in range(1, 12):
        assert reserve(tmp_path).number == number
        attempts.attempts(tmp_path)[-1].note(reason=f"reason {number}")
    assert [attempt.number for attempt in attempts.attempts(tmp_path)] == list(range(1, 12))
    assert failure(tmp_path)[0] == "reason 11"
    (tmp_path / "attempts" / "3" / "attempt.json").unlink()
    (tmp_path / "attempts" / "3").rmdir()
    assert reserve(tmp_path).number == 12


def test_an_attempt_is_reserved_for_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = reserve(tmp_path / "a"), reserve(tmp_path / "b")
    monkeypatch.setenv(attempts.RESERVED, str(mine.folder))
    assert attempts.reserved(tmp_path / "a") == mine
    assert attempts.reserved(tmp_path / "b") is None and other.number == mine.number


def test_the_furthest_update_counts_and_no_line_that_was_cut(run: Run) -> None:
    for step in (7, 9, 2):
        run.append_metrics(step, "test", {"loss": 0.1})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 20}')
    assert last_update(run.root) == 9


def test_logging_is_as_it_was_after_an_attempt(tmp_path: Path) -> None:
    logger = logging.getLogger()
    before = list(logger.handlers)
    with logged(reserve(tmp_path), RunConsole(quiet=True)):
        assert len(logger.handlers) > len(before)
    assert logger.handlers == before


def test_a_lone_process_is_the_main_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes.is_main() and processes.check_launch() == []
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert processes.index() == 3 and not processes.is_main()
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        with monkeypatch.context() as own:
            own.setenv(name, "true")
            (said,) = processes.check_launch()
            assert said.startswith(f"{name}=true")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1}', '{"job": 12}'])
def test_a_damaged_job_file_of_slurm_is_named(run: Run, text: str) -> None:
    run.root.mkdir(parents=True)
    (run.root / JOB.name).write_text(text)
    with pytest.raises(BadInput, match=f"{run.root / JOB.name} is damaged.*scancel"):
        noted_job(run)


def test_the_job_of_a_run_is_read(run: Run) -> None:
    assert noted_job(run) is None
    write_json(run.root / JOB.name, {"job": "12_0"})
    assert noted_job(run) == "12_0"


WHOLE = '{"op_code": 0, "worker_id": "w"}\n'


@pytest.mark.parametrize("line", ["\n", "{\n", "[]\n", "null\n", '{"a": 1}\n', '{"op_code": "0", "worker_id": "w"}\n'])
def test_a_damaged_line_of_the_journal_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "search.journal"
    check_journal(path)
    path.write_text(WHOLE)
    check_journal(path)
    path.write_text(WHOLE + line)
    with pytest.raises(BadInput, match=f"{path} is damaged in line 2; restore it"):
        check_journal(path)


@pytest.mark.parametrize("half", [WHOLE[:-1], "{", WHOLE[:9]])
def test_a_line_that_a_kill_cut_short_is_removed_from_the_journal(tmp_path: Path, half: str) -> None:
    """Optuna would append the next record to this line and lose both."""
    path = tmp_path / "search.journal"
    for before in ("", WHOLE, WHOLE + WHOLE):
        path.write_text(before + half)
        check_journal(path)
        assert path.read_text() == before


def test_a_folder_in_place_of_the_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="it is a folder"):
        check_journal(tmp_path)
