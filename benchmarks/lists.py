"""Speed of reading, judging, scoring and measuring lists, relative to the plain loops of `plain_lists.py`.

    python -m benchmarks.lists

Both sides run in one process on one thread, alternating on the same input. The best of several turns counts. Results
are compared before timing. Exit code 1 if a ratio is below the promised one, or if memory grows faster than the batch.
"""

import argparse
import gc
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import plain_lists as plain
from rlbench.config.arguments import count
from rlbench.data.mini import read_films
from rlbench.lists.catalog import Catalog
from rlbench.lists.entries import forget_lines
from rlbench.lists.item_facts import ItemFacts
from rlbench.lists.metrics import ranking_metrics
from rlbench.lists.reader import ListReader
from rlbench.lists.relevance import Judge
from rlbench.models.tiny import train_tokenizer
from rlbench.rewards.terms import of_lists_alone

N = 20
CUTOFFS = (5, 10, 15, 20)
CATALOG_SIZE = 7404
"""Size of the published Reddit-v2 catalogue."""
OPTIONS: dict[str, dict[str, Any]] = {
    "tokens": {"normaliser": 1024.0},
    "soft_overlong": {"max_tokens": 200, "cache": 50},
}
COUNTS = ("lax", "n_shifted")
"""Fields of the judged lists, besides verdicts, on which both implementations must agree."""
TOLERANCE = 1e-12


@dataclass(frozen=True)
class World:
    """Films, and lists as a policy in training writes them: mostly known films, some lines of other kinds."""

    catalog: Catalog
    facts: ItemFacts
    texts: list[str]
    truths: list[list[tuple[str, int]]]
    seen: list[list[str]]
    n_tokens: list[int]


def make_world(n_lists: int, rng: np.random.Generator) -> World:
    """Create lists of about N lines. Film frequencies follow Zipf's law, as in recommendations."""
    words = sorted({word.rstrip(",") for title, _, _ in read_films() for word in title.split()})
    titles = [" ".join(rng.choice(words, size=rng.integers(1, 5))) for _ in range(CATALOG_SIZE)]
    films = [(title, int(year)) for title, year in zip(titles, rng.integers(1930, 2024, CATALOG_SIZE), strict=True)]
    popularity = 1 / np.arange(1, CATALOG_SIZE + 1)
    popularity /= popularity.sum()
    texts = []
    for _ in range(n_lists):
        size = int(np.clip(rng.normal(N, 2), 0, 30))
        lines = []
        for rank, film in enumerate(rng.choice(CATALOG_SIZE, size=size, p=popularity)):
            title, year = films[film]
            kind = rng.random()
            if kind < 0.92:
                lines.append(f"{title} ({year})")
            elif kind < 0.94:
                lines.append(f"{rank + 1}. **{title}** ({year})")
            elif kind < 0.96:
                lines.append(f"{title.upper()} ({year})")
            elif kind < 0.99:
                lines.append(f"{title} II ({year + 1})")
            else:
                lines.append(title)
        texts.append("\n".join(lines))
    return World(
        catalog=Catalog(films),
        facts=ItemFacts(rng.zipf(1.5, CATALOG_SIZE).clip(max=5000) - 1, np.array([year for _, year in films])),
        texts=texts,
        truths=[[films[i] for i in rng.choice(CATALOG_SIZE, size=rng.integers(1, 9), p=popularity)] for _ in texts],
        seen=[[films[i][0] for i in rng.choice(CATALOG_SIZE, size=2, p=popularity)] for _ in texts],
        n_tokens=rng.integers(20, 400, n_lists).tolist(),
    )


def best_of(turns: int, *functions: Callable[[], object]) -> list[float]:
    """Return the shortest wall times, alternating so that load affects all, without garbage collection."""
    times = [float("inf")] * len(functions)
    for _ in range(turns):
        for i, function in enumerate(functions):
            gc.collect()
            gc.disable()
            started = time.perf_counter()
            function()
            times[i] = min(times[i], time.perf_counter() - started)
            gc.enable()
    return times


@dataclass(frozen=True)
class Result:
    what: str
    plain: float
    fast: float
    promised: float


def segmentation(rows: int, width: int, turns: int) -> Result:
    """Convert the token ids of `rows` completions to unit ids."""
    rng = np.random.default_rng(0)
    films = [f"{title} ({year})" for title, year, _ in read_films()]
    tokenizer = train_tokenizer(films * 4, 900, "words")
    texts = ["\n".join(rng.choice(films, size=40)) for _ in range(rows)]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"][: width - 1] for text in texts]
    ids = [row + [tokenizer.eos_token_id] for row in ids]
    assert all(len(row) == width for row in ids)
    reader = ListReader(tokenizer, N)
    entries = [plain.parse(text)[0] for text in reader.decode(ids)]
    lines = [[entry.line for entry in of_list] for of_list in entries]
    batch, mask = torch.tensor(ids), torch.ones(rows, width, dtype=torch.long)
    assert reader.segment(batch, mask, lines).unit_ids.tolist() == plain.segment(tokenizer, ids, entries, N, width)
    slow, fast = best_of(
        turns,
        lambda: plain.segment(tokenizer, ids, entries, N, width),
        lambda: reader.segment(batch, mask, lines),
    )
    return Result(f"segmentation of {rows} x {width} tokens", slow, fast, 50)


def plain_rewards(
    world: World, index: dict[tuple[str, int], int], titles: dict[str, list[int]], popularity: list[float]
) -> dict[str, list[Any]]:
    """Parse, match and compute every term, list by list."""
    table: dict[str, list[Any]] = {name: [] for name in (*of_lists_alone(), *COUNTS)}
    for text, truth, seen, n_tokens in zip(world.texts, world.truths, world.seen, world.n_tokens, strict=True):
        entries, n_lines = plain.parse(text)
        verdicts, films = plain.judge(entries, truth, seen, index, N)
        n_truth = len({(plain.normalise(title), year) for title, year in truth})
        of_ranks = plain.rank_terms(verdicts, films, n_truth, popularity, N)
        of_list: dict[str, Any] = plain.list_terms(of_ranks["relevance"], verdicts, n_truth, len(entries), n_lines, N)
        lax, shifted = plain.form(entries, titles, N)
        of_list["lax"] = lax + [False] * (N - len(lax))
        of_list["n_shifted"] = shifted
        of_list["tokens"] = plain.tokens(n_tokens, **OPTIONS["tokens"])
        of_list["soft_overlong"] = plain.soft_overlong(n_tokens, **OPTIONS["soft_overlong"])
        for name, values in {**of_ranks, **of_list}.items():
            table[name].append(values)
    return table


def fast_rewards(world: World, catalog: Catalog) -> dict[str, np.ndarray]:
    """The same, with the judge and the terms of `rlbench`."""
    judge = Judge(catalog, N)
    lists = judge(judge.read(world.texts), world.truths, world.seen, world.n_tokens)
    values = {
        name: term.function(lists, world.facts, **OPTIONS.get(name, {})) for name, term in of_lists_alone().items()
    }
    return values | {"lax": lists.lax, "n_shifted": lists.n_shifted}


def rewards(n_lists: int, turns: int) -> list[Result]:
    """Time from texts to all terms, with empty caches of lines and titles, and in the middle of a run."""
    world = make_world(n_lists, np.random.default_rng(1))
    index, titles = plain.catalog_index(world.catalog), plain.lax_titles(world.catalog)
    popularity = world.facts.popularity_percentile.tolist()
    slow_values, fast_values = plain_rewards(world, index, titles, popularity), fast_rewards(world, world.catalog)
    for name, values in fast_values.items():
        np.testing.assert_allclose(values, np.array(slow_values[name]), atol=TOLERANCE, rtol=0, err_msg=name)

    unused = [Catalog(world.catalog.items) for _ in range(turns)]  # a catalogue caches lookups

    def cold() -> None:
        forget_lines()
        fast_rewards(world, unused.pop())

    slow, first, later = best_of(
        turns, lambda: plain_rewards(world, index, titles, popularity), cold, lambda: fast_rewards(world, world.catalog)
    )
    what = f"parse + match + all {len(of_lists_alone())} reward terms of {n_lists:,} lists"
    return [Result(f"{what}, the very first", slow, first, 5), Result(f"{what}, mid-run", slow, later, 5)]


def metrics(n_lists: int, turns: int) -> Result:
    """Time every ranking metric at four cut-offs."""
    rng = np.random.default_rng(2)
    n_truth = rng.integers(1, 10, n_lists)
    hits = ((rng.random((n_lists, N)) < 0.1).cumsum(1) <= n_truth[:, None]) & (rng.random((n_lists, N)) < 0.1)
    hits = np.where(hits.cumsum(1) <= n_truth[:, None], hits, 0).astype(np.float64)
    rows, sizes = hits.tolist(), n_truth.tolist()

    def loop() -> list[dict[str, float]]:
        return [plain.ranking_metrics(row, size, CUTOFFS) for row, size in zip(rows, sizes, strict=True)]

    fast_values, slow_values = ranking_metrics(hits, n_truth, CUTOFFS), loop()
    for name, values in fast_values.items():
        np.testing.assert_allclose(values, [row[name] for row in slow_values], atol=TOLERANCE, rtol=0, err_msg=name)
    slow, fast = best_of(turns, loop, lambda: ranking_metrics(hits, n_truth, CUTOFFS))
    return Result(f"{len(fast_values)} metrics at {len(CUTOFFS)} cut-offs over {n_lists:,} lists", slow, fast, 20)


def peak_memory(function: Callable[[], object]) -> int:
    """Return the peak memory of Python and numpy while the function runs, in bytes."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def memory(n_lists: int) -> list[tuple[str, int, int]]:
    """Return (what, peak for a batch, peak for four times the batch), in bytes."""
    one, four = (make_world(size, np.random.default_rng(3)) for size in (n_lists, 4 * n_lists))
    for world in (one, four):
        fast_rewards(world, world.catalog)  # the cache of lines and titles is bounded and not part of a batch
    of_rewards = [peak_memory(lambda world=world: fast_rewards(world, world.catalog)) for world in (one, four)]
    sizes = (n_lists * 5, n_lists * 20)
    of_metrics = [
        peak_memory(lambda n=n: ranking_metrics(np.zeros((n, N)), np.ones(n, dtype=np.int64), CUTOFFS)) for n in sizes
    ]
    return [
        (f"rewards of {n_lists:,} and {4 * n_lists:,} lists", *of_rewards),
        (f"metrics of {sizes[0]:,} and {sizes[1]:,} lists", *of_metrics),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lists", description=__doc__)
    parser.add_argument("--turns", type=count, default=5, help="turns of each; the best counts (default 5)")
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    results = [segmentation(384, 195, turns), *rewards(4000, turns), metrics(20_000, turns)]
    grown = memory(1000)

    console = Console()
    table = Table("what", "plain, ms", "rlbench, ms", "ratio", "promised", title="one process, one thread")
    for result in results:
        times = [f"{seconds * 1e3:.1f}" for seconds in (result.plain, result.fast)]
        table.add_row(result.what, *times, f"{result.plain / result.fast:.1f}", f"{result.promised:.0f}")
    console.print(table)
    for what, small, large in grown:
        console.print(f"memory, {what}: {small / 2**20:.1f} and {large / 2**20:.1f} MiB, x{large / small:.2f} for x4")
    missed = [r.what for r in results if r.plain / r.fast < r.promised]
    missed += [what for what, small, large in grown if large > 4.4 * small]
    if missed:
        console.print(f"below what is promised: {'; '.join(missed)}", style="red")
        sys.exit(1)


if __name__ == "__main__":
    main()
