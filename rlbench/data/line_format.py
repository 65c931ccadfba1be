"""Datasets without years: `dataset.line_format="{title}"` for a dataset whose files have years."""

from collections.abc import Sequence
from dataclasses import replace

from rlbench.data.checks import fingerprint
from rlbench.data.record import RankedListDataset, Record
from rlbench.lists.catalog import Catalog
from rlbench.lists.entries import parse_line
from rlbench.lists.items import Item, plural


def without_years(dataset: RankedListDataset) -> RankedListDataset:
    """The dataset with the year None for every item. Prompts stay as they are.

    Items that become equal are merged: the catalogue keeps the first, and a truth names each once, with its highest
    gain. A notice counts them. Lines of demonstrations lose their year too.
    """
    items = _merged(dataset.catalog.items)
    merged = len(dataset.catalog) - len(items)
    splits: dict[str, list[Record]] = {}
    in_truths = 0
    for split, records in dataset.splits.items():
        splits[split] = list(map(_titles_only, records))
        in_truths += sum(
            len(old.ground_truth) - len(new.ground_truth) for old, new in zip(records, splits[split], strict=True)
        )
    notices = list(dataset.notices)
    if merged or in_truths:
        notices.append(
            f"without years, {merged} {plural(dataset.item)} of the catalogue and {in_truths} of the truths equal "
            "another one of the same title and were merged with it"
        )
    catalog = Catalog(items)
    oracle = dataset.oracle and {context: _merged(best) for context, best in dataset.oracle.items()}
    return replace(
        dataset,
        catalog=catalog,
        splits=splits,
        oracle=oracle,
        notices=notices,
        fingerprint=fingerprint(splits, catalog),
    )


def _merged(items: Sequence[Item]) -> list[Item]:
    return list(dict.fromkeys((title, None) for title, _ in items))


def _titles_only(record: Record) -> Record:
    gains: dict[str, float] = {}
    for (title, _), gain in zip(record.ground_truth, record.gains or [1.0] * len(record.ground_truth), strict=True):
        gains[title] = max(gain, gains.get(title, 0.0))
    return replace(
        record,
        ground_truth=[(title, None) for title in gains],
        gains=None if record.gains is None else tuple(gains.values()),
        completion=record.completion and [_message(message) for message in record.completion],
    )


def _message(message: dict[str, str]) -> dict[str, str]:
    if message["role"] != "assistant":
        return message
    lines = [item[0] if (item := parse_line(line)) else line for line in message["content"].split("\n")]
    return message | {"content": "\n".join(dict.fromkeys(lines))}
