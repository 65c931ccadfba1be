"""Store the runs of a folder as parquet."""

import argparse

from analysis.collection import collect, stored
from analysis.command import COLLECTED, default_folder, say, show_problems, terminal


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    out = options.out or default_folder(options.runs) / COLLECTED
    done = stored.update(options.runs, out)
    collection = collect(out)
    console = terminal()
    show_problems(console, options.runs, collection.problems)
    counts = f"{len(collection.runs)} runs used; {done.read} read, {done.kept} unchanged, {done.gone} removed"
    say(console, f"{out}: {counts}")
    return 0
