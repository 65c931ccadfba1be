"""Collections and run directories with known curves, for the tests of curves and convergence."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.collection import SPENDING, Collection, Queries
from analysis.collection.sources import Source
from rlbench.runs.directory import seal

Points = Mapping[int, float]


def collection(
    rows: Mapping[str, Sequence[Points]],
    *,
    split: str = "validation",
    metric: str = "ndcg@10",
    spending: Mapping[tuple[str, int], Points] | None = None,
    stopped: Mapping[tuple[str, int], int] | None = None,
) -> Collection:
    """RL rows (label -> one curve per seed, update -> value), with the tokens spent by each run (label, seed)."""
    runs, curves, spent = [], [], []
    for label, seeds in rows.items():
        algorithm, _, reward = label.partition("-")
        for seed, points in enumerate(seeds):
            run = f"{label}/seed{seed}"
            end = (stopped or {}).get((label, seed), np.nan)
            runs.append((run, "e", "mini", "tiny", "rl", label, algorithm, reward, seed, (10,), end))
            curves += [(run, step, split, metric, value) for step, value in points.items()]
            for update, tokens in (spending or {}).get((label, seed), {}).items():
                spent.append((run, update) + (tokens,) * len(SPENDING))
    columns = ["run", "experiment", "dataset", "model", "stage", "label", "algorithm", "reward", "seed", "cutoffs"]
    source = Frames(
        pd.DataFrame(curves, columns=["run", "step", "split", "metric", "value"]),
        pd.DataFrame(spent, columns=["run", "update", *SPENDING]),
    )
    return Collection(pd.DataFrame(runs, columns=[*columns, "stopped_update"]), Queries(source, {}), source)


class Frames(Source):
    """Curves and spending in memory, of runs without scores and settings."""

    def __init__(self, curves: pd.DataFrame, spending: pd.DataFrame):
        self.folder = Path()
        self._curves, self._spending = curves, spending

    def scores(self, run: str, columns: Sequence[str]) -> pd.DataFrame:
        raise KeyError(run)

    def curves(self, run: str) -> pd.DataFrame:
        return self._curves[self._curves["run"] == run].drop(columns="run")

    def spending(self, run: str) -> pd.DataFrame:
        return self._spending[self._spending["run"] == run].drop(columns="run")

    def config(self, run: str) -> Mapping[str, Any]:
        return {}


def write_spending(run: Path, updates: Sequence[int], factor: float = 1.0) -> None:
    """A budget.jsonl: each update has 64 lists of 90 tokens, times a factor, and takes 1.3 seconds."""
    lines = [
        {
            "update": update,
            "completions": 64 * update,
            "prompts": 8 * update,
            "generated_tokens": round(64 * 90 * factor * update),
            "trained_tokens": round(64 * 90 * factor * update),
            "seconds": 1.3 * factor * update,
        }
        for update in updates
    ]
    (run / "budget.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seal(run)


def write_measurements(run: Path, rows: Sequence[tuple[int, str, str, float]]) -> None:
    """Append (step, split, metric, value) to metrics.jsonl."""
    with (run / "metrics.jsonl").open("a") as file:
        for step, split, metric, value in rows:
            file.write(json.dumps({"step": step, "split": split, "metric": metric, "value": value}) + "\n")
    seal(run)
