"""Reads lists of titles without years: every line with content names an item. Loads no torch.

This is `dataset.line_format="{title}"`. Without a year, nothing marks a line as an entry, so the rule is the other way
round: a line is an entry unless it is blank, a sentence around the list, or mere layout.
"""

import re

from rlbench.lists.entries import (
    JSON_START,
    JSON_STRING,
    MARKER,
    QUOTES,
    SENTENCE,
    Lines,
    ParsedText,
    parsed_by,
    without_markup,
)
from rlbench.lists.items import Item

_LAYOUT = re.compile(r"[\s\[\]{}(),;|=_*~#-]*|```.*|</?\w+>")
"""Lines without a title: brackets of JSON, rules of tables, code fences."""
_JSON_TITLE = re.compile(
    r"""["'](?:title|movie|film|book|product|item|name)["']\s*:\s*(?:"((?:[^"\\]|\\.)+)"|'([^']+)')""", re.IGNORECASE
)
_JSON_KEY = re.compile(r"""["'][\w ]{1,40}["']\s*:""")
_EMPHASISED = re.compile(r"(\*\*|__|\*|_)(?=\S)(?P<title>.+?)(?<=\S)\1\s*(?:[-–—:(,].*|by\s.*)?", re.IGNORECASE)
"""A title in bold or italics, alone or with a remark behind it: "**Dune** by Frank Herbert"."""
_REMARK = re.compile(r"\s*(?:[-–—:(,].*|by\s.*)?", re.IGNORECASE)
_OPENING = re.compile(
    r"(?:Sure|Certainly|Absolutely|Of course|Great|Okay|OK|Yes|Hi|Hello|Thanks|Thank you)(?:[,!.].*)?", re.IGNORECASE
)
_HEADS = ("author", "book", "film", "item", "movie", "name", "product", "rank", "title")
"""Words in the head of a table."""


def read_title(line: str) -> Item | None:
    """Read one line as (title, None), or None if it names nothing.

    These are removed: numbering, bullets, headings, Markdown emphasis and links, HTML tags, and quotes around the
    title. A remark behind a title in quotes or emphasis is removed too. Without these marks the title is the whole
    line, since nothing shows where it ends. In a table row, the first cell that is not a number is the title.

    Not an entry: a blank line, a line that ends with a colon, a line without a mark of a list that reads as a sentence
    around it ("I hope you enjoy these!"), lines of brackets, rules or code fences, and
    lines without a visible character.
    """
    line = without_markup(line).strip()
    if _LAYOUT.fullmatch(line) or not any(letter.isprintable() and letter != " " for letter in line):
        return None
    if line.startswith("|"):
        return _read_cells(line)
    named = _JSON_TITLE.search(line)
    if named:
        return _item((named[1] or named[2]).replace('\\"', '"'))
    line = _unemphasised(line)  # also around the number: **1. Dune**
    marker = MARKER.match(line)
    marked = bool(marker and marker["marks"])
    line = line[marker.end() if marker else 0 :].strip()
    if line.endswith(":") or _JSON_KEY.match(line):
        return None
    if not marked and _is_sentence(line):
        return None
    if not marked and line[-1:] in "\"'],}" and (start := JSON_START.match(line)) and start.end():
        inner = line[start.end() :]
        first = JSON_STRING.match(inner)
        if first:
            return _item(first[2])
    return _item(_unquoted(_unemphasised(_unquoted(line))))


def _item(title: str) -> Item | None:
    title = title.strip()
    return (title, None) if title else None


def _is_sentence(line: str) -> bool:
    """Whether a line without a mark of a list is a sentence around it. Titles may open like one: "If You Tell"."""
    return _OPENING.fullmatch(line) is not None or (line[-1:] in ".!?…" and SENTENCE.match(line) is not None)


def _unemphasised(line: str) -> str:
    found = _EMPHASISED.fullmatch(line)
    return found["title"] if found else line


def _unquoted(line: str) -> str:
    """A line without the quotes around its title, and without a comma or a remark behind them."""
    close = QUOTES.get(line[:1])
    end = line.find(close, 1) if close else -1
    while end > 1:
        if _REMARK.fullmatch(line, end + 1):
            return line[1:end].strip()
        end = line.find(close or "", end + 1)
    return line


def _read_cells(line: str) -> Item | None:
    cells = [_unquoted(_unemphasised(cell.strip())) for cell in line.strip("|").split("|")]
    named = [cell for cell in cells if cell and not re.fullmatch(r"#|[#(]?[0-9]{1,3}[.)]?", cell)]
    if not named or re.fullmatch(r"[\s:-]+", named[0]) or named[0].casefold() in _HEADS:
        return None
    return _item(named[0])


_titles = Lines(read_title)


def parse_title(line: str) -> Item | None:
    """`read_title`, cached."""
    return _titles[line] or None


def parse_titles(text: str) -> ParsedText:
    """Parse a completion whose lines are titles. Lines end only at "\\n"."""
    return parsed_by(_titles, text)
