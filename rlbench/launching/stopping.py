"""How launchers tell runs to stop, and know that they have."""

import signal
from pathlib import Path

import psutil

from rlbench.runs import INTERRUPTED, PREEMPTED, status_of


def tell(pid: int, number: int = signal.SIGTERM, processes: int = 1) -> None:
    """Send a signal to a run; nothing happens where it has ended.

    Args:
        pid: of the process that was started.
        number: of the signal.
        processes: of the run. Several are told themselves, since torchrun, which started them, would kill after half a
            minute what has not reached an update at which it stops.
    """
    try:
        started = psutil.Process(pid)
        for process in started.children() if processes > 1 else [started]:
            process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def was_told(root: Path, code: int) -> bool:
    """Whether a run that ended with an exit code was told to stop, and goes on where it stopped.

    Args:
        root: its directory. Of a run of several processes this alone knows: torchrun has one code for all failures.
        code: of the process that was started.
    """
    return code == PREEMPTED or (code != 0 and status_of(root) == INTERRUPTED)
