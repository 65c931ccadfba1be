"""Where the program's files lie, and how it is started: `python run.py` from a checkout, or the command `rlbench`.

An installed copy keeps `conf/` and `experiments/` inside the package, a checkout beside it. Loads nothing heavy.
"""

import re
import sys
from pathlib import Path

import rlbench

PACKAGE = Path(str(rlbench.__file__)).resolve().parent
ROOT = PACKAGE.parent
"""The checkout, or the folder of installed packages."""
INSTALLED = (PACKAGE / "conf").is_dir()
"""Whether this is an installed copy, not a checkout (an editable install is a checkout)."""
CONF = PACKAGE / "conf" if INSTALLED else ROOT / "conf"
EXPERIMENTS = CONF.parent / "experiments"
"""Sweeps of paper tables, which Hydra finds behind `conf/`: `+table1=sweep`."""
FOLDERS = (PACKAGE, ROOT / "analysis", ROOT / "hydra_plugins")
"""What is installed."""
RUN_PY = ROOT / "run.py"
"""Only in a checkout."""

NAME = "rlbench"
WITH_MODULE = re.compile(r"python -m (?:analysis|rlbench)\.(\w+)")
OTHER_NAMES = {"datasets": "data", "evaluate": "eval"}
"""Modules whose subcommand has another name. `rlbench.data` is a room. A test compares this with all subcommands."""


def by_name() -> bool:
    """Whether this process was started by the command `rlbench`, which sets sys.argv[0] to `rlbench SUBCOMMAND`."""
    return sys.argv[0].startswith(f"{NAME} ")


def as_started(text: str) -> str:
    """A text for the user, with its commands in the form in which this process was started.

    Texts name commands as `python run.py` and `python -m analysis.status`. Where the user typed `rlbench`, these become
    `rlbench run` and `rlbench status`.
    """
    if not by_name():
        return text
    text = text.replace("N run.py", f"N -m {NAME} run")  # of torchrun and accelerate launch
    text = text.replace("python run.py", f"{NAME} run").replace("run.py", f"{NAME} run")
    return WITH_MODULE.sub(lambda found: f"{NAME} {OTHER_NAMES.get(found[1], found[1]).replace('_', '-')}", text)


def run_words() -> list[str]:
    """The command that starts a run, as a user writes it."""
    return as_started("python run.py").split()


def own_words() -> list[str]:
    """The words that started this process, without folders: what a run records as its command.

    `python` is left out before the name of a file.
    """
    module = getattr(sys.modules["__main__"].__spec__, "name", "")
    if by_name():
        first = sys.argv[0].split()
    elif module.split(".")[0] in (NAME, "analysis"):
        first = ["python", "-m", module]
    else:
        first = [Path(sys.argv[0]).name]
    return [*first, *sys.argv[1:]]


def written(processes: int) -> list[str]:
    """The command of a cell before its overrides, as a user writes it.

    Args:
        processes: of the cell.
    """
    if processes == 1:
        return run_words()
    return ["python", *_torchrun(processes), *(["-m", NAME, "run"] if by_name() else [RUN_PY.name])]


def started(processes: int) -> list[str]:
    """The command of a cell before its overrides, as a launcher starts it from any folder.

    An installed copy has no run.py. `-P` keeps modules of the working folder from taking the place of installed ones.

    Args:
        processes: of the cell.
    """
    python = [sys.executable, *(["-P"] if INSTALLED else [])]
    script = ["-m", NAME, "run"] if INSTALLED else [str(RUN_PY)]
    if processes == 1:
        return [*python, *script]
    # torchrun starts `python -u` without -P, so an installed copy gives it the whole command.
    return [*python, *_torchrun(processes), *(["--no-python", *python, "-u"] if INSTALLED else []), *script]


def _torchrun(processes: int) -> list[str]:
    """What accelerate launch starts too; with --standalone the processes of each cell meet at a port that is theirs."""
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]


def analysis(module: str) -> list[str]:
    """The command that starts a module of `analysis` in another process, whose texts name commands as this process's.

    The process needs `import_path` in PYTHONPATH.
    """
    named = ["-m", NAME, module] if by_name() else ["-m", f"analysis.{module}"]
    return [sys.executable, *(["-P"] if INSTALLED else []), *named]


def import_path() -> list[str]:
    """Folders that a process elsewhere needs in PYTHONPATH to import the program; none for an installed copy."""
    return [] if INSTALLED else [str(ROOT)]


def install(extra: str, *, pinned: bool = True) -> str:
    """The command that installs the packages of an extra, for example `ray`.

    Args:
        extra: its name in pyproject.toml.
        pinned: whether constraints.txt has its versions.
    """
    if INSTALLED:
        return f"python -m pip install '{NAME}[{extra}]'"
    return f"python -m pip install -r requirements-{extra}.txt{' -c constraints.txt' if pinned else ''}"
