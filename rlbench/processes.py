"""One run on several processes: who they are, what they agree on, and how one that fails ends all.

The processes are started by `torchrun` or `accelerate launch`, which tell each its number in RANK and how many there
are in WORLD_SIZE. The first one, the main process, alone claims directories, writes, prints and tracks; the others do
what it has decided. Gradients and rollouts are exchanged by accelerate and TRL; here is only what a runner has to say.

Importing this module loads no torch: a config is checked, and refused, before.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from rlbench.attempts import Attempt, reason_of
from rlbench.errors import BadInput
from rlbench.preemption import SIGNALS
from rlbench.runs import FAILED, RUNNING, Run, claim

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from rlbench.config import Config

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a process waits for the main one, which may wait for a stage that another command is making."""

GRACE_SECONDS = 10.0
"""How long a process that has nothing to say of a failure waits for the one that has; launchers end all at once."""

_runner: list["ProcessGroup"] = []
"""The group that the functions below use: over gloo, beside the one that exchanges gradients."""


def count() -> int:
    """How many processes run this command."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def index() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return index() == 0


def check_launch() -> list[str]:
    """What is wrong with how the processes were started, seen from one of them before it has met the others."""
    if count() > 1:
        return [
            f"{name}=true, from accelerate's own configuration: how a run is sharded is said by trainer=fsdp2 or "
            "trainer=deepspeed; use accelerate launch --multi_gpu, which leaves that configuration aside"
            for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
            if os.environ.get(name, "").lower() == "true"
        ]
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_PORT" in os.environ:
        return [
            "accelerate launch --cpu starts one process whatever --num_processes says; on CPU start several with "
            "torchrun --standalone --nproc_per_node N run.py ..., or accelerate launch --multi_gpu --num_processes N "
            "run.py ... runtime.device=cpu"
        ]
    return []


def join(cpu: bool) -> None:
    """Meet the other processes, once; alone there is nothing to do.

    Args:
        cpu: whether the run computes on the CPU, where gradients go over gloo.
    """
    if count() == 1 or _runner:
        return
    from accelerate import PartialState  # only here: it loads torch
    from torch import distributed

    PartialState(cpu=cpu)
    _runner.append(distributed.new_group(backend="gloo", timeout=PATIENCE))


def let_the_main_process_speak() -> None:
    """Wait, on the other processes, until the launcher ends this one because the main process has ended."""
    if not is_main():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # there is nothing to save, and nothing to say
        time.sleep(GRACE_SECONDS)


def leave() -> None:
    """Part from the other processes, where all of them have finished."""
    if _runner:
        from torch import distributed

        _runner.clear()
        distributed.destroy_process_group()


def gather(value: T) -> list[T]:
    """What every process has, in their order, on every process; anything that can be pickled."""
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
    """Do something on the main process alone; every process has what it returned.

    Raises:
        BadInput: what the main process has raised, on every process.
        ProcessFailed: on the others, where it has raised something else, which it goes on to raise.
    """
    if count() == 1:
        return work()
    said: tuple[Any, Exception | None] = (None, None)
    if is_main():
        try:
            said = (work(), None)
        except Exception as error:  # the others wait for an answer, whatever it is
            said = (None, error)
    _raise_first([said[1]])
    return gather(said[0])[0]


def main_first(work: Callable[[], T]) -> T:
    """Do something on every process, once the main one has done it: it may leave files that the others then find.

    Raises:
        BadInput: what any process has raised, on every process.
        ProcessFailed: where another process has raised something else.
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
    """Another process of this run has failed, and has said why."""


def _raise_first(own: list[Exception | None]) -> None:
    """Raise where any process has failed: there the error itself, elsewhere what is known of it."""
    error = own[0]
    said = gather(error.problems if isinstance(error, BadInput) else reason_of(error) if error else None)
    if error is not None:
        raise error
    for process, reason in enumerate(said):
        if reason is not None:
            raise BadInput(*reason) if isinstance(reason, list) else ProcessFailed(f"process {process}: {reason}")


def facts(config: "Config") -> dict[str, Any]:
    """What is recorded of how a run is spread: it decides nothing but rounding, and which checkpoint fits."""
    strategy = config.trainer.parallel.strategy if count() > 1 else None
    return {"processes": count(), "strategy": strategy}


def check_resume(run: Run, totals: Mapping[str, Any], config: "Config") -> list[str]:
    """Whether a checkpoint can be resumed as this command is spread: it holds random states and shards by process.

    Args:
        totals: what the checkpoint's `rlbench.json` holds.
    """
    there = {"processes": totals.get("processes", 1), "strategy": totals.get("strategy")}
    here = facts(config)
    if there == here:
        return []
    return [
        f"{run.root} has a checkpoint of {_spread(there)}, and this command is {_spread(here)}: go on with as many and "
        f"the same trainer.parallel.strategy, or move {run.checkpoints} away to start anew"
    ]


def _spread(found: Mapping[str, Any]) -> str:
    return f"{found['processes']} processes ({found['strategy']})" if found["processes"] > 1 else "one process"


@contextmanager
def claim_together(run: Run, config: "Config", waiting: Callable[[], None]) -> Iterator[Attempt | None]:
    """`runs.claim` for all processes: the main one holds the directory, all do the work or none does.

    A process that fails says why in STATUS, before the launcher ends the others; those then fail too, having lost it,
    and leave what is said.

    Raises:
        BadInput: as `runs.claim`.
    """
    if count() == 1:
        with claim(run, config, waiting) as attempt:
            yield attempt
        return
    with ExitStack() as held:
        attempt = on_main(lambda: held.enter_context(claim(run, config, waiting)))
        try:
            yield attempt
            barrier()  # only then is the run done
        except Exception as error:
            # Another attempt may hold the directory where this process has outlived the main one.
            if attempt is not None and not is_main() and run.status() == RUNNING and run.attempt() == attempt:
                run.set_status(FAILED, f"process {index()}: {reason_of(error)}")
            raise
