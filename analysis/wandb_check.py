"""`python -m analysis.wandb_check runs/mini`: check that W&B's files match the run directories."""

import argparse
import sys

from analysis import command

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


def _parser() -> argparse.ArgumentParser:
    return command.make_parser("wandb_check", DESCRIPTION, EPILOG, "folder with run directories at any depth")


@command.parsing("wandb_check", _parser)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.wandb_check import run  # loads pandas

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
