"""Runs pytest on one changed copy of the repository after another.

Importing torch, transformers and TRL takes longer than most tests. A worker imports them once and forks for each bug.
The fork imports the code of this repository anew.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.bugs import Bug

CAUGHT, SURVIVED, INVALID, TIMEOUT = "caught", "survived", "invalid", "timeout"
HEAVY = ("numpy", "pandas", "scipy.stats", "torch", "transformers", "trl", "hypothesis", "pytest", "datasets")
OURS = ("rlbench", "analysis", "tests", "benchmarks", "hydra_plugins", "run")


@dataclass(frozen=True)
class Outcome:
    """Result of a bug's tests: status, the first test that failed, seconds."""

    status: str
    by: str
    seconds: float


def preload(names: tuple[str, ...] = HEAVY) -> None:
    """Import the libraries that tests use, but nothing of this repository."""
    for name in names:
        __import__(name)
    if "trl" in names:
        from trl import GRPOTrainer, SFTTrainer  # noqa: F401


class _FirstFailure:
    """A pytest plugin that records the first failure: `test` for a failed test, `import` for a file that cannot be
    collected."""

    def __init__(self, note: Path) -> None:
        self.note = note

    def pytest_runtest_logreport(self, report) -> None:  # type: ignore[no-untyped-def]
        if report.failed and not self.note.exists():
            self.note.write_text(f"test {report.nodeid}", encoding="utf-8")

    def pytest_collectreport(self, report) -> None:  # type: ignore[no-untyped-def]
        if report.failed and not self.note.exists():
            self.note.write_text(f"import {report.nodeid}", encoding="utf-8")


def run_tests(root: Path, tests: tuple[str, ...], timeout: float, log: Path, slow: bool = False) -> Outcome:
    """Run pytest in `root` in a forked process, until the first failure.

    Returns:
        caught if a test fails, survived if all pass, invalid if a test file cannot be imported or no test ran, timeout
        if it took longer than `timeout` seconds.
    """
    note, started = log.with_suffix(".first"), time.monotonic()
    note.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _in_child(root, tests, log, note, slow)
    code = _wait(child, timeout)
    seconds = time.monotonic() - started
    first = note.read_text(encoding="utf-8") if note.exists() else ""
    if code is None:
        return Outcome(TIMEOUT, "", seconds)
    if code == 0:
        return Outcome(SURVIVED, "", seconds)
    if code == 1 and first.startswith("test "):
        return Outcome(CAUGHT, first.removeprefix("test "), seconds)
    return Outcome(INVALID, first or f"pytest ended with {code}", seconds)


def _in_child(root: Path, tests: tuple[str, ...], log: Path, note: Path, slow: bool) -> None:
    os.setsid()
    with log.open("wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os.chdir(root)
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    here = str(Path(__file__).resolve().parents[2])
    sys.path[:] = [str(root), *(place for place in sys.path if place not in ("", here))]
    os.environ["PYTHONPATH"] = str(root)  # for tests that start Python themselves
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(root)] + (["-m", ""] if slow else [])
    code = 70
    with contextlib.suppress(SystemExit):
        code = int(pytest.main([*options, *tests], plugins=[_FirstFailure(note)]))
    sys.stdout.flush()
    os._exit(code)


def _wait(child: int, timeout: float) -> int | None:
    """The exit code of a process, or None if it was killed for taking too long."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


_copy: Path
"""The copy of the repository that belongs to this process."""


def copy_of(root: Path, into: Path) -> Path:
    """Copy the files that git tracks, and new files that it does not ignore, in their present state."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
    ).stdout.decode()
    target = into / root.name
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    # Tests of real data look for `shared` beside the repository.
    if (root.parent / "shared").is_dir():
        (into / "shared").symlink_to((root.parent / "shared").resolve())
    # Runs record the commit that made them.
    git = ["git", "-c", "user.name=mutants", "-c", "user.email=mutants@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "copy"]):
        subprocess.run([*git, *command], cwd=target, check=True)
    return target


def begin(root: Path, scratch: Path) -> None:
    """Prepare a worker process: its own copy of the repository, and the heavy imports."""
    global _copy
    _copy = copy_of(root, Path(tempfile.mkdtemp(dir=scratch)))
    preload()


def unchanged(tests: tuple[str, ...], timeout: float, slow: bool) -> Outcome:
    """The outcome of tests without any bug."""
    return run_tests(_copy, tests, timeout, _copy.parent / "log", slow)


def plant(bug: Bug, timeout: float, slow: bool) -> tuple[Outcome, str]:
    """The outcome of one bug, and the last lines of pytest's output."""
    path, log = _copy / bug.file, _copy.parent / "log"
    before, text = path.read_bytes(), bug.planted(_copy)
    path.write_text(text, encoding="utf-8")
    try:
        outcome = run_tests(_copy, bug.tests, timeout, log, slow)
    finally:
        path.write_bytes(before)
        # A file of the same size written within the same second would be served from its stale byte code.
        for cached in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            cached.unlink()
    return outcome, "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
