"""Run directories with known content, in the form of docs/results-schema.md, for the tests of `analysis`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlbench.config.baselines import BASELINES
from rlbench.runs.directory import seal
from rlbench.runs.identity import config_hash
from rlbench.runs.record import SCHEMA

GROUP = "mini/mini-tiny"
"""Folder of the runs inside the runs folder: experiment, then dataset and model."""


def queries(
    values: Mapping[str, Sequence[float]],
    contexts: Sequence[str],
    *,
    n_truth: int = 3,
    clusters: Sequence[str] | None = None,
) -> pd.DataFrame:
    """A predictions table: one row per sample, with the given metric columns. Each context is a cluster by default."""
    n = len(contexts)
    frame = pd.DataFrame(
        {
            "context_id": list(contexts),
            "sample": np.arange(n),
            "cluster_id": list(contexts if clusters is None else clusters),
            "text": ["Heat (1995)\n"] * n,
            "titles": [["Heat"]] * n,
            "years": [[1995]] * n,
            "verdicts": [["miss"]] * n,
            "n_truth": np.full(n, n_truth),
            "finished": [True] * n,
        }
    )
    return frame.assign(**{name: np.asarray(column, dtype=float) for name, column in values.items()})


def budget(updates: int = 0, prompts: int = 0, completions: int = 0, tokens: int = 0, seconds: float = 0.0) -> dict:
    phases = {"total": seconds, "rollout": seconds / 2, "update": seconds / 4, "evaluation": seconds / 4}
    return {
        "updates": updates,
        "prompts": prompts,
        "completions": completions,
        "generated_tokens": tokens,
        "seconds": phases,
    }


def write_run(
    runs: Path,
    label: str,
    seed: int,
    predictions: pd.DataFrame,
    *,
    spent: dict | None = None,
    curves: Sequence[tuple[int, str, str, float]] = (),
    validation: Mapping[str, float] | None = None,
    digest: str | None = None,
    cutoffs: Sequence[int] = (5, 10),
    group: str = GROUP,
    step: int = 0,
    rule: str | None = None,
    status: str = "done\n",
    identity: Mapping[str, Any] | None = None,
) -> Path:
    """Write one run directory and return it. A label with a hyphen makes an RL run, the name of a baseline its run."""
    algorithm, _, reward = label.partition("-")
    made = config_hash(identity) if identity is not None else f"{abs(hash_of(label, seed)):08x}"
    digest = digest or made
    path = runs / group / label / f"seed{seed}-{digest}"
    path.mkdir(parents=True)
    experiment, cell = group.split("/")
    dataset, model = cell.split("-", 1)
    means = predictions.select_dtypes("number").drop(columns=["sample", "n_truth"]).mean()
    result = {
        "schema": SCHEMA,
        "experiment": experiment,
        "dataset": dataset,
        "model": model,
        "stage": "rl" if reward else "baseline" if label in BASELINES else label,
        "label": label,
        "algorithm": algorithm if reward else None,
        "reward": reward or None,
        "seed": seed,
        "hash": digest,
        "list_length": 10,
        "cutoffs": list(cutoffs),
        "checkpoint": {"rule": rule, "step": step},
        "metrics": {"validation": dict(validation or {}), "test": {k: float(v) for k, v in means.items()}},
        "budget": spent or budget(),
    }
    predictions.to_parquet(path / f"predictions-test-{step}.parquet")
    lines = [json.dumps({"step": s, "split": sp, "metric": m, "value": v}) for s, sp, m, v in curves]
    (path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (path / "result.json").write_text(json.dumps(result))
    (path / "budget.json").write_text(json.dumps(result["budget"]))
    if identity is not None:
        (path / "identity.json").write_text(json.dumps(identity))
    (path / "STATUS").write_text(status)
    seal(path)
    return path


def reseal(folder: Path) -> None:
    """Rewrite the file lists of all runs in a folder, as if they had ended with their present files."""
    for status in folder.rglob("STATUS"):
        seal(status.parent)


def hash_of(label: str, seed: int) -> int:
    """A small stable number for a directory's name."""
    return sum((i + 1) * ord(c) for i, c in enumerate(label)) * 1_000 + seed


def write_identity(path: Path, identity: Mapping[str, Any]) -> Path:
    """Give a run other settings, and so another hash; return its directory, which has a new name."""
    (path / "identity.json").write_text(json.dumps(identity))
    edit_result(path, hash=config_hash(identity))
    return path.rename(path.with_name(f"{path.name.split('-')[0]}-{config_hash(identity)}"))


def edit_result(path: Path, **changes: Any) -> None:
    """Overwrite top-level fields of result.json, as if the run had written them."""
    file = path / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    seal(path)


def write_sweep(
    runs: Path,
    gains: Mapping[str, float],
    *,
    seeds: int,
    contexts: int = 150,
    updates: int = 150,
    every: int = 25,
    cutoffs: Sequence[int] = (5, 10),
    logs_kl: bool = True,
    group: str = GROUP,
) -> None:
    """A realistic sweep: oracle, zero-shot, SFT, and RL rows that gain `gains[label]` NDCG over SFT."""
    rng = np.random.default_rng(7)
    of_context = np.repeat(np.arange(contexts), 1 + np.arange(contexts) % 3)
    names = [f"c{context:04d}" for context in of_context]
    ease = rng.beta(1.2, 4, size=contexts)

    def draw(level: float, noise: np.random.Generator) -> pd.DataFrame:
        own = noise.beta(1.5, 6, size=contexts)
        scores = np.clip((0.6 * ease + 0.4 * own)[of_context] * level / 0.21, 0, 1)
        columns = {f"{metric}@{k}": scores * (k / max(cutoffs)) ** power for metric, power in POWERS for k in cutoffs}
        columns |= {"in_catalog": np.full(len(names), 0.96), "duplicates": np.zeros(len(names))}
        return queries(columns | {"list_length": np.full(len(names), 10.0)}, names)

    def levels(level: float) -> dict[str, float]:
        return {f"{metric}@{k}": level * (k / max(cutoffs)) ** power for metric, power in POWERS for k in cutoffs}

    sft = 0.08
    for label, level, spent in (
        ("oracle", 0.65, budget()),
        ("zero_shot", 0.012, budget()),
        ("sft", sft, budget(500, 0, 0, 0, 83.0)),
    ):
        write_run(runs, label, 0, draw(level, rng), spent=spent, validation=levels(level), cutoffs=cutoffs, group=group)
    for label, gain in gains.items():
        for seed in range(seeds):
            noise = np.random.default_rng([seed, hash_of(label, 0)])
            final = gain * (1 + 0.15 * noise.normal())
            rows: list[tuple[int, str, str, float]] = []
            for step in range(0, updates + 1, every):
                climb = final * (1 - np.exp(-2.5 * step / updates))
                for name, value in levels(sft + climb).items():
                    rows.append((step, "validation", name, value + (0.002 * noise.normal() if step else 0.0)))
            for step in range(1, updates + 1):
                part = step / updates
                train = {
                    "reward": 0.9 * (sft + final * (1 - np.exp(-2.5 * part))) * 4 + 0.06 * noise.normal(),
                    "hits": 6 * (sft + final * (1 - np.exp(-2.5 * part))) + 0.12 * noise.normal(),
                    "entropy": 1.6 * np.exp(-1.2 * part * (1 + 10 * gain)) + 0.3 + 0.03 * noise.normal(),
                    "kl": 0.4 * part * (1 + 10 * gain) + 0.01 * abs(noise.normal()),
                    "list_length": 10 - 0.4 * np.exp(-8 * part) + 0.05 * noise.normal(),
                    "frac_zero_variance_units": 0.55 + 0.15 * part + 0.03 * noise.normal(),
                    "grad_norm": 0.4 + 0.05 * noise.normal(),
                }
                rows += [(step, "train", k, float(v)) for k, v in train.items() if k != "kl" or logs_kl]
            write_run(
                runs,
                label,
                seed,
                draw(sft + final, noise),
                spent=budget(updates, 8 * updates, 64 * updates, 64 * updates * 90, 1.3 * updates + seed),
                curves=rows,
                validation=levels(sft + final),
                cutoffs=cutoffs,
                group=group,
                step=updates,
                rule="last",
            )


POWERS = (("recall", 0.8), ("ndcg", 0.3))
"""How fast a metric grows with its cut-off."""
