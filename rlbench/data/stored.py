"""Records in memory-mapped Arrow files: read one at a time, and shared by all processes of a machine.

A split is one file in Arrow's stream format, which `datasets.Dataset.from_file` reads too. It has the fields of a
`Record`, and the number of characters of prompt and completion together. Each item of a graded truth has its gain.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import pyarrow as pa

from rlbench.base.cache import Cache, CannotStore
from rlbench.data.record import Messages, Record
from rlbench.lists.items import Item

ROWS = 1000
"""Records of a batch of the file; the last batch has fewer."""
CHARACTERS = "characters"


@dataclass(frozen=True)
class StoredPlace:
    """Where a dataset is stored.

    Attributes:
        cache: the cache.
        name: folder of the dataset below the cache's root. Its name follows from the content.
    """

    cache: Cache
    name: str

    def fact(self, name: str, compute: Callable[[], Any]) -> Any:
        """A value that depends on the dataset and on `name` only; JSON can hold it."""
        return self.cache.fact(f"{self.name}/facts/{name}.json", compute)

    def folder(self, name: str, what: str, make: Callable[[Path], None]) -> Path:
        """A folder with content that depends on the dataset and on `name` only (`Cache.folder`)."""
        return self.cache.folder(f"{self.name}/{name}", what, make)


class StoredRecords(Sequence[Record]):
    """The records of a file. Each access makes new ones; nothing is kept in memory.

    Args:
        file: written by `write_records`.
        place: the dataset that it belongs to.
    """

    def __init__(self, file: Path, place: StoredPlace):
        self.file, self.place = file, place
        self._table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
        self._batches = self._table.to_batches()

    def __len__(self) -> int:
        return self._table.num_rows

    def __iter__(self) -> Iterator[Record]:
        for batch in self._batches:
            yield from _records(batch)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return [
                    record
                    for batch in self._table.slice(start, stop - start).to_batches()
                    for record in _records(batch)
                ]
            return [self[place] for place in range(start, stop, step)]
        place = range(len(self))[index]
        batch, row = divmod(place, ROWS)
        (record,) = _records(self._batches[batch].slice(row, 1))
        return record

    def column(self, name: str) -> list[Any]:
        """A field of every record, or `characters`, without reading the others."""
        return self._table.column(name).to_pylist()

    def truths(self) -> list[Item]:
        """The items of every truth, in the order of the records."""
        items = pa.chunked_array([chunk.flatten() for chunk in self._table.column("ground_truth").chunks])
        titles, years = (pa.chunked_array([c.field(i) for c in items.chunks]).to_pylist() for i in range(2))
        return list(zip(titles, years, strict=True))


def column(records: Sequence[Record], name: str) -> list[Any]:
    """A field of every record. Stored records read only this field."""
    return records.column(name) if isinstance(records, StoredRecords) else [getattr(r, name) for r in records]


def truths(records: Sequence[Record]) -> list[Item]:
    """The items of every truth, in the order of the records."""
    if isinstance(records, StoredRecords):
        return records.truths()
    return [item for record in records for item in record.ground_truth]


def _records(batch: pa.RecordBatch) -> Iterator[Record]:
    columns = batch.to_pydict()
    for prompt, truth, seen, context, completion, cluster in zip(*(columns[name] for name in _FIELDS), strict=True):
        items = [(item["title"], item["year"]) for item in truth]
        graded = bool(truth) and truth[0].get("gain") is not None
        gains = tuple(item["gain"] for item in truth) if graded else None
        yield Record(prompt, items, seen, context, completion, cluster, gains)


_FIELDS = ("prompt", "ground_truth", "seen_titles", "context_id", "completion", "cluster_id")


def characters_of(record: Record) -> int:
    """Number of characters in prompt and completion."""
    return sum(len(message["content"]) for message in [*record.prompt, *(record.completion or [])])


def write_records(records: Sequence[Record], file: Path, advance: Callable[[int], None]) -> None:
    """Write the records of a split.

    Args:
        records: as `check_records` accepts them.
        file: created.
        advance: called with the number of records after each batch.

    Raises:
        CannotStore: messages differ in their keys, so the file would not give back the same records.
    """
    prompts = _message_keys([record.prompt for record in records])
    completions = _message_keys([record.completion for record in records if record.completion is not None])
    schema = _schema(prompts, completions, graded=any(record.gains is not None for record in records))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, len(records), ROWS):
            part = records[start : start + ROWS]
            columns: dict[str, list[Any]] = {name: [getattr(record, name) for record in part] for name in _FIELDS}
            columns["ground_truth"] = [record.truth_rows() for record in part]
            columns[CHARACTERS] = [characters_of(record) for record in part]
            try:
                writer.write_batch(pa.record_batch(columns, schema=schema))
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                raise CannotStore(f"Arrow cannot hold its records: {str(error).splitlines()[0]}") from error
            advance(len(part))


def _message_keys(messages: Sequence[Messages]) -> list[str]:
    """The keys of every message, in their order."""
    found = {tuple(message) for of_record in messages for message in of_record}
    if len(found) > 1:
        raise CannotStore(f"messages have different keys: {' and '.join(map(str, sorted(found)[:2]))}")
    return list(next(iter(found), ("role", "content")))


def _schema(prompts: Sequence[str], completions: Sequence[str], graded: bool) -> pa.Schema:
    def messages(keys: Sequence[str]) -> pa.DataType:
        return pa.list_(pa.struct([(key, pa.string()) for key in keys]))

    truth = [("title", pa.string()), ("year", pa.int64()), *([("gain", pa.float64())] if graded else [])]
    types = {
        "prompt": messages(prompts),
        "ground_truth": pa.list_(pa.struct(truth)),
        "seen_titles": pa.list_(pa.string()),
        "context_id": pa.string(),
        "completion": messages(completions),
        "cluster_id": pa.string(),
        CHARACTERS: pa.int64(),
    }
    return pa.schema(list(types.items()))
