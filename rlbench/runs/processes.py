"""One run on several processes: their identity, their shared decisions, and how one failure ends all.

`torchrun` or `accelerate launch` starts the processes with RANK and WORLD_SIZE. Only the first, the main process,
claims directories, writes, prints and tracks; the others follow its decisions. accelerate and TRL exchange gradients
and rollouts.

Importing this module loads no torch, so that bad configs are refused before.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from rlbench.base.errors import BadInput
from rlbench.base.preemption import SIGNALS
from rlbench.base.program import as_started
from rlbench.runs.attempts import Attempt, reason_of
from rlbench.runs.claiming import claim
from rlbench.runs.directory import FAILED, RUNNING, Run
from rlbench.runs.record import Spread

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from rlbench.config.schema import Config

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a process waits for the main one, which may wait for a stage that another command computes."""

GRACE_SECONDS = 10.0
"""Seconds that a process waits for the main one to report a failure. Launchers end all processes when one ends."""

_runner: list["ProcessGroup"] = []
"""The gloo process group used below, separate from the one that exchanges gradients."""


def count() -> int:
    """Return the number of processes that run this command."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def index() -> int:
    """Return the index of this process, from 0."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return index() == 0


def check_launch() -> list[str]:
    """Return launch errors that one process can detect before it connects to the others."""
    if count() > 1:
        return [
            f"{name}=true comes from accelerate's own configuration, but sharding is set with trainer=fsdp2 or "
            "trainer=deepspeed; use accelerate launch --multi_gpu, which ignores that configuration"
            for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
            if os.environ.get(name, "").lower() == "true"
        ]
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_PORT" in os.environ:
        said = (
            "accelerate launch --cpu starts one process and ignores --num_processes; on the CPU, start several with "
            "torchrun --standalone --nproc_per_node N run.py ..., or accelerate launch --multi_gpu --num_processes N "
            "run.py ... runtime.device=cpu"
        )
        return [as_started(said)]
    return []


def join(cpu: bool) -> None:
    """Connect to the other processes, once. With one process this does nothing.

    Args:
        cpu: whether the run computes on the CPU, where gradients use gloo.
    """
    if count() == 1 or _runner:
        return
    from accelerate import PartialState  # loads torch
    from torch import distributed

    PartialState(cpu=cpu)
    _runner.append(distributed.new_group(backend="gloo", timeout=PATIENCE))


def let_the_main_process_speak() -> None:
    """On other processes, wait for the launcher to end this one after the main process has ended."""
    if not is_main():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # nothing to save and nothing to report
        time.sleep(GRACE_SECONDS)


def leave() -> None:
    """Disconnect from the other processes after all have finished."""
    if _runner:
        from torch import distributed

        _runner.clear()
        distributed.destroy_process_group()


def gather(value: T) -> list[T]:
    """Return the values of all processes, in process order. Values must be picklable."""
    if count() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value, group=_runner[0])
    return values


def barrier() -> None:
    """Wait for all processes."""
    gather(None)


def on_main(work: Callable[[], T]) -> T:
    """Run `work` on the main process only, and return its result on every process.

    Raises:
        BadInput: on every process, if the main process raised it.
        ProcessFailed: on the other processes, if the main process raised another error.
    """
    if count() == 1:
        return work()
    said: tuple[Any, Exception | None] = (None, None)
    if is_main():
        try:
            said = (work(), None)
        except Exception as error:  # the others wait for an answer in any case
            said = (None, error)
    _raise_first([said[1]])
    return gather(said[0])[0]


def main_first(work: Callable[[], T]) -> T:
    """Run `work` on the main process first, then on the others, which can use files that it created.

    Raises:
        BadInput: on every process, if any process raised it.
        ProcessFailed: if another process raised another error.
    """
    if count() == 1:
        return work()
    result: Any = None
    for turn in (is_main(), not is_main()):
        failure: Exception | None = None
        if turn:
            try:
                result = work()
            except Exception as error:
                failure = error
        _raise_first([failure])
    return result


class ProcessFailed(Exception):
    """Another process of this run has failed and has reported why."""


def _raise_first(own: list[Exception | None]) -> None:
    """Raise if any process has failed: its own error there, a summary on the others."""
    error = own[0]
    said = gather(error.problems if isinstance(error, BadInput) else reason_of(error) if error else None)
    if error is not None:
        raise error
    for process, reason in enumerate(said):
        if reason is not None:
            raise BadInput(*reason) if isinstance(reason, list) else ProcessFailed(f"process {process}: {reason}")


def facts(config: "Config") -> Spread:
    """Return how a run is distributed. This affects only rounding and which checkpoints fit."""
    strategy = config.trainer.parallel.strategy if count() > 1 else None
    return {"processes": count(), "strategy": strategy}


def check_resume(run: Run, totals: Mapping[str, Any], config: "Config") -> list[str]:
    """Return an error if a checkpoint does not fit this launch. It holds random states and shards per process.

    Args:
        totals: content of the checkpoint's `rlbench.json`.
    """
    there = {"processes": totals.get("processes", 1), "strategy": totals.get("strategy")}
    here = facts(config)
    if there == here:
        return []
    return [
        f"{run.root} has a checkpoint of {_spread(there)}, but this command uses {_spread(here)}; use the same "
        f"number and the same trainer.parallel.strategy, or move {run.checkpoints} away to start from the beginning"
    ]


def _spread(found: Mapping[str, Any]) -> str:
    return f"{found['processes']} processes ({found['strategy']})" if found["processes"] > 1 else "one process"


@contextmanager
def claim_together(run: Run, config: "Config", waiting: Callable[[], None]) -> Iterator[Attempt | None]:
    """`runs.claim` for all processes. The main process holds the directory; either all processes work or none.

    A failing process writes the reason to STATUS before the launcher ends the others. Those fail too when they lose the
    connection, and keep what is written.

    Raises:
        BadInput: as in `runs.claim`.
    """
    if count() == 1:
        with claim(run, config, waiting) as attempt:
            yield attempt
        return
    with ExitStack() as held:
        attempt = on_main(lambda: held.enter_context(claim(run, config, waiting)))
        try:
            yield attempt
            barrier()  # the run is done only after this
        except Exception as error:
            # If this process outlived the main one, another attempt may hold the directory by now.
            if attempt is not None and not is_main() and run.status() == RUNNING and run.attempt() == attempt:
                run.set_status(FAILED, f"process {index()}: {reason_of(error)}")
            raise
