"""Writes a finished run directory at once: for lists that were not made by a stage of a cell. Loads no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd
import yaml

from rlbench.base.files import drop, new_folder, partial_folder, publish, write_text
from rlbench.base.git import code_state
from rlbench.base.program import own_words
from rlbench.config.schema import Config
from rlbench.data.record import RankedListDataset
from rlbench.runs import versions
from rlbench.runs.directory import DONE, Run, seal
from rlbench.runs.record import (
    BUDGET,
    COMPLETIONS,
    IDENTITY,
    MANIFEST,
    MEASUREMENTS,
    RESULT,
    SCHEMA,
    SETTINGS,
    Budget,
    Git,
    Manifest,
    Measurement,
    Outcome,
)
from rlbench.runs.tables import PREDICTIONS, SAMPLES, predictions_file, samples_file, write_table


@dataclass(frozen=True)
class JudgedSplit:
    """The judged lists of a split.

    Attributes:
        predictions: one row per sample (docs/results-schema.md).
        means: their metrics.
        samples: the sampled lists; empty if there are none.
        completions: lists for human readers.
    """

    predictions: pd.DataFrame
    means: Mapping[str, float]
    samples: pd.DataFrame
    completions: Sequence[dict[str, Any]] = ()


def budget_of(seconds: float, evaluation_tokens: int = 0) -> Budget:
    """The budget of a run that trains nothing."""
    return {
        "prompts": 0,
        "completions": 0,
        "generated_tokens": 0,
        "updates": 0,
        "evaluation_tokens": evaluation_tokens,
        "seconds": {"total": seconds, "evaluation": seconds},
    }


def outcome_of(splits: Mapping[str, JudgedSplit], budget: Budget) -> Outcome:
    """The measured part of a result."""
    means = {split: dict(judged.means) for split, judged in splits.items()}
    return {"metrics": cast(Any, means), "checkpoint": {"rule": None, "step": 0}, "budget": budget}


def origin_of(dataset: RankedListDataset, lists: Mapping[str, Any] | None) -> Manifest:
    """Where the numbers are from.

    Args:
        dataset: the data.
        lists: where the lists are from; None for lists that rlbench computed.
    """
    manifest: Manifest = {
        "git": cast(Git, code_state()),
        "versions": versions.present(),
        "data": {"name": dataset.name, "sha256": dataset.fingerprint, "notices": list(dataset.notices)},
        "model": {"files": {}},
        "command": own_words(),
    }
    return manifest if lists is None else {**manifest, "lists": dict(lists)}


def write_run(
    run: Run, config: Config, settings: Mapping[str, Any], splits: Mapping[str, JudgedSplit], outcome: Outcome,
    origin: Manifest,
) -> None:  # fmt: skip
    """Write a run directory with the status done. Nothing may be there yet.

    Args:
        run: the run.
        config: names of experiment, dataset and model; list length and cut-offs.
        settings: content of config.yaml.
        splits: judged lists by split.
        outcome: the measured part of the result.
        origin: content of manifest.json.
    """
    new_folder(run.root.parent, "runs_dir")
    beside = partial_folder(run.root)
    if beside.exists():  # of a process that was killed
        drop(beside)
    beside.mkdir(parents=True)
    for split, judged in splits.items():
        write_table(judged.predictions, PREDICTIONS, beside / predictions_file(split, 0))
        if len(judged.samples):
            write_table(judged.samples, SAMPLES, beside / samples_file(split, 0))
        rows = [Measurement(step=0, split=split, metric=name, value=value) for name, value in judged.means.items()]
        MEASUREMENTS.append(beside, rows)
        if judged.completions:
            COMPLETIONS.append(beside, list(judged.completions))
    write_text(beside / SETTINGS, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))
    IDENTITY.write(beside, dict(run.identity))
    MANIFEST.write(beside, origin)
    BUDGET.write(beside, outcome["budget"])
    RESULT.write(
        beside,
        {
            "schema": SCHEMA,
            "experiment": config.experiment_name,
            "dataset": config.dataset.name,
            "model": config.model.name,
            "stage": run.stage,
            "label": run.label,
            "algorithm": None,
            "reward": None,
            "variant": None,
            "seed": run.seed,
            "hash": run.hash,
            "list_length": config.dataset.list_length,
            "cutoffs": config.dataset.cutoffs,
            **outcome,
        },
    )
    seal(beside)
    (beside / "STATUS").write_text(f"{DONE}\n", encoding="utf-8")
    publish(beside, run.root)
