"""Run directories with everything that a report shows: sample lists, sampled groups, costs, settings and origins."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis import statistics
from analysis.collection import Collection
from analysis.html.rows import looks
from analysis.statistics import Scores
from analysis.tables.compare import Side, correct, find_lead, lead_of
from analysis.tables.headline import Headline
from analysis.tables.scores import share_of
from tests.helpers_analysis import hash_of, reseal, write_identity, write_sweep

HOSTILE = "</script><script>window.hurt = 1</script><!-- <img src=x onerror=hurt()> \u2028"
"""A film title that runs as code in a page without escaping."""

RANKS = 10
EVERY = 50
VERDICTS = ("hit", "miss", "miss", "miss", "duplicate", "seen", "out_of_catalog")


def write_full_sweep(
    runs: Path, gains: Mapping[str, float], *, seeds: int, updates: int = 100, contexts: int = 60, samples: int = 4
) -> None:
    """A sweep as `write_sweep` makes it, with the other files of real runs.

    Args:
        samples: contexts in completions.jsonl at each evaluation.
    """
    write_sweep(runs, gains, seeds=seeds, updates=updates, contexts=contexts, every=EVERY)
    for path in sorted(file.parent for file in runs.rglob("STATUS")):
        result = json.loads((path / "result.json").read_text())
        rng = np.random.default_rng([result["seed"], hash_of(result["label"], 0)])
        steps = list(range(0, result["checkpoint"]["step"] + 1, EVERY))
        write_json(path / "manifest.json", manifest(result))
        (path / "attempts/1").mkdir(parents=True)
        write_json(
            path / "attempts/1/attempt.json",
            {"number": 1, "started": "2026-11-20T08:00:00Z", "ended": "2026-11-20T09:30:00Z", "outcome": "done"},
        )
        write_lines(path / "completions.jsonl", [greedy(rng, step, c) for step in steps for c in range(samples)])
        if result["stage"] != "rl":
            continue
        path = write_identity(path, identity(result))
        write_lines(path / "rollouts.jsonl", [group(rng, step) for step in steps[:-1]])
        write_lines(path / "budget.jsonl", [spending(update) for update in range(1, updates + 1)])
        ranked = [
            {"step": step, "split": "train", "metric": f"{name}@{k}", "value": float(rng.random() / k)}
            for step in range(1, updates + 1)
            for name in ("reward", "hits")
            for k in range(1, RANKS + 1)
        ]
        with (path / "metrics.jsonl").open("a") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in ranked)
    reseal(runs)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content))


def write_lines(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")


def manifest(result: Mapping[str, Any]) -> dict[str, Any]:
    command = ["run.py", f"algorithm={result['algorithm']}", f"reward={result['reward']}", f"seed={result['seed']}"]
    return {
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "versions": {"python": "3.11.7", "torch": "2.13.0+cpu", "trl": "1.16.0"},
        "hardware": {"cpu": "a processor", "threads": 2, "gpus": []},
        "data": {"name": "mini", "sha256": "ab" * 32, "notices": []},
        "command": command if result["stage"] == "rl" else [],
    }


def identity(result: Mapping[str, Any]) -> dict[str, Any]:
    ratio = "rank" if result["algorithm"].startswith("rank") else "token"
    return {
        "seed": result["seed"],
        "algorithm": {"name": result["algorithm"], "ratio": ratio, "kl": {"beta": 0.001}},
        "reward": {"name": result["reward"]},
        "rl": {"learning_rate": 1e-4},
        "note": "1 < 2 & 3",
    }


def ranks(rng: np.random.Generator) -> list[list[Any]]:
    films = rng.integers(0, 300, size=RANKS)
    titles = [HOSTILE if film < 6 else f"Film number {film}" for film in films]
    return [
        [title, 1950 + int(film) % 70, VERDICTS[int(film) % len(VERDICTS)]]
        for title, film in zip(titles, films, strict=True)
    ]


def greedy(rng: np.random.Generator, step: int, context: int) -> dict[str, Any]:
    listed = ranks(rng)
    return {
        "step": step,
        "split": "validation",
        "context_id": f"c{context:04d}",
        "prompt": f"A film like number {context}, <b>please</b>",
        "relevant": [[HOSTILE, 1999], ["Heat", 1995]],
        "ranks": listed,
        "text": "\n".join(f"{title} ({year})" for title, year, _ in listed),
        "ndcg@10": float(rng.random()),
    }


def group(rng: np.random.Generator, step: int, lists: int = 4) -> dict[str, Any]:
    def sampled() -> dict[str, Any]:
        listed = [[*rank, float(rank[2] == "hit"), float(rng.normal())] for rank in ranks(rng)]
        hits = sum(rank[2] == "hit" for rank in listed)
        return {"ranks": listed, "reward": float(hits), "hits": hits, "finished": True, "text": "as it was written"}

    return {
        "step": step,
        "context_id": f"t{step}",
        "prompt": f"What was asked before update {step + 1}",
        "relevant": [["Heat", 1995]],
        "lists": [sampled() for _ in range(lists)],
    }


def spending(update: int) -> dict[str, float]:
    return {
        "update": update,
        "prompts": 8 * update,
        "completions": 64 * update,
        "generated_tokens": 5_000 * update,
        "trained_tokens": 5_000 * update,
        "seconds": 1.5 * update,
    }


def verdict(
    scores: Mapping[str, Scores], resamples: int, budgets: Mapping[str, tuple[int, ...]] | None = None
) -> Headline:
    """The headline over RL rows with the given scores on ndcg@10, as in a table of only these rows."""
    metric = "ndcg@10"
    sides = [
        Side(
            id=i,
            group="",
            name=label,
            label=label,
            stage="rl",
            seeds=one.seeds,
            budgets=frozenset([(budgets or {}).get(label, (1, 2, 3))]),
            marks=(),
            metrics=(metric,),
            load=partial(scores.__getitem__, label),
        )
        for i, (label, one) in enumerate(scores.items())
    ]
    found = find_lead(sides, metric, metric, resamples=resamples)
    lead = None
    if found is not None:
        family = correct([], [found])
        lead = lead_of(found, family.best.get(0), family)
    leader = next(iter(scores)) if lead is None else lead.label
    cell = share_of(statistics.mean_interval(scores[leader], resamples=resamples), 0)
    contexts = int(scores[leader].contexts.max()) + 1
    return Headline(metric, leader, cell, len(scores[leader].seeds), contexts, contexts, lead, tuple(budgets or ()))


def names_of(group: Collection) -> dict[str, str]:
    """The displayed names of a group's rows by label, in their order on the page."""
    return {look.label: look.name for look in looks(group)}


def rows_of(page: str, name: str, *, tags: bool = False) -> list[list[str]]:
    """The cells of a table without its head: their texts, or with tags their whole content."""
    body = page.split(f'id="{name}"')[1].split("<tbody>")[1].split("</tbody>")[0]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("</tr>")[:-1]]
    return cells if tags else [[re.sub("<[^>]*>", "", cell) for cell in row] for row in cells]
