"""The board of `status --watch` in a terminal, with a run that it stops and resumes."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlbench.base.program import CONF
from rlbench.runs.attempts import attempts
from rlbench.runs.directory import DONE, INTERRUPTED, RUNNING, locate
from tests.conftest import SMALL, composed
from tests.helpers_forked import run_py

pytestmark = pytest.mark.slow

LONG = [
    *(*SMALL, "+debug=smoke", "algorithm=grpo", "trainer.rl.updates=120", "trainer.rl.save_every=120"),
    *("evaluation.every=120", "trainer.sft.updates=2"),
]


class Terminal:
    """A command in a terminal of 80 columns and 24 lines."""

    def __init__(self, *command: str):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = os.environ | {"TERM": "xterm", "PYTHONPATH": str(CONF.parent)}
        for name in ("COLUMNS", "LINES"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
        )
        os.close(theirs)
        self.ours, self.text = ours, ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while text := os.read(self.ours, 4096):
                self.text += text.decode(errors="replace")

    def press(self, key: str) -> None:
        self.text = ""
        os.write(self.ours, key.encode())


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@contextlib.contextmanager
def watching(folder: Path) -> Iterator[Terminal]:
    terminal = Terminal(sys.executable, "-m", "analysis.status", str(folder), "--watch", "--every", "0.3")
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()


def test_a_cell_is_stopped_and_resumed_from_the_board(tmp_path: Path) -> None:
    own = [*LONG, f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    target = locate(composed(*own), "rl")
    process = run_py(tmp_path / "log.txt", *own)
    wait_for(lambda: target.metrics_file.is_file() and '"step": 3' in target.metrics_file.read_text(), 180)
    with watching(tmp_path / "runs") as terminal:
        wait_for(
            lambda: "running" in terminal.text and "grpo-relevance s0" in terminal.text and "/120" in terminal.text
        )
        wait_for(lambda: "G" in terminal.text.split("grpo-relevance s0")[-1][:120])  # memory of the process
        terminal.press("s")
        wait_for(lambda: "told to stop at its next checkpoint" in terminal.text)
        wait_for(lambda: target.status() == INTERRUPTED)
        assert process.wait() == 75
        wait_for(lambda: "interrupted" in terminal.text)
        terminal.press("r")
        wait_for(lambda: "resumed in the background" in terminal.text)
        wait_for(lambda: target.status() == RUNNING)
        terminal.press("r")
        wait_for(lambda: "is starting" in terminal.text or "nothing to resume" in terminal.text)
        terminal.press("q")
        assert terminal.process.wait(30) == 1  # not everything is done
    wait_for(lambda: target.status() == DONE, 300)
    first, second = attempts(target.root)
    assert first.read()["reached_update"] == second.read()["from_update"] > 0
    assert second.output_file.stat().st_size > 0


def test_the_terminal_is_as_before_after_ctrl_c(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mini-tiny" / "grpo-relevance" / "seed0-00000000"
    run.mkdir(parents=True)
    (run / "STATUS").write_text("failed\nRuntimeError: planted\n")
    with watching(tmp_path / "runs") as terminal:
        wait_for(lambda: "RuntimeError: planted" in terminal.text)
        assert "\x1b[?1049h" in terminal.text
        terminal.press("r")
        wait_for(lambda: "no command is recorded" in terminal.text)
        terminal.press("\x1b[B")  # arrows are no other keys
        terminal.press("\x03")
        assert terminal.process.wait(30) == 1
        wait_for(lambda: "\x1b[?1049l" in terminal.text and "1 failed" in terminal.text)
