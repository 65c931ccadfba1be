"""Handles signals that tell a run to stop: from a scheduler, a time limit, or `kill -TERM`.

Outside training the signal ends the run at once, because there is nothing to save. During training the run continues to
the next update from which it can resume exactly, writes a checkpoint and ends. In both cases the directory gets the
status `interrupted` and the process exits with `runs.PREEMPTED`. The same command resumes the run.

Importing this module loads neither torch nor transformers.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
"""Signals that schedulers send in advance.

SLURM sends SIGTERM on preemption, and the requested signal before the time limit (submitit requests SIGUSR2).
"""
GOES_ON = "run the same command again to continue from there"


class Preempted(BaseException):
    """The run was told to stop.

    Like KeyboardInterrupt this is not an `Exception`, so that error handlers cannot keep the run going.
    """


class _State:
    """State of this process.

    Attributes:
        signal: name of the first signal received, or None.
        training: whether training is in progress. It stops by itself after an update.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self.training = False


_state = _State()


def install() -> None:
    """Make `SIGNALS` stop the run in this process.

    Raises:
        RuntimeError: outside the main thread, the only one that can handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signal handlers can be installed only in the main thread")
    for number in SIGNALS:
        signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    if _state.signal is not None:
        return  # already ending
    _state.signal = signal.Signals(number).name
    if not _state.training:
        raise Preempted(f"{_state.signal}; {GOES_ON}")


def requested() -> bool:
    """Whether this process was told to stop."""
    return _state.signal is not None


def check() -> None:
    """Stop the run if it was told to. Called between stages.

    Needed because an exception raised by the signal handler is lost if it occurs inside a finaliser.

    Raises:
        Preempted: if the run was told to stop.
    """
    if _state.signal is not None and not _state.training:
        raise Preempted(f"{_state.signal}; {GOES_ON}")


class Training:
    """Progress of a training.

    Attributes:
        stopped_at: the update at which it stopped because it was told to, or None.
    """

    stopped_at: int | None = None


@contextlib.contextmanager
def training() -> Iterator[Training]:
    """Only record signals inside the block. The training loop calls `requested` after every update and stops itself.

    Raises:
        Preempted: at the end of the block, if a signal arrived.
    """
    check()
    _state.training = True
    progress = Training()
    try:
        yield progress
    finally:
        _state.training = False
    if _state.signal is not None or progress.stopped_at is not None:
        told = _state.signal or "another process of this run was asked to stop"
        where = "" if progress.stopped_at is None else f" at update {progress.stopped_at}"
        raise Preempted(f"{told}{where}; {GOES_ON}")


@contextlib.contextmanager
def children_deaf_to(*signals: signal.Signals) -> Iterator[None]:
    """Block these signals in processes started inside the block. Signals to this process are delayed, not lost.

    A signal to a process group (Ctrl-C in a terminal, a job's time limit) also reaches helper processes, which must
    live until the run has ended.
    """
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
