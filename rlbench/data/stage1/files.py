"""JSONL files of Stage 1: a teacher's responses, texts about films, and the resulting demonstrations.

lists             {"context_id": "...", "response": "Title (Year)\\nTitle (Year)\\n..."}
ratings           {"context_id": "...", "response": "Title (Year)####2\\nTitle (Year)####-1\\n..."}
films             {"title": "...", "year": 1999, "text": "what it is about"}
candidates        {"context_id": "...", "candidates": ["Title (Year)", ...]}
demonstrations    {"context_id": "...", "completion": "Title (Year)\\n..."}
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlbench.base.content import SHOWN, file_digest
from rlbench.base.errors import BadInput
from rlbench.base.files import write_text
from rlbench.base.texts import broken_texts
from rlbench.base.user_files import read_user_json, read_user_lines
from rlbench.data.checks import EXAMPLES, Finding, report
from rlbench.data.record import Record
from rlbench.data.stage1.scores import RATINGS
from rlbench.lists.entries import parse_line
from rlbench.lists.items import Item, line_of

MANIFEST = ".manifest.json"
"""Ending of the file beside a file of Stage 1, which says how that was made."""
MARK = "####"
"""Separator between a film and its rating."""


def manifest_of(path: Path) -> Path:
    """The manifest beside a file of lists, ratings, descriptions or demonstrations."""
    return path.with_suffix(MANIFEST)


def made_by(path: Path) -> dict[str, Any] | None:
    """The manifest of a file; None if there is none, or if the file has changed since.

    Raises:
        BadInput: the manifest is not JSON.
    """
    place = manifest_of(path)
    if not place.is_file():
        return None
    manifest = read_user_json(place)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    return manifest if isinstance(files, dict) and files.get(path.name) == file_digest(path) else None


def _origin(path: Path) -> list[str]:
    """A sentence about the origin of a file of demonstrations, if its manifest tells it."""
    manifest = made_by(path)
    steps, inputs = (None, None) if manifest is None else (manifest.get("steps"), manifest.get("inputs"))
    if not isinstance(steps, str) or not isinstance(inputs, dict):
        return []
    parts = [f"{name} {_source_of(entry)}" for name, entry in inputs.items() if isinstance(entry, dict)]
    digest = file_digest(manifest_of(path))[:SHOWN]
    return [f"{path.name} was made by the steps {steps} from {', '.join(parts)} (manifest {digest})"]


def _source_of(entry: Mapping[str, Any]) -> str:
    """Teacher and digest of one input of the demonstrations."""
    digest = str(entry.get("sha256"))[:SHOWN]
    job = (entry.get("manifest") or {}).get("job", {})
    teacher = job.get("teacher", {}) if isinstance(job, dict) else {}
    known = [str(teacher[name]) for name in ("model", "endpoint", "local", "answers") if teacher.get(name)]
    return f"{digest} of {' at '.join(known)}" if known else digest


def read_rows(path: Path, fields: Mapping[str, type]) -> list[dict[str, Any]]:
    """Rows of a JSONL file.

    Args:
        path: the file.
        fields: required fields and their types. Other fields are ignored.

    Raises:
        BadInput: the file or its rows are missing, or rows lack a field; all problems at once.
    """
    rows: list[dict[str, Any]] = []
    findings: list[Finding] = []
    for number, row, wrong_json in read_user_lines(path):
        if wrong_json:
            findings.append((number, *wrong_json))
            continue
        if not isinstance(row, dict):
            findings.append((number, "not a JSON object", ascii(row)[:80]))
            continue
        wrong = [(name, kind) for name, kind in fields.items() if type(row.get(name)) is not kind]
        findings += [(number, f"{name} must be a {kind.__name__}", ascii(row.get(name))[:80]) for name, kind in wrong]
        broken = [name for name in fields if broken_texts(row.get(name))]
        kind_of_break = "contains half a character (a lone surrogate)"
        findings += [(number, f"{name} {kind_of_break}", ascii(row[name])[:80]) for name in broken]
        rows.append(row)
    if findings:
        raise BadInput(*report(str(path), findings, "line"))
    if not rows:
        raise BadInput(f"{path} has no rows")
    return rows


def read_texts(path: Path, with_years: bool = True) -> dict[Item, str]:
    """Texts about items.

    Args:
        path: the file.
        with_years: whether items have years. If not, `year` may be missing and is ignored.

    Raises:
        BadInput: problems of the file, or a film with several different texts.
    """
    rows = read_rows(path, {"title": str, "year": int, "text": str} if with_years else {"title": str, "text": str})
    texts: dict[Item, str] = {}
    several = [
        line_of(*item)
        for row in rows
        if texts.setdefault(item := (row["title"], row["year"] if with_years else None), row["text"]) != row["text"]
    ]
    if several:
        raise BadInput(
            f"{path}: {len(several)} films have more than one text: {', '.join(several[:EXAMPLES])}; keep one text "
            "per film"
        )
    return texts


def read_ratings(response: str, read: Callable[[str], Item | None] = parse_line) -> tuple[dict[Item, int], int]:
    """Items with their ratings in a teacher's response, and the number of unreadable lines.

    Args:
        response: lines of item, `MARK` and rating.
        read: the item that a line names.
    """
    found: dict[Item, int] = {}
    unread = 0
    for line in response.split("\n"):
        if not line.strip():
            continue
        name, _, rating = line.rpartition(MARK)
        film, level = read(name), _integer(rating)
        if film is None or level is None or level not in RATINGS:
            unread += 1
        else:
            found[film] = level
    return found, unread


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def named(films: Iterable[Item]) -> list[str]:
    """Each item as its line: "Title (Year)", or the title alone."""
    return [line_of(title, year) for title, year in films]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def demonstrated(
    file: str | None, splits: Mapping[str, Sequence[Record]], list_length: int
) -> tuple[dict[str, list[Record]], list[str]] | None:
    """The splits with the demonstrations of a file, and notices about it. None without a file.

    A line of a train context becomes a record of `sft`, in the order of the file. A line of a validation context
    becomes the completion of that context's first record. Contexts without a line get no demonstration.

    Args:
        file: its path.
        splits: `validation`, and `train` or `sft`. Their own completions are dropped.
        list_length: N; longer completions are cut to their first N lines.

    Raises:
        BadInput: problems of the file; contexts that are in neither split; no line for a train context; a repeated
            line; two lines for one validation context.
    """
    if file is None:
        return None
    rows = read_rows(Path(file), {"context_id": str, "completion": str})
    first: dict[str, dict[str, int]] = {}
    for split, records in splits.items():
        of_context: dict[str, int] = {}
        for index, record in enumerate(records):
            of_context.setdefault(record.context_id, index)
        first[split] = of_context
    sources = [split for split in ("train", "sft") if split in splits]
    made: dict[str, list[Record]] = {split: list(records) for split, records in splits.items()} | {"sft": []}
    made["validation"] = [replace(record, completion=None) for record in splits["validation"]]
    unknown: list[str] = []
    cut = 0
    _check_repeats(file, rows, held_out=set(first["validation"]) - {c for split in sources for c in first[split]})
    for row in rows:
        context, lines = row["context_id"], row["completion"].strip().split("\n")
        cut += len(lines) > list_length
        completion = [{"role": "assistant", "content": "\n".join(lines[:list_length])}]
        train = next((splits[split][first[split][context]] for split in sources if context in first[split]), None)
        if train is not None:
            made["sft"].append(replace(train, completion=completion))
        elif context in first["validation"]:
            index = first["validation"][context]
            made["validation"][index] = replace(made["validation"][index], completion=completion)
        else:
            unknown.append(context)
    if unknown:
        raise BadInput(
            f"{file}: {len(unknown)} lines belong to contexts that are in neither train nor validation: "
            f"{', '.join(unknown[:EXAMPLES])}"
        )
    if not made["sft"]:
        raise BadInput(f"{file} has no demonstration for a context of train")
    held_out = sum(record.completion is not None for record in made["validation"])
    notice = f"{Path(file).name} supplies {len(made['sft'])} demonstrations for train and {held_out} for validation"
    return made, [
        notice,
        *([f"{cut} of these demonstrations were truncated to their first {list_length} lines"] if cut else []),
        *_origin(Path(file)),
    ]


def _check_repeats(file: str, rows: Sequence[Mapping[str, Any]], held_out: Collection[str]) -> None:
    """Refuse lines that would count twice or override each other.

    A train context may have several different demonstrations, since several people may answer one request.

    Raises:
        BadInput: names the contexts.
    """
    pairs = Counter((row["context_id"], row["completion"]) for row in rows)
    counts = Counter(row["context_id"] for row in rows)
    same = list(dict.fromkeys(context for (context, _), count in pairs.items() if count > 1))
    hidden = [context for context, count in counts.items() if count > 1 and context in held_out and context not in same]
    problems = [
        f"{file}: {len(contexts)} contexts {words}: {', '.join(contexts[:EXAMPLES])}; keep one line per context"
        for contexts, words in (
            (same, "have the same demonstration more than once"),
            (hidden, "of validation have more than one demonstration, but only one can be used"),
        )
        if contexts
    ]
    if problems:
        raise BadInput(*problems)


def contexts_of(records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    """The records of each context, in the order of their first records."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.context_id, []).append(record)
    yield from groups.items()
