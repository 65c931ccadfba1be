"""Total cost of runs, where a stage shared by several experiments counts once."""

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

PLACE_PARTS = 4
"""Number of path parts of a run below `runs_dir`: experiment; dataset and model; row; seed and hash."""


@dataclass(frozen=True)
class Cost:
    """A total over runs.

    Attributes:
        seconds: wall-clock time of all runs; shared stages count once.
        joules: energy of CPU and GPU; unknown energy counts as 0.
        shared: runs adopted from another experiment whose original is not among these runs, each with the original's
            directory.
        shared_seconds: their part of `seconds`.
    """

    seconds: float
    joules: float
    shared: tuple[tuple[str, str], ...]
    shared_seconds: float


def total_cost(runs: pd.DataFrame, folder: Path) -> Cost:
    """Total cost of runs.

    A stage adopted from another experiment has the budget of the original run. It counts once: with the original, or
    by itself if the original is not among these runs. What the parent of a clone spent counts once in the same way.

    Args:
        runs: as `Collection.runs`.
        folder: folder that contains the runs.
    """
    own = pd.Series([place_of(folder, run) for run in runs["run"]], index=runs.index)
    taken = runs["adopted_from"].notna()
    made = runs.assign(taken=taken, maker=runs["adopted_from"].where(taken, own)).sort_values("taken", kind="stable")
    # Runs with the same name in two folders are different runs, with different seconds.
    counted = made.drop_duplicates(["maker", "seconds"])
    shared = counted[counted["taken"]]
    return Cost(
        seconds=float(counted["seconds"].sum()) - _inherited(counted),
        joules=float(counted[["energy_joules_cpu", "energy_joules_gpu"]].sum().sum()),
        shared=tuple(zip(shared["run"], shared["maker"], strict=True)),
        shared_seconds=float(shared["seconds"].sum()),
    )


def _inherited(runs: pd.DataFrame) -> float:
    """Seconds of clones that their parents spent, where the parent is among the runs and counts by itself."""
    if "parent" not in runs:
        return 0.0
    return float(runs["inherited_seconds"][runs["parent"].isin(set(runs["maker"]))].sum())


def place_of(folder: Path, run: str) -> str:
    """A run's directory as in `adopted_from`: relative to the folder of all experiments."""
    return "/".join(Path(os.path.abspath(folder / run)).parts[-PLACE_PARTS:])
