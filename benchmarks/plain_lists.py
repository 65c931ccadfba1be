"""Reference implementation of reading, judging, scoring and measuring lists: loops over tokens, lines and ranks.

It computes the same as `rlbench` in the most obvious way. `benchmarks/lists.py` times both and stops if they disagree.
`tests/unit/test_plain_lists.py` compares them in every test run.
"""

import math
from collections.abc import Sequence
from typing import Any

from rlbench.lists.catalog import Catalog, normalise
from rlbench.lists.entries import Entry, read_line
from rlbench.lists.reader import UnitLayout

Film = tuple[str, int]
VERDICT_COSTS = {"hit": 1.0, "miss": 0.0, "out_of_catalog": -1.25, "seen": -1.0, "duplicate": -1.0}
"""Defaults of the term `verdict_cost`."""


def parse(text: str) -> tuple[list[Entry], int]:
    """Return the entries and the number of nonblank lines. Every line is parsed anew."""
    entries, n_lines = [], 0
    for index, line in enumerate(text.split("\n")):
        film = read_line(line)
        if line.strip():
            n_lines += 1
        if film is not None:
            entries.append(Entry(film[0], film[1], index))
    return entries, n_lines


def segment(
    tokenizer: Any, completion_ids: list[list[int]], entries: list[list[Entry]], list_length: int, width: int
) -> list[list[int]]:
    """Return the unit of every token. Each token is decoded to find newlines, as in the published code."""
    units = UnitLayout(list_length)
    rows = []
    for ids, of_row in zip(completion_ids, entries, strict=True):
        line, row = 0, []
        for token in ids:
            unit = units.other
            for rank, entry in enumerate(of_row):
                if entry.line == line:
                    unit = min(rank, units.overflow)
            row.append(units.eos if token == tokenizer.eos_token_id else unit)
            line += tokenizer.decode([token], skip_special_tokens=True).count("\n")
        rows.append(row + [units.padding] * (width - len(row)))
    return rows


def catalog_index(catalog: Catalog) -> dict[Film, int]:
    """Map normalised (title, year) to the index of the first such film."""
    index: dict[Film, int] = {}
    for i, (title, year) in enumerate(catalog.items):
        index.setdefault((normalise(title), year), i)
    return index


def lax_titles(catalog: Catalog) -> dict[str, list[int]]:
    """Map lower-case titles to the years of their films."""
    titles: dict[str, list[int]] = {}
    for title, year in catalog.items:
        titles.setdefault(" ".join(title.lower().split()), []).append(year)
    return titles


def form(entries: Sequence[Entry], titles: dict[str, list[int]], list_length: int) -> tuple[list[bool], int]:
    """For the first N entries, return which pass the lax catalogue test, and how many are off their rank's line."""
    lax, shifted = [], 0
    for rank, entry in enumerate(entries[:list_length]):
        years = titles.get(" ".join(entry.title.lower().split()), [])
        lax.append(any(abs(year - entry.year) <= 2 for year in years))
        shifted += entry.line != rank
    return lax, shifted


def judge(
    entries: Sequence[Entry], truth: Sequence[Film], seen: Sequence[str], index: dict[Film, int], list_length: int
) -> tuple[list[str], list[int]]:
    """Return verdict and catalogue index of each of the first N entries; -1 is outside the catalogue."""
    relevant = {(normalise(title), year) for title, year in truth}
    seen_keys = {normalise(title) for title in seen}
    earlier: set[Film] = set()
    verdicts, films = [], []
    for entry in entries[:list_length]:
        key = (normalise(entry.title), entry.year)
        if key not in index:
            verdicts.append("out_of_catalog")
        elif key in earlier:
            verdicts.append("duplicate")
        elif key[0] in seen_keys:
            verdicts.append("seen")
        elif key in relevant:
            verdicts.append("hit")
        else:
            verdicts.append("miss")
        films.append(index.get(key, -1))
        earlier.add(key)
    return verdicts, films


def dcg(hits: Sequence[float], k: int) -> float:
    return sum(hit / math.log2(rank + 1) for rank, hit in enumerate(hits[:k], start=1))


def reciprocal_rank(hits: Sequence[float], k: int) -> float:
    for rank, hit in enumerate(hits[:k], start=1):
        if hit:
            return 1 / rank
    return 0.0


def average_precision(hits: Sequence[float], n_truth: int, k: int) -> float:
    total, found = 0.0, 0
    for rank, hit in enumerate(hits[:k], start=1):
        if hit:
            found += 1
            total += found / rank
    return total / n_truth


def ranking_metrics(hits: Sequence[float], n_truth: int, cutoffs: Sequence[int]) -> dict[str, float]:
    """Return all metrics of one list."""
    table = {}
    for k in cutoffs:
        table[f"recall@{k}"] = sum(hits[:k]) / n_truth
        table[f"ndcg@{k}"] = dcg(hits, k) / dcg([1.0] * n_truth, k)
        table[f"hit_rate@{k}"] = float(any(hits[:k]))
        table[f"mrr@{k}"] = reciprocal_rank(hits, k)
        table[f"map@{k}"] = average_precision(hits, n_truth, k)
    return table


def rank_terms(
    verdicts: Sequence[str], films: Sequence[int], n_truth: int, popularity: Sequence[float], n: int
) -> dict[str, list[float]]:
    """Return every rank term with default options for one list of N ranks."""
    names = ("in_catalog", "out_of_catalog", "duplicate", "seen", "verdict_cost", "popularity", "novelty", "value")
    table = {name: [0.0] * n for name in ("relevance", "dcg", "ndcg_share", "recall_share", *names)}
    ideal = dcg([1.0] * n_truth, n)
    for rank, (verdict, film) in enumerate(zip(verdicts, films, strict=True)):
        table["verdict_cost"][rank] = VERDICT_COSTS[verdict]
        if verdict in ("out_of_catalog", "duplicate", "seen"):
            table[verdict][rank] = 1.0
        if verdict == "hit":
            gain = 1 / math.log2(rank + 2)
            table["relevance"][rank] = 1.0
            table["dcg"][rank] = gain
            table["ndcg_share"][rank] = gain / ideal
            table["recall_share"][rank] = 1 / n_truth
            table["value"][rank] = 1 + min(1 - popularity[film], 1.0)
        if verdict in ("hit", "miss"):
            table["novelty"][rank] = 1 - popularity[film]
        if verdict != "out_of_catalog":
            table["in_catalog"][rank] = 1.0
            table["popularity"][rank] = popularity[film]
    return table


def list_terms(
    hits: Sequence[float], verdicts: Sequence[str], n_truth: int, n_entries: int, n_lines: int, n: int
) -> dict[str, float]:
    """Return every list term without options for one list of N ranks."""
    inside = sum(verdict != "out_of_catalog" for verdict in verdicts)
    measured = ranking_metrics(hits, n_truth, [n])
    return {
        "recall": measured[f"recall@{n}"],
        "ndcg": measured[f"ndcg@{n}"],
        "list_dcg": dcg(hits, n),
        "hit_rate": measured[f"hit_rate@{n}"],
        "in_catalog_share": inside / len(verdicts) if verdicts else 0.0,
        "format": n_entries / n_lines if n_lines else 0.0,
        "length": 1.0 if n_entries == n else -abs(n_entries - n) / n,
        "ndcg_steps": _steps(measured[f"ndcg@{n}"]),
        "recommendable_at_least": float(_recommendable(verdicts) >= 0.8),
    }


def _steps(ndcg: float) -> float:
    """The term `ndcg_steps`."""
    if ndcg >= 0.5 - 1e-9:
        return 1.0
    return 0.3 if ndcg >= 0.25 - 1e-9 else 0.0


def _recommendable(verdicts: Sequence[str]) -> float:
    """Share of hits and misses, 0 without entries."""
    return sum(verdict in ("hit", "miss") for verdict in verdicts) / len(verdicts) + 1e-9 if verdicts else 0.0


def tokens(n_tokens: int, normaliser: float) -> float:
    """The term `tokens`."""
    return n_tokens / normaliser


def soft_overlong(n_tokens: int, max_tokens: int, cache: int) -> float:
    """The term `soft_overlong`."""
    free = max_tokens - cache
    if n_tokens <= free:
        return 0.0
    if n_tokens <= max_tokens:
        return (free - n_tokens) / cache
    return -1.0
