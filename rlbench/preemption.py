"""A run that is told to stop: by a scheduler that takes its machine back, by a time limit, by `kill -TERM`.

Outside training there is nothing to save, and the signal ends the run where it is. In training the run goes on to the
next update from which it can go on exactly, writes a checkpoint there and ends. Either way it leaves its directory with
the status `interrupted`, and the process with the exit code `runs.PREEMPTED`; the same command goes on from there.

Importing this module loads neither torch nor transformers.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
"""What schedulers send before they take a machine back: SLURM SIGTERM when it preempts, and ahead of the time limit
the signal that was asked for (submitit asks for SIGUSR2)."""
GOES_ON = "the same command goes on from there"


class Preempted(BaseException):
    """The run was told to stop.

    Not an `Exception`, for the reason for which KeyboardInterrupt is none: no handler of errors may keep the run going.
    """


class _State:
    """Of this process.

    Attributes:
        signal: name of the first signal that came, None before it.
        training: whether a training is under way, which stops by itself at an update.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self.training = False


_state = _State()


def install() -> None:
    """Let `SIGNALS` end this process as a run ends.

    Raises:
        RuntimeError: outside the main thread, which alone receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals of a run are handled in the main thread")
    for number in SIGNALS:
        signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    if _state.signal is not None:
        return  # it is ending already
    _state.signal = signal.Signals(number).name
    if not _state.training:
        raise Preempted(f"{_state.signal}; {GOES_ON}")


def requested() -> bool:
    """Whether this process was told to stop."""
    return _state.signal is not None


def check() -> None:
    """End the run if it was told to stop.

    An exception out of a signal handler is lost where it strikes in a finaliser; so it is asked for again between
    stages.

    Raises:
        Preempted: if so.
    """
    if _state.signal is not None and not _state.training:
        raise Preempted(f"{_state.signal}; {GOES_ON}")


class Training:
    """How far a training came.

    Attributes:
        stopped_at: the update at which it stopped because it was told to; None where it was not.
    """

    stopped_at: int | None = None


@contextlib.contextmanager
def training() -> Iterator[Training]:
    """Within the block a signal is only noted; who trains asks `requested` after every update and stops by itself.

    Raises:
        Preempted: at the end of the block, where a signal came.
    """
    check()
    _state.training = True
    progress = Training()
    try:
        yield progress
    finally:
        _state.training = False
    if _state.signal is not None or progress.stopped_at is not None:
        told = _state.signal or "another process was told to stop"
        where = "" if progress.stopped_at is None else f" at update {progress.stopped_at}"
        raise Preempted(f"{told}{where}; {GOES_ON}")


@contextlib.contextmanager
def children_deaf_to(*signals: signal.Signals) -> Iterator[None]:
    """Processes that are started within the block never receive these signals; what comes meanwhile is not lost.

    A signal to a group of processes (Ctrl-C in a terminal, a job's time limit) reaches helpers too, which must live on
    until the run has ended.
    """
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
