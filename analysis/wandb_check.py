"""`python -m analysis.wandb_check runs/mini`: check that W&B's files match the run directories."""

import argparse
import sys
from collections.abc import Sequence

from analysis import command
from rlbench.base.errors import BadInput

DESCRIPTION = """\
Compare the W&B files of runs with their own files.

Reads every run directory below RUNS that has W&B files (wandb/offline-run-*, wandb/run-*), joins the curves of its
attempts (the later one counts if two measured the same update), and compares them with metrics.jsonl. It also checks
that the tables named in the files exist. W&B writes in the background and does not report a full disk.
"""
EPILOG = """\
example:  python -m analysis.wandb_check runs/mini
exit code: 0 everything matches; 1 something is missing or differs; 2 no such folder, or no W&B files in it
"""


@command.refusing("wandb_check")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    if wrong := command.no_folders(options.runs):
        raise BadInput(*wrong)
    from analysis.commands.wandb_check import run  # loads pandas

    return run(options)


def _parser() -> argparse.ArgumentParser:
    return command.make_parser("wandb_check", DESCRIPTION, EPILOG, "folder with run directories at any depth")


if __name__ == "__main__":
    sys.exit(main())
