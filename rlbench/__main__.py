"""The command `rlbench`: each subcommand is `run.py` or a module that `python -m` runs too."""

import importlib
import sys

from rlbench import __version__
from rlbench.base.errors import nearest

COMMANDS = {
    "demo": ("rlbench.demo", "main", "two methods trained and compared in about a minute; needs nothing else"),
    "run": ("rlbench.run", "start", "run one cell or a sweep (zero-shot, SFT, RL, test); skips what is done"),
    "clone": ("rlbench.clone", "main", "continue a run from a checkpoint with changed settings, as a new run"),
    "status": ("analysis.status", "main", "progress of each cell of a sweep, and the commands that complete it"),
    "report": ("analysis.report", "main", "table, figures and report.html of a folder of runs"),
    "tables": ("analysis.tables.__main__", "main", "tables defined by a spec file, with tests against a baseline"),
    "curves": ("analysis.curves", "main", "print-quality figures of learning curves"),
    "convergence": ("analysis.convergence", "main", "which method learns faster, with intervals"),
    "ablation": ("analysis.ablation", "main", "effect of each setting in a factorial sweep"),
    "select": ("analysis.select", "main", "the best variant of each algorithm on validation"),
    "cleaning": ("analysis.cleaning", "main", "how well methods find wrong labels of preference pairs"),
    "rescore": ("analysis.rescore", "main", "metrics of finished runs under other protocols, without a model"),
    "collect": ("analysis.collect", "main", "collect the runs of a folder as parquet, for pandas and other commands"),
    "reproduce": ("analysis.reproduce", "main", "compare our runs with a table or figure of the paper"),
    "reported": ("analysis.reported", "main", "the curves reported in the paper, without any run"),
    "score": ("rlbench.score", "main", "metrics of lists from elsewhere, in the same tables as runs"),
    "eval": ("rlbench.evaluate", "main", "a model as it is, under its own name, in the same tables as runs"),
    "data": ("rlbench.datasets", "main", "datasets: list, check files, counts and leakage, fill the data cache"),
    "inspect": ("rlbench.inspect", "main", "one group of completions, rank by rank"),
    "measure": ("rlbench.measure", "main", "what a run has changed in its model, checkpoint by checkpoint"),
    "measures": ("analysis.measures", "main", "figures of what rlbench measure has written"),
    "papers": ("rlbench.papers", "main", "papers, and the command that runs each method"),
    "teach": ("rlbench.teach", "main", "lists, ratings and descriptions of items from a teacher model"),
    "demonstrate": ("rlbench.demonstrate", "main", "SFT demonstrations from a teacher's lists"),
    "wandb-sweep": ("rlbench.wandb_sweep", "main", "a sweep or search that W&B's agents run"),
    "wandb-layout": ("analysis.wandb_layout", "main", "one layout of panels in W&B for the runs of an experiment"),
    "wandb-check": ("analysis.wandb_check", "main", "check that W&B's files match the run directories"),
}
"""Subcommand to its module, the function that runs it, and what it is for."""

HELP = """\
rlbench compares GRPO variants on ranked-list generation.

usage: rlbench COMMAND ...

{commands}

rlbench COMMAND --help describes a command. Start with rlbench demo, then run the small benchmark:
  rlbench run experiment=mini
  rlbench report runs/mini
Paths are relative to the current folder. Runs go to runs/ and reports to reports/."""


def main() -> int | None:
    """Run a subcommand; returns its exit code."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(HELP.format(commands="\n".join(f"  {each:<13}{said}" for each, (_, _, said) in COMMANDS.items())))
        return 0
    if name == "--version":
        print(f"rlbench {__version__}")
        return 0
    if name not in COMMANDS:
        hint = nearest(name, list(COMMANDS))
        print(f"rlbench: there is no command '{name}'.{hint} rlbench --help lists them all.", file=sys.stderr)
        return 2
    module, function, _ = COMMANDS[name]
    sys.argv = [f"rlbench {name}", *arguments]  # rlbench.base.program.by_name
    return getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    sys.exit(main())
