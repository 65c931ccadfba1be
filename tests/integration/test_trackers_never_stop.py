"""Trackers never affect a run. Each case is a separate process with the real libraries."""

import importlib.util
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlbench.tracking.wandb_file import read_run
from tests.conftest import slow
from tests.helpers_wandb_server import wandb_server

ROOT = Path(__file__).parents[2]

START, SERVICE = 4.0, 1.0
"""Seconds that the processes below give the server to answer, and a service to end."""
LITTLE, MUCH = 3.0, 30.0
"""Seconds given to a backend to finish: LITTLE if it never will, MUCH if a slow machine must not matter."""
LOG_SECONDS = 0.25
"""Upper limit for one call on a busy machine; a blocked call would take seconds."""
BOUND = START + 2 * SERVICE + 12.0
"""Upper limit for start, calls and finish together, including imports but not the backend's time to finish."""

SCRIPT = f"""
import logging, resource, sys, time
from pathlib import Path
logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
from rlbench.tracking import TrackerIdentity, make_tracker, wandb_backend, worker
wandb_backend.ONLINE_START_SECONDS, wandb_backend.SERVICE_SECONDS = {START}, {SERVICE}
directory, modes, largest, patience = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]), float(sys.argv[4])
if largest:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
wandb_backend.FINISH_SECONDS, worker.FINISH_SECONDS = patience, patience + 1.0
wandb_backend.UPLOAD_SECONDS, worker.UPLOAD_SECONDS = patience, patience + 1.0
longest = 0.0

def timed(call, *arguments):
    global longest
    started = time.perf_counter()
    call(*arguments)
    longest = max(longest, time.perf_counter() - started)

identity = TrackerIdentity("mini", "group", "rl", "name")
tracker = make_tracker(modes, directory=directory, shared=directory.parent, identity=identity, config={{"seed": 0}})
timed(tracker.log, {{"train/reward": 0.0}}, 0)
print("ready", flush=True)
sys.stdin.readline()
for update in range(1, 2001):
    timed(tracker.log, {{"train/reward": float(update)}}, update)
    if update % 500 == 0:
        timed(tracker.log_table, "samples", ["text"], [["Heat (1995)" * 100]] * 8, update)
        time.sleep(0.2)
timed(tracker.summary, {{"final/test/ndcg@10": 0.5}})
timed(tracker.upload, sys.argv[5:])
started = time.perf_counter()
tracker.finish()
print("longest", longest, "finish", time.perf_counter() - started, flush=True)
"""


@contextmanager
def process(
    directory: Path,
    modes: str,
    *,
    environment: dict[str, str] | None = None,
    largest: int = 0,
    patience: float = MUCH,
    upload: Sequence[str] = (),
    **options: Any,
) -> Iterator[subprocess.Popen[str]]:
    """A process that logs its first point, then waits for a line before it continues.

    Args:
        directory: the run directory.
        modes: trackers, separated by commas.
        environment: additional variables.
        largest: largest size of a file in bytes; 0 for no limit.
        patience: seconds that a backend is given to finish.
        upload: kinds of files to send.
        options: of Popen.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "TRACKIO_"))}
    home = directory.parent / "home"
    clean |= {"HOME": str(home), "NETRC": str(home / "netrc"), "WANDB_ERROR_REPORTING": "false"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(directory), modes, str(largest), str(patience), *upload],
        cwd=ROOT,
        env=clean | (environment or {}),
        text=True,
        **(pipes | options),
    )
    try:
        yield started
    finally:
        children = psutil.Process(started.pid).children() if started.poll() is None else []
        for one in (started, *children):  # a failed test may have left a stopped service
            one.kill()
        started.communicate()


def finish(started: subprocess.Popen[str], patience: float = MUCH) -> list[str]:
    """Let the process run to its end, which must succeed in time. Return the lines of its log."""
    before = time.monotonic()
    out, errors = started.communicate("go\n", timeout=BOUND + patience + 30)
    assert started.returncode == 0, errors
    assert time.monotonic() - before < BOUND + patience
    found = re.search(r"longest (\S+) finish (\S+)", out)
    assert found is not None and float(found[1]) < LOG_SECONDS
    return [line for line in errors.splitlines() if line.startswith(("WARNING", "ERROR"))]


def ready(started: subprocess.Popen[str]) -> None:
    assert started.stdout is not None and started.stdout.readline() == "ready\n"


def until(path: Path, pattern: str) -> Path:
    """Wait for a file of a backend, which starts in the background."""
    deadline = time.monotonic() + 30
    while not (found := sorted(path.glob(pattern))):
        assert time.monotonic() < deadline, f"no {pattern} in {path}"
        time.sleep(0.05)
    return found[0]


def login(address: str) -> dict[str, str]:
    return {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": address}


@pytest.mark.slow
def test_server_that_refuses(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}"
    with process(tmp_path / "run", "wandb", environment=login(closed)) as started:
        ready(started)
        (line,) = finish(started)
    assert "W&B could not be reached, so this run is tracked offline" in line


@pytest.mark.slow
def test_server_that_accepts_and_never_answers(tmp_path: Path) -> None:
    with wandb_server() as server:
        server.silent.set()
        with process(tmp_path / "run", "wandb", environment=login(server.address)) as started:
            ready(started)
            (line,) = finish(started)
    assert "W&B could not be reached, so this run is tracked offline" in line
    assert until(tmp_path / "run", "wandb/offline-run-*/*.wandb").stat().st_size > 0


@pytest.mark.slow
def test_server_that_falls_silent(tmp_path: Path) -> None:
    """Finishing gives up after a time limit, names the kept files, and the process ends."""
    with (
        wandb_server() as server,
        process(tmp_path / "run", "wandb", environment=login(server.address), patience=LITTLE) as started,
    ):
        ready(started)
        until(tmp_path / "run", "wandb/run-*/*.wandb")
        deadline = time.monotonic() + 20
        while "UpsertBucket" not in server.operations:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.silent.set()
        (line,) = finish(started, LITTLE)
    assert "W&B failed to finish" in line and "wandb sync --include-online" in line


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["CreateArtifact", "CommitArtifact"])
def test_server_that_takes_no_files(tmp_path: Path, operation: str) -> None:
    """It answers all else. The run waits for a limited time, and says where the files still are."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "predictions-test-0.parquet").write_bytes(b"x" * 100_000)
    with wandb_server() as server:
        server.unanswered.add(operation)
        login_here = login(server.address)
        with process(tmp_path / "run", "wandb", environment=login_here, patience=LITTLE, upload=["predictions"]) as one:
            ready(one)
            (line,) = finish(one, 2 * LITTLE)
        assert operation in server.operations
    (file,) = (tmp_path / "run").glob("wandb/run-*/*.wandb")
    assert len(read_run(file).curve("train/reward")) == 2001
    assert "W&B failed to upload files" in line and "wandb sync --include-online" in line


@pytest.mark.slow
def test_server_that_refuses_files(tmp_path: Path) -> None:
    """The run says so and is complete otherwise, on the server too."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "predictions-test-0.parquet").write_bytes(b"x" * 100_000)
    with wandb_server() as server:
        server.refused.add("CreateArtifact")
        login_here = login(server.address)
        with process(tmp_path / "run", "wandb", environment=login_here, upload=["predictions"]) as one:
            ready(one)
            (line,) = finish(one)
        (file,) = (tmp_path / "run").glob("wandb/run-*/*.wandb")
        sent = server.runs[read_run(file).id]
    assert line.startswith("WARNING W&B did not take predictions of ") and "above your quota" in line
    assert len(sent.curve("train/reward")) == 2001 and sent.exit_code == 0


def need(mode: str) -> None:
    if mode == "trackio" and importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed: pip install -r requirements-trackio.txt")


def service_of(started: subprocess.Popen[str]) -> psutil.Process:
    (service,) = [child for child in psutil.Process(started.pid).children() if child.name() == "wandb-core"]
    return service


@pytest.mark.parametrize("number", [signal.SIGKILL, *slow(signal.SIGSTOP)])
def test_service_that_dies_or_hangs(tmp_path: Path, number: signal.Signals) -> None:
    """A hung service no longer empties its socket, so wandb's own `log` and clean-up would wait for ever."""
    with process(tmp_path / "run", "offline", patience=LITTLE) as started:
        ready(started)
        until(tmp_path / "run", "wandb/offline-run-*/*.wandb")
        service_of(started).send_signal(number)
        (line,) = finish(started, LITTLE)
    assert line.startswith("WARNING W&B failed to ")


@pytest.mark.parametrize(("mode", "name"), [("offline", "W&B"), ("tensorboard", "TensorBoard"), ("trackio", "Trackio")])
def test_directory_that_cannot_be_written(tmp_path: Path, mode: str, name: str) -> None:
    need(mode)
    (tmp_path / "file").touch()
    with process(tmp_path / "file" / "x" / "run", mode, environment={"HOME": str(tmp_path)}) as started:
        ready(started)
        (line,) = finish(started)
    assert line.startswith(f"WARNING {name} failed to start (NotADirectoryError")


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "name"), [("offline", ""), ("tensorboard", "TensorBoard"), ("trackio", "Trackio")])
def test_disk_that_is_full(tmp_path: Path, mode: str, name: str) -> None:
    """Files of the process and its children cannot grow beyond 32 KB, so writing fails as on a full disk.

    wandb 0.31 does not report this; `analysis.wandb_check` does.
    """
    need(mode)
    with process(tmp_path / "run", mode, largest=32768) as started:
        ready(started)
        lines = finish(started)
    assert [line.split(" failed to ")[0] for line in lines] == ([f"WARNING {name}"] if name else [])


def test_folder_of_tensorboard_is_removed(tmp_path: Path) -> None:
    with process(tmp_path / "run", "tensorboard") as started:
        ready(started)
        until(tmp_path / "run", "tensorboard/attempt1/*")
        shutil.rmtree(tmp_path / "run")
        (line,) = finish(started)
    assert line.startswith("WARNING TensorBoard failed to finish (FileNotFoundError") and "has been removed" in line


def test_process_of_trackio_is_killed(tmp_path: Path) -> None:
    need("trackio")
    with process(tmp_path / "run", "trackio") as started:
        ready(started)
        until(tmp_path / "trackio", "*.db")
        (child,) = psutil.Process(started.pid).children()
        child.kill()
        (line,) = finish(started)
    assert line.startswith("WARNING Trackio failed to ")


def test_folder_of_trackio_is_removed(tmp_path: Path) -> None:
    need("trackio")
    with process(tmp_path / "run", "trackio") as started:
        ready(started)
        until(tmp_path / "trackio", "*.db")
        shutil.rmtree(tmp_path / "trackio")
        (tmp_path / "trackio").touch()
        (line,) = finish(started)
    assert line.startswith("WARNING Trackio failed to ")


@pytest.mark.slow
def test_one_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    from tests.helpers_tensorboard import read_scalars

    with process(tmp_path / "run", "offline,tensorboard") as started:
        ready(started)
        until(tmp_path / "run", "wandb/offline-run-*/*.wandb")
        service_of(started).kill()
        (line,) = finish(started)
    assert line.startswith("WARNING W&B failed to ")
    assert len(read_scalars(tmp_path / "run")["train/reward"]) == 2001


def test_nobody_is_asked_for_a_login_on_a_terminal(tmp_path: Path) -> None:
    """wandb prompts in a terminal. Here it has one, but would get no answer."""
    ours, theirs = pty.openpty()
    script = SCRIPT.replace("sys.stdin.readline()", "")
    command = [sys.executable, "-c", script, str(tmp_path / "run"), "wandb", "0", str(MUCH)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    clean |= {"HOME": str(tmp_path / "home"), "NETRC": str(tmp_path / "netrc"), "WANDB_ERROR_REPORTING": "false"}
    asked = subprocess.Popen(command, cwd=ROOT, env=clean, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 10_000):
            shown += chunk
    except OSError:  # Linux's message after the other end is closed
        pass
    assert asked.wait(timeout=30) == 0, shown
    text = shown.decode()
    assert (
        "no W&B login was found, so this run is tracked offline" in text and text.count("\n") == 3
    )  # ready, notice, longest


@pytest.mark.slow
def test_nobody_is_asked_for_a_login_without_an_input(tmp_path: Path) -> None:
    with process(tmp_path / "run", "wandb", stdin=subprocess.DEVNULL) as started:
        ready(started)
        out, errors = started.communicate(timeout=60)
    assert started.returncode == 0 and "no W&B login was found, so this run is tracked offline" in errors


@pytest.mark.slow
def test_three_trackers_that_work_say_nothing(tmp_path: Path) -> None:
    modes = "offline,tensorboard,trackio" if importlib.util.find_spec("trackio") else "offline,tensorboard"
    with process(tmp_path / "run", modes) as started:
        ready(started)
        assert finish(started) == []
