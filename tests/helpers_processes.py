"""Trainings on several processes of this machine, which exchange gradients over gloo."""

import gc
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed, multiprocessing

from rlbench.config.schema import Config
from rlbench.data import load_dataset
from rlbench.data.record import RankedListDataset
from tests.conftest import SMALL, composed
from tests.helpers_parity import Trained, settings, trained


class Job(NamedTuple):
    """A training by our trainer, or by TRL's own if `trl` is given (TRL's names for the config's values)."""

    config: Config
    trl: Mapping[str, Any] | None = None
    hashed: bool = False

    def run(self, folder: Path, dataset: RankedListDataset, output: Path, processes: int = 1) -> Trained:
        named = None if self.trl is None else settings(self.config, **self.trl)
        return trained(self.config, folder, dataset, output, named, hashed=self.hashed, processes=processes)


def on_processes(count: int, jobs: Mapping[Any, Job], folder: Path, output: Path, limit: float) -> dict[Any, Trained]:
    """Run jobs one after the other on the same `count` processes.

    Args:
        folder: holds the tokenizer and the model.
        output: an empty folder.
        limit: seconds after which the processes are killed.

    Raises:
        ProcessRaisedException: with the traceback of the process that failed first.
        TimeoutError: after the limit.
    """
    deadline = time.monotonic() + limit
    context = multiprocessing.spawn(_process, (count, dict(jobs), folder, output), nprocs=count, join=False)
    try:
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} processes did not finish {len(jobs)} trainings in {limit:.0f} s")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
                process.join()
    return torch.load(output / "results.pt", weights_only=False)


def _process(rank: int, count: int, jobs: Mapping[Any, Job], folder: Path, output: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    os.environ["OMP_NUM_THREADS"] = "1"  # accelerate would set the number itself, and warn
    torch.set_num_threads(1)
    # Processes meet in a file, because another process could take a free port before they use it.
    meeting = f"file://{output / 'meeting'}"
    distributed.init_process_group("gloo", meeting, timedelta(seconds=60), world_size=count, rank=rank)
    torch.set_default_dtype(torch.float64)
    dataset = load_dataset(composed(*SMALL).dataset)
    gc.freeze()  # every training collects garbage, and scanning the imported objects takes longer than the updates
    results = {name: job.run(folder, dataset, output / "run", count) for name, job in jobs.items()}
    if rank == 0:
        torch.save(results, output / "results.pt")
    distributed.destroy_process_group()
