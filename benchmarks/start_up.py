"""How long a user waits: help, a typo and a bad value of every command, and the first update of `tiny`.

    python -m benchmarks.start_up [--turns 3] [--json FILE]

Each command runs in a process of its own, in an empty folder, and reads the files of Python and its packages from the
cache of the system. The best of several turns counts. CPU seconds depend less on the load of the machine. The first
update is that of an RL run whose shared stages are finished (`benchmarks.overhead`). Exit code 1 if anything takes
longer than promised.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.overhead import start_of_a_run
from rlbench.__main__ import COMMANDS
from rlbench.base.program import RUN_PY
from rlbench.config.arguments import count

ANSWER_SECONDS = 1.5
"""Promised for help and for refusing a command line."""
UPDATE_SECONDS = 6.0
"""Promised from the command to the first update."""
REFUSED = (["sed=0"], ["algorithm=grop"], ["seed=x"], ["trainer.rl.updates=-1"], ["-m", "seed=0,x"], ["debug=smoke"])
"""Command lines of `run.py` that are refused."""


def command_lines() -> dict[str, tuple[list[str], int]]:
    """Return command lines with their exit codes, by what is shown: help, and wrong arguments, of every command."""
    found = {}
    for name, (module, _, _) in COMMANDS.items():
        start = [str(RUN_PY)] if name == "run" else ["-m", module.removesuffix(".__main__")]
        found[f"{name} --help"] = ([*start, "--help"], 0)
        wrong = REFUSED if name == "run" else (["--no-such-option"], ["nowhere"])
        found |= {" ".join([name, *words]): ([*start, *words], 2) for words in wrong}
    return found


def seconds_of(words: list[str], code: int, folder: Path) -> tuple[float, float]:
    """Return the seconds and the CPU seconds that a command takes.

    Raises:
        RuntimeError: if it ends with another exit code.
    """
    environment = os.environ | {"PYTHONPATH": str(RUN_PY.parent)}
    started, used = time.perf_counter(), cpu_seconds()
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started, cpu_seconds() - used
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}, it said {done.stderr!r}")
    return seconds


def cpu_seconds() -> float:
    """Return the CPU seconds of all ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start_up",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--turns", type=count, default=3, help="turns of each; the best counts (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the seconds to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            shown: min(seconds_of(words, code, Path(folder)) for _ in range(options.turns))
            for shown, (words, code) in command_lines().items()
        }
        update = start_of_a_run(Path(folder) / "start", options.turns)
    table = Table("what", "seconds", "CPU, s", "promised, s")
    for shown, (seconds, cpu) in found.items():
        table.add_row(shown, f"{seconds:.2f}", f"{cpu:.2f}", f"{ANSWER_SECONDS:.1f}")
    table.add_row("from a command to the first update of tiny", f"{update:.1f}", "", f"{UPDATE_SECONDS:.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores (meant for one that is idle)"
    )
    if options.json is not None:
        options.json.write_text(json.dumps({**found, "first update": update}, indent=2) + "\n", encoding="utf-8")
    if max(found.values())[0] > ANSWER_SECONDS or update > UPDATE_SECONDS:
        console.print("slower than is promised", style="red")
        sys.exit(1)


if __name__ == "__main__":
    main()
