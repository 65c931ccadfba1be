"""Our numbers next to the paper's, with verdicts."""

import argparse
from pathlib import Path

from analysis.command import set_aside, show_problems, show_written, terminal
from analysis.papers import figure, table_sheets
from analysis.papers.page import show, write


def title(name: str, twin: str | None) -> str:
    """Title of a folder, in words."""
    words = name.replace("table", "Table ").replace("figure_", "Figure: ").replace("_", " ")
    return f"{words} of arXiv 2510.20150" + (f", twin on {twin}" if twin else "")


def run(options: argparse.Namespace) -> int:
    """Run the command with its parsed options, and return its exit code."""
    console = terminal()
    if options.name.startswith("figure"):
        page = figure.make_page(options.name, options.twin, options.runs)
    else:
        page = table_sheets.make_page(options.name, options.twin, options.runs, options.resamples)
    heading = title(options.name, options.twin)
    show_problems(console, options.runs or Path("runs"), page.problems)
    show(console, heading, page)
    path = (options.out or Path("reports") / "reproduce") / "-".join(filter(None, (options.name, options.twin)))
    written = write(page, heading, path)
    set_aside(path.parent, [f"{path.name}.{suffix}" for suffix in ("png", "svg")], written)
    show_written(console, written)
    return 0
