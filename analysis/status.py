"""`python -m analysis.status runs/mini`: progress of every cell of an experiment, and the commands to complete it."""

import argparse
import sys

from analysis import command

DESCRIPTION = """\
Show the progress of every cell of an experiment.

Reads the run directories below RUNS, and sweep.json beside them, where the launcher records the cells of every sweep:
  done         finished; the same command would skip it. If training stopped early, the reason is shown
  running      a process is working on it: updates done, and when it will finish at this rate
  interrupted  it stopped on a signal, or its process or machine died without setting a status;
               the same command continues it
  failed       with the reason and the log
  pruned       stopped by a search because it was not promising; nothing is left to do
  damaged      its STATUS is done, but its files have changed; with the reason
  missing      a cell of a sweep that was never started
--watch shows a live board: progress, curve on validation, time left, memory and GPU. The arrows select a cell, s stops
it at its next checkpoint, r resumes it in the background with its recorded command, q quits. A cell on another machine
can be watched, but not stopped from here.
Prints the commands that complete all cells that are neither done nor running.
"""
EPILOG = """\
example:  python -m analysis.status runs/mini
          python -m analysis.status runs/mini --commands | sh
          python -m analysis.status runs/mini --watch
exit code: 0 all done or pruned; 1 some are not; 2 no such folder, or no run in it
"""


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser("status", DESCRIPTION, EPILOG, "folder of an experiment, or a folder above it")
    parser.add_argument("--all", action="store_true", help="also show the cells that are done, and all attempts")
    parser.add_argument("--commands", action="store_true", help="print only the commands, one per line")
    parser.add_argument("--watch", action="store_true", help="a live board; s stops the selected cell, r resumes it")
    parser.add_argument(
        "--every", type=_seconds, default=2.0, metavar="S", help="seconds between refreshes (default: %(default)g)"
    )
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.2 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds from 0.2 to 3600")
    return seconds


def _check(options: argparse.Namespace) -> list[str]:
    wrong = ["--watch shows all cells; leave out --commands and --all, or leave out --watch"]
    return command.missing_runs(options) + (wrong if options.watch and (options.commands or options.all) else [])


@command.parsing("status", _parser, _check)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if options.watch:
        from analysis.commands.watch import watch  # loads pandas

        return watch(options.runs, options.every)
    from analysis.commands.status import run  # loads pandas

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
