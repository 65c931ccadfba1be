"""Cells as processes: their environment, how they are stopped, and how their end is reported."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from rlbench.launching import local
from rlbench.launching.board import Board
from rlbench.launching.cells import Cell, note_cells
from rlbench.launching.local import LocalLauncher, Queue, _Process
from rlbench.launching.stopping import tell, was_told
from rlbench.runs.attempts import started_for
from rlbench.runs.directory import (
    DONE,
    FAILED,
    INTERRUPTED,
    PREEMPTED,
    PRUNED,
    Run,
    locate,
)
from rlbench.runs.record import SWEEP
from tests.conftest import SMALL, composed

PROCESS = """
import json, os, signal, sys, time
from pathlib import Path

root, kind = Path(sys.argv[1]), sys.argv[2]

def told(number, frame):
    time.sleep(1.2 if kind == "slow" else 0.1)  # a checkpoint
    (root / "told").touch()
    sys.exit(75)

signal.signal(signal.SIGTERM, told if kind != "deaf" else signal.SIG_IGN)
keys = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS")
(root / "environment.json").write_text(json.dumps({key: os.environ.get(key) for key in keys}))
(root / "up").touch()
time.sleep(0 if kind in ("works", "fails") else 30)
sys.exit(kind == "fails")
"""
"""Runs in place of `run.py`."""

PARENT = """
import subprocess, sys
children = [subprocess.Popen([sys.executable, "-c", sys.argv[1], folder, "waits"]) for folder in sys.argv[2:]]
for child in children:
    child.wait()
"""


class Scripted(Cell):
    """A cell whose process runs `PROCESS`."""

    kind = "works"

    def command(self, *more: str) -> list[str]:
        return [sys.executable, "-c", PROCESS, str(self.run.root), self.kind]


def scripted(folder: Path, name: str, kind: str) -> Scripted:
    root = folder / "label" / name
    root.mkdir(parents=True)
    config = composed(*SMALL, "runtime.device=auto", "runtime.threads=null", f"runs_dir={folder}")
    cell = Scripted([], [], config, Run(root, "rl", "label", 0, "0" * 8, {}))
    cell.kind = kind
    return cell


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that are killed after the test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def await_all(*files: Path) -> None:
    end = time.monotonic() + 20
    while not all(file.exists() for file in files):
        assert time.monotonic() < end, f"{files} are not there"
        time.sleep(0.02)


class Watched(Queue):
    """A queue that fails the test if the launcher gets stuck.

    Args:
        look: called at each check of the running cells.
    """

    def __init__(self, cells: Sequence[Cell], look: Callable[[], None] = lambda: None):
        super().__init__(cells)
        self.look, self.looks = look, 0

    def watch(self, running: Sequence[Cell]) -> Mapping[Path, str]:
        self.looks += 1
        assert self.looks < 80, "the launcher stands still"
        self.look()
        return {}


def launched(cells: Sequence[Cell], feed: Queue, at_once: int, gpus: Sequence[int]) -> str:
    """Run cells and return the output."""
    launcher, text = LocalLauncher("auto", 1, list(gpus), 1, None), io.StringIO()
    launcher.console = Console(file=text, width=300)
    launcher._run(feed, Board(launcher.console, len(cells), 10), at_once)
    return text.getvalue()


def test_cells_have_a_gpu_each_and_their_part_of_the_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cells = [scripted(tmp_path, name, kind) for name, kind in (("a", "works"), ("b", "fails"), ("c", "works"))]
    feed = Watched(cells)
    said = launched(cells, feed, 2, [3, 5])
    told = [json.loads((cell.run.root / "environment.json").read_text()) for cell in cells]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in told[:2]] == ["3", "5"]
    assert told[2]["CUDA_VISIBLE_DEVICES"] in ("3", "5")
    assert {one["CUDA_DEVICE_ORDER"] for one in told} == {"PCI_BUS_ID"}
    assert {one["OMP_NUM_THREADS"] for one in told} == {"4"}
    assert feed.failed == [cells[1]] and said.count(f"{FAILED} ") == 1 and said.count(f"{DONE} ") == 2


def test_all_cells_are_told_to_stop_and_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "POLL_SECONDS", 0.05)
    cells = [scripted(tmp_path, "a", "waits"), scripted(tmp_path, "b", "slow")]

    def interrupt() -> None:
        await_all(*(cell.run.root / "up" for cell in cells))
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        launched(cells, Watched(cells, interrupt), 2, [0, 1])
    assert all((cell.run.root / "told").exists() for cell in cells)


def test_a_cell_is_told_once_and_killed_where_it_is_late(tmp_path, processes):
    cell = scripted(tmp_path, "a", "deaf")
    log, _ = started_for(cell.run.root)
    processes.append(subprocess.Popen(cell.command()))
    held = _Process(cell, processes[0], log, ())
    await_all(cell.run.root / "up")
    held.kill_if_late()
    held.stop("hopeless")
    deadline = held.stop_at
    held.stop("again")
    held.kill_if_late()
    assert held.stop_at == deadline and held.reason == "hopeless" and processes[0].poll() is None
    held.stop_at = time.monotonic() - 1
    held.kill_if_late()
    assert processes[0].wait(10) == -signal.SIGKILL
    log.close()


def test_a_cell_that_is_to_stop_is_told(tmp_path, processes):
    cell = scripted(tmp_path, "a", "waits")
    log, _ = started_for(cell.run.root)
    processes.append(subprocess.Popen(cell.command()))
    await_all(cell.run.root / "up")
    _Process(cell, processes[0], log, ()).stop("hopeless")
    assert processes[0].wait(10) == PREEMPTED and (cell.run.root / "told").exists()
    log.close()
    tell(processes[0].pid)  # the process has ended, so nothing happens


def test_every_process_of_a_run_is_told_and_not_what_started_them(tmp_path, processes):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    processes.append(subprocess.Popen([sys.executable, "-c", PARENT, PROCESS, *map(str, folders)]))
    await_all(*(folder / "up" for folder in folders))
    tell(processes[0].pid, processes=2)
    assert processes[0].wait(10) == 0
    assert all((folder / "told").exists() for folder in folders)


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (INTERRUPTED, PREEMPTED, True),
        ("running", PREEMPTED, True),
        (INTERRUPTED, 1, True),
        (INTERRUPTED, 0, False),  # left by an earlier command
        (FAILED, 1, False),
        ("running", -9, False),
    ],
)
def test_who_was_told_to_stop(tmp_path, status, code, told):
    (tmp_path / "STATUS").write_text(f"{status}\nSIGTERM\n")
    assert was_told(tmp_path, code) == told


def test_the_reason_is_not_what_an_earlier_command_left(tmp_path):
    cell = scripted(tmp_path, "a", "works")
    cell.run.set_status(PRUNED, "by a search")
    assert cell.reason().startswith("it ended without a message")
    for status in (FAILED, INTERRUPTED):
        cell.run.set_status(status, "a reason\nand more")
        assert cell.reason() == "a reason"


def test_progress_of_a_cell_does_not_fall_back(tmp_path):
    cell = scripted(tmp_path, "a", "works")
    assert cell.progress() == (0, "starting")
    for doing, found in (("training", (7, "loss")), ("label seed 0", (7, "loss")), ("test", (cell.updates, "test"))):
        state = {"done": 7, "description": doing, "note": "loss"}
        (cell.run.root / "progress.json").write_text(json.dumps(state))
        assert cell.progress() == found
    board = Board(Console(file=io.StringIO()), 1, cell.updates)
    board.update([cell])
    board.finish(cell, DONE)
    assert sum(board.done.values()) == cell.updates and board.of_cell == {}


def test_the_cells_of_earlier_commands_stay_noted(tmp_path):
    configs = [composed(*SMALL, f"runs_dir={tmp_path}", f"seed={seed}") for seed in (0, 1)]
    cells = [Cell([], [f"seed={c.seed}"], c, locate(c, "rl")) for c in configs]
    for cell in cells:
        note_cells([cell])
    noted = json.loads((configs[0].group_dir.parent / SWEEP.name).read_text())["cells"]
    assert set(noted) == {cell.run.root.relative_to(configs[0].group_dir.parent).as_posix() for cell in cells}
