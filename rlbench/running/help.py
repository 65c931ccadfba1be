"""The text of `python run.py --help`. It is made without Hydra, which would compose a config for each group."""

import textwrap
from collections.abc import Mapping, Sequence

from rlbench.base.program import as_started

WIDTH = 120
"""Line width, in characters."""

HELP = """\
rlbench compares GRPO variants on ranked-list generation.

One run (zero-shot, SFT, RL, test); finished stages are skipped:
  python run.py algorithm=rank_grpo reward=relevance dataset=mini model=tiny seed=0
A sweep, one cell per combination; the same command continues an unfinished sweep:
  python run.py -m algorithm=grpo,gspo,rank_grpo seed=0,1,2 hydra.launcher.jobs=2
A search (random, TPE or grid) that stops hopeless proposals early, by validation (docs/sweeps.md):
  python run.py -m hydra/sweeper=optuna seed=0,1 'trainer.rl.learning_rate=tag(log, interval(1e-5, 1e-3))'
A recorded experiment, then its table and curves:
  python run.py experiment=mini
  python -m analysis.report runs/mini --out reports/mini
A test of all parts in seconds:
  python run.py +debug=smoke
One prompt with its completions, hits and advantages by rank:
  python -m rlbench.inspect RUN_DIRECTORY

Choose an option in each group with GROUP=OPTION:

{chosen}

Add an option of other groups with +GROUP=OPTION:

{added}

Change any setting with KEY=VALUE, for example:
  trainer.rl.learning_rate=1e-4   trainer.rl.updates=300   trainer.rl.num_iterations=2
  algorithm.ratio=token           reward.gamma=0.5         generation.temperature=0.8
  runs_dir=PATH (default runs/)   stage=sft (stop after it) tracker=wandb

Show all keys and values that a command line would set:
  python run.py [KEY=VALUE ...] --cfg job

Hydra's own help: python run.py --hydra-help"""


def help_text(groups: Mapping[str, Sequence[str]], in_config: Sequence[str]) -> str:
    """Return the help text, with the commands in the form in which this process was started.

    Args:
        groups: the options of each config group.
        in_config: the groups of which every config has an option. The others are added with a `+`.
    """
    chosen = [f"{group}: {', '.join(groups[group])}" for group in sorted(groups) if group in in_config]
    added = [f"+{group}={', '.join(groups[group])}" for group in sorted(groups) if group not in in_config]
    lists = {"chosen": "\n".join(map(_wrapped, chosen)), "added": "\n".join(map(_wrapped, added))}
    return as_started(HELP.format(**lists))


def _wrapped(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
