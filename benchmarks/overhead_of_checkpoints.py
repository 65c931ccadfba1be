"""Cost of checkpoints and logging in the training of `dataset=mini model=tiny`.

    python -m benchmarks.overhead_of_checkpoints [--updates 40] [--repeats 3]

Runs the RL stage with checkpoints, best weights, metrics, progress and an offline W&B run as configured, alternating
with the same stage without any of them, in one process and one thread with one SFT model. Reports two numbers: the
share of time spent inside them, by part, and how much longer these runs took than those without, which includes the
machine's noise.

Exit code 1 if the share exceeds the promised one.
"""

import argparse
import functools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from rlbench.base.progress import Progress
from rlbench.config.arguments import count
from rlbench.config.resolving import resolve
from rlbench.config.schema import Config
from rlbench.evaluation.recording import Recording
from rlbench.running import runner
from rlbench.running.cli import CONF
from rlbench.running.session import Session, prepare
from rlbench.runs.budget import Ledger
from rlbench.runs.completions import CompletionLog
from rlbench.runs.directory import Run, locate
from rlbench.tracking import NoTracker, Tracker, TrackerIdentity, make_tracker
from rlbench.training import rl
from rlbench.training.callbacks import Recorder
from rlbench.training.checkpoints import BestKeeper, CheckpointWriter
from rlbench.training.rl import TrainingData, train_rl
from rlbench.training.trainer import RankedListTrainer
from rlbench.training.validation import Validation

PROMISED = 0.05
SFT_UPDATES = 60
"""Enough for lists to have the same form as in training."""

PARTS: dict[str, list[tuple[type | ModuleType, str]]] = {
    "checkpoints": [
        (RankedListTrainer, "_save_checkpoint"),
        (CheckpointWriter, "on_save"),
        (CheckpointWriter, "on_step_end"),
    ],
    "best weights": [(BestKeeper, "offer")],
    "metrics and progress": [
        (Recorder, "on_log"),
        (Recorder, "on_step_end"),
        (Run, "append_metrics"),
        (rl, "_check_evaluated"),  # reads the metrics, which the run without them lacks
    ],
    "W&B offline": [(Tracker, "log")],
}


def composed(*overrides: str) -> Config:
    """Return the config of a command line."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return resolve(compose("config", overrides=list(overrides)))


class Stopwatch:
    """Seconds spent in each part. A nested call counts only for the inner part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._turn()
        self._inside.append(name)
        try:
            yield
        finally:
            self._turn()
            self._inside.pop()

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._since
        self._since = now


@contextmanager
def replaced(make: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replace every method of the parts inside the block."""
    before = [(kind, name, getattr(kind, name)) for methods in PARTS.values() for kind, name in methods]
    for part, methods in PARTS.items():
        for kind, name in methods:
            setattr(kind, name, make(part, getattr(kind, name)))
    try:
        yield
    finally:
        for kind, name, method in before:
            setattr(kind, name, method)


def train(session: Session, folder: Path, watch: Stopwatch | None) -> float:
    """Train the RL stage and return the seconds it took. Without a stopwatch nothing is written."""
    config = session.config
    target, sft = locate(config, "rl"), locate(config, "sft")
    # Separate run directory; the SFT stage stays where it was made.
    target = Run(folder, *(getattr(target, name) for name in ("stage", "label", "seed", "hash", "identity")))

    def timed(part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def inside(*args: Any, **kwargs: Any) -> Any:
            assert watch is not None
            with watch.part(part):
                return method(*args, **kwargs)

        return inside

    def nothing(part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: None

    tracker: Any = NoTracker()
    if watch is not None:
        identity = TrackerIdentity(experiment="overhead", group=target.name, job_type="rl", name=target.label)
        tracker = make_tracker("offline", directory=target.root, identity=identity, config={})
    completions = CompletionLog(target, tracker, config.tracker.completions, config.dataset.list_length)
    recording = Recording(target, tracker, Ledger(), completions)
    torch.manual_seed(config.seed)
    folder.mkdir(exist_ok=True)
    progress = Progress("", config.trainer.rl.updates, file=folder / "progress.json", show=False)
    started = time.perf_counter()
    with replaced(timed if watch is not None else nothing):
        train_rl(
            config,
            recording,
            sft.final_model,
            session.tokenizer,
            TrainingData(session.dataset.splits["train"], session.dataset.splits["sft"]),
            Validation(session.validation, session.criteria, {}),
            progress,
        )
    seconds = time.perf_counter() - started
    tracker.finish()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead_of_checkpoints", description=__doc__)
    parser.add_argument("--updates", type=count, default=40, help="of each run (default 40; a mini run has 100)")
    parser.add_argument("--repeats", type=count, default=3, help="runs of each kind (default 3)")
    parser.add_argument("--folder", type=Path, help="keep the SFT stage there, for another time (default: nowhere)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder, kept = Path(name), options.folder or Path(name)
        config = composed(
            f"trainer.rl.updates={options.updates}",
            f"trainer.sft.updates={SFT_UPDATES}",
            f"runs_dir={kept / 'runs'}",
            f"cache_dir={kept / 'cache'}",
            "tracker=none",
            "runtime.device=cpu",
            "runtime.threads=1",
            "runtime.progress=false",
            "stage=sft",
            "evaluation.test_contexts=8",
        )
        runner.run(config)
        session = prepare(config)
        with_, without, shares = [], [], defaultdict(list)
        for turn in range(options.repeats):
            watch = Stopwatch()
            with_.append(train(session, folder / f"with-{turn}", watch))
            without.append(train(session, folder / f"without-{turn}", None))
            for part in PARTS:
                shares[part].append(watch.seconds[part] / with_[-1])
            shares["together"].append(sum(watch.seconds.values()) / with_[-1])
            print(
                f"turn {turn + 1} of {options.repeats}: {with_[-1]:.1f} s with, {without[-1]:.1f} s without; "
                f"{shares['together'][-1]:.2%} inside",
                flush=True,
            )
    console = Console()
    table = Table("inside of", "share of the run", "from", "to", title="as configured for mini and tiny")
    for part, values in shares.items():
        table.add_row(part, *(f"{value:.2%}" for value in (median(values), min(values), max(values))))
    console.print(table)
    ratios = [a / b for a, b in zip(with_, without, strict=True)]
    console.print(
        f"with / without: {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); "
        f"{options.repeats} runs of {options.updates} updates of each, {median(with_):.1f} s with"
    )
    share = median(shares["together"])
    holds = share < PROMISED
    console.print(
        f"promised: below {PROMISED:.0%}; it is {share:.2%}: the promise {'holds' if holds else 'does not hold'}",
        style=None if holds else "red",
    )
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    main()
