"""`python -m analysis.wandb_layout runs/mini`: one layout of panels in W&B for the runs of an experiment."""

import argparse
import sys
from pathlib import Path

from analysis import command

DESCRIPTION = """\
Make a saved view in W&B for every experiment below RUNS.

A view shows the runs of its experiment, grouped by the rows of our tables, with our panels in a fixed order: validation
accuracy, training (reward, KL, entropy, clipping, ...), lists, test scores, single ranks and speed. Only curves that
the runs have get a panel. Titles are those of our figures. Needs `wandb login` and the package wandb-workspaces.
"""
EPILOG = """\
examples:
  python -m analysis.wandb_layout runs/mini
  python -m analysis.wandb_layout runs/mini --entity my-team --project films
  python -m analysis.wandb_layout runs/mini --out layout.json    # write it to a file; needs no network
exit code: 0 made; 1 W&B refused it or cannot be reached; 2 invalid input
"""


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser("wandb_layout", DESCRIPTION, EPILOG, "folder with run directories at any depth")
    parser.add_argument("--entity", metavar="NAME", help="W&B user or team (default: tracker.entity, or yours)")
    parser.add_argument("--project", metavar="NAME", help="W&B project (default: tracker.project of the runs)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write W&B's description of the views, as JSON")
    return parser


@command.parsing("wandb_layout", _parser)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.wandb_layout import run

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
