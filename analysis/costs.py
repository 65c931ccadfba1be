"""What runs have cost together, where a stage that several experiments share counts once."""

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

PLACE_PARTS = 4
"""Experiment, dataset and model, row, seed and hash: what names a run below `runs_dir`."""


@dataclass(frozen=True)
class Cost:
    """A total over runs.

    Attributes:
        seconds: wall-clock time of all runs; of what several experiments share, once.
        joules: energy of CPU and GPU, as far as it is known; 0 where it is not.
        shared: runs whose cost another experiment has spent, each with that run's directory; only those whose maker is
            not among these runs.
        shared_seconds: what these took, as part of `seconds`.
    """

    seconds: float
    joules: float
    shared: tuple[tuple[str, str], ...]
    shared_seconds: float


def total_cost(runs: pd.DataFrame, folder: Path) -> Cost:
    """What runs have cost together.

    A stage that was taken from another experiment has that experiment's budget. It counts once: with the run that made
    it, or by itself where that run is not among these.

    Args:
        runs: as `Collection.runs`.
        folder: that the runs' names are below.
    """
    own = pd.Series([place_of(folder, run) for run in runs["run"]], index=runs.index)
    taken = runs["adopted_from"].notna()
    made = runs.assign(taken=taken, maker=runs["adopted_from"].where(taken, own)).sort_values("taken", kind="stable")
    # Runs of one name in two folders of runs are two: each has its own seconds.
    counted = made.drop_duplicates(["maker", "seconds"])
    shared = counted[counted["taken"]]
    return Cost(
        seconds=float(counted["seconds"].sum()),
        joules=float(counted[["energy_joules_cpu", "energy_joules_gpu"]].sum().sum()),
        shared=tuple(zip(shared["run"], shared["maker"], strict=True)),
        shared_seconds=float(shared["seconds"].sum()),
    )


def place_of(folder: Path, run: str) -> str:
    """A run's directory as `adopted_from` names it: below the folder of all experiments."""
    return "/".join(Path(os.path.abspath(folder / run)).parts[-PLACE_PARTS:])
