"""The command that runs cells: `python run.py`, or `rlbench run` where the package is installed."""

import contextlib
import io
import os
import sys

import hydra
from omegaconf import DictConfig

from rlbench.base.errors import BadInput, OutOfMemory
from rlbench.base.files import DiskFull
from rlbench.base.preemption import Preempted, install
from rlbench.base.program import CONF, as_started, by_name
from rlbench.config.places import check_places
from rlbench.config.resolving import resolve
from rlbench.running.checks import check_values
from rlbench.running.cli import check_overrides, fail
from rlbench.runs.directory import PREEMPTED
from rlbench.runs.processes import ProcessFailed, count, is_main, leave, let_the_main_process_speak


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> None:
    try:
        install()
        config = resolve(cfg)
        if problems := check_values(config, count()) + check_places(config, to_write=False):
            raise BadInput(*problems)
        from rlbench.running.runner import run  # loads torch, which takes seconds, so after the checks

        run(config)
        leave()
    except BadInput as error:
        fail(error)
    except (DiskFull, OutOfMemory) as error:
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


def start() -> None:
    """Check the names on the command line, then let Hydra compose the config and run it."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        check_overrides(sys.argv[1:])
    except BadInput as error:
        fail(error)
    if by_name() and {"--help", "-h"} & set(sys.argv[1:]):
        with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
            main()
        print(as_started(text.getvalue()), end="")
    else:
        main()
