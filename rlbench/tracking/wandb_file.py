"""Reads the `.wandb` file of an offline W&B run, for which wandb 0.31 has no Python reader.

The file has a 7-byte header (`:W&B`, the number 0xBEE1 in two bytes, little-endian, and a version byte of 0), followed
by a log with LevelDB's framing. Blocks have 32 KiB, and the header counts towards the first. A block contains chunks of
checksum (4 bytes), length (2), type (1) and data, little-endian; a remainder of fewer than 7 bytes is padding. The type
says whether a chunk is a whole record or its first, a middle or its last part. The checksum is the plain CRC-32 of type
and data (LevelDB uses a masked CRC-32C). A record is a serialised `wandb_internal.Record`.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from wandb.proto import wandb_internal_pb2

# The message classes are created at import, so a type checker does not see them.
Record: Any = vars(wandb_internal_pb2)["Record"]
FILE_HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
CHUNK_HEADER = struct.Struct("<IHB")
BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


class CutShort(ValueError):
    """The file ends inside a record: its process was killed, or the disk was full."""


@dataclass
class OfflineRun:
    """Content of an offline run.

    `history` has a dict per call of `run.log`; `artifacts` has the files of each artefact of ours (not of W&B's copies
    of tables), and where they are; `whole` is False if truncated.
    """

    id: str = ""
    started: int = 0  # nanoseconds
    project: str = ""
    entity: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    step_metrics: dict[str, str] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    artifacts: dict[str, dict[str, str]] = field(default_factory=dict)
    exit_code: int | None = None
    whole: bool = True

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Return the (update, value) points of one metric."""
        return [(row["update"], row[metric]) for row in self.history if metric in row]


def read_payloads(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file's content.

    Raises:
        CutShort: after the last whole record, if the file ends inside another one.
        ValueError: if header, framing or checksum are wrong.
    """
    if data[: len(FILE_HEADER)] != FILE_HEADER:
        raise ValueError(f"not a W&B file; it begins with {data[: len(FILE_HEADER)]!r}")
    position, parts, open_record = len(FILE_HEADER), b"", False
    while position < len(data):
        room = BLOCK - position % BLOCK
        if room < CHUNK_HEADER.size:
            position += room
            continue
        if position + CHUNK_HEADER.size > len(data):
            raise CutShort(f"the chunk header at byte {position} is truncated")
        checksum, length, kind = CHUNK_HEADER.unpack_from(data, position)
        chunk = data[position + CHUNK_HEADER.size : position + CHUNK_HEADER.size + length]
        if length > room - CHUNK_HEADER.size:
            raise ValueError(f"the chunk at byte {position} extends past its block")
        if len(chunk) != length:
            raise CutShort(f"the chunk at byte {position} is truncated")
        if zlib.crc32(bytes([kind]) + chunk) != checksum:
            raise ValueError(f"the chunk at byte {position} has a wrong checksum")
        if kind not in (FULL, FIRST, MIDDLE, LAST) or open_record == (kind in (FULL, FIRST)):
            raise ValueError(f"the chunk at byte {position} has type {kind}, which is not allowed there")
        parts = chunk if kind in (FULL, FIRST) else parts + chunk
        open_record = kind in (FIRST, MIDDLE)
        if not open_record:
            yield parts
        position += CHUNK_HEADER.size + length
    if open_record:
        raise CutShort("the file ends inside a record")


def _items(items: Any) -> dict[str, Any]:
    """Return repeated key/JSON items as a dict. Nested keys become nested dicts."""
    tree: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        branch = tree
        for key in outer:
            branch = branch.setdefault(key, {})
        branch[last] = json.loads(item.value_json)
    return tree


def read_run(path: Path) -> OfflineRun:
    """Return the content of one `.wandb` file, up to where it is truncated.

    Raises:
        ValueError: as in `read_payloads`, except for truncated files; or if a record is not what W&B writes.
    """
    run = OfflineRun()
    try:
        for payload in read_payloads(path.read_bytes()):
            _add(run, Record.FromString(payload))
    except CutShort:
        run.whole = False
    except (DecodeError, RecursionError, TypeError, AttributeError) as error:
        raise ValueError(f"a record does not have W&B's format ({type(error).__name__})") from None
    return run


def _add(run: OfflineRun, record: Any) -> None:
    """Add a record to a run."""
    kind = record.WhichOneof("record_type")
    run.kinds.add(str(kind))
    if kind == "run":
        run.id, run.project, run.entity = record.run.run_id, record.run.project, record.run.entity
        run.group, run.job_type, run.name = record.run.run_group, record.run.job_type, record.run.display_name
        run.started, run.tags = record.run.start_time.ToNanoseconds(), list(record.run.tags)
        run.config |= _items(record.run.config.update)
    elif kind == "config":
        run.config |= _items(record.config.update)
    elif kind == "history":
        run.history.append(_items(record.history.item))
    elif kind == "summary":
        run.summary |= _items(record.summary.update)
    elif kind == "metric":
        run.step_metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    elif kind == "artifact" and record.artifact.type != "run_table":
        contents = record.artifact.manifest.contents
        run.artifacts[record.artifact.name] = {entry.path: entry.local_path for entry in contents}
    elif kind == "exit":
        run.exit_code = record.exit.exit_code
