"""How launchers tell runs to stop, and detect that they did."""

import signal
from pathlib import Path

import psutil

from rlbench.runs.directory import INTERRUPTED, PREEMPTED, status_of


def tell(pid: int, number: int = signal.SIGTERM, processes: int = 1) -> None:
    """Send a signal to a run, if it is still running.

    Args:
        pid: process id of the started process.
        number: signal number.
        processes: number of processes of the run. If there are several, each gets the signal directly, because torchrun
            kills its processes after half a minute, possibly before they reach an update at which they can stop.
    """
    try:
        started = psutil.Process(pid)
        for process in started.children() if processes > 1 else [started]:
            process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def was_told(root: Path, code: int) -> bool:
    """Whether a run ended because it was told to stop and can be resumed.

    Args:
        root: run directory. For several processes only its status tells, since torchrun uses one code for all failures.
        code: exit code of the started process.
    """
    return code == PREEMPTED or (code != 0 and status_of(root) == INTERRUPTED)
