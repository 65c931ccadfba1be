"""Code inside a SLURM job: one run of `run.py`, requeued if it was told to stop.

submitit starts it, counts timeouts and requeues the job (`scontrol requeue` keeps the job id). submitit's own handler
would do so immediately. Here the run first ends at an update from which it can resume exactly.
"""

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from submitit.core.job_environment import JobEnvironment
from submitit.helpers import Checkpointable

from rlbench.base.preemption import SIGNALS
from rlbench.launching.stopping import tell, was_told
from rlbench.runs import attempts


class RunFailed(Exception):
    """The run failed. Jobs that depend on it must know."""


class RunJob(Checkpointable):
    """Runs a command and passes signals on to its process.

    Args:
        command: a `run.py` command.
        root: run directory; its attempt stores the output.
        threads: CPU threads per process.
        processes: number of processes of the run.
    """

    def __init__(self, command: Sequence[str], root: Path, threads: int, processes: int):
        self.command, self.root, self.threads, self.processes = list(command), root, threads, processes

    def __call__(self) -> None:
        """Run the command.

        Raises:
            RunFailed: on a nonzero exit code, unless the run was told to stop.
        """
        warning = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
        put_back = signal.getsignal(warning)
        received: list[int] = []
        process: subprocess.Popen[bytes] | None = None

        def pass_on(number: int, frame: FrameType | None) -> None:
            received.append(number)
            if process is not None:
                tell(process.pid, number, self.processes)

        for each in {*SIGNALS, warning}:
            signal.signal(each, pass_on)
        log, reserved = attempts.started_for(self.root)
        with log:
            environment = os.environ | reserved | {"OMP_NUM_THREADS": str(self.threads)}
            process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            for number in received:
                tell(process.pid, number, self.processes)
            code = process.wait()
        # A signal kills the process if it arrives before handlers are installed.
        stopped = was_told(self.root, code) or -code in received
        if stopped and state_of_this_job() == "RUNNING":
            assert callable(put_back)
            put_back(warning, None)  # does not return
        if code:
            raise RunFailed(f"{' '.join(self.command)} ended with exit code {code}; log: {log.name}")


def state_of_this_job() -> str:
    """Return this job's state. It is RUNNING unless SLURM is requeueing or cancelling it (COMPLETING)."""
    job = os.environ["SLURM_JOB_ID"]
    shown = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\bJobState=(\w+)", shown)
    return found[1] if found else ""
