"""Parts that all commands share: the parser, and the exit code for bad input. Loads nothing heavy."""

import argparse
from collections.abc import Callable

from rlbench.base.errors import BadInput
from rlbench.base.program import as_started


def command_parser(module: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser without arguments for a module that `python -m` runs.

    The help shows description and epilog verbatim, except for the names of commands (`as_started`).
    """
    return argparse.ArgumentParser(
        prog=as_started(f"python -m {module}"),
        description=as_started(description),
        epilog=as_started(epilog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def exit_code(work: Callable[[], int]) -> int:
    """Do the work of a command and return its exit code. Print all problems of bad input to stderr and return 2."""
    try:
        return work()
    except BadInput as error:
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        for notice in error.notices:
            console.print(f"note: {notice}", markup=False, soft_wrap=True)
        for problem in error.problems:
            console.print(problem, style="red", markup=False, soft_wrap=True)
        return 2
