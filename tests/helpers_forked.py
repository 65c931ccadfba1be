"""Commands in separate processes, forked from one that has imported everything, because imports take seconds."""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rlbench.running.cli import CONF

ROOT = CONF.parent
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "rlbench.running.runner", "tests.conftest"])


class Forked:
    """A process that calls a function in the repository's root, with part of the interface of `subprocess.Popen`.

    Args:
        log: file for everything that it prints.
        environment: additional environment variables.
        new_session: whether it leads a process group, like a command in a terminal.
    """

    def __init__(
        self,
        log: Path,
        function: Callable[..., None],
        *arguments: object,
        environment: dict[str, str] | None = None,
        new_session: bool = False,
    ):
        self._log = log
        self._process = FORKS.Process(
            target=_forked, args=(log, {"OMP_NUM_THREADS": "1"} | (environment or {}), new_session, function, arguments)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._log), timeout)
        return self.returncode

    def output(self, timeout: float = 300) -> str:
        """Wait for the end and return the output. A process that does not end is killed."""
        try:
            self.wait(timeout)
        finally:
            self.kill()
        return self._log.read_text(encoding="utf-8")

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Output and errors in one text."""
        output = self.output(timeout)
        return output, output

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def run_py(log: Path, *arguments: str, environment: dict[str, str] | None = None, new_session: bool = False) -> Forked:
    """`python run.py ARGUMENTS`. Of arguments for the same key the last one counts."""
    last = {argument.split("=")[0]: argument for argument in arguments}
    return Forked(log, _run_py, *last.values(), environment=environment, new_session=new_session)


def _run_py(*arguments: str) -> None:
    sys.argv = [str(ROOT / "run.py"), *arguments]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves this out


def _forked(
    log: Path, environment: dict[str, str], new_session: bool, function: Callable[..., None], arguments: tuple
) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    if new_session:
        os.setsid()
    os.environ.update(environment)
    os.chdir(ROOT)
    function(*arguments)
