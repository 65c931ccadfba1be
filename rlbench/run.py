"""The command that runs cells: `python run.py`, or `rlbench run` where the package is installed."""

import gc
import os
import sys
from collections.abc import Callable

import hydra
from omegaconf import DictConfig

from rlbench.base.errors import BadInput, OutOfMemory, Unavailable
from rlbench.base.files import DiskFull
from rlbench.base.preemption import Preempted, install
from rlbench.base.program import CONF, as_started
from rlbench.config.places import check_places
from rlbench.config.resolving import resolve
from rlbench.config.schema import Config
from rlbench.running.checks import check_values
from rlbench.running.cli import check_overrides, config_dir, fail, groups, in_config, is_one_run, without_hydra
from rlbench.running.help import help_text
from rlbench.runs.directory import PREEMPTED
from rlbench.runs.processes import ProcessFailed, count, is_main, leave, let_the_main_process_speak


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> None:
    execute(lambda: _checked(cfg))


def _checked(cfg: DictConfig) -> Config:
    config = resolve(cfg)
    problems = check_values(config, count()) + check_places(config, to_write=False)
    if config.clone is not None:
        problems.append(as_started("clone is set by python -m rlbench.clone RUN KEY=VALUE only; remove it"))
    if problems:
        raise BadInput(*problems)
    return config


def execute(make: Callable[[], Config]) -> None:
    """Make the config of a cell and run the cell. Exits with the code that says how it ended, unless it is done.

    Args:
        make: returns the config, or raises BadInput.
    """
    try:
        install()
        config = make()
        run = _load_runner()  # takes seconds, so after the checks
        run(config)
        leave()
    except BadInput as error:
        fail(error)
    except (DiskFull, OutOfMemory, Unavailable) as error:
        print(f"rlbench: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except ProcessFailed as error:
        let_the_main_process_speak()
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        if is_main():
            print("interrupted; run the same command again to continue from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
    except Preempted as stop:
        if is_main():
            print(f"interrupted: {stop}", file=sys.stderr)
        raise SystemExit(PREEMPTED) from None


def _load_runner() -> Callable[[Config], object]:
    """Import torch and all that a run needs, without garbage collection, which takes a fifth of the time of imports."""
    gc.disable()
    try:
        from rlbench.running.runner import run
    finally:
        gc.freeze()  # modules are never garbage, so later collections need not search them
        gc.enable()
    return run


def start() -> None:
    """Check the command line, then run its cell, or let Hydra run its sweep."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    arguments = sys.argv[1:]
    try:
        if {"--help", "-h"} & set(arguments):
            print(help_text(groups(config_dir(arguments)), in_config()))
            return
        composed = check_overrides(arguments)
    except BadInput as error:
        fail(error)
    if is_one_run(arguments, composed):
        main(without_hydra(composed))  # Hydra would compose the config twice more
    else:
        main()
