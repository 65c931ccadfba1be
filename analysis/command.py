"""What the commands of `analysis` share: their options, their terminal, and how they say what is wrong."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from analysis import statistics
from analysis.reading import Problem
from rlbench.arguments import whole
from rlbench.errors import BadInput

COLLECTED = "collected"
"""Name of the folder in which a collection of runs lies by default."""

MOST_RESAMPLES = 10**6
"""More change no digit that is shown, and fill the memory."""

TERMINAL_WIDTH = 120
"""Columns assumed where output goes to a file."""


def make_parser(
    name: str, description: str, epilog: str, runs: str, *, several: bool = False
) -> argparse.ArgumentParser:
    """A parser with RUNS.

    Args:
        name: of the module in `analysis`.
        description: shown as it is written.
        epilog: the same.
        runs: what RUNS is.
        several: whether there may be more than one.
    """
    parser = plain_parser(name, description, epilog)
    parser.add_argument("runs", type=Path, metavar="RUNS", nargs="+" if several else None, help=runs)
    return parser


def plain_parser(name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser without arguments; `make_parser` says what of."""
    return argparse.ArgumentParser(
        prog=f"python -m analysis.{name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_out(parser: argparse.ArgumentParser) -> None:
    """--out and --resamples, for commands that write a folder of tables and figures."""
    add_folder(parser)
    add_resamples(parser)


def add_folder(parser: argparse.ArgumentParser, default: str = "reports/<RUNS below runs/>") -> None:
    """--out; `default` describes what `default_folder` gives."""
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"where to write (default: {default})")


def add_resamples(parser: argparse.ArgumentParser) -> None:
    """--resamples."""
    parser.add_argument(
        "--resamples",
        type=whole(1, MOST_RESAMPLES),
        default=statistics.RESAMPLES,
        metavar="N",
        help="bootstrap resamples behind each interval (default: %(default)s)",
    )


def out_folder(options: argparse.Namespace) -> Path:
    """Where a command writes: --out, or the default folder of its RUNS."""
    return options.out if options.out is not None else default_folder(options.runs)


def default_folder(runs: Path, top: str = "reports") -> Path:
    """The folder for what is made from RUNS, such as reports/mini for runs/mini.

    It follows the path of RUNS below the working folder, so that two RUNS of the same name do not share one. A leading
    `runs` or `reports` is dropped, and so is `collected` at the end: a collection has the folder of its runs. RUNS
    outside the working folder have the folder of their name.
    """
    whole, here = runs.resolve(), Path.cwd().resolve()
    if not whole.is_relative_to(here) or whole == here:
        return Path(top) / whole.name
    parts = whole.relative_to(here).parts
    if len(parts) > 1 and parts[-1] == COLLECTED:
        parts = parts[:-1]
    if len(parts) > 1 and parts[0] in ("runs", "reports"):
        parts = parts[1:]
    return Path(top, *parts)


def terminal(width: int = TERMINAL_WIDTH) -> Console:
    """The terminal, or `width` columns where output goes elsewhere."""
    return Console() if sys.stdout.isatty() else Console(width=width)


def refuse(name: str, error: BadInput) -> int:
    """Say what is wrong; the exit code."""
    print(f"analysis.{name}: {error}", file=sys.stderr)
    return 2


def show_problems(console: Console, folder: Path, problems: Sequence[Problem]) -> None:
    """Name the runs that are left out, then those that are used but odd."""
    for left_out, heading in ((True, "Left out"), (False, "Used, but note")):
        concerned = [problem for problem in problems if problem.left_out == left_out]
        if concerned:
            console.print(f"[bold yellow]{heading}[/] (paths below {escape(str(folder))}):")
            for problem in concerned:
                console.print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)
            console.print()


def show_written(console: Console, paths: Sequence[Path]) -> None:
    """Name the files that were written."""
    console.print("Wrote")
    for path in paths:
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)
