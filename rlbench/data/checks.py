"""Checks of data in canonical form. Each returns every problem at once and repairs nothing."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from rlbench.base.texts import broken_texts
from rlbench.data.record import SPLITS, RankedListDataset, Record
from rlbench.lists.catalog import Catalog
from rlbench.lists.items import plural

EXAMPLES = 5
"""Number of examples to show for one kind of problem; the rest is counted."""

SMALLEST_GAIN, LARGEST_GAIN = 1e-12, 1e12
"""Range of gains above 0. Sums, squares and ratios of them stay finite in 32 bits."""
GAINS = f"0 or between {SMALLEST_GAIN:g} and {LARGEST_GAIN:g}"

Finding = tuple[int, str, str]
"""(row, kind of problem, detail); kinds are few, details name the value."""


def report(where: str, findings: Iterable[Finding], unit: str = "row") -> list[str]:
    """Turn findings into sentences: the first `EXAMPLES` of each kind, then the number of further ones.

    Args:
        where: the file or split.
        findings: (row, kind, detail).
        unit: the word for a row.
    """
    counts: Counter[str] = Counter()
    sentences = []
    for row, kind, detail in findings:
        counts[kind] += 1
        if counts[kind] <= EXAMPLES:
            sentences.append(f"{where}, {unit} {row}: {kind}" + (f": {detail}" if detail else ""))
    more = [f"{where}: {count - EXAMPLES} more: {kind}" for kind, count in counts.items() if count > EXAMPLES]
    return sentences + more


def check_records(records: Sequence[Record], where: str, with_years: bool = True) -> list[str]:
    """Problems of single records.

    Args:
        records: may violate the types of `Record`.
        where: their file or split; rows count from 0.
        with_years: whether every item has a year, or none.
    """
    return report(
        where,
        (
            (row, kind, detail)
            for row, record in enumerate(records)
            for kind, detail in _record_problems(record, with_years)
        ),
    )


def _record_problems(record: Record, with_years: bool) -> Iterator[tuple[str, str]]:
    if broken := broken_texts(list(vars(record).values())):
        yield "a text contains half a character (a lone surrogate)", ascii(broken[0])[:120]
    yield from _message_problems("prompt", record.prompt, role="user")
    if record.completion is not None:
        yield from _message_problems("completion", record.completion, role="assistant")
    yield from _truth_problems(record.ground_truth, with_years)
    yield from _gain_problems(record.gains, len(record.ground_truth) if isinstance(record.ground_truth, list) else 0)
    if not isinstance(record.seen_titles, list) or not all(isinstance(title, str) for title in record.seen_titles):
        yield "seen_titles is not a list of str", _shown(record.seen_titles)
    if not isinstance(record.context_id, str) or not record.context_id:
        yield "context_id is missing or empty", _shown(record.context_id)
    if not isinstance(record.cluster_id, str) or not record.cluster_id:
        yield "cluster_id is missing or empty", _shown(record.cluster_id)


def _message_problems(field: str, messages: Any, role: str) -> Iterator[tuple[str, str]]:
    if messages is None or messages == []:
        yield f"{field} is missing or empty", ""
    elif not isinstance(messages, list) or not all(is_message(message) for message in messages):
        yield f"{field} is not a list of {{role: str, content: str}}", _shown(messages)
    elif not any(message["role"] == role and message["content"].strip() for message in messages):
        yield f"{field} has no non-empty message with role '{role}'", _shown(messages)


def is_message(message: Any) -> bool:
    """Whether a value is a chat message."""
    return (
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
    )


def _truth_problems(items: Any, with_years: bool) -> Iterator[tuple[str, str]]:
    if items is None or items == []:
        yield "ground_truth is missing or empty", ""
        return
    if not isinstance(items, list):
        yield "ground_truth is not a list of (title, year)", _shown(items)
        return
    for item in items:
        if not isinstance(item, tuple) or len(item) != 2:
            yield "ground_truth has an entry that is not (title, year)", _shown(item)
            continue
        title, year = item
        if not isinstance(title, str) or not title.strip():
            yield "ground_truth has a title that is empty or not text", _shown(item)
        if with_years and (not isinstance(year, int) or isinstance(year, bool)):
            yield "ground_truth has a year that is not an integer", _shown(item)
        if not with_years and year is not None:
            yield "ground_truth has a year, but the catalogue has none", _shown(item)


def _gain_problems(gains: Any, size: int) -> Iterator[tuple[str, str]]:
    if gains is None:
        return
    if not isinstance(gains, tuple) or len(gains) != size:
        yield "gains is not a tuple with one number for each item of ground_truth", _shown(gains)
    elif not all(isinstance(gain, float) and 0 < gain < math.inf for gain in gains):
        yield "gains has a number that is not finite and above 0", _shown(gains)
    elif not all(SMALLEST_GAIN <= gain <= LARGEST_GAIN for gain in gains):
        yield f"gains has a number that is not between {SMALLEST_GAIN:g} and {LARGEST_GAIN:g}", _shown(gains)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def share_outside_catalog(records: Sequence[Record], catalog: Catalog) -> float:
    """Share of the ground-truth items that the catalogue lacks, counting repeats; 0 if there are none."""
    inside = [item in catalog for record in records for item in record.ground_truth]
    return inside.count(False) / len(inside) if inside else 0.0


def check_dataset(dataset: RankedListDataset, list_length: int) -> list[str]:
    """Problems of a whole dataset: its splits, its catalogue, leaks between splits, and every record.

    Args:
        dataset: as loaded.
        list_length: N, items per list.
    """
    name, splits = dataset.name, dataset.splits
    problems = [
        f"dataset {name}: split '{split}' is {'empty' if split in splits else 'missing'}"
        for split in ("train", "validation", "test")
        if not splits.get(split)
    ]
    problems += [
        f"dataset {name}: split '{split}' is unknown; known: {', '.join(SPLITS)}"
        for split in splits
        if split not in SPLITS
    ]
    if list_length > len(dataset.catalog):
        problems.append(
            f"dataset {name}: dataset.list_length = {list_length} is more than the {len(dataset.catalog)} "
            f"{plural(dataset.item)} of the catalogue"
        )
    sound: dict[str, Sequence[Record]] = {}
    for split, records in splits.items():
        where = f"dataset {name}, split '{split}'"
        found = check_records(records, where, dataset.catalog.has_years)
        if split == "sft":
            found += report(where, _without_completion(records))
        problems += found
        if found:
            continue
        sound[split] = records
        if records and share_outside_catalog(records, dataset.catalog) == 1:
            problems.append(f"{where}: no ground-truth {dataset.item} is in the catalogue, so there could be no hits")
    return problems + _context_problems(name, sound)


def _without_completion(records: Sequence[Record]) -> Iterator[Finding]:
    for row, record in enumerate(records):
        if record.completion is None:
            yield row, "the demonstration has no completion", ""


def _context_problems(name: str, splits: Mapping[str, Sequence[Record]]) -> list[str]:
    """Contexts shared by training and evaluation, and context ids with two prompts or two clusters."""
    problems = []
    prompts: dict[str, Any] = {}
    clusters: dict[str, str] = {}
    clashes: list[Finding] = []
    ids: defaultdict[str, set[str]] = defaultdict(set)
    for split, records in splits.items():
        for row, record in enumerate(records):
            ids["train" if split == "sft" else split].add(record.context_id)
            if prompts.setdefault(record.context_id, record.prompt) != record.prompt:
                clashes.append(
                    (row, f"split '{split}': this context_id is also used for another prompt", record.context_id)
                )
            if clusters.setdefault(record.context_id, record.cluster_id) != record.cluster_id:
                clashes.append(
                    (row, f"split '{split}': the context has two different values of cluster_id", record.context_id)
                )
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = sorted(ids[first] & ids[second])
        if shared:
            problems.append(
                f"dataset {name}: {len(shared)} contexts of '{first}' are also in '{second}', so a run would "
                f"evaluate on training data or count contexts twice; for example {', '.join(shared[:EXAMPLES])}"
            )
    return problems + report(f"dataset {name}", clashes)


def fingerprint(splits: Mapping[str, Sequence[Record]], catalog: Catalog) -> str:
    """sha256 (hex) of a dataset's entire content, in its order."""
    digest = hashlib.sha256(repr(catalog.items).encode())
    for split, records in splits.items():
        digest.update(split.encode())
        for record in records:
            digest.update(repr(record).encode())
    return digest.hexdigest()


def digests(dataset: RankedListDataset, demonstrations: bool) -> dict[str, str]:
    """sha256 (hex) of each part of a dataset: catalogue, oracle lists if known, and every split by name.

    The order of the records matters: it decides batches, and the contexts of a subset.

    Args:
        dataset: the data as loaded.
        demonstrations: whether to include completions. Without them, the split `sft` is left out too.
    """
    if dataset.known_digests:
        return dict(dataset.known_digests["data" if demonstrations else "questions"])
    parts: dict[str, Any] = {"catalogue": dataset.catalog.items}
    if dataset.oracle is not None:
        parts["oracle"] = sorted(dataset.oracle.items())
    found = {name: hashlib.sha256(repr(part).encode()).hexdigest() for name, part in parts.items()}
    for split, records in dataset.splits.items():
        if demonstrations or split != "sft":
            digest = hashlib.sha256()
            for record in records:
                digest.update(repr(record if demonstrations else replace(record, completion=None)).encode())
            found[f"split {split}"] = digest.hexdigest()
    return found


def wordings(*splits: Sequence[Record]) -> set[bytes]:
    """Digests of the prompts in splits. A large training split has gigabytes of text, so the texts are not kept."""
    return {
        hashlib.sha256("\n".join(message["content"] for message in record.prompt).encode()).digest()
        for records in splits
        for record in records
    }


def same_wording(split: str, records: Sequence[Record], training: Set[bytes]) -> list[str]:
    """Notice about prompts of a split that also stand in training word for word, as contexts of another id.

    Args:
        split: its name.
        records: of that split.
        training: `wordings` of the training splits.
    """
    shared = wordings(records) & training
    return [f"{split}: {len(shared)} prompts also occur word for word in the training data"] if shared else []
