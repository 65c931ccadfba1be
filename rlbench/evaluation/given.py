"""Judges lists that are given as texts: those of an oracle, of baselines, and from elsewhere. Loads no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rlbench.data.record import Record
from rlbench.evaluation.judging import Answer, Criteria, judge_answers, sampled_metrics
from rlbench.lists.items import Item, line_of
from rlbench.runs.tables import SAMPLES, table_of


def text_of(items: Sequence[Item]) -> str:
    """A list as text, one item per line."""
    return "\n".join(line_of(title, year) for title, year in items)


ENDED = (True, 0)
"""Ending of a list about which nothing is known: finished, with no tokens counted."""


def judge_texts(
    records: Sequence[Record],
    texts: Mapping[str, str],
    criteria: Criteria,
    cutoffs: Sequence[int],
    endings: Mapping[str, tuple[bool, int]] | None = None,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Predictions and means of texts by context. Confidence is NaN.

    Args:
        records: the evaluated samples.
        texts: context to its list.
        criteria: what lists are judged by.
        cutoffs: K of the metrics.
        endings: context to whether its list was ended by the model, and its tokens; None if unknown.
    """
    endings = endings or {}
    judge = criteria.judge
    unknown = np.full(judge.list_length, np.nan)
    contexts = dict.fromkeys(record.context_id for record in records)
    parsed = judge.read([texts[context] for context in contexts])
    answers = {
        context: Answer(texts[context], read, *endings.get(context, ENDED), unknown)
        for context, read in zip(contexts, parsed, strict=True)
    }
    return judge_answers(records, answers, criteria, list(cutoffs))


def judge_samples(
    records: Sequence[Record], samples: Mapping[str, Sequence[str]], criteria: Criteria, pass_at: Sequence[int]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table of sampled lists by context, and the metrics of a record's sampled lists together."""
    contexts = list(dict.fromkeys(record.context_id for record in records))
    n = len(samples[contexts[0]])
    table = table_of(
        SAMPLES,
        {
            "context_id": [context for context in contexts for _ in range(n)],
            "list": list(range(n)) * len(contexts),
            "text": [text for context in contexts for text in samples[context]],
        },
    )
    return table, sampled_metrics(records, table, criteria.judge, n, pass_at)
