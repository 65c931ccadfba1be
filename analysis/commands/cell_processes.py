"""Processes of cells on this machine: find, measure, stop and start them."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from rlbench.base.program import INSTALLED, NAME, RUN_PY, import_path
from rlbench.base.records import Damaged
from rlbench.runs.attempts import attempts, started_for
from rlbench.runs.record import JOB

NVIDIA_SMI = "nvidia-smi"
PATIENCE = 5.0
"""Seconds that nvidia-smi may take."""


def process_of(root: Path) -> psutil.Process | None:
    """The process on this machine that works on a run; None if there is none here.

    A process id alone proves nothing: on another machine, or later, it may be of a process that has nothing to do with
    the run. So the process must also have the run's lock open.

    Args:
        root: run directory.
    """
    lock = (root / ".lock").resolve()
    for attempt in reversed(attempts(root)):
        pid = attempt.read().get("pid")
        if pid is None:
            continue
        try:
            process = psutil.Process(pid)
            return process if any(Path(file.path) == lock for file in process.open_files()) else None
        except psutil.Error:
            return None
    return None


def resident_bytes(process: psutil.Process) -> int | None:
    """Resident memory of a process and its children; None if it has ended."""
    try:
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
    except psutil.Error:
        return None


def stop(root: Path) -> str:
    """Ask a run to stop at its next checkpoint, as a scheduler does. Returns what was done, in words."""
    process = process_of(root)
    if process is None:
        try:
            job = f" (SLURM job {JOB.load(root)['job']})"
        except (FileNotFoundError, Damaged):
            job = ""
        return f"works on another machine{job}: it cannot be stopped from here; stop it there, or with scancel"
    process.send_signal(signal.SIGTERM)
    return "told to stop at its next checkpoint"


def resume(root: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the recorded command of a cell in the background. It goes on after this process has ended.

    Its output goes to `output.txt` of the next attempt.
    """
    root.mkdir(parents=True, exist_ok=True)
    log, reserved = started_for(root)
    own = {"PYTHONPATH": os.pathsep.join([*import_path(), os.environ.get("PYTHONPATH", "")])}
    with log:
        return subprocess.Popen(
            runnable(command),
            env=os.environ | own | reserved,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C at the board must not reach it
        )


def runnable(command: Sequence[str]) -> list[str]:
    """A recorded command as words that start it from here, with this interpreter."""
    python = [sys.executable, *(["-P"] if INSTALLED else [])]
    first, *rest = command
    if first == NAME:
        return [*python, "-m", NAME, *rest]
    if first == "python" and rest[:1] == [RUN_PY.name]:
        return [*python, *(["-m", NAME, "run"] if INSTALLED else [str(RUN_PY)]), *rest[1:]]
    if first == "python":
        return [*python, *(str(RUN_PY) if word == RUN_PY.name else word for word in rest)]
    return list(command)


def gpu_lines() -> list[str]:
    """Use and memory of each GPU; empty without nvidia-smi."""
    rows = _nvidia_smi("--query-gpu=index,utilization.gpu,memory.used,memory.total")
    return [
        f"GPU {row[0]}: {row[1]} %, {float(row[2]) / 1024:.1f} of {float(row[3]) / 1024:.1f} GiB"
        for row in rows
        if len(row) == 4 and _is_number(row[2]) and _is_number(row[3])
    ]


def gpu_bytes() -> dict[int, int]:
    """GPU memory of each process, by process id; empty without nvidia-smi."""
    found: dict[int, int] = {}
    for row in _nvidia_smi("--query-compute-apps=pid,used_memory"):
        if len(row) == 2 and row[0].isdecimal() and _is_number(row[1]):
            found[int(row[0])] = found.get(int(row[0]), 0) + int(float(row[1]) * 2**20)
    return found


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()


def _nvidia_smi(query: str) -> list[list[str]]:
    if shutil.which(NVIDIA_SMI) is None:
        return []
    words = [NVIDIA_SMI, query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return []
    return (
        [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines())] if not done.returncode else []
    )
