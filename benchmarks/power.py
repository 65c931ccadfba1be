"""`python -m benchmarks.power`: the search for a setting of `mini` that finds small differences at little cost.

The search never compares methods. It trains one method that was chosen beforehand, plain GRPO, with several seeds, and
asks how small a difference between two methods with this spread five seeds would detect. Settings and seeds are in
benchmarks/power.yaml. The result is one row per setting in experiments/mini_power/results.csv:

- gain: NDCG of GRPO minus NDCG of SFT; closed: gain divided by the distance from SFT to the ceiling.
- detectable: minimum detectable difference of two methods at five seeds. Their difference has twice the variance of
  GRPO between seeds, and twice its interaction of seed and context. What two methods' difference shares over the seeds
  is unknown without comparing methods, and is left out.
- steps: gain / detectable, the number of detectable steps between SFT and GRPO.
- power: steps² per CPU minute of a cell. Steps grow with the square root of the number of seeds, so this number does
  not depend on it.

Costs are CPU seconds of the processes with one thread each, from start to end. Finished settings are kept, so the
command continues where it stopped.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from analysis.collection import Collection, collect
from analysis.statistics import Components, minimum_detectable_difference, variance_components
from analysis.tables.scores import row_scores
from rlbench.base.files import write_text

SETTINGS = Path("benchmarks/power.yaml")
RESULTS = Path("experiments/mini_power/results.csv")
SEEDS = 5
"""Number of seeds for which the detectable difference is stated."""
METHODS = 3
"""Number of methods of `make bench`, for its predicted time."""
PROCESSES = 2
"""Cells that `make bench` runs at once."""


@dataclass(frozen=True)
class Cost:
    """CPU seconds of the stages that all cells share, and of one RL cell."""

    shared: float
    cell: float


@dataclass(frozen=True)
class Row:
    """Result of one setting. NDCG is at the list length, on the test split; see the module's docstring."""

    setting: str
    overrides: str
    seeds: int
    contexts: int
    ceiling: float
    sft: float
    grpo: float
    gain: float
    closed: float
    sd_seed: float
    sd_own: float
    detectable: float
    steps: float
    shared_cpu_s: float
    cell_cpu_s: float
    bench_minutes: float
    power: float


def spent(command: list[str]) -> float:
    """Run a command with one thread and return its CPU seconds.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def folder_of(runs: Path, overrides: list[str]) -> Path:
    """Folder of all settings that differ in the RL stage only, and so share their SFT."""
    shared = [override for override in overrides if not override.startswith("trainer.rl.")]
    return runs / hashlib.sha256(json.dumps(shared).encode()).hexdigest()[:8]


def train(name: str, overrides: list[str], seeds: list[int], folder: Path) -> Cost:
    """Train SFT and the cells of one setting in experiment `name`, and return what they cost.

    The first setting of a folder trains SFT in the experiment `shared`, and its cost is kept in a file there.
    """
    common = [f"runs_dir={folder}", "algorithm=grpo", "reward=relevance", "tracker=none"]
    common += ["runtime.progress=false", "runtime.threads=1", *overrides]
    start, paid = [sys.executable, "run.py"], folder / "shared_cpu.json"
    if not paid.exists():
        cost = spent([*start, *common, "experiment_name=shared", "stage=sft"])
        write_text(paid, json.dumps(cost))
    swept = ["-m", f"experiment_name={name}", f"seed={','.join(map(str, seeds))}", f"hydra.launcher.jobs={PROCESSES}"]
    return Cost(json.loads(paid.read_text(encoding="utf-8")), spent([*start, *swept, *common]) / len(seeds))


def measure(name: str, overrides: list[str], found: Collection, cost: Cost) -> Row:
    """The row of a trained setting."""
    runs = found.runs
    (length,) = set(runs["list_length"])
    metric = f"ndcg@{length}"
    scores = {stage: row_scores(found.queries, part, [metric]) for stage, part in runs.groupby("stage")}
    grpo, contexts = scores["rl"], int(scores["rl"].contexts.max()) + 1
    parts = variance_components(grpo)
    two = Components(2 * parts.seed, 0 * parts.context, 2 * parts.own)
    detectable = float(minimum_detectable_difference(two, SEEDS, contexts)[0])
    ceiling, sft, last = (float(scores[stage].values.mean()) for stage in ("oracle", "sft", "rl"))
    steps = (last - sft) / detectable
    return Row(
        setting=name,
        overrides=" ".join(overrides),
        seeds=len(grpo.seeds),
        contexts=contexts,
        ceiling=ceiling,
        sft=sft,
        grpo=last,
        gain=last - sft,
        closed=(last - sft) / (ceiling - sft),
        sd_seed=float(np.sqrt(parts.seed[0])),
        sd_own=float(np.sqrt(parts.own[0])),
        detectable=detectable,
        steps=steps,
        shared_cpu_s=cost.shared,
        cell_cpu_s=cost.cell,
        bench_minutes=(cost.shared + METHODS * SEEDS * cost.cell / PROCESSES) / 60,
        power=np.sign(steps) * steps**2 / (cost.cell / 60),
    )


def overrides_of(settings: dict[str, Any], name: str) -> list[str]:
    """The overrides of a setting: its own, and those of `common` for all other keys."""
    of_key = {override.split("=")[0]: override for override in [*settings["common"], *settings["settings"][name]]}
    return list(of_key.values())


def search(settings: dict[str, Any], only: list[str], runs: Path, results: Path) -> pd.DataFrame:
    """Train and measure the settings that `results` lacks, and write the file after each."""
    table = pd.read_csv(results) if results.exists() else pd.DataFrame()
    for name in only or settings["settings"]:
        if len(table) and name in set(table["setting"]):
            continue
        overrides = overrides_of(settings, name)
        folder = folder_of(runs, overrides)
        cost = train(name, overrides, settings["seeds"], folder)
        row = measure(name, settings["settings"][name], collect(folder / name), cost)
        table = pd.concat([table, pd.DataFrame([asdict(row)])], ignore_index=True)
        write_text(results, table.to_csv(index=False, float_format="%.5g"))
        print(pd.Series(asdict(row)).drop("overrides").to_string(), flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=Path, default=Path("runs/mini_power"))
    parser.add_argument("--only", nargs="*", default=[], help="names of settings; default: all of the file")
    arguments = parser.parse_args()
    settings = OmegaConf.to_container(OmegaConf.load(arguments.settings))
    assert isinstance(settings, dict)
    table = search(settings, arguments.only, arguments.runs, arguments.results)
    print(table.drop(columns="overrides").sort_values("power", ascending=False).to_string(index=False))


if __name__ == "__main__":
    main()
