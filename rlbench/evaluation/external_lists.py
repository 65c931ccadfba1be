"""Lists from elsewhere: files with a system's lists, checked as a whole.

One JSON object per line:

    {"context_id": "...", "text": "Heat (1995)\\nAlien (1979)"}
    {"context_id": "...", "list": ["Heat (1995)", {"title": "Alien", "year": 1979}]}

with `system` (default: the file's name), `seed` of its training (default: 0) and `sample` (default: the main list) if
needed. Logged samples of lm-evaluation-harness are read too. Loads no torch.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlbench.base.errors import BadInput, nearest
from rlbench.base.texts import broken_texts
from rlbench.base.user_files import read_user_lines
from rlbench.config.bounds import LARGEST_SEED
from rlbench.config.names import odd_name
from rlbench.data.checks import EXAMPLES, Finding, report
from rlbench.lists.items import line_of

KEYS = ("context_id", "text", "list", "system", "seed", "sample")
MAIN = -1
"""Number of the list that has no `sample`."""


@dataclass(frozen=True)
class SystemLists:
    """The lists of one system and seed.

    Attributes:
        name: name of its row.
        seed: seed of its training.
        texts: context to its main list.
        samples: context to its sampled lists, equally many for every context of test; empty if there are none.
        endings: context to whether the system ended its main list, and its tokens; empty if unknown.
    """

    name: str
    seed: int
    texts: Mapping[str, str]
    samples: Mapping[str, Sequence[str]]
    endings: Mapping[str, tuple[bool, int]] = field(default_factory=dict)

    @property
    def n_samples(self) -> int:
        return len(next(iter(self.samples.values()), ()))

    @property
    def sha256(self) -> str:
        """Digest of the lists, whatever their order in the file."""
        content = json.dumps([sorted(self.texts.items()), sorted(self.samples.items())])
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class FoundLists:
    """What files of lists hold.

    Attributes:
        systems: the lists of each complete system and seed.
        names: names of all systems, complete or not.
        problems: everything wrong in the files.
    """

    systems: Sequence[SystemLists]
    names: Sequence[str]
    problems: Sequence[str]


@dataclass
class _Read:
    """Rows of files: (system, seed) to context to sample to text, with the line of each; names; and what was wrong."""

    rows: dict[tuple[str, int], dict[str, dict[int, str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    lines: dict[tuple[str, int, str, int], str] = field(default_factory=dict)
    names: dict[str, None] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_lists(
    files: Sequence[Path],
    splits: Mapping[str, Sequence[str]],
    others: Mapping[str, str],
    *,
    with_years: bool,
    system: str | None = None,
    doc_field: str | None = None,
) -> FoundLists:
    """Read and check files of lists.

    Args:
        files: JSONL files.
        splits: `test` and `validation` to the contexts that are evaluated.
        others: contexts of the dataset that are not evaluated, each with its split.
        with_years: whether the dataset's items have years.
        system: name of every list; None: each line's own, or the file's name.
        doc_field: field of `doc` with the context id, in logged samples of lm-evaluation-harness; None for other files.
    """
    read = _Read()
    for file in files:
        named = system or (file.parent.name if doc_field else file.stem)
        try:
            if doc_field:
                rows = _logged(file, doc_field, named, read)
            else:
                rows = _own(file, named, with_years, forced=system is not None, read=read)
        except BadInput as error:  # the file cannot be read
            read.problems += error.problems
            continue
        read.names |= dict.fromkeys(row[1] for row in rows)
        known = {context for contexts in splits.values() for context in contexts}
        read.problems += report(str(file), _placed(file, rows, known, others, read), "line")
    if not read.rows and not read.problems:
        read.problems.append(f"{', '.join(map(str, files))}: no lists")
    found = []
    for (name, seed), by_context in read.rows.items():
        found += _complete(name, seed, by_context, splits, read.problems)
    return FoundLists(found, list(read.names), read.problems)


Row = tuple[int, str, int, str, int, str]
"""Line, system, seed, context, sample, text."""


def _objects(file: Path, findings: list[Finding]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row, wrong in read_user_lines(file):
        if wrong:
            findings.append((number, *wrong))
        elif not isinstance(row, dict):
            findings.append((number, "not a JSON object", ascii(row)[:80]))
        elif broken := broken_texts(row):
            findings.append((number, "contains half a character (a lone surrogate)", ascii(broken[0])[:80]))
        else:
            yield number, row


def _own(file: Path, named: str, with_years: bool, *, forced: bool, read: _Read) -> list[Row]:
    """The rows of a file in rlbench's form."""
    findings: list[Finding] = []
    rows: list[Row] = []
    for number, row in _objects(file, findings):
        before = len(findings)
        findings += [(number, f"unknown key '{key}'.{nearest(key, list(KEYS))}", "") for key in row if key not in KEYS]
        context, seed, sample = row.get("context_id"), row.get("seed", 0), row.get("sample", MAIN)
        name = named if forced else row.get("system", named)
        if not isinstance(context, str) or not context:
            findings.append((number, "context_id must be a text", ascii(context)[:80]))
        if not isinstance(name, str) or odd_name(name):
            wrong = odd_name(name) if isinstance(name, str) else "is no text"
            findings.append((number, f"system {wrong}", ascii(name)[:80]))
        for key, value, least in (("seed", seed, 0), ("sample", sample, MAIN if "sample" not in row else 0)):
            if type(value) is not int or not least <= value <= LARGEST_SEED:
                findings.append((number, f"{key} must be a whole number from 0 on", ascii(value)[:80]))
        text = _text_of(row, with_years, number, findings)
        if len(findings) == before:
            rows.append((number, name, seed, str(context), sample, text))
    read.problems += report(str(file), findings, "line")
    return rows


def _text_of(row: Mapping[str, Any], with_years: bool, number: int, findings: list[Finding]) -> str:
    """The list of a row as the text that is judged."""
    if ("text" in row) == ("list" in row):
        findings.append((number, "needs either text or list", ", ".join(row) or "no keys"))
        return ""
    if "text" in row:
        if not isinstance(row["text"], str):
            hint = "; give a JSON list as list" if isinstance(row["text"], list) else ""
            findings.append((number, f"text must be a text{hint}", ascii(row["text"])[:80]))
            return ""
        return row["text"]
    if not isinstance(row["list"], list):
        hint = "; give a text as text" if isinstance(row["list"], str) else ""
        findings.append((number, f"list must be a JSON list{hint}", ascii(row["list"])[:80]))
        return ""
    lines = []
    for entry in row["list"]:
        line = _line_of(entry, with_years)
        if line is None:
            form = '"Title (Year)" or {"title": ..., "year": ...}' if with_years else 'a title or {"title": ...}'
            findings.append((number, f"an entry of list is not {form}", ascii(entry)[:80]))
        elif "\n" in line or "\r" in line:
            findings.append((number, "an entry of list has a line break", ascii(entry)[:80]))
        else:
            lines.append(line)
    return "\n".join(lines)


def _line_of(entry: Any, with_years: bool) -> str | None:
    """The line of an entry, or None if it is not one."""
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, dict) or not entry.keys() <= {"title", "year"}:
        return None
    title, year = entry.get("title"), entry.get("year")
    if not isinstance(title, str) or not title.strip() or (with_years and type(year) is not int):
        return None
    return line_of(title, year if with_years else None)


def _logged(file: Path, doc_field: str, named: str, read: _Read) -> list[Row]:
    """The rows of logged samples of lm-evaluation-harness (`--log_samples`).

    A line is a document under one filter: `doc` has the task's fields, and `resps` the raw generations of each request.
    A task that generates has one request. With `repeats` it has several generations, which are samples. Lines of
    further filters repeat the same generations and are skipped.
    """
    findings: list[Finding] = []
    rows: list[Row] = []
    first: dict[str, Any] = {}
    for number, row in _objects(file, findings):
        doc, resps = row.get("doc"), row.get("resps")
        context = doc.get(doc_field) if isinstance(doc, dict) else None
        if isinstance(context, int) and not isinstance(context, bool):
            context = str(context)
        if not isinstance(context, str):
            has = f"its fields: {', '.join(map(str, doc))[:80]}" if isinstance(doc, dict) else "there is no doc"
            findings.append((number, f"doc has no field '{doc_field}' with a text", has))
            continue
        texts = resps[0] if isinstance(resps, list) and len(resps) == 1 else None
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            findings.append((number, "resps is not one request with generated texts", ascii(resps)[:80]))
            continue
        if first.setdefault(context, row.get("filter")) != row.get("filter"):
            continue
        several = len(texts) > 1
        rows += [(number, named, 0, context, place if several else MAIN, text) for place, text in enumerate(texts)]
    if wrong := odd_name(named):
        read.problems.append(f"{file}: the folder's name is used as the system's name and {wrong}; give --system NAME")
    read.problems += report(str(file), findings, "line")
    return rows


def _placed(
    file: Path, rows: Sequence[Row], known: set[str], others: Mapping[str, str], read: _Read
) -> Iterator[Finding]:
    """Sort rows by system and context."""
    for number, name, seed, context, sample, text in rows:
        if context not in known:
            if others.get(context) in ("validation", "test"):
                continue  # this evaluation uses fewer contexts
            where = f"it belongs to the split {others[context]}" if context in others else ""
            yield number, "unknown context_id" if not where else f"not evaluated: {where}", ascii(context)[:80]
            continue
        key = (name, seed, context, sample)
        if key in read.lines:
            yield number, f"the same system, seed, context and sample as {read.lines[key]}", ascii(context)[:80]
            continue
        read.lines[key] = f"{file}, line {number}"
        read.rows[name, seed][context][sample] = text


def _complete(
    name: str,
    seed: int,
    by_context: Mapping[str, Mapping[int, str]],
    splits: Mapping[str, Sequence[str]],
    problems: list[str],
) -> list[SystemLists]:
    """The lists of a system, if it has a list for every context."""
    who = f"system {name}" + (f", seed {seed}" if seed else "")
    before = len(problems)
    for split, contexts in splits.items():
        lacking = [context for context in contexts if context not in by_context]
        if lacking and (split == "test" or len(lacking) < len(contexts)):
            problems.append(
                f"{who}: {len(lacking)} of {len(contexts)} contexts of {split} have no list: "
                f"{', '.join(lacking[:EXAMPLES])}{', ...' if len(lacking) > EXAMPLES else ''}; give an empty text for "
                "a context without an answer"
            )
    texts, samples = {}, {}
    for context, lists in by_context.items():
        numbered = [text for number, text in sorted(lists.items()) if number != MAIN]
        texts[context] = lists[min(lists)]  # the main list, or else the first sample
        if numbered and context in splits["test"]:
            samples[context] = numbered
    counts = {len(samples.get(context, ())) for context in splits["test"] if context in by_context}
    if len(counts) > 1:
        problems.append(
            f"{who}: contexts of test have from {min(counts)} to {max(counts)} samples; give all the same number"
        )
    return [SystemLists(name, seed, texts, samples)] if len(problems) == before else []
