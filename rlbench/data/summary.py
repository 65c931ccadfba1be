"""Counts of a dataset: sizes, truths, overlap with the catalogue, and what training shares with evaluation."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import fuzz

from rlbench.data.record import RankedListDataset, Record
from rlbench.data.stage1.pipeline import without_instructions
from rlbench.lists.catalog import NOT_FOUND, Catalog, normalise

ALIKE = 90.0
"""Smallest `rapidfuzz.fuzz.ratio` of two prompts that count as near-duplicates."""
CANDIDATES = 5
"""Train prompts with the highest BM25 that each prompt is compared with."""
LARGEST = 2000
"""Maximum number of prompts of a split that are searched for near-duplicates. A longer split is sampled evenly."""


@dataclass(frozen=True)
class Leak:
    """What a split of evaluation shares with training (train and sft together).

    Attributes:
        contexts: context ids that are in both.
        clusters: cluster ids that are in both.
        prompts: contexts of the split whose prompt also stands in training, up to case and white space.
        alike: contexts whose prompt, without the words that all prompts share, is nearly equal to one of training;
            equal ones are not counted.
        searched: contexts that were searched for such prompts.
    """

    contexts: int
    clusters: int
    prompts: int
    alike: int
    searched: int


def split_counts(
    records: Sequence[Record], catalog: Catalog, tokens: Callable[[str], int] | None = None
) -> dict[str, float | int]:
    """Counts of a split, in the order in which they are shown.

    Args:
        records: of the split.
        catalog: the catalogue.
        tokens: counts the tokens of a text; None leaves tokens out.
    """
    answerers = Counter(record.context_id for record in records)
    first = {record.context_id: record for record in records}
    truths = [item for record in records for item in record.ground_truth]
    inside = [catalog.find(*item) for item in truths]
    outside = {item for item, place in zip(truths, inside, strict=True) if place == NOT_FOUND}
    prompts = [text_of(record) for record in first.values()]
    counts: dict[str, float | int] = {
        "samples": len(records),
        "contexts": len(first),
        "clusters": len({record.cluster_id for record in records}),
        "answerers per context, mean": _mean(list(answerers.values())),
        "answerers per context, most": max(answerers.values(), default=0),
        "truths per sample, mean": _mean([len(record.ground_truth) for record in records]),
        "truths per sample, most": max((len(record.ground_truth) for record in records), default=0),
        "samples with graded truths": sum(record.gains is not None for record in records),
        "different items in truths": len(set(inside) - {NOT_FOUND}) + len(outside),
        "share of truths outside the catalogue": _mean([place == NOT_FOUND for place in inside]),
        "share of the catalogue in truths": len(set(inside) - {NOT_FOUND}) / max(len(catalog), 1),
        "seen titles per sample, mean": _mean([len(record.seen_titles) for record in records]),
        "demonstrations": sum(record.completion is not None for record in records),
        "characters per prompt, mean": _mean(list(map(len, prompts))),
        "characters per prompt, most": max(map(len, prompts), default=0),
    }
    if tokens is not None:
        sizes = [tokens(prompt) for prompt in prompts]
        shown = [tokens(m["content"]) for r in records for m in r.completion or [] if m["role"] == "assistant"]
        counts |= {
            "tokens per prompt, mean": _mean(sizes),
            "tokens per prompt, most": max(sizes, default=0),
            "tokens per demonstration, mean": _mean(shown),
            "tokens per demonstration, most": max(shown, default=0),
        }
    return counts


def leaks(dataset: RankedListDataset) -> Mapping[str, Leak]:
    """What validation and test share with training, by split."""
    training = [record for split in ("sft", "train") for record in dataset.splits.get(split, ())]
    contexts = {record.context_id for record in training}
    clusters = {record.cluster_id for record in training}
    known = dict.fromkeys(normalise(text_of(record)) for record in {r.context_id: r for r in training}.values())
    found = {}
    for split in ("validation", "test"):
        first = {record.context_id: record for record in dataset.splits.get(split, ())}
        prompts = [normalise(text_of(record)) for record in first.values()]
        other = list(dict.fromkeys(prompt for prompt in prompts if prompt not in known))
        searched = [other[i * len(other) // LARGEST] for i in range(LARGEST)] if len(other) > LARGEST else other
        found[split] = Leak(
            len(contexts & first.keys()),
            len(clusters & {record.cluster_id for record in first.values()}),
            sum(prompt in known for prompt in prompts),
            near_duplicates(searched, list(known)),
            len(searched),
        )
    return found


def near_duplicates(prompts: Sequence[str], known: Sequence[str]) -> int:
    """Number of prompts that are nearly equal to a known one.

    The words at both ends that all of them share, such as instructions, do not count. Each prompt is compared with the
    `CANDIDATES` known ones of the highest BM25, by `rapidfuzz.fuzz.ratio`.
    """
    if not prompts or not known:
        return 0
    import bm25s

    bare = without_instructions([*prompts, *known])
    asked, texts = bare[: len(prompts)], bare[len(prompts) :]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, stopwords=None, show_progress=False), show_progress=False)
    words = bm25s.tokenize(asked, stopwords=None, show_progress=False)
    places, _ = index.retrieve(words, k=min(CANDIDATES, len(texts)), show_progress=False)
    return sum(
        any(fuzz.ratio(prompt, texts[place], score_cutoff=ALIKE) for place in row)
        for prompt, row in zip(asked, places.tolist(), strict=True)
    )


def text_of(record: Record) -> str:
    """The text of a prompt: its messages without the system's, one a line."""
    return "\n".join(message["content"] for message in record.prompt if message["role"] != "system")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
