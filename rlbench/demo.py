"""Show rlbench at work: train a tiny model with SFT and two RL methods, and print their table.

Needs no arguments, no data and no network. Takes about a minute on two CPU cores. It is the recorded experiment `demo`
(`python run.py experiment=demo`): one seed and few updates, too small for conclusions.
"""

import argparse
import sys
from collections.abc import Sequence

from rlbench.base.command import command_parser
from rlbench.base.program import NAME, as_started, by_name

EPILOG = """example:
  python -m rlbench.demo

Runs go to runs/demo. Finished ones are skipped, so the command may be repeated.
exit code: 0 done; 1 a run failed; 2 the current folder cannot be written; 130 interrupted (repeat it to continue)"""

WORDS = ["experiment=demo"]

BEFORE = "demo: SFT, then GRPO and Rank-GRPO, on embedded data with a tiny model; about a minute on two CPU cores"

AFTER = """
demo: too small for conclusions (one seed, few updates, part of the test split). Next:
  python -m analysis.report runs/demo            # curves, settings and sample lists on one page: reports/demo
  python -m rlbench.inspect runs/demo/mini-tiny/rank_grpo-relevance/seed0-*   # one group of lists, rank by rank
  python -m analysis.status runs/demo --all      # each cell and its attempts
  python run.py experiment=mini                  # the embedded benchmark: three methods, five seeds, ten minutes
  python run.py -m algorithm=grpo,gspo,rank_grpo seed=0,1,2 experiment_name=mine    # your own comparison"""


def main(arguments: Sequence[str] | None = None) -> int:
    _parser().parse_args(arguments)
    from rlbench.run import start  # loads Hydra

    print(BEFORE, file=sys.stderr)
    sys.argv = [f"{NAME} run" if by_name() else "run.py", *WORDS]
    start()  # leaves with its own exit code if anything fails
    print(as_started(AFTER), file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    return command_parser("rlbench.demo", __doc__, EPILOG)


if __name__ == "__main__":
    sys.exit(main())
