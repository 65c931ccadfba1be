"""Start of runs on a dataset of the published size, with and without the data cache.

    python -m benchmarks.data FOLDER --make    # writes the dataset, about 1 GB, in a few minutes
    python -m benchmarks.data FOLDER

The first command writes synthetic data in the form and size of Reddit-v2 (383,013 / 95,753 / 9,421 / 10,972 samples),
and a small model. The second one starts these commands, each in a process of its own, and prints their seconds, the
seconds until the first SFT update, CPU seconds and peak memory:

- a dry run and a training without a cache (`runtime.data_cache=null`);
- a training that fills an empty cache;
- a dry run and a training from the cache.

Each update has two demonstrations and each evaluation one list, so that the time is that of the data. Memory is the
largest resident set of the process (`ru_maxrss`). It counts the pages of mapped files that the process has touched,
although processes share them and the kernel may drop them at any time.
"""

import argparse
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rlbench.base.jsonl import read_rows
from rlbench.base.program import RUN_PY
from rlbench.config.arguments import count
from rlbench.config.schema import TinyModelConfig
from rlbench.data.record import RankedListDataset, Record
from rlbench.lists.catalog import Catalog
from rlbench.models import tiny

SIZES = {"sft": 383_013, "train": 95_753, "validation": 9_421, "test": 10_972}
PARTS = {
    "sft": "sft_dataset/train",
    "train": "grpo/grpo_dataset/train",
    "validation": "sft_dataset/validation",
    "test": "sft_dataset/test",
}
MODEL = "model"
OVERRIDES = [
    *("dataset=reddit_v2", "model=qwen2.5_0.5b", "stage=sft", "tracker=none", "runtime.device=cpu"),
    *("trainer.sft.updates=1", "trainer.sft.batch_size=2", "trainer.sft.micro_batch_size=2"),
    *("trainer.sft.max_length=2048", "generation.max_new_tokens=8"),
    *("evaluation.validation_contexts=1", "evaluation.test_contexts=1", "runtime.progress=false"),
]
POLL = 0.1  # seconds
FILMS, LIST = 7_404, 20
WORDS = 6_000
ANSWERERS = 2.5
"""Mean number of samples that share a prompt."""
INSTRUCTION = (
    "Pretend you are a film recommender. You will be given a conversation between a user who is looking for films and "
    "a system. Reply with twenty films, one a line, as standard title (year), and with nothing else. Here is the "
    "conversation: "
)


class Language:
    """Made-up words and film titles, from a seed."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        letters = np.array(list("etaoinshrdlucmfwypvbgk"))
        lengths = self.rng.integers(2, 9, WORDS)
        self.words = np.array(["".join(self.rng.choice(letters, size)) for size in lengths])
        sizes = self.rng.integers(1, 5, FILMS)
        titles = [" ".join(self.rng.choice(self.words, size)).title() for size in sizes]
        years = self.rng.integers(1930, 2024, FILMS)
        self.films = [(title, int(year)) for title, year in dict(zip(titles, years, strict=True)).items()]

    def text(self) -> str:
        """A post of 20 to 200 words; frequent words are frequent, as in a language."""
        size = int(self.rng.integers(20, 200))
        return " ".join(self.words[(WORDS * self.rng.random(size) ** 3).astype(int)])

    def some(self, size: int) -> list[tuple[str, int]]:
        """Different films, some much more often than others."""
        places = (len(self.films) * self.rng.random(2 * size) ** 2).astype(int)
        return [self.films[place] for place in dict.fromkeys(places.tolist())][:size]


def samples(language: Language, size: int, demonstrated: bool) -> Iterator[dict[str, Any]]:
    """Samples of one part in the published form."""
    made = 0
    while made < size:
        seen = language.some(3)
        liked = ", ".join(f"{title} ({year})" for title, year in seen)
        prompt = [{"content": f"{INSTRUCTION}User: {language.text()} {liked}", "role": "user"}]
        for _ in range(min(int(language.rng.geometric(1 / ANSWERERS)), size - made)):
            made += 1
            truth = language.some(int(language.rng.integers(1, 4)))
            row: dict[str, Any] = {"prompt": prompt, "seen_titles": [title for title, _ in seen]}
            row["groundtruth_with_release_year"] = [[title, str(year)] for title, year in truth]
            if demonstrated:
                shown = "\n".join(f"{title} ({year})" for title, year in language.some(2 * LIST)[:LIST])
                row["completion"] = [{"content": shown, "role": "assistant"}]
            yield row


def make(folder: Path, share: int) -> None:
    """Write the dataset and the model.

    Args:
        folder: created.
        share: the size is the published one divided by this.
    """
    import datasets

    language = Language(0)
    with tempfile.TemporaryDirectory() as beside:
        for split, part in PARTS.items():
            arguments = {"language": language, "size": SIZES[split] // share, "demonstrated": split != "train"}
            made = datasets.Dataset.from_generator(samples, gen_kwargs=arguments, cache_dir=beside)
            made.save_to_disk(str(folder / part))
        (folder / "gt_catalog.pkl").write_bytes(pickle.dumps(language.films))
        write_model(folder / MODEL, language)


def write_model(folder: Path, language: Language) -> None:
    """Write a small model with random weights and a tokenizer of the language."""
    with tempfile.TemporaryDirectory() as beside:
        shown = [Record(row["prompt"], [], [], str(i)) for i, row in enumerate(samples(language, 4000, False))]
        dataset = RankedListDataset("reddit_v2", Catalog(language.films[:500]), {"sft": shown})
        shape = {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2, "max_positions": 4096}
        config = TinyModelConfig(
            "tiny", "tiny", "float32", vocab_size=8000, pieces="words", initializer_range=0.02, seed=0, **shape
        )
        shutil.copytree(tiny.build(config, dataset, Path(beside)), folder)


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        seconds: until its end.
        first: until its first update; None without one.
        cpu: seconds of all its threads.
        memory: largest resident set, in bytes.
    """

    seconds: float
    first: float | None
    cpu: float
    memory: int


def measure(folder: Path, work: Path, *overrides: str) -> Measured:
    """Run a command on the dataset in a new process. Its runs are removed afterwards.

    Args:
        folder: the dataset.
        work: for runs and the cache.
        overrides: of the command.

    Raises:
        RuntimeError: it failed.
    """
    places = [f"dataset.path={folder}", f"model.path={folder / MODEL}", f"runs_dir={work / 'runs'}"]
    command = [sys.executable, str(RUN_PY), *OVERRIDES, *places, f"cache_dir={work / 'cache'}", *overrides]
    started, first = time.perf_counter(), None
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if first is None and _has_loss(work / "runs"):
            first = time.perf_counter() - started
        if pid:
            break
        time.sleep(POLL)
    seconds = time.perf_counter() - started
    shutil.rmtree(work / "runs", ignore_errors=True)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed with status {status}")
    return Measured(seconds, first, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _has_loss(runs: Path) -> bool:
    files = runs.glob("*/*/sft/*/metrics.jsonl")
    return any(row["metric"] == "loss" for file in files for row in read_rows(file))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the dataset")
    parser.add_argument("--make", action="store_true", help="write the dataset and stop")
    parser.add_argument("--share", type=count, default=1, help="with --make: divide the published size by this")
    parser.add_argument("--cached-only", action="store_true", help="leave out the commands without a cache")
    options = parser.parse_args()
    if options.make:
        make(options.folder, options.share)
        return
    dry, plain = "runtime.dry_run=true", "runtime.data_cache=null"
    commands: dict[str, list[str]] = {
        "dry run, no cache": [dry, plain],
        "training, no cache": [plain],
        "training, fills the cache": [],
        "dry run, cached": [dry],
        "training, cached": [],
    }
    table = Table("command", "seconds", "first update", "CPU seconds", "peak memory, GiB")
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        for name, overrides in commands.items():
            if options.cached_only and "no cache" in name:
                continue
            found = measure(options.folder.resolve(), Path(work), *overrides)
            first = "" if found.first is None else f"{found.first:.1f}"
            table.add_row(name, f"{found.seconds:.1f}", first, f"{found.cpu:.1f}", f"{found.memory / 2**30:.2f}")
            print(f"{name}: {found}", file=sys.stderr, flush=True)
    console = Console()
    console.print(table)
    console.print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
