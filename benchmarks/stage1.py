"""Time and peak memory of Stage 1 at the published size: 100,000 conversations and 7,400 items.

    python -m benchmarks.stage1                # full size; about 3 GB on the disk of --folder
    python -m benchmarks.stage1 --share 10     # a tenth of the conversations

The steps are those of `rlbench demonstrate`: remap, the candidates, reflect with 100 ratings each, adjust, the lists.
Each conversation names 20 items, of which a third is outside the catalogue (20,000 different ones), and has two truths.
Random vectors of 384 numbers stand for the sentence encoder, which is not measured and loads a model of its own. Of
adjust, one evaluation of the loss and its gradient is measured: a fit makes some hundred of them, in the same memory.

Memory is the largest resident set of the process so far (`ru_maxrss`). Conversations, ratings and lists are in memory
in any case, and grow with the number of conversations. Scores are in a file.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from rlbench.config.arguments import count
from rlbench.data.stage1.pipeline import Conversation, Stage1
from rlbench.lists.catalog import Catalog

CONVERSATIONS, ITEMS, OUTSIDE = 100_000, 7_400, 20_000
DIMENSIONS, NAMED, RATED = 384, 20, 100


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    """A random vector of length 1 for each text."""
    rng = np.random.default_rng(len(texts))
    made = rng.standard_normal((len(texts), DIMENSIONS), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def conversations(number: int, items: list[tuple[str, int]], outside: list[tuple[str, int]]) -> list[Conversation]:
    """Conversations whose truth is half of the time what the teacher names, popular items more often than others."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(number):
        places = (len(items) * rng.random(NAMED) ** 2).astype(int)
        named = [
            outside[int(rng.integers(len(outside)))] if draw < 1 / 3 else items[place]
            for draw, place in zip(rng.random(NAMED), places, strict=True)
        ]
        truth = [items[places[0]], items[int(len(items) * rng.random() ** 2)]]
        made.append(Conversation(str(i), f"What is like {items[places[1]][0]}?", [items[places[1]][0]], truth, named))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=count, default=1, metavar="K", help="take 1/K of the conversations")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="folder of the file of scores")
    options = parser.parse_args()
    number = CONVERSATIONS // options.share
    table = Table(title=f"Stage 1: {number:,} conversations, {ITEMS:,} items")
    for column in ("step", "seconds", "peak memory, MB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    started = time.perf_counter()

    def done(step: str) -> None:
        nonlocal started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        table.add_row(step, f"{time.perf_counter() - started:.1f}", f"{peak:,.0f}")
        print(step, f"{time.perf_counter() - started:.1f} s", f"{peak:,.0f} MB", flush=True)
        started = time.perf_counter()

    items = [(f"Item {i}", 1930 + i % 90) for i in range(ITEMS)]
    talks = conversations(number, items, [(f"Elsewhere {i}", 1930 + i % 90) for i in range(OUTSIDE)])
    done("conversations")
    stage = Stage1(Catalog(items), talks, encode, {}, options.folder)
    done("remap")
    candidates = stage.candidates(RATED)
    done("candidates")
    rng = np.random.default_rng(1)
    ratings = {
        talk.context_id: dict(zip(rated, rng.integers(-2, 3, len(rated)).tolist(), strict=True))
        for talk, rated in zip(talks, candidates, strict=True)
    }
    done("ratings")
    stage.reflect(ratings)
    done("reflect")
    loss = stage.loss()
    value, _ = loss(np.concatenate([np.ones(ITEMS), np.zeros(ITEMS)]))
    assert np.isfinite(value)
    done("adjust, one evaluation")
    stage.lists(NAMED)
    done("lists")
    Console().print(table)


if __name__ == "__main__":
    main()
