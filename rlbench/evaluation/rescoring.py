"""Scores the stored lists of a finished run again by other rules. Needs the texts and the dataset, and no model.

Values that a protocol cannot change are copied: tokens, whether the model ended the list, confidence. Confidence is
stored only for ranks that the run parsed; if a new rank has none, `ece` and `brier` are omitted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rlbench.base.errors import BadInput
from rlbench.base.records import Damaged
from rlbench.config.datasets import DATASETS
from rlbench.config.schema import EvaluationConfig
from rlbench.data import load_dataset
from rlbench.data.record import RankedListDataset, Record
from rlbench.evaluation.judging import Answer, Criteria, choose_contexts, judge_answers, make_criteria, sampled_metrics
from rlbench.evaluation.protocols import Rules, ScoredRun
from rlbench.lists.entries import ParsedText
from rlbench.lists.relevance import Judge, make_judge
from rlbench.runs.tables import PREDICTIONS, Kind, check_columns, predictions_file, read_columns, samples_file

OF_CONFIDENCE = ("ece", "brier")
PATHS = ("path", "catalog")
"""Keys of a dataset's configuration that are file paths."""


KEPT_COLUMNS = ("context_id", "sample", "text", "confidence", "finished")
"""Columns of the predictions that re-scoring needs, besides `completion_tokens`."""


class ScoredData:
    """Datasets with their judges, one dataset in memory at a time.

    Args:
        moved: (dataset, key of `PATHS`) to the new path of the files.
    """

    def __init__(self, moved: Mapping[tuple[str, str], str]):
        self._moved = moved
        self._options: dict[str, Any] = {}
        self._dataset: RankedListDataset | None = None
        self._criteria: dict[str, Criteria] = {}

    def of(self, run: ScoredRun) -> RankedListDataset:
        """The dataset of a run.

        Raises:
            BadInput: if it cannot be loaded, or differs from the data that the run was scored on.
        """
        own = run.config.get("dataset")
        name = str((own.get("loader") if isinstance(own, dict) else None) or run.result["dataset"])
        if name not in DATASETS:
            raise BadInput(f"its dataset '{name}' is unknown; known: {', '.join(DATASETS)}")
        moved = {key: path for (dataset, key), path in self._moved.items() if dataset == name}
        options = run.part("dataset", DATASETS[name].schema) | moved
        if self._dataset is None or options != self._options:
            self._criteria.clear()
            try:
                self._dataset = load_dataset(DATASETS[name].schema(**options))
            except BadInput as error:
                self._dataset = None
                raise BadInput(
                    f"its dataset cannot be loaded: {'; '.join(error.problems)} (if the files have moved, give their "
                    f"new place with --data {name}.path=FOLDER)"
                ) from None
            self._options = options
        recorded = run.manifest.get("data", {}).get("sha256")
        if recorded != self._dataset.fingerprint:
            raise BadInput(
                f"it was evaluated on other data: its manifest.json has sha256 {str(recorded)[:12]}, but {name} is "
                f"now {self._dataset.fingerprint[:12]}; give the original files with --data {name}.path=FOLDER, or "
                "check out the code that made the run"
            )
        return self._dataset

    def criteria(self, dataset: RankedListDataset, rules: Rules) -> Criteria:
        """What these rules judge by on the given dataset, which must be the one loaded last."""
        key = json.dumps([asdict(rules.matching), rules.list_length])
        if key not in self._criteria:
            self._criteria[key] = make_criteria(rules.matching, dataset, rules.list_length)
        return self._criteria[key]


def confidence_by_line(
    kept: NDArray[np.float64], old: ParsedText, new: ParsedText, list_length: int
) -> tuple[NDArray[np.float64], bool]:
    """Confidence of the ranks as another judge parses them. A rank is a line, and the tokens of a line do not change.

    Args:
        kept: confidence of the entries as the run parsed them.
        old, new: the completion as the two judges parse it.
        list_length: N.

    Returns:
        (N,) by rank, NaN if there is no such rank or its confidence was not stored; and whether any was missing.
    """
    of_line = dict(zip(old.lines, kept.tolist(), strict=False))
    lines = list(new.lines)[:list_length]
    confidence = np.full(list_length, np.nan)
    confidence[: len(lines)] = [of_line.get(line, np.nan) for line in lines]
    return confidence, any(line not in of_line for line in lines)


def judge_again(
    run: ScoredRun, split: str, rules: Rules, dataset: RankedListDataset, data: ScoredData
) -> tuple[pd.DataFrame, dict[str, float], bool]:
    """Predictions and means of one split under other rules, and whether any confidence was missing.

    Raises:
        BadInput: if the predictions cannot be read, lack a column or cover other samples.
    """
    result, evaluation = run.result, run.part("evaluation", EvaluationConfig)
    file = run.path / predictions_file(split, result["checkpoint"]["step"])
    kept_kinds = {column.name: column.kind for column in PREDICTIONS if column.name in KEPT_COLUMNS}
    old = _read_table(file, {**kept_kinds, "completion_tokens": "number"})
    records = choose_contexts(dataset.splits[split], evaluation[f"{split}_contexts"])
    if old["context_id"].tolist() != [record.context_id for record in records]:
        raise BadInput(f"{file.name} does not have the {len(records)} samples that its settings select from {split}")
    criteria = data.criteria(dataset, rules)
    judge = criteria.judge
    before = make_judge(run.matching, dataset.catalog, result["list_length"])
    answers: dict[str, Answer] = {}
    missing = False
    first = old.drop_duplicates("context_id")
    columns = (first[name].tolist() for name in ("context_id", "text", "confidence", "finished", "completion_tokens"))
    for context, text, kept, finished, n_tokens in zip(*columns, strict=True):
        parsed = judge.parse(text)
        confidence, lacks = confidence_by_line(kept, before.parse(text), parsed, judge.list_length)
        answers[context] = Answer(text, parsed, finished, int(n_tokens), confidence)
        missing |= lacks and bool(np.isfinite(kept).any())
    predictions, means = judge_answers(records, answers, criteria, list(rules.cutoffs))
    if missing:
        means = {name: value for name, value in means.items() if name not in OF_CONFIDENCE}
    if split == "test" and evaluation.get("samples") and result["stage"] not in ("oracle", "baseline"):
        together = _sampled(run, records, judge)
        predictions = predictions.assign(**together)
        means |= {name: float(values.mean()) for name, values in together.items()}
    return predictions, means, missing


def _read_table(file: Path, kinds: Mapping[str, Kind]) -> pd.DataFrame:
    """Read columns of a parquet file.

    Raises:
        BadInput: if it is not parquet, lacks a column, or a column has another type or empty cells.
    """
    try:
        check_columns(file, kinds)
        frame = read_columns(file, list(kinds))
    except FileNotFoundError:
        raise BadInput(f"half-written: says done but has no {file.name}") from None
    except Damaged as error:
        raise BadInput(f"{file.name} {error}") from None
    if odd := [name for name in kinds if frame[name].isna().any()]:
        raise BadInput(f"{file.name} has no {', '.join(odd)} in some rows")
    return frame


def _sampled(run: ScoredRun, records: Sequence[Record], judge: Judge) -> dict[str, NDArray[np.float64]]:
    """pass@k and the recall of the union of k lists, from the stored sampled lists."""
    file = run.path / samples_file("test", run.result["checkpoint"]["step"])
    if not file.exists():
        raise BadInput(f"half-written: its settings ask for sampled lists, but {file.name} is missing")
    evaluation = run.part("evaluation", EvaluationConfig)
    samples = _read_table(file, {"context_id": "string", "text": "string"})
    counts = samples["context_id"].value_counts()
    if any(counts.get(record.context_id) != evaluation["samples"] for record in records):
        raise BadInput(
            f"{file.name} does not have {evaluation['samples']} lists for each context of test, as its settings require"
        )
    return sampled_metrics(records, samples, judge, evaluation["samples"], evaluation["pass_at"])
