"""`python -m analysis.collect runs/mini`: store the runs of a folder as parquet, for pandas and the other commands."""

import argparse
import sys

from analysis import command

DESCRIPTION = """\
Collect all runs below RUNS into tables that pandas, pyarrow and duckdb can read, and that every command of
analysis accepts in place of RUNS.

Writes to the --out folder:
  queries/       run, context_id, sample, cluster_id, metric, value: per-query scores on test, one part per run
  curves/        run, step, split, metric, value: measurements during training, one part per run
  runs.parquet   one row per run: result, budget, settings, provenance
  problems.json  runs that are left out or odd, and why

Run it again to update the collection: it rereads only changed runs, and adds and removes others. If interrupted, it
leaves the collection as it was and continues next time. Needs no model and no GPU.
"""
EPILOG = """\
example:  python -m analysis.collect runs/mini --out reports/mini/collected
          python -m analysis.report reports/mini/collected --out reports/mini
exit code: 0 written or up to date (even if runs were left out); 2 no such folder, or --out contains something else
"""


def _parser() -> argparse.ArgumentParser:
    parser = command.make_parser("collect", DESCRIPTION, EPILOG, "folder with run directories at any depth")
    command.add_folder(parser, f"reports/<RUNS below runs/>/{command.COLLECTED}")
    return parser


@command.parsing("collect", _parser)
def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from analysis.commands.collect import run  # loads pandas

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
