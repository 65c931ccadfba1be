"""Judges texts: per-query metrics, predictions and means, from the answers to the contexts of a split.

All numbers of a report are made here, after generation or from texts that a run has kept. Loads no torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rlbench.config.schema import MatchingConfig
from rlbench.data.facts import item_facts
from rlbench.data.record import RankedListDataset, Record
from rlbench.data.stored import column
from rlbench.lists import published
from rlbench.lists.entries import ParsedText
from rlbench.lists.item_facts import ItemFacts
from rlbench.lists.metrics import calibration, list_metrics, pass_at_k, pool_metrics, ranking_metrics, union_recall
from rlbench.lists.plugged import query_metrics
from rlbench.lists.relevance import Judge, JudgedLists, make_judge
from rlbench.runs.tables import PREDICTIONS, table_of


@dataclass(frozen=True)
class Criteria:
    """What lists are judged by.

    Attributes:
        judge: turns entries into verdicts.
        facts: facts about items that terms and metrics may use.
    """

    judge: Judge
    facts: ItemFacts


def make_criteria(matching: MatchingConfig, dataset: RankedListDataset, list_length: int) -> Criteria:
    """The criteria of a configuration on a dataset."""
    judge = make_judge(matching, dataset.catalog, list_length)
    return Criteria(judge, item_facts(dataset, judge.catalog))


@dataclass(frozen=True)
class Answer:
    """A context's list, with properties of its tokens.

    Attributes:
        text: the completion.
        parsed: its entries, as the judge parses them.
        finished: whether it ends with EOS.
        n_tokens: number of its tokens, EOS included.
        confidence: (N,) exp of the mean log-probability of each rank's tokens; NaN if the rank is absent.
    """

    text: str
    parsed: ParsedText
    finished: bool
    n_tokens: int
    confidence: NDArray[np.float64]


def choose_contexts(records: Sequence[Record], limit: int | None) -> Sequence[Record]:
    """Records of at most `limit` contexts, evenly spaced over the split in its own order. All if limit is None."""
    of_records = column(records, "context_id")
    contexts = list(dict.fromkeys(of_records))
    if limit is None or limit >= len(contexts):
        return records
    kept = {contexts[math.floor(i * len(contexts) / limit)] for i in range(limit)}
    return [records[place] for place, context in enumerate(of_records) if context in kept]


def judge_answers(
    records: Sequence[Record], answers: dict[str, Answer], criteria: Criteria, cutoffs: Sequence[int]
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Predictions, one row per sample, and means, from answers by context_id."""
    judge = criteria.judge
    of_sample = [answers[record.context_id] for record in records]
    truths = [record.ground_truth for record in records]
    seen = [record.seen_titles for record in records]
    texts, parsed = [answer.text for answer in of_sample], [answer.parsed for answer in of_sample]
    lists = judge(
        parsed,
        truths,
        seen,
        [answer.n_tokens for answer in of_sample],
        [answer.finished for answer in of_sample],
        [record.gains for record in records],
    )
    metrics = ranking_metrics(lists.hits, lists.n_truth, cutoffs, lists.gains, lists.graded)
    # The published rules read only lines with a year.
    entries = judge.published_entries(texts, parsed) if judge.catalog.has_years else []
    for protocol, truncate_first in (("published", False), ("published_truncate_first", True)) if entries else ():
        theirs = published.ranking_metrics(entries, truths, seen, judge.exact, cutoffs, truncate_first)
        metrics |= {f"{protocol}_{name}": values for name, values in theirs.items()}
    metrics |= list_metrics(lists) | query_metrics(lists, criteria.facts, cutoffs)
    n = judge.list_length
    table = table_of(
        PREDICTIONS,
        {
            "context_id": [record.context_id for record in records],
            "sample": range(len(records)),
            "cluster_id": [record.cluster_id for record in records],
            "text": texts,
            "titles": [[title for title, _ in read.items[:n]] for read in parsed],
            "years": [[year for _, year in read.items[:n]] for read in parsed],
            "verdicts": [[str(verdict) for verdict in lists.names(row)] for row in range(len(records))],
            "confidence": [
                answer.confidence[: len(read.items)] for answer, read in zip(of_sample, parsed, strict=True)
            ],
            "n_truth": lists.n_truth,
            "finished": lists.finished,
        },
        metrics,
    )
    return table, mean_metrics(table) | _of_the_split(records, of_sample, lists, criteria)


def mean_metrics(predictions: pd.DataFrame) -> dict[str, float]:
    """Mean of every per-query metric over samples. Metrics are the columns of floats."""
    return {str(name): float(values.mean()) for name, values in predictions.select_dtypes("float").items()}


def _of_the_split(
    records: Sequence[Record], answers: Sequence[Answer], lists: JudgedLists, criteria: Criteria
) -> dict[str, float]:
    """Metrics of the split as a whole: hit rates per rank, metrics of the catalogue, and calibration."""
    contexts = [record.context_id for record in records]
    first = np.zeros(len(contexts), dtype=np.bool_)
    first[list({context: row for row, context in reversed(list(enumerate(contexts)))}.values())] = True
    means = pool_metrics(lists, len(criteria.judge.catalog), criteria.facts.counts, first)
    confidence = np.stack([answer.confidence for answer in answers])
    known = lists.present & ~np.isnan(confidence)
    return means | calibration(confidence, lists.hits, known)


def sampled_metrics(
    records: Sequence[Record], samples: pd.DataFrame, judge: Judge, n: int, pass_at: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """pass@k (a list with a hit) and the recall of the union of k lists, per sample, from n lists per context."""
    texts = samples.groupby("context_id", sort=False)["text"].agg(list)
    judged = judge(
        judge.read([text for record in records for text in texts[record.context_id]]),
        [record.ground_truth for record in records for _ in range(n)],
        [record.seen_titles for record in records for _ in range(n)],
    )
    correct = judged.hits.any(axis=1).reshape(-1, n).sum(axis=1)
    truths, n_truth = judged.truths.reshape(len(records), n, -1), judged.n_truth[::n]
    metrics = {}
    for k in pass_at:
        metrics[f"pass@{k}"] = pass_at_k(correct, n, k)
        metrics[f"union_recall@{k}"] = union_recall(truths, n_truth, k)
    return metrics
