"""Cost of collecting many runs: seconds and peak memory for a quarter of the runs and for all of them.

    python -m benchmarks.collect [--runs 200] [--samples 2000] [--updates 100] [--resamples 50]
    python -m benchmarks.collect --runs 1000 --samples 11000     # a large sweep on a large test set: 4 GB of disk

rlbench's own code creates run directories in a temporary folder (names, identity, STATUS, metrics, attempts), with
random verdicts and short texts instead of a model's lists. Separate processes then make a full collection, one with
nothing changed, one with one run changed, a comparison table from the collection, and the same table from the run
directories. Exit code 1 if the peak memory of a collection grows with the number of runs, or if the tables differ.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from analysis.collection import collect
from analysis.collection import stored as collected
from analysis.tables.build import build_table
from analysis.tables.write import to_csv
from rlbench.config.arguments import count

SEEDS = 5
MAY_GROW = 1.5
"""Maximum ratio of a collection's peak memory for all runs to that for a quarter, without imports."""
TEXTS = [f"Film {i} (19{i % 90 + 10})\nFilm {i + 1} (1999)\n" for i in range(1000)]


def make_runs(folder: Path, runs: int, samples: int, updates: int) -> None:
    """Create finished run directories below folder/first (a quarter of them) and folder/rest."""
    from hydra import compose, initialize_config_dir

    from rlbench.base.files import write_json
    from rlbench.base.git import git_state
    from rlbench.config.resolving import resolve
    from rlbench.running.cli import CONF
    from rlbench.runs import provenance, versions
    from rlbench.runs.claiming import claim
    from rlbench.runs.directory import locate
    from rlbench.runs.record import SCHEMA

    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = resolve(compose("config", overrides=["algorithm=grpo", "reward=relevance"]))
    origin = {
        "git": git_state(CONF.parent),
        "versions": versions.present(),
        "packages": provenance.packages(),
        "hardware": provenance.hardware(),
        "data": {"name": plain.dataset.name, "sha256": "0" * 64, "notices": []},
        "command": ["run.py", "seed=0"],
    }
    budget = {"prompts": 8 * updates, "completions": 64 * updates, "generated_tokens": 5000 * updates}
    budget |= {"updates": updates}
    judged = Judged(samples, plain.dataset.list_length)
    for number in tqdm(range(runs), desc="making runs", unit="run", disable=None):
        variant, seed = divmod(number, SEEDS)
        where = folder / ("first" if number < runs // 4 else "rest")
        config = replace(plain, variant=f"v{variant:03d}", seed=seed, runs_dir=str(where))
        run = locate(config, "rl")
        rng = np.random.default_rng(number)
        with claim(run, config):
            table, means = judged.predictions(rng, config.dataset.cutoffs, 0.05 + 0.1 * rng.random())
            pq.write_table(table, run.root / f"predictions-test-{updates}.parquet")
            for update in range(1, updates + 1):
                run.append_metrics(update, "train", dict(zip(TRAINED, rng.random(len(TRAINED)), strict=True)))
            run.append_metrics(updates, "test", means)
            write_json(run.root / "manifest.json", origin)
            result = {
                "schema": SCHEMA,
                "experiment": config.experiment_name,
                "dataset": config.dataset.name,
                "model": config.model.name,
                "stage": "rl",
                "label": run.label,
                "algorithm": config.algorithm.name,
                "reward": config.reward.name,
                "variant": config.variant,
                "seed": seed,
                "hash": run.hash,
                "list_length": config.dataset.list_length,
                "cutoffs": config.dataset.cutoffs,
                "checkpoint": {"rule": "last", "step": updates},
                "metrics": {"validation": means, "test": means},
                "budget": budget | {"seconds": {"total": 60.0 + seed, "rollout": 30.0}},
                "stopped": None,
            }
            write_json(run.root / "result.json", result)


TRAINED = [f"metric_{i}" for i in range(40)]


class Judged:
    """Lists with random verdicts. Each context has 1 to 4 samples."""

    def __init__(self, samples: int, list_length: int):
        rng = np.random.default_rng(7)
        sizes = rng.integers(1, 5, samples)
        self.contexts = np.repeat(np.arange(samples), sizes)[:samples]
        self.n_truth = rng.integers(1, 6, samples)
        self.shape = samples, list_length

    def predictions(
        self, rng: np.random.Generator, cutoffs: list[int], level: float
    ) -> tuple[pa.Table, dict[str, float]]:
        """Return a predictions table with the metrics of random lists, in which a share `level` of ranks are hits."""
        from rlbench.lists.metrics import list_metrics, ranking_metrics
        from rlbench.lists.relevance import HIT, MISS, JudgedLists

        samples, n = self.shape
        hits = rng.random(self.shape) < level
        hits &= hits.cumsum(axis=1) <= self.n_truth[:, None]
        lists = JudgedLists(
            verdicts=np.where(hits, HIT, MISS).astype(np.int8),
            items=rng.integers(0, 1000, self.shape),
            truths=np.full(self.shape, -1),
            lax=hits,
            n_truth=self.n_truth,
            n_entries=rng.integers(n - 2, n + 2, samples),
            n_lines=np.full(samples, n + 2),
            n_shifted=np.zeros(samples, np.int64),
            n_tokens=rng.integers(50, 200, samples),
            finished=rng.random(samples) < 0.9,
        )
        metrics = ranking_metrics(lists.hits, lists.n_truth, cutoffs)
        metrics |= {f"{protocol}_{name}": values for protocol in PUBLISHED for name, values in list(metrics.items())}
        metrics |= list_metrics(lists)
        columns = {
            "context_id": pa.array([f"test-{context:05d}" for context in self.contexts]),
            "sample": pa.array(np.arange(samples)),
            "cluster_id": pa.array([f"test-{context:05d}" for context in self.contexts]),
            "text": pa.array([TEXTS[i] for i in rng.integers(0, len(TEXTS), samples)]),
            "n_truth": pa.array(self.n_truth),
            "finished": pa.array(lists.finished),
            **{name: pa.array(values) for name, values in metrics.items()},
        }
        return pa.table(columns), {name: float(values.mean()) for name, values in metrics.items()}


PUBLISHED = ("published", "published_truncate_first")


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def work(what: str, folder: Path, out: Path, resamples: int) -> str:
    """Do one task in this process. Return the text of a table, or ""."""
    if what == "collect":
        collected.update(folder, out)
    if what == "table":
        (group,) = collect(folder).groups()
        return to_csv(build_table(group, resamples=resamples))
    return ""


def measured(what: str, folder: Path, out: Path, resamples: int) -> tuple[float, int, str]:
    """Run a task in its own process. Return (seconds without imports, peak memory in bytes, text)."""
    command = [sys.executable, "-m", "benchmarks.collect", "--work", what, "--folder", str(folder), "--out", str(out)]
    done = subprocess.run([*command, "--resamples", str(resamples)], stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout)
    return told["seconds"], told["bytes"], told["text"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collect", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=count, default=200)
    parser.add_argument("--samples", type=count, default=2000)
    parser.add_argument("--updates", type=count, default=100, help="of each run; 40 metrics are logged at each")
    parser.add_argument("--resamples", type=count, default=50, help="of each interval of the table")
    parser.add_argument("--where", type=Path, help="folder for temporary files (default: the system's)")
    for inner in ("--work", "--folder", "--out"):  # internal: used to call itself
        parser.add_argument(inner, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        started = time.perf_counter()
        text = work(options.work, Path(options.folder), Path(options.out), options.resamples)
        told = {"seconds": time.perf_counter() - started, "bytes": peak_memory(), "text": text}
        print(json.dumps(told))
        return
    with tempfile.TemporaryDirectory(dir=options.where) as folder:
        sys.exit(compare(Path(folder), options))


def compare(folder: Path, options: argparse.Namespace) -> int:
    """Measure and print. Return the exit code."""
    runs = folder / "runs"
    make_runs(runs, options.runs, options.samples, options.updates)
    quarter, n = runs / "first", options.runs
    imports = measured("nothing", runs, folder, 1)[1]
    console = Console(width=None if sys.stdout.isatty() else 110)
    table = Table("what", f"{n // 4} runs, s", f"{n} runs, s", "of a full one", f"{n // 4} runs, MB", f"{n} runs, MB")
    full = 1.0
    texts = {}

    def row(name: str, what: str, places: tuple[Path, Path], outs: tuple[Path, Path]) -> list[int]:
        nonlocal full
        small, large = (measured(what, place, out, options.resamples) for place, out in zip(places, outs, strict=True))
        full = large[0] if name == "full collection" else full
        texts[name] = small[2], large[2]
        share = f"{large[0] / full:.3f}" if what == "collect" else ""
        table.add_row(name, f"{small[0]:.1f}", f"{large[0]:.1f}", share, *(f"{x[1] / 1e6:.0f}" for x in (small, large)))
        return [x[1] - imports for x in (small, large)]

    both, outs = (quarter, runs), (folder / "a", folder / "b")
    growth: dict[str, list[int]] = {"full collection": row("full collection", "collect", both, outs)}
    growth["nothing changed"] = row("nothing changed", "collect", both, outs)
    touch(quarter)
    growth["one run changed"] = row("one run changed", "collect", both, outs)
    row("table from the collection", "table", outs, outs)
    row("table from the run directories", "table", both, outs)
    console.print(table)
    console.print(
        f"{options.samples:,} samples, {options.updates} updates a run; imports alone take {imports / 1e6:.0f} MB"
    )
    of_runs, of_parts = (sum(f.stat().st_size for f in place.rglob("*") if f.is_file()) for place in (runs, outs[1]))
    console.print(f"{of_runs / 1e6:,.0f} MB of run directories, {of_parts / 1e6:,.0f} MB of collection")
    console.print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    problems = []
    for name, (small, large) in growth.items():
        console.print(f"{name}: memory beyond imports, all runs over a quarter of them: {large / small:.2f}")
    if growth["full collection"][1] > MAY_GROW * growth["full collection"][0]:
        problems.append("the peak memory of a full collection grows with the number of runs")
    if texts["table from the collection"] != texts["table from the run directories"]:
        problems.append("the table from the collection is another than from the run directories")
    for problem in problems:
        console.print(problem, style="red")
    return 1 if problems else 0


def touch(folder: Path) -> None:
    """Change the metrics of one run."""
    path = next(iter(sorted(folder.rglob("metrics.jsonl"))))
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 1, "split": "train", "metric": "metric_0", "value": 0.5}) + "\n")


if __name__ == "__main__":
    main()
