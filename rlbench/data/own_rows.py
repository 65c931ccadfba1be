"""Reads a user's own rows as records in canonical form. docs/adding-a-dataset.md has the format.

Every problem names the file, the line, the field, the value and what to do. All of them are reported together.
"""

import hashlib
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from rlbench.base.texts import broken_texts
from rlbench.config.schema import OwnConfig
from rlbench.data.catalog_files import NAME_WITH_YEAR, integer_year
from rlbench.data.checks import GAINS, LARGEST_GAIN, SMALLEST_GAIN, Finding, is_message, report
from rlbench.data.record import SPLITS, Messages, Record
from rlbench.lists.catalog import normalise
from rlbench.lists.items import TITLES, WITHOUT_YEARS, Item, line_of

SPLIT_NAMES = {split: split for split in SPLITS} | {
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "testing": "test",
    "demonstrations": "sft",
}
"""Names of a split in files and fields, in lower case."""
FIELDS = (
    "prompt",
    "ground_truth",
    "seen",
    "context_id",
    "cluster_id",
    "completion",
    "split",
)
"""Fields of a record that are read."""


@dataclass(frozen=True)
class OwnRow:
    """A row of a file.

    Attributes:
        where: the file.
        number: its line, from 1, or its row, from 0.
        split: the split that the file is for; None if the file may hold several.
        values: the fields.
    """

    where: str
    number: int
    split: str | None
    values: Any


@dataclass
class Reading:
    """What has been read so far, and what was found.

    Attributes:
        config: the dataset's settings.
        unit: the word for a row.
        findings: problems by file.
        splits: records by split; None for records without a split.
        places: row, record and split of the first record of each context.
        counts: repairs and remarks, for notices.
    """

    config: OwnConfig
    unit: str
    findings: dict[str, list[Finding]] = field(default_factory=lambda: defaultdict(list))
    splits: dict[str | None, list[Record]] = field(default_factory=lambda: defaultdict(list))
    places: dict[str, tuple[OwnRow, Record, str | None]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def with_years(self) -> bool:
        return self.config.line_format != TITLES

    def problem(self, row: OwnRow, kind: str, value: Any = None, entry: int | None = None) -> None:
        """Note a problem. `kind` begins with the field and says what to do; `entry` is the place in a list, from 0."""
        shown = "" if value is None and entry is None else ascii(value)
        shown = shown if len(shown) <= 120 else f"{shown[:117]}..."
        self.findings[row.where].append((row.number, kind, shown if entry is None else f"entry {entry} is {shown}"))

    def problems(self) -> list[str]:
        """All problems found, in sentences."""
        return [one for where, found in self.findings.items() for one in report(where, found, self.unit)]

    def notices(self) -> list[str]:
        """Repairs and remarks, in sentences."""
        return [f"{count} {what}" for what, count in self.counts.items() if count]

    def add(self, row: OwnRow) -> None:
        """Read a row as a record."""
        before = len(self.findings[row.where])
        if not isinstance(row.values, dict):
            self.problem(row, "a record must be an object with fields, such as prompt and ground_truth", row.values)
            return
        values = row.values
        for name in values:
            if name not in FIELDS:
                self.counts[f"field {ascii(name)} is not read"] += 1
        if broken := broken_texts(values):
            self.problem(row, "a text holds half a character (a lone surrogate); write the whole character", broken[0])
            return
        prompt = self._prompt(row, values.get("prompt"))
        truth, gains = self._truth(row, values.get("ground_truth"))
        seen = self._seen(row, values.get("seen"))
        completion = self._completion(row, values.get("completion"))
        split = self._split(row, values.get("split"))
        ids = {name: self._id(row, name, values.get(name)) for name in ("context_id", "cluster_id")}
        if len(self.findings[row.where]) > before:
            return
        context = ids["context_id"] or _digest(prompt)
        record = Record(prompt, truth, seen, context, completion, ids["cluster_id"] or context, gains)
        if not self._clashes(row, record, split):
            self.splits[split].append(record)

    def _clashes(self, row: OwnRow, record: Record, split: str | None) -> bool:
        """Whether the context has another prompt, other seen names or another split in an earlier record."""
        context = record.context_id
        first, told, of_first = self.places.setdefault(context, (row, record, split))
        at = f"{self.unit} {first.number}" + (f" of {first.where}" if first.where != row.where else "")
        if told.prompt != record.prompt:
            self.problem(row, f"context_id is that of another prompt ({at}); give each prompt its own", context)
            return True
        found = self.findings[row.where]
        before = len(found)
        if set(map(normalise, told.seen_titles)) != set(map(normalise, record.seen_titles)):
            kind = "seen differs from that of an earlier record of the same context; give both the same names"
            found.append((row.number, kind, f"context {context}, {at}"))
        groups = {"train" if one == "sft" else one for one in (split, of_first) if one is not None}
        if len(groups) > 1:
            kind = "this context also stands in another split; keep all records of a context in one split"
            found.append((row.number, kind, f"context {context}, {of_first} in {at}"))
        return len(found) > before

    def _prompt(self, row: OwnRow, value: Any) -> Messages:
        template = self.config.prompt_template
        if isinstance(value, str) and value.strip():
            text = value if template is None else template.replace("{conversation}", value)
            return [{"role": "user", "content": text}]
        if isinstance(value, list) and value and all(map(is_message, value)):
            if not any(one["role"] == "user" and one["content"].strip() for one in value):
                self.problem(row, "prompt has no message of the role user with text", value)
            elif template is not None:
                self.problem(
                    row,
                    "prompt is a list of messages, to which dataset.prompt_template cannot be applied; set it to null",
                )
            return [{"role": one["role"], "content": one["content"]} for one in value]
        if value is None:
            self.problem(row, "prompt is missing; give a text, or a list of messages with role and content")
        elif value in ("", []) or (isinstance(value, str) and not value.strip()):
            self.problem(row, "prompt is empty; give a text, or remove the record", value)
        else:
            self.problem(row, "prompt must be a text, or a list of messages with role and content", value)
        return []

    def _truth(self, row: OwnRow, value: Any) -> tuple[list[Item], tuple[float, ...] | None]:
        if value is None or value == []:
            self.problem(
                row, f"ground_truth is {'missing' if value is None else 'empty'}; name at least one {self.config.item}"
            )
            return [], None
        if not isinstance(value, list):
            self.problem(row, "ground_truth must be a list of names or of objects with title", value)
            return [], None
        found: dict[Item, float] = {}
        graded = False
        for place, entry in enumerate(value):
            item = self.item(row, "ground_truth", place, entry)
            gain = entry.get("relevance", 1.0) if isinstance(entry, dict) else 1.0
            graded |= isinstance(entry, dict) and "relevance" in entry
            if isinstance(gain, bool) or not isinstance(gain, int | float) or not 0 <= gain < math.inf:
                self.problem(row, "ground_truth has a relevance that is not a finite number from 0 on", gain, place)
            elif gain and not SMALLEST_GAIN <= gain <= LARGEST_GAIN:
                self.problem(row, f"ground_truth has a relevance that is not {GAINS}; rescale all", gain, place)
            elif item is not None and gain == 0:
                self.counts["entries of relevance 0 in ground_truth are left out"] += 1
            elif item is not None:
                if item in found:
                    self.counts["names stand twice in one ground_truth and count once, with the higher relevance"] += 1
                found[item] = max(float(gain), found.get(item, 0.0))
        if not found and not any(number == row.number for number, *_ in self.findings[row.where]):
            self.problem(row, "ground_truth has only entries of relevance 0; remove the record, or name a relevant one")
        return list(found), tuple(found.values()) if graded else None

    def item(self, row: OwnRow, where: str, place: int, entry: Any) -> Item | None:
        """Read a name, an object with title and year, or a pair of them. Notes a problem of others and returns None."""
        title, year = (*entry, None)[:2] if isinstance(entry, list) and len(entry) == 2 else (entry, None)
        if isinstance(entry, dict):
            title, year = entry.get("title"), entry.get("year")
        elif isinstance(entry, str) and self.with_years and (named := NAME_WITH_YEAR.fullmatch(entry)):
            title, year = named[1], int(named[2])
        if not isinstance(title, str) or not title.strip():
            self.problem(row, f"{where} must hold names, or objects with a title that is text", entry, place)
            return None
        title = " ".join(title.split())
        if not self.with_years:
            self.counts["years are left out, since dataset.line_format has none"] += year is not None
            return title, None
        number = integer_year(year)
        if number is None:
            fix = f"set {WITHOUT_YEARS} if there are no years"
            what = f"{where} has a name without a year; write Title (Year), give year as a whole number, or {fix}"
            self.problem(row, what, entry, place)
            return None
        self.counts["years given as strings were converted"] += isinstance(year, str)
        return title, number

    def _seen(self, row: OwnRow, value: Any) -> list[str]:
        if value is None:
            return []
        if not isinstance(value, list):
            self.problem(row, "seen must be a list of names", value)
            return []
        titles = []
        for place, entry in enumerate(value):
            title = entry.get("title") if isinstance(entry, dict) else entry
            if not isinstance(title, str) or not title.strip():
                self.problem(row, "seen must hold names", entry, place)
                continue
            named = NAME_WITH_YEAR.fullmatch(title) if self.with_years else None
            titles.append(" ".join((named[1] if named else title).split()))
        return titles

    def _completion(self, row: OwnRow, value: Any) -> Messages | None:
        if value is None:
            return None
        if isinstance(value, list) and value and all(map(is_message, value)):
            if any(one["role"] == "assistant" and one["content"].strip() for one in value):
                return [{"role": one["role"], "content": one["content"]} for one in value]
            self.problem(row, "completion has no message of the role assistant with text", value)
            return None
        if isinstance(value, list) and value:
            items = [self.item(row, "completion", place, entry) for place, entry in enumerate(value)]
            value = "\n".join(line_of(*one) for one in items if one is not None) or "-"
        if not isinstance(value, str) or not value.strip():
            self.problem(row, "completion must be a text with one line a rank, a list of names, or messages", value)
            return None
        return [{"role": "assistant", "content": value.strip()}]

    def _split(self, row: OwnRow, value: Any) -> str | None:
        if value is None:
            return row.split
        split = SPLIT_NAMES.get(value.lower()) if isinstance(value, str) else None
        if split is None:
            self.problem(row, f"split must be one of {', '.join(SPLITS)}", value)
        elif row.split is not None and split != row.split:
            self.problem(
                row,
                f"split is not that of its file, which is for {row.split}; move the record, or drop the field",
                value,
            )
        return split

    def _id(self, row: OwnRow, name: str, value: Any) -> str | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            self.problem(row, f"{name} must be a text or a whole number", value)
            return None
        return str(value)


def _digest(prompt: Messages) -> str:
    return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:16]
