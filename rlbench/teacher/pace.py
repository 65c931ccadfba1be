"""Limits on requests and tokens per minute."""

import asyncio
import contextlib
import time


class Pace:
    """Spaces requests so that no minute has more of them, or of their tokens, than allowed.

    A request waits for its turn and then books the time that it and its tokens take at the allowed rate. So there
    are no bursts.

    Args:
        requests_per_minute, tokens_per_minute: the limits; None for no limit.
    """

    def __init__(self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None):
        self.per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self.per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._requests = self._tokens = self._paused = 0.0  # times from which on a request may start

    async def turn(self, tokens: int, halted: asyncio.Event) -> None:
        """Wait until a request may start, or until the job has ended.

        Args:
            tokens: expected tokens of the request and its answer.
            halted: set when the job ends.
        """
        while (wait := max(self._requests, self._tokens, self._paused) - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(halted.wait(), wait)
                return
        now = time.monotonic()
        self._requests = max(now, self._requests) + self.per_request
        self._tokens = max(now, self._tokens) + tokens * self.per_token

    def correct(self, more: int) -> None:
        """Book more tokens than expected, or fewer if negative."""
        self._tokens += more * self.per_token

    def pause(self, seconds: float) -> None:
        """Let no request start for some time, as an endpoint has asked."""
        self._paused = max(self._paused, time.monotonic() + seconds)
