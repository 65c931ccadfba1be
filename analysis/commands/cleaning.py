"""How well methods of cleaning find wrong labels of preference pairs."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import parquet

from analysis.collection import find_runs
from analysis.command import terminal
from analysis.render.numbers import share
from analysis.render.sheet import sheet_of, to_rich
from analysis.studies.cleaning import JUDGES, Pairs, clean, swapped_labels, votes_of
from rlbench.base.errors import BadInput
from rlbench.base.files import write_text

HEADER = ("method", "treatment", "kept", "flipped", "wrong found", "doubts right", "wrong left", "reward gap")


def read_pairs(folder: Path) -> tuple[Pairs, int]:
    """The pairs of all runs below a folder, and the number of runs that have some. A tuple gives its first pair.

    Raises:
        BadInput: no run has pairs whose log-probabilities under the reference are stored.
    """
    gaps, votes, runs = list[float](), list[dict[str, float]](), 0
    for run in find_runs(folder):
        before = len(gaps)
        for stored in sorted((run / "preferences").glob("round-*")):
            tuples = [row for path in sorted(stored.glob("part-*.parquet")) for row in _rows(path, *REWARDS)]
            scored = [row for path in sorted(stored.glob("reference-0*.parquet")) for row in _rows(path, "logps")]
            for row, logps in zip(tuples, scored, strict=False):  # a round that has not begun has none
                gaps.append(row["chosen_reward"] - row["rejected_rewards"][0])
                votes.append(votes_of(*logps["logps"][:2]))
        runs += len(gaps) > before
    if not gaps:
        raise BadInput(
            f"no run below {folder} has pairs; they come from preference optimisation, such as "
            "python run.py algorithm=dpo"
        )
    by_judge = {name: np.array([one[name] for one in votes]) for name in JUDGES}
    return Pairs(np.array(gaps, dtype=np.float64), by_judge), runs


REWARDS = ("chosen_reward", "rejected_rewards")
"""Columns of the tuples that are read."""


def _rows(path: Path, *columns: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(path, columns=list(columns)).to_pylist()
    return rows


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    pairs, runs = read_pairs(options.runs)
    found = clean(pairs, swapped_labels(len(pairs.gaps), options.noise, options.seed), options.share)
    rows = [
        (one.method, one.treatment, *(_text(value) for value in list(asdict(one).values())[2:-1]), f"{one.gap:.3f}")
        for one in found
    ]
    title = f"Cleaning of {len(pairs.gaps):,} pairs of {runs} runs, {options.noise:.0%} of the labels swapped"
    sheet = sheet_of(title, HEADER, rows, names=2)
    console = terminal()
    console.print(to_rich(sheet, console.width))
    if options.out is not None:
        write_text(options.out, pd.DataFrame(map(asdict, found)).to_csv(index=False, float_format="%.6f"))
    return 0


def _text(value: float) -> str:
    return "-" if value != value else share(value, 3)
