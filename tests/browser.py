"""A headless Chromium for tests of pages. It is the system's own, so nothing is downloaded."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
INSTALL = "apt-get update && apt-get install -y chromium"


def find_chromium() -> str:
    """Path of the browser. Skips the calling test if no browser is installed."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium on this machine; on Debian: {INSTALL}")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser."""
    path = find_chromium()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Opened:
    """An opened page, with its messages and requests.

    Attributes:
        page: the page in the browser.
        said: messages on the console, and errors.
        asked: requests other than for the page's own file; none of them is answered.
        counted: whether `computed` measures time.
    """

    def __init__(
        self,
        browser: Browser,
        file: Path,
        *,
        width: int = 1280,
        height: int = 900,
        counted: bool = False,
        **context: Any,
    ):
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page: Page = browser.new_context(viewport={"width": width, "height": height}, **context).new_page()
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.route("**/*", lambda route: self._answer(route, file))
        self._counter = self.page.context.new_cdp_session(self.page) if counted else None
        if self._counter is not None:
            self._counter.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.page.goto(file.as_uri())

    def computed(self) -> float:
        """Seconds of computing in the page's main thread, if the page is `counted`."""
        assert self._counter is not None
        found = self._counter.send("Performance.getMetrics")["metrics"]
        return next(float(one["value"]) for one in found if one["name"] == "TaskDuration")

    def _answer(self, route: Route, file: Path) -> None:
        if route.request.url == file.as_uri():
            route.continue_()
        else:
            self.asked.append(route.request.url)
            route.abort()

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.page.context.close()
