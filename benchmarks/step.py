"""Whole updates of policy optimisation: stock TRL against rlbench, interleaved in one process.

    python -m benchmarks.step                                        # the shapes of the targets, some minutes
    python -m benchmarks.step --all                                  # the whole grid, some hours
    python -m benchmarks.step --only 300/120/8/4096 --json step.json # PROMPT/COMPLETION/G/VOCABULARY

An update is a rollout, a pass of the reference policy (GRPO at beta = .001), rewards, loss, gradient and the
optimiser's step. TRL's side is `trl.GRPOTrainer` itself with its default engine and its fused LM head; rlbench's side
is the trainer of `rlbench.training.rl` as a run builds it. Both start from the same weights, get the same prompts,
sample completions of the same length, and take all 4 x G completions of an update as one micro-batch, in float32 on all
cores.

The two trainings take turns, update by update, after one update each that is not counted. A ratio is the median over
pairs of TRL's seconds over rlbench's. Peak memory is measured in one more process for each side
(`benchmarks.step_memory`).

Floor: the operations that an update needs at least, if each prompt is forwarded once in each pass, over the measured
rate of matrix products.
"""

import argparse
import json
import os
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from benchmarks.step_memory import measured
from benchmarks.step_sides import PHASES, PROMPTS, SIDES, Setting, Shape, Side, llama, save_start
from rlbench.base.files import write_json
from rlbench.config.arguments import count
from rlbench.models.operations import BACKWARD, ModelShape
from rlbench.runs.peak import matmul_rate

SHAPES = tuple(
    Shape.read(text)
    for text in (
        "60/60/8/4096",
        "60/200/4/4096",
        "300/120/8/4096",
        "300/200/8/4096",
        "1000/120/8/4096",
        "300/120/8/49152",
    )
)
"""The shapes of the promised ratios, and the one of the grid at which sharing saves least."""
GRID = tuple(
    Shape(prompt, completion, group, vocabulary)
    for vocabulary in (4096, 49152)
    for prompt in (60, 300, 1000)
    for completion in (60, 120, 200)
    for group in (4, 8, 16)
)
PAIRS, FEWEST, ENOUGH_SECONDS = 7, 3, 60.0
"""Maximum and minimum number of pairs. Between the two, no pair begins after this many seconds."""

WIDTH = 112
"""Columns of the table."""


@dataclass(frozen=True)
class Comparison:
    """Result of a shape.

    Attributes:
        ratio: TRL's seconds over rlbench's, median over pairs.
        ours_s: seconds of an update of rlbench, median.
        trl_s: seconds of an update of TRL, median.
        memory_ratio: rlbench's peak memory of an update over TRL's; None if not measured.
        phase_ratios: ratio of each phase, median over pairs.
        ours_phases: seconds of rlbench by phase, medians.
        trl_phases: seconds of TRL by phase, medians.
        floor_s: operations over the matmul rate.
        matmul_rate: operations per second.
        ours_bytes: peak memory of an update of rlbench; None if not measured.
        trl_bytes: peak memory of an update of TRL; None if not measured.
        pairs: number of pairs.
    """

    ratio: float
    ours_s: float
    trl_s: float
    memory_ratio: float | None
    phase_ratios: dict[str, float]
    ours_phases: dict[str, float]
    trl_phases: dict[str, float]
    floor_s: float
    matmul_rate: float
    ours_bytes: int | None
    trl_bytes: int | None
    pairs: int


def needed_operations(config: PretrainedConfig, shape: Shape) -> int:
    """Operations of an update: forward passes of rollout, reference and loss, and the loss's backward pass."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    rows = PROMPTS * shape.group
    forward = ModelShape.of(model).completions(
        [shape.prompt] * PROMPTS, [shape.prompt] * rows, [shape.completion] * rows
    )
    return forward * (3 + BACKWARD)


def take_turns(sides: dict[str, Side], pairs: int) -> dict[str, list[dict[str, float]]]:
    """Seconds of updates by side. The first update of each side is not counted."""
    for side in sides.values():
        side.update()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    started = perf_counter()
    for done in range(pairs):
        if done >= FEWEST and perf_counter() - started > ENOUGH_SECONDS:
            break
        for name, side in sides.items():
            found[name].append(side.update())
    return found


def compare(shape: Shape, threads: int, pairs: int = PAIRS, *, memory: bool = True) -> Comparison:
    """Measure one shape.

    Args:
        shape: the shape of an update.
        threads: CPU threads.
        pairs: maximum number of pairs.
        memory: whether to measure peak memory.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = llama(shape.vocabulary)
    rate = matmul_rate(device, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        start = save_start(config, Path(folder) / "start")
        setting = Setting(shape, start, Path(folder), updates=pairs + 2)
        sides = {name: Side(name, setting) for name in SIDES}
        found = take_turns(sides, pairs)
        for side in sides.values():
            side.close()
    peaks = {name: measured(name, shape, threads) if memory else None for name in SIDES}
    return summary(found, peaks, needed_operations(config, shape), max(rate, matmul_rate(device, torch.float32)))


def summary(
    found: dict[str, list[dict[str, float]]], peaks: dict[str, int | None], operations: float, rate: float
) -> Comparison:
    """The comparison of the seconds that were found by `take_turns`."""

    def ratio(name: str) -> float:
        return median(t[name] / o[name] for t, o in zip(found["trl"], found["ours"], strict=True))

    phases = {side: {name: median(row[name] for row in found[side]) for name in PHASES} for side in SIDES}
    ours, trl = peaks["ours"], peaks["trl"]
    return Comparison(
        ratio=ratio("total"),
        ours_s=median(row["total"] for row in found["ours"]),
        trl_s=median(row["total"] for row in found["trl"]),
        memory_ratio=None if ours is None or trl is None else ours / trl,
        phase_ratios={name: ratio(name) for name in PHASES},
        ours_phases=phases["ours"],
        trl_phases=phases["trl"],
        floor_s=operations / rate,
        matmul_rate=rate,
        ours_bytes=ours,
        trl_bytes=trl,
        pairs=len(found["ours"]),
    )


def table_of(results: dict[Shape, Comparison]) -> Table:
    """The results, one row for each shape."""
    table = Table("prompt/completion/G/vocabulary", "TRL, s", "rlbench, s", "ratio", *PHASES, "MB", "floor, s")
    for shape, found in results.items():
        memory = ""
        if found.trl_bytes is not None and found.ours_bytes is not None:
            memory = f"{found.trl_bytes / 1e6:.0f} → {found.ours_bytes / 1e6:.0f}"
        table.add_row(
            str(shape),
            f"{found.trl_s:.2f}",
            f"{found.ours_s:.2f}",
            f"{found.ratio:.2f}",
            *(f"{found.phase_ratios[name]:.2f}" for name in PHASES),
            memory,
            f"{found.floor_s:.2f}",
        )
    return table


def quiet_libraries() -> None:
    """Turn off notices of transformers and TRL about the made-up model and deprecated arguments."""
    set_verbosity_error()
    disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--only", type=Shape.read, metavar="PROMPT/COMPLETION/G/VOCABULARY", help="measure one shape")
    chosen.add_argument("--all", action="store_true", help=f"measure all {len(GRID)} shapes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    parser.add_argument("--pairs", type=count, default=PAIRS, help=f"maximum number of pairs (default {PAIRS})")
    parser.add_argument("--threads", type=count, default=os.cpu_count(), help="CPU threads (default: all cores)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    given = parser.parse_args()
    quiet_libraries()
    console = Console(width=WIDTH)
    results: dict[Shape, Comparison] = {}
    for shape in [given.only] if given.only else GRID if given.all else SHAPES:
        results[shape] = compare(shape, given.threads, given.pairs, memory=not given.no_memory)
        console.print(json.dumps({"shape": str(shape), **rounded(results[shape])}), soft_wrap=True)
    console.print(table_of(results))
    console.print(
        f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores (meant for one that is idle)"
    )
    if given.json:
        rows = {str(shape): asdict(found) for shape, found in results.items()}
        write_json(given.json, rows[str(given.only)] if given.only else rows)


def rounded(found: Comparison) -> dict[str, Any]:
    """The main results with three digits, for a line of the log."""
    numbers = {name: getattr(found, name) for name in ("ratio", "ours_s", "trl_s", "memory_ratio", "floor_s")}
    return {name: None if value is None else float(f"{value:.3g}") for name, value in numbers.items()}


if __name__ == "__main__":
    main()
