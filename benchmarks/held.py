"""Test metrics of finished runs, with free lists and with lists held to the catalogue.

    python -m benchmarks.held runs/mini/mini-tiny/*-relevance/seed* runs/mini/mini-tiny/sft/*

Runs are not changed. Each line of the table is the mean over the given runs of one kind. Settings come from each run's
config.yaml.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from rlbench.config.resolving import resolve
from rlbench.data import load_dataset
from rlbench.evaluation.evaluate import evaluate
from rlbench.evaluation.judging import make_criteria
from rlbench.models.loading import load_model, load_tokenizer

MODES: dict[str, dict[str, object]] = {
    "free": {},
    "held": {"constraint": "catalogue"},
    "held, no repeats": {"constraint": "catalogue", "exclude": ["repeats"]},
    "held, no repeats, not seen": {"constraint": "catalogue", "exclude": ["repeats", "seen"]},
    "held, no repeats, not seen, 4 beams": {"constraint": "catalogue", "exclude": ["repeats", "seen"], "beams": 4},
}
METRICS = ("ndcg@10", "recall@10", "in_catalog", "duplicates", "seen", "list_length")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--contexts", type=int, default=None, help="test contexts; by default all")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    arguments = parser.parse_args()
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    console = Console()
    for run in arguments.runs:
        written = OmegaConf.load(run / "config.yaml")
        config = resolve(OmegaConf.merge({"baselines": []}, written))  # older runs have no baselines
        dataset = load_dataset(config.dataset)
        criteria = make_criteria(config.matching, dataset, config.dataset.list_length)
        model, tokenizer = load_model(run / "model", config.model.dtype), load_tokenizer(run / "model")
        records = dataset.splits["test"]
        if arguments.contexts is not None:
            kept = set(list(dict.fromkeys(record.context_id for record in records))[: arguments.contexts])
            records = [record for record in records if record.context_id in kept]
        for mode in arguments.modes:
            settings = replace(config.evaluation, **MODES[mode])
            means = evaluate(model, tokenizer, records, criteria, replace(config, evaluation=settings)).means
            found[run.parent.name, mode].append([means[name] for name in METRICS])
            console.print(json.dumps({"run": run.parent.name + "/" + run.name, "mode": mode} | means))
    table = Table("run", "lists", "runs", *METRICS)
    for (row, mode), values in found.items():
        table.add_row(row, mode, str(len(values)), *(f"{value:.4f}" for value in np.mean(values, axis=0)))
    console.print(table)


if __name__ == "__main__":
    main()
