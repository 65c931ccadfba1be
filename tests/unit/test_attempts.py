"""Attempts: numbers, outcomes, logs, reservations by a launcher, and attempts that were killed."""

import json
import logging
import subprocess
import sys
import warnings

import pytest

from rlbench.base.errors import BadInput
from rlbench.runs import attempts
from rlbench.runs.attempts import RunConsole, begin, failure, last_update, logged, reserve
from rlbench.runs.claiming import claim, noted
from rlbench.runs.directory import DONE, FAILED, INTERRUPTED, locate
from tests.conftest import composed


def run_in(folder):
    config = composed(f"runs_dir={folder}")
    return locate(config, "rl"), config


def outcomes(run):
    return [attempt.read()["outcome"] for attempt in attempts.attempts(run.root)]


def test_an_attempt_says_when_from_where_how_far_and_how_it_ended(tmp_path):
    run, config = run_in(tmp_path)
    with pytest.raises(RuntimeError), claim(run, config) as attempt:
        attempt.note(from_update=0)
        run.append_metrics(3, "train", {"loss": 0.5})
        raise RuntimeError("boom\nmore")
    with claim(run, config) as attempt:
        attempt.note(from_update=2)
        run.append_metrics(4, "train", {"loss": 0.5})
        assert run.attempt() == attempt and attempt.read()["outcome"] == "running"
    assert run.attempt() is None and run.attempts() == 2
    first, second = (attempt.read() for attempt in attempts.attempts(run.root))
    assert (first["outcome"], first["from_update"], first["reached_update"]) == (FAILED, 0, 3)
    assert first["reason"] == "RuntimeError: boom\nmore"
    assert (second["outcome"], second["from_update"], second["reached_update"]) == (DONE, 2, 4)
    assert first["started"] <= first["ended"] <= second["started"]
    assert failure(run.root)[0] == "" and second["pid"] and second["command"]


def test_interrupted_by_hand(tmp_path):
    run, config = run_in(tmp_path)
    with pytest.raises(KeyboardInterrupt), claim(run, config):
        raise KeyboardInterrupt
    assert outcomes(run) == ["interrupted"] and run.status() == INTERRUPTED
    assert run.reason() == "Ctrl-C; run the same command again to continue from the last checkpoint"
    assert attempts.attempts(run.root)[0].read()["reason"] == run.reason()


KILLED = """
import os, signal, sys
from pathlib import Path
from rlbench.runs.claiming import claim
from rlbench.runs.directory import locate
from tests.conftest import composed
config = composed(f"runs_dir={sys.argv[1]}")
run = locate(config, "rl")
with claim(run, config):
    run.append_metrics(7, "train", {"loss": 0.5})
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_killed_is_closed_by_the_next(tmp_path):
    run, config = run_in(tmp_path)
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)]).returncode == -9
    assert outcomes(run) == ["running"] and run.status() == "running"
    with claim(run, config):
        assert outcomes(run) == ["unknown", "running"]
    first = attempts.attempts(run.root)[0].read()
    assert first["reached_update"] == 7 and first["ended"] is None
    assert outcomes(run) == ["unknown", DONE]


def test_a_count_of_attempts_becomes_a_folder(tmp_path):
    run, config = run_in(tmp_path)
    run.root.mkdir(parents=True)
    (run.root / "attempts").write_text("3\n")
    assert run.attempts() == 3
    with claim(run, config) as attempt:
        assert attempt.number == 4
    assert outcomes(run) == ["unknown", DONE] and run.attempts() == 4


def test_a_launcher_reserves_and_only_the_process_it_started_takes_it(tmp_path, monkeypatch):
    run, config = run_in(tmp_path)
    mine, other = reserve(run.root), reserve(run.root)
    assert (mine.number, other.number) == (1, 2)
    monkeypatch.setenv(attempts.RESERVED, str(mine.folder))
    assert begin(run.root) == mine
    assert begin(run.root).number == 3  # an attempt that has begun is not used again
    elsewhere, _ = run_in(tmp_path / "other")
    assert begin(elsewhere.root).number == 1
    assert outcomes(elsewhere) == ["running"]
    assert not other.begun and other.read() == {}


def test_what_goes_wrong_before_a_run_is_begun(tmp_path, monkeypatch):
    """An early failure is recorded only in a reserved attempt; another process's run stays unchanged."""
    run, config = run_in(tmp_path)
    with pytest.raises(BadInput), noted(run):
        raise BadInput("no such folder", "no such file")
    assert not run.root.exists()
    for number, recorded in ((1, None), (2, '{"planted": true}')):
        attempt = reserve(run.root)
        monkeypatch.setenv(attempts.RESERVED, str(attempt.folder))
        if recorded:
            (run.root / "STATUS").write_text("running\n")
            (run.root / "identity.json").write_text(recorded)
        with pytest.raises(BadInput), noted(run):
            raise BadInput("no such folder", "no such file")
        assert failure(run.root) == ("BadInput: no such folder", attempt.log_file)
        assert "Traceback" in attempt.log_file.read_text() and "no such file" in attempt.log_file.read_text()
        assert attempt.read()["outcome"] == FAILED and attempt.number == number
        assert run.status() == ("running" if recorded else FAILED)


def test_without_any_word_the_end_of_the_output_tells(tmp_path):
    run, _ = run_in(tmp_path)
    assert failure(run.root) == ("", None)
    attempt = reserve(run.root)
    attempt.output_file.write_text("a\nImportError: no torch\n")
    assert failure(run.root) == ("ImportError: no torch", attempt.output_file)


def test_the_log_has_console_logging_warnings_and_traceback(tmp_path, capsys):
    run, config = run_in(tmp_path)
    console = RunConsole(stderr=True, highlight=False)
    console.print("[dim]said before[/dim]")
    log, level = logging.getLogger("rlbench.some"), logging.getLogger("rlbench").level
    with pytest.raises(RuntimeError), claim(run, config) as attempt, logged(attempt, console):
        console.print("a line", "of two")
        log.info("an info")
        logging.getLogger("library").info("nothing of interest")
        logging.getLogger("library").warning("a complaint")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a warning", UserWarning, stacklevel=1)
        raise RuntimeError("boom")
    text = attempt.log_file.read_text()
    for words in ("said before\n", "a line of two\n", "an info", "a complaint", "a warning", "Traceback", "boom"):
        assert text.count(words) >= 1, words
    assert "nothing of interest" not in text
    assert text.rstrip().endswith("RuntimeError: boom")
    assert "a line of two" in capsys.readouterr().err
    console.print("said after")
    log.info("after")
    assert attempt.log_file.read_text() == text and logging.getLogger("rlbench").level == level


@pytest.mark.parametrize("rows", [1, 5000])
def test_the_last_update_is_found_from_the_end(rows, tmp_path):
    run, _ = run_in(tmp_path)
    assert last_update(run.root) is None
    for step in range(0, rows, 100):
        run.append_metrics(step, "train", {f"metric{i}": 0.123456789 for i in range(100)})
    run.append_metrics(1, "test", {"ndcg@10": 0.1})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 99999, "sp')
    assert last_update(run.root) == max(range(0, rows, 100)) or rows == 1
    assert json.loads(run.metrics_file.read_text().split("\n")[0])["step"] == 0


ONE_AFTER_THE_OTHER = """
import sys, time
from pathlib import Path
from rlbench.runs.claiming import claim
from rlbench.runs.directory import locate
from tests.conftest import composed
folder, fails = Path(sys.argv[1]), sys.argv[2] == "fails"
config = composed(f"runs_dir={folder}")
with claim(locate(config, "rl"), config) as mine:
    if mine:
        with (folder / "inside").open("x"):  # another process inside would be an error
            time.sleep(0.2)
        (folder / "inside").unlink()
        if fails:
            raise RuntimeError("planted")
"""


@pytest.mark.slow
def test_processes_that_want_the_same_run_have_it_one_after_the_other(tmp_path):
    command = [sys.executable, "-c", ONE_AFTER_THE_OTHER, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, kind], stderr=subprocess.PIPE, text=True) for kind in ["fails", "fails", "works"]
    ]
    errors = [process.communicate()[1] for process in processes]
    run, _ = run_in(tmp_path)
    assert run.status() == DONE and not any("FileExistsError" in error for error in errors)
    assert outcomes(run)[-1] == DONE and set(outcomes(run)[:-1]) <= {FAILED}
    assert [attempt.number for attempt in attempts.attempts(run.root)] == list(range(1, run.attempts() + 1))
