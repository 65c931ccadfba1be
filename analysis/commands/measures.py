"""Draw the files of `rlbench.measure`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import command
from analysis.figures.measures import DRAWN
from analysis.figures.style import save
from rlbench.base.errors import BadInput


def run(options: argparse.Namespace, kinds: Sequence[str]) -> int:
    """Run the command with its parsed options, and return its exit code."""
    out = command.make_folder(options.out or options.runs, options.out or options.runs)
    written = []
    for kind in kinds:
        if (file := options.runs / f"{kind}.csv").is_file():
            figure = DRAWN[kind](_read(file, kind))
            written += save(figure, out / kind)
    command.show_written(command.terminal(), written)
    return 0


def _read(file: Path, kind: str) -> pd.DataFrame:
    """The rows of a file. Raises BadInput if they are not of its kind."""
    try:
        table = pd.read_csv(file)
    except (ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is no table: {error}") from error
    wanted = DRAWN_COLUMNS[kind]
    if missing := [name for name in wanted if name not in table.columns]:
        raise BadInput(f"{file} has no column {', '.join(missing)}; write it again with python -m rlbench.measure RUN")
    return table


DRAWN_COLUMNS = {
    "geometry": ["update", "rank_me", "effective_rank", "alpha_req"],
    "token_ranks": ["update", "place", "share_to_1", "share_beyond"],
    "patterns": ["update", "pattern", "share"],
    "solved": ["update", "context_id", "hits"],
    "judge": ["trained_at", "update", "accuracy"],
    "transfer": ["update", "form"],
}
"""Columns that a figure needs."""
