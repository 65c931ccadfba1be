"""One cell of `mini` with an earlier version of the code and with this one, side by side, under the earlier settings.

    python -m benchmarks.before_after                       # against the commit before prompts were shared
    python -m benchmarks.before_after --pairs 1 trainer.sft.updates=90 trainer.rl.updates=20

The earlier version is checked out into a temporary git worktree and runs in the same environment. Both versions run the
same command, in turns. Settings that both know and that differ get their earlier values; settings that only the new
version knows keep their new defaults. So the comparison shows the code's speed, not that of other settings. A new key
that changes the work itself, such as one of the dataset, needs its old meaning: `--after dataset.KEY=VALUE`.

The last line estimates `make bench`: SFT and the untrained model once, and the RL stage of 6 cells, two at a time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from benchmarks.power import SETTINGS
from rlbench.base.files import write_json
from rlbench.base.nested import flatten
from rlbench.config.arguments import count
from rlbench.running.cli import CONF

BEFORE = "469774f"
"""The commit to compare with."""
CELL = ("algorithm=rank_grpo", "seed=0", "trainer.rl.learning_rate=1e-4", "runtime.progress=false")
STAGES = ("zero_shot", "sft", "rl")
ROUNDS_OF_CELLS = 3
"""`make bench` has 6 cells and runs two at a time."""
COMPOSE = """
import json, sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
with initialize_config_dir(sys.argv[1], version_base="1.3"):
    print(json.dumps(OmegaConf.to_container(compose("config", overrides=sys.argv[2:]), resolve=True)))
"""
OWN = ("runs_dir", "cache_dir", "rates", "plugins")
"""Settings that are never taken over."""


def settings(tree: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of a command in a source tree, by dotted key."""
    command = [sys.executable, "-c", COMPOSE, str(tree / "conf"), *overrides]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True)
    return flatten(json.loads(done.stdout.splitlines()[-1]))


def taken_over(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Overrides that give the new version the earlier values of all settings that both know."""
    differing = [
        key
        for key, value in before.items()
        if key in after and after[key] != value and key.partition(".")[0] not in OWN
    ]
    return [f"{key}={json.dumps(before[key])}" for key in differing]


def not_yet_known(before: Mapping[str, Any]) -> list[str]:
    """Overrides that give settings the earlier version lacks the values under which they change nothing.

    They describe the benchmark before the search for power (benchmarks/power.yaml).
    """
    common: list[str] = list(OmegaConf.load(CONF.parent / SETTINGS)["common"])
    return [override for override in common if override.partition("=")[0] not in before]


def seconds_of(tree: Path, folder: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Seconds of a run: `total` of the command, and of each stage.

    Raises:
        RuntimeError: the command fails.
    """
    place = [f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    command = [sys.executable, "run.py", *CELL, *place, *overrides]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started = perf_counter()
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, env=environment)
    total = perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{tree}: {' '.join(command)}: {done.stderr}")
    found = {"total": total} | dict.fromkeys(STAGES, 0.0)
    for file in (folder / "runs").rglob("result.json"):
        result = json.loads(file.read_text(encoding="utf-8"))
        if result["stage"] in found:
            found[result["stage"]] = result["budget"]["seconds"]["total"]
    return found


def compare(
    before: Path, overrides: Sequence[str], of_new: Sequence[str], pairs: int
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Seconds of the earlier version and of this one, for each pair of runs.

    Args:
        before: source tree of the earlier version.
        overrides: settings of both.
        of_new: settings of this version alone.
        pairs: number of pairs.
    """
    here = CONF.parent
    both = [settings(tree, [*CELL, *overrides]) for tree in (before, here)]
    later = [*overrides, *taken_over(*both), *not_yet_known(both[0]), *of_new]
    found = []
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            old = seconds_of(before, Path(folder) / "before", overrides)
            new = seconds_of(here, Path(folder) / "after", later)
            found.append((old, new))
    return found


def whole_bench(seconds: Mapping[str, float]) -> float:
    """Estimated seconds of `make bench` from those of one cell."""
    start = seconds["total"] - sum(seconds[stage] for stage in STAGES)
    return start + seconds["zero_shot"] + seconds["sft"] + ROUNDS_OF_CELLS * seconds["rl"]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.before_after",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="further settings, for both versions")
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT", help=f"the earlier version (default {BEFORE})")
    parser.add_argument("--pairs", type=count, default=2, help="number of pairs of runs (default 2)")
    parser.add_argument("--after", nargs="*", default=[], metavar="KEY=VALUE", help="settings of this version alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios to this file")
    given = parser.parse_args()
    git = ["git", "-C", str(CONF.parent), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        subprocess.run([*git, "add", "--detach", str(tree), given.before], check=True, capture_output=True)
        try:
            found = compare(tree, given.overrides, given.after, given.pairs)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    for old, new in found:
        old["bench"], new["bench"] = whole_bench(old), whole_bench(new)
    table = Table("stage", "before, s", "after, s", "after / before")
    ratios = {}
    for name in (*STAGES, "total", "bench"):
        ratios[name] = median(new[name] / old[name] for old, new in found)
        times = [f"{median(pair[side][name] for pair in found):.1f}" for side in (0, 1)]
        table.add_row(
            {"total": "the cell", "bench": "make bench, estimated"}.get(name, name), *times, f"{ratios[name]:.2f}"
        )
    Console().print(table)
    if given.json:
        write_json(given.json, {"after_over_before": ratios, "pairs": found})


if __name__ == "__main__":
    main()
