"""Runs a backend in its own thread behind a queue, so that its failures and delays do not affect the run."""

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from queue import Full, Queue
from typing import Any

from rlbench.tracking.identity import Backend, Uploader

log = logging.getLogger("rlbench.tracking")

QUEUE_LENGTH = 10_000
"""Maximum number of waiting calls for a slow backend, at most some tens of MB. Later calls are dropped."""
FINISH_SECONDS = 75.0
"""Seconds that the end of a run waits for a backend. What is written by then is kept."""
UPLOAD_SECONDS = 300.0
"""Additional seconds if files are sent to it. Other processes of a run wait meanwhile, for ten minutes at most."""
FAILED_SECONDS = 10.0
"""The same for a failed or interrupted run, which may have to end at once."""


DOING = {
    "prepare": "start",
    "log": "log metrics",
    "log_table": "log a table",
    "log_image": "log an image",
    "upload": "upload files",
    "summary": "write the summary",
}
"""What a method does, if its name does not say it."""


class Worker:
    """Passes calls to a backend in the background.

    Args:
        backend: the backend; no other thread may call it.
        directory: the run directory, named in warnings.
    """

    def __init__(self, backend: Backend, directory: Path):
        self._backend, self._directory = backend, directory
        self._calls: Queue[tuple[str, tuple[Any, ...]]] = Queue(QUEUE_LENGTH)
        self._lost = self._dropped = self._uploads = False
        self._do("prepare")
        self._thread = threading.Thread(target=self._work, name=f"tracker {backend.name}", daemon=True)
        self._thread.start()
        self.call("start")

    def call(self, method: str, *arguments: Any) -> None:
        """Queue a call of the backend's method. Never waits."""
        if self._lost:
            return
        try:
            self._calls.put_nowait((method, arguments))
        except Full:
            if not self._dropped:
                self._dropped = True
                log.warning(
                    "%s is too slow: %d calls are waiting, and further ones are not sent to it. The run's own files "
                    "in %s are complete.",
                    self._backend.name,
                    QUEUE_LENGTH,
                    self._directory,
                )

    def upload(self, kind: str, files: Mapping[str, Path]) -> None:
        """Queue files, if the backend keeps files. Never waits."""
        if isinstance(self._backend, Uploader):
            self._uploads = True
            self.call("upload", kind, files)

    def finish(self, failed: bool) -> None:
        """Let the backend finish its queue and close.

        Give up after FINISH_SECONDS, and UPLOAD_SECONDS more if there are files, or after FAILED_SECONDS if failed.
        """
        seconds = FAILED_SECONDS if failed else FINISH_SECONDS + UPLOAD_SECONDS * self._uploads
        deadline = time.monotonic() + seconds
        try:
            self._calls.put(("finish", (failed,)), timeout=seconds)
            self._thread.join(max(deadline - time.monotonic(), 0.0))
        except Full:
            pass
        if self._thread.is_alive():
            self._lose("finish", TimeoutError(f"it was not ready after {seconds:.0f} s"))

    def _work(self) -> None:
        method = ""
        while method != "finish":
            method, arguments = self._calls.get()
            self._do(method, *arguments)

    def _do(self, method: str, *arguments: Any) -> None:
        if self._lost:
            return
        try:
            getattr(self._backend, method)(*arguments)
        # Catches everything: a view must not end its run, whatever a library raises. Our own wrong arguments do not get
        # here, because the tracker checks them first.
        except Exception as error:
            self._lose(method, error)

    def _lose(self, method: str, error: Exception) -> None:
        """Log the failure once and stop using the backend."""
        if self._lost:
            return
        self._lost = True
        log.warning(
            "%s failed to %s (%s: %s). The run continues without it and keeps its own files in %s.%s",
            self._backend.name,
            DOING.get(method, method),
            type(error).__name__,
            error,
            self._directory,
            f" {self._backend.remedy}" if self._backend.remedy else "",
        )
        try:
            self._backend.abandon()
        except Exception as further:  # as above
            log.debug("%s could not be shut down after a failure: %r", self._backend.name, further)
