"""Reads a teacher's answers: lists, ratings and descriptions. Simple repairs are counted; nothing is guessed.

Each reader returns either a response in the form of Stage 1's files (`rlbench.data.stage1.files`), or the kind of its
problem and a sentence that tells the teacher how to repair it.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rlbench.base.texts import is_broken
from rlbench.data.stage1.files import MARK, named
from rlbench.data.stage1.scores import RATINGS
from rlbench.lists.catalog import Catalog
from rlbench.lists.entries import ParsedText, parse_line, parse_text
from rlbench.lists.exact import CatalogReader
from rlbench.lists.items import Item
from rlbench.lists.titles import parse_titles, read_title
from rlbench.teacher.answers import TeacherAnswer
from rlbench.teacher.asking import REFUSAL, UNKNOWN, AnswerReading

EMPTY, TRUNCATED, UNREADABLE, BROKEN = "empty", "truncated", "unreadable", "broken text"
SHORT, INCOMPLETE = "too short", "incomplete"
"""Kinds of problems, beside `REFUSAL` and `UNKNOWN`."""
LENGTH, FILTER = "length", "content_filter"
"""Reasons of an endpoint for the end of an answer."""
NAMED_AT_MOST = 20
"""Maximum number of items that a sentence for the teacher names."""

_THOUGHT = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_OPEN_THOUGHT = re.compile(r"\A\s*<think(?:ing)?>", re.IGNORECASE)
_FENCE = re.compile(r"\A\s*```[a-z]*\n(.*?)\n?```\s*\Z", re.DOTALL)
_REFUSES = re.compile(
    r"\A\W*(?:(?:I['’]m|I am) (?:very |so )?sorry\b|sorry\b|I apologi[sz]e\b|unfortunately\b|as an AI\b"
    r"|(?:I|we) (?:can(?:no|['’])t|can not|cannot|won['’]t|will not|am unable|['’]m unable|am not able|must decline)\b"
    r"|I['’]m (?:unable|not able)\b)",
    re.IGNORECASE,
)
_LEVEL = r"\s*\[?(?P<level>[-+−–]?[0-9]{1,3})\]?[.,;]?\s*"
_RATING = re.compile(r"(?P<name>.*?)\s*#{2,6}" + _LEVEL)
_RATING_AFTER_YEAR = re.compile(r"(?P<name>.*?)\s*(?:#{2,6}|[|:=\t])" + _LEVEL)
_FIELD = re.compile(r"(?:\A|\n)[\s*_#>-]*(keywords?|key words|plot)[\s*_]*[:：][\s*_]*", re.IGNORECASE)


@dataclass(frozen=True)
class Form:
    """How a line names an item: "Title (Year)", or the title alone.

    Attributes:
        with_years: which of the two.
        reader: reads lines by a catalogue; None for any items.
    """

    with_years: bool
    reader: CatalogReader | None = None

    @classmethod
    def of(cls, catalog: Catalog) -> "Form":
        """The form of a catalogue's lines."""
        return cls(catalog.has_years, CatalogReader(catalog))

    @property
    def words(self) -> str:
        return "Title (Year)" if self.with_years else "Title"

    def line(self, line: str) -> Item | None:
        """The item that a line names."""
        if self.reader is not None:
            return self.reader.line(line)
        return parse_line(line) if self.with_years else read_title(line)

    def text(self, text: str) -> ParsedText:
        """The items that the lines of a text name."""
        if self.reader is not None:
            return self.reader.text(text)
        return parse_text(text) if self.with_years else parse_titles(text)


def _plain(answer: TeacherAnswer, repairs: Counter[str]) -> str:
    """The text of an answer without the thoughts of a reasoning model, a code fence, and a line that was cut off."""
    text = answer.text.replace("\r\n", "\n")
    shorter = _THOUGHT.sub("", text)
    if shorter != text:
        repairs["thoughts removed"] += 1
    elif _OPEN_THOUGHT.match(text):
        shorter = ""
    if fenced := _FENCE.match(shorter):
        shorter = fenced[1]
        repairs["code fence removed"] += 1
    if answer.finish == LENGTH:
        shorter = shorter.rpartition("\n")[0]
    return shorter.strip("\n")


def _not_readable(answer: TeacherAnswer, text: str) -> AnswerReading | None:
    """The problem of an answer without content; None if it has some."""
    if answer.refusal or answer.finish == FILTER:
        return AnswerReading(None, REFUSAL, answer.refusal or "the endpoint's content filter ended the answer")
    if is_broken(text):
        return AnswerReading(None, BROKEN, "Your answer contained half a character. Write it again.")
    if answer.finish == LENGTH and not text.strip():
        return AnswerReading(
            None, TRUNCATED, "Your answer was cut off at its maximum length. Write only what was asked for."
        )
    if not text.strip():
        return AnswerReading(None, EMPTY, "Your answer was empty. Write what was asked for.")
    return None


def _as_lines(text: str, repairs: Counter[str]) -> str:
    """A JSON list of names, one per line; other texts unchanged."""
    if not text.lstrip().startswith("["):
        return text
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return text
    repairs["JSON list"] += 1
    return "\n".join(names)


def read_list(answer: TeacherAnswer, form: Form, count: int, at_least: int) -> AnswerReading:
    """A list of items, one per line and best first.

    Repairs: repeated items, items past rank `count`, and lines that are no items are left out.

    Args:
        answer: the answer.
        form: how a line names an item.
        count: number of items that were asked for.
        at_least: number of different items with which a list is accepted.
    """
    repairs: Counter[str] = Counter()
    text = _plain(answer, repairs)
    if (problem := _not_readable(answer, text)) is not None:
        return problem
    parsed = form.text(_as_lines(text, repairs))
    items = list(dict.fromkeys(parsed.items))
    if len(items) >= at_least:
        repairs["lines left out"] += parsed.n_lines - len(parsed.items)
        repairs["repeats left out"] += len(parsed.items) - len(items)
        repairs["past the last rank"] += max(0, len(items) - count)
        repairs["cut off after the last rank"] += answer.finish == LENGTH
        return AnswerReading("\n".join(named(items[:count])), repairs=+repairs)
    again = f"Write {count} different ones, one per line, each as {form.words}, best first, and nothing else."
    if not items and _REFUSES.match(text):
        return AnswerReading(None, REFUSAL, text[:200])
    if answer.finish == LENGTH:
        return AnswerReading(None, TRUNCATED, f"Your answer was cut off after {len(items)} items. {again}")
    if not items:
        return AnswerReading(None, UNREADABLE, f"No line of your answer reads as {form.words}. {again}")
    return AnswerReading(None, SHORT, f"Your answer names only {len(items)} different items as {form.words}. {again}")


def _key(item: Item) -> Item:
    return " ".join(item[0].casefold().split()), item[1]


def read_rating_line(line: str, form: Form) -> tuple[str, int | None] | None:
    """(name, level) of one line, with None for a level that is not one of the five; None for a line without a rating.

    The separator should be "####". A plus sign and a typographic minus are read too, and behind a year also other
    separators. A dash is no separator, since it may be a minus.
    """
    found = (_RATING_AFTER_YEAR if form.with_years else _RATING).fullmatch(line)
    if found is None or form.line(found["name"]) is None:
        return None
    level = int(found["level"].replace("−", "-").replace("–", "-"))
    return found["name"].strip(), level if level in RATINGS else None


def read_ratings(answers: Sequence[TeacherAnswer], form: Form, candidates: Sequence[Item]) -> AnswerReading:
    """A level for each candidate, from all answers together; a later answer takes precedence.

    Repairs: lines that are no ratings, and ratings of other items, are left out.
    """
    repairs: Counter[str] = Counter()
    lines_of = dict(zip(named(candidates), candidates, strict=True))
    places = {_key(item): item for item in candidates}

    def candidate(name: str) -> Item | None:
        item = form.line(name)
        return lines_of.get(name) or (places.get(_key(item)) if item else None)

    levels: dict[Item, int] = {}
    wrong: dict[Item, None] = {}
    for answer in answers:
        text = _plain(answer, repairs)
        problem = _not_readable(answer, text)
        if problem is not None and answer is answers[-1]:
            return problem
        for line in text.split("\n"):
            read = read_rating_line(line, form) if line.strip() else None
            item = candidate(read[0]) if read else None
            if line.strip() and read is None:
                repairs["lines left out"] += 1
            elif read is not None and item is None:
                repairs["ratings of other items left out"] += 1
            elif read is not None and item is not None:
                if read[1] is None:
                    wrong[item] = None
                else:
                    levels[item] = read[1]
                    wrong.pop(item, None)
    missing = [item for item in candidates if item not in levels]
    if not missing:
        lines = [f"{name}{MARK}{levels[item]}" for name, item in zip(named(candidates), candidates, strict=True)]
        return AnswerReading("\n".join(lines), repairs=+repairs)
    if not levels and _REFUSES.match(answers[-1].text):
        return AnswerReading(None, REFUSAL, answers[-1].text[:200])
    levels_said = ", ".join(map(str, RATINGS))
    reason = "was cut off" if answers[-1].finish == LENGTH else f"has no rating for {len(missing)} of them"
    if wrong:
        reason += f", and {len(wrong)} ratings are not one of {levels_said}"
    kind = TRUNCATED if answers[-1].finish == LENGTH else INCOMPLETE if levels else UNREADABLE
    asked = "\n".join(named(missing))
    return AnswerReading(
        None,
        kind,
        f"Your answer {reason}. Rate these, one line each as {form.words}{MARK}rating, with one of {levels_said}, and "
        f"write nothing else:\n{asked}",
    )


def read_description(answer: TeacherAnswer) -> AnswerReading:
    """Key words and a plot: the lines "Keywords: ..." and "Plot: ...", in this order. UNKNOWN is the kind `unknown`."""
    repairs: Counter[str] = Counter()
    text = _plain(answer, repairs)
    if (problem := _not_readable(answer, text)) is not None:
        return problem
    if text.strip().strip("*_.\"'` ").casefold() == UNKNOWN:
        return AnswerReading(None, UNKNOWN, "the teacher does not know it")
    parts = _FIELD.split(text)
    fields = {
        "plot" if name.casefold() == "plot" else "keywords": " ".join(value.split()).strip("* ")
        for name, value in zip(parts[1::2], parts[2::2], strict=True)
    }
    form = 'Write two lines, "Keywords: ..." and "Plot: ...", and nothing else.'
    if answer.finish == LENGTH:
        return AnswerReading(None, TRUNCATED, f"Your answer was cut off. Be shorter. {form}")
    if not fields and _REFUSES.match(text):
        return AnswerReading(None, REFUSAL, text[:200])
    if not fields.get("keywords") or not fields.get("plot"):
        return AnswerReading(None, UNREADABLE, f"Your answer lacks keywords or a plot. {form}")
    if parts[0].strip():
        repairs["lines left out"] += 1
    return AnswerReading(f"Keywords: {fields['keywords']}\nPlot: {fields['plot']}", repairs=+repairs)
