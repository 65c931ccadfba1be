"""Find the offline W&B runs of a run directory."""

from pathlib import Path

import wandb

from rlbench.tracking.wandb_file import OfflineRun, read_run


def find_runs(directory: Path) -> list[OfflineRun]:
    """Return the offline runs tracked in a run directory, oldest first.

    `finish` returns before wandb's service has written the end of the file. Shutting down this process's service, if
    one runs, waits for it.
    """
    wandb.teardown()
    runs = [read_run(path) for path in directory.glob("wandb/offline-run-*/*.wandb")]
    assert all(run.whole for run in runs)
    return sorted(runs, key=lambda run: run.started)
