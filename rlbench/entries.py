"""The text side of a list: lines that read as "Title (Year)" are its entries. Loads no torch."""

import re
from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

Film = tuple[str, int]
"""(title, year)."""

_ORNAMENT = re.compile(r"^[\s>]*(?:(?:[0-9]{1,3}\s*[.)]|#\s*[0-9]{1,3}\s*[.)]?|[-*+•–—])\s+)?")
_YEAR = re.compile(r"[(\[] {0,2}([0-9]{4}) {0,2}[)\]]")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`"}
# A line without any ornament, which is what a trained policy writes: a letter first, no mark that `read_line` heeds.
_CLEAN = re.compile(r"([^\W\d_](?:[^()\[\]*_\n]*[^()\[\]*_\s])?) \(([0-9]{4})\)")
_LONGEST_REMEMBERED = 200  # characters; so that what is remembered stays small whatever a model writes
_REMEMBERED = 1 << 17  # lines


class Entry(NamedTuple):
    """One parsed line: the film it names and the line (0-based) it stands in."""

    title: str
    year: int
    line: int


class ParsedText(NamedTuple):
    """A completion as read.

    Attributes:
        films: the film of each entry in order, those past rank N included.
        lines: the line (0-based) of each.
        n_lines: how many lines are not blank.
    """

    films: Sequence[Film]
    lines: Sequence[int]
    n_lines: int

    @property
    def entries(self) -> list[Entry]:
        return [Entry(*film, line=line) for film, line in zip(self.films, self.lines, strict=True)]


def read_line(line: str) -> Film | None:
    """Read one line as (title, year), or None where it is no "Title (Year)".

    Numbering ("7.", "7)", "#7"), bullets, paired Markdown emphasis and quotes around the title go; text after the year
    goes; parentheses inside the title stay. The year has four digits in round or square brackets, and is the first
    such after some title. A colon ends no numbering: "2001: A Space Odyssey (1968)" is a title.
    """
    for mark in ("**", "__"):
        if line.count(mark) % 2 == 0:  # an odd one belongs to a title ("Don't F**k with Cats")
            line = line.replace(mark, "")
    line = _ORNAMENT.sub("", line, count=1).strip()
    if len(line) > 1 and _QUOTES.get(line[0]) == line[-1]:
        line = line[1:-1]
    for year in _YEAR.finditer(line, 1):
        title = _unmarked(line[: year.start()].strip(), line[year.end() :])
        if len(title) > 1 and _QUOTES.get(title[0]) == title[-1]:
            title = title[1:-1].strip()
        if title:
            return title, int(year[1])
    return None


def _unmarked(title: str, rest: str) -> str:
    """A title without emphasis: marks at both ends, or at its left end and behind the year. "61*" keeps its star."""
    for mark in ("**", "__"):
        title = title.removeprefix(mark).removesuffix(mark)
    mark = title[:1]
    if mark in ("*", "_") and len(title) > 1:
        if title.endswith(mark):
            title = title[1:-1]
        elif mark in rest:
            title = title[1:]
    return title.strip()


class _Lines(dict[str, Film | tuple[()] | None]):
    """Lines as read, remembered, since lists of one rollout share most of theirs: a film, () for a blank line, or None
    for a line that is no entry."""

    def __missing__(self, line: str) -> Film | tuple[()] | None:
        clean = _CLEAN.fullmatch(line)
        read = (clean[1], int(clean[2])) if clean else read_line(line) if line.strip() else ()
        if len(line) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[line] = read
        return read


_lines = _Lines()


def forget_lines() -> None:
    """Empty the memory of lines."""
    _lines.clear()


def parse_line(line: str) -> Film | None:
    """`read_line`, remembered."""
    return _lines[line] or None


def parse_text(text: str) -> ParsedText:
    """Read a completion; lines end at "\\n" and nowhere else."""
    read = list(map(_lines.__getitem__, text.split("\n")))
    if all(read):
        return ParsedText(read, range(len(read)), len(read))  # type: ignore[arg-type]
    films: list[Film] = list(compress(read, read))  # type: ignore[arg-type]
    return ParsedText(films, list(compress(range(len(read)), read)), len(read) - read.count(()))


def parse_list(text: str) -> list[Entry]:
    """Return the entries of a completion in order, those past rank N included."""
    return parse_text(text).entries
