"""Runs the commands of a tutorial page as a user types them, in a folder with the repository's files."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import SMALL
from tests.helpers import ROOT

COMMAND = re.compile(r"^    ((?:rlbench|python) (?:.*\\\n)*.*)$", re.MULTILINE)
FILE = re.compile(r"`([\w/.]+)`[^`]*:\n\n```(?:python|yaml|jinja)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OF_MINI = SMALL[:2]
SHORT = ["+debug=smoke", *SMALL[2:]]
"""Settings that make a run last seconds. They are added to every `rlbench run` and `python run.py` of a page."""
PYTHON = f"""#!/bin/bash
set -f
if [ "$1" = run.py ]; then exec {sys.executable} "$@" $MORE; fi
exec {sys.executable} "$@"
"""
RLBENCH = f"""#!/bin/bash
set -f
if [ "$1" = run ]; then exec {sys.executable} -m rlbench "$@" $MORE; fi
exec {sys.executable} -m rlbench "$@"
"""


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """The part of a page behind a heading, up to the next one of its level."""
    marks = heading.split(" ")[0]
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^{marks} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def commands(text: str) -> list[str]:
    """The commands of a text, each as it is typed."""
    return COMMAND.findall(text)


@dataclass(frozen=True)
class Shell:
    """A folder in which the commands of a page run."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> "Shell":
        """Make the folder: the files of the repository that pages name, and the commands `python` and `rlbench`."""
        for name in ("run.py", "conf", "examples", "experiments"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "bin").mkdir()
        for name, text in (("python", PYTHON), ("rlbench", RLBENCH)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        return cls(folder)

    def write_files(self, text: str) -> list[str]:
        """Write the files that a page tells to save, and return their names."""
        for name, content in FILE.findall(text):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(content, encoding="utf-8")
        return [name for name, _ in FILE.findall(text)]

    def start(self, command: str, more: Sequence[str] = ()) -> subprocess.Popen:
        """Start a command. A run is shortened (`SHORT`), unless the command or `more` sets the same key."""
        given = re.findall(r"[+]?[\w./]+(?==)", " ".join([command, *more]))
        usual = [*SHORT, *([] if re.search(r"\b(dataset|experiment)=", command) else OF_MINI)]
        usual = [word for word in usual if not (word.startswith("model.") and re.search(r"\bmodel=", command))]
        added = [*(word for word in usual if word.split("=")[0] not in given), *more]
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MORE": " ".join(added)},
        )

    def run(self, command: str, *more: str, code: int = 0) -> str:
        """Run a command to its end, check its exit code, and return its output."""
        started = self.start(command, more)
        try:
            said, _ = started.communicate(timeout=1200)
        finally:
            if started.poll() is None:  # with its children, such as the cells of a sweep
                os.killpg(started.pid, signal.SIGKILL)
        assert started.returncode == code, (command, said)
        return said
