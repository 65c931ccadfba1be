"""Overhead of the harness outside training: repeating a finished sweep, and starting a run.

    python -m benchmarks.overhead

There are two measurements with ordinary user commands. Each reports the best of several turns.

- `run.py -m` over 100 finished cells (20 algorithms, five seeds), compared with a program that does nothing in the same
  100 jobs under Hydra's basic sweeper and launcher;
- the time from the command of a `tiny` run with finished shared stages to its first update.

Exit code 1 if either takes longer than promised.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from rlbench.base.files import write_json
from rlbench.config.arguments import count
from rlbench.config.resolving import resolve
from rlbench.running.cli import CONF, groups
from rlbench.runs.claiming import claim
from rlbench.runs.directory import Run, locate

RUN_PY = CONF.parent / "run.py"
ALGORITHMS, SEEDS = 20, 5
SWEEP_SECONDS = 10.0
"""Promised for the finished sweep."""
START_SECONDS = 6.0
"""Promised for the start of a run."""
SHORT = ("+debug=smoke", "runtime.progress=false", "runtime.device=cpu")


def sweep_arguments(runs: Path, algorithms: int, seeds: int) -> list[str]:
    """Return the sweep's command-line arguments."""
    names = ",".join(groups()["algorithm"][:algorithms])
    return [f"algorithm={names}", f"seed={','.join(map(str, range(seeds)))}", f"runs_dir={runs}", "baselines=[]"]


def finish_cells(runs: Path, algorithms: int, seeds: int) -> list[Run]:
    """Create finished run directories of all cells, with the files that a command reads before it skips a run."""
    finished = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for name in groups()["algorithm"][:algorithms]:
            for seed in range(seeds):
                overrides = [f"algorithm={name}", f"seed={seed}", f"runs_dir={runs}"]
                config = resolve(compose("config", overrides=overrides))
                run = locate(config, "rl")
                with claim(run, config):
                    write_json(run.root / "manifest.json", {"plugins": {}})
                finished.append(run)
    return finished


def seconds_of(command: list[str], said: str) -> float:
    """Return the seconds that a command takes.

    Raises:
        RuntimeError: if it fails, or if stderr does not contain the expected text.
    """
    started = time.perf_counter()
    result = subprocess.run(command, cwd=RUN_PY.parent, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if result.returncode or said not in result.stderr:
        raise RuntimeError(f"{' '.join(command)}: exit code {result.returncode}, it said {result.stderr!r}")
    return seconds


def finished_sweep(folder: Path, algorithms: int, seeds: int, turns: int) -> tuple[float, float]:
    """Return the seconds (rlbench, Hydra) of a finished sweep's command, and of a program that does nothing."""
    cells = algorithms * seeds
    arguments = sweep_arguments(folder / "runs", algorithms, seeds)
    finish_cells(folder / "runs", algorithms, seeds)
    ours = [sys.executable, str(RUN_PY), "-m", *arguments]
    own = ["hydra/sweeper=basic", "hydra/launcher=basic", f"hydra.sweep.dir={folder / 'hydra'}"]
    hydras = [sys.executable, "-m", "benchmarks.overhead_plain", "-m", *own, *arguments]
    pairs = [
        (seconds_of(ours, f"{cells} cells, {cells} already done, 0 to run"), seconds_of(hydras, ""))
        for _ in range(turns)
    ]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def start_of_a_run(folder: Path, turns: int) -> float:
    """Return the seconds from a command to the first update of its run, with finished shared stages.

    Raises:
        RuntimeError: if the run fails.
    """
    shared = [*SHORT, f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    subprocess.run([sys.executable, str(RUN_PY), *shared, "stage=sft"], check=True, capture_output=True)
    found = []
    for seed in range(turns):
        overrides = [*shared, f"seed={seed}"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            run = locate(resolve(compose("config", overrides=overrides)), "rl")
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, str(RUN_PY), *overrides], stderr=subprocess.DEVNULL)
        seconds = None
        while process.poll() is None:
            if seconds is None and any(row["metric"] == "loss" for row in run.read_metrics()):
                seconds = time.perf_counter() - started
            time.sleep(0.02)
        if process.returncode or seconds is None:
            raise RuntimeError(f"{run.root}: exit code {process.returncode}")
        found.append(seconds)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--turns", type=count, default=3, help="turns of each; the best counts (default 3)")
    turns = parser.parse_args().turns
    cells = ALGORITHMS * SEEDS
    with tempfile.TemporaryDirectory() as folder:
        ours, hydras = finished_sweep(Path(folder) / "sweep", ALGORITHMS, SEEDS, turns)
        start = start_of_a_run(Path(folder) / "start", turns)
    console = Console()
    table = Table("what", "seconds", "cells/s", "promised, s")
    table.add_row(f"a finished sweep of {cells} cells", f"{ours:.1f}", f"{cells / ours:.0f}", f"{SWEEP_SECONDS:.0f}")
    table.add_row(f"Hydra alone, {cells} jobs that do nothing", f"{hydras:.1f}", f"{cells / hydras:.0f}", "")
    table.add_row("from a command to the first update", f"{start:.1f}", "", f"{START_SECONDS:.0f}")
    console.print(table)
    console.print(f"the finished sweep takes {ours / hydras:.2f} of what Hydra alone takes")
    console.print(
        f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores (meant for one that is idle)"
    )
    if ours > SWEEP_SECONDS or start > START_SECONDS:
        console.print("slower than is promised", style="red")
        sys.exit(1)


if __name__ == "__main__":
    main()
