"""Parses the text of a list: lines that read as "Title (Year)" are its entries. Loads no torch."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import compress, pairwise, zip_longest
from typing import NamedTuple

from rlbench.lists.items import Item

_OPEN, _CLOSE = "(\\[（［【〔", ")\\]）］】〕"
_YEAR = re.compile(
    rf"[{_OPEN}] {{0,2}}(?:(?P<alone>[0-9０-９]{{4}})|(?P<first>[0-9]{{4}})(?=[ ,;/–—-])[^{_OPEN}{_CLOSE}]{{1,60}}"
    rf"|[^{_OPEN}{_CLOSE}]{{1,60}}, ?(?P<last>[0-9]{{4}})) {{0,2}}[{_CLOSE}]"
)
"""A year in brackets: alone, or next to other words as in "(1999 film)" and "(dir. Wachowski, 1999)"."""
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`", "《": "》", "「": "」", "『": "』", "„": "“"}
_WRAPPERS = {"(": ")", "[": "]", "（": "）", "［": "］", "【": "】", "<": ">"}
_TAG = re.compile(r"</?(?:a|b|br|em|h[1-6]|i|li|ol|p|strong|td|tr|u|ul)(?: [^<>]{0,200})?/?>", re.IGNORECASE)
_ENTITIES = {"&amp;": "&", "&quot;": '"', "&#39;": "'", "&apos;": "'", "&nbsp;": " "}
_LINK = re.compile(r"\[([^\[\]]+)\]\((?![0-9]{4}\))[^()\s]*(?:\([^()\s]*\)[^()\s]*)*\)")
_JSON_ITEM = re.compile(
    r"""["'](?:title|movie|film|name)["']\s*:\s*"((?:[^"\\]|\\.)+)"\s*,\s*["'](?:release_)?year["']\s*:\s*"?([0-9]{4})\b""",
    re.IGNORECASE,
)
JSON_START = re.compile(r"""[\[{,\s]*(?:["'](?:title|movie|film|name)["']\s*:\s*)?(?=["'])""", re.IGNORECASE)

JSON_STRING = re.compile(r"""(["'])(.+?)\1\s*[,\]}]""")

MARKER = re.compile(
    r"[\s>]*"
    r"(?P<marks>(?:#{1,6}\s+(?=\S))?"
    r"(?:(?:[•●○◦▪■‣⁃►▶➤→✓✔✅★☆·]\s*|[-*+–—]\s+|[-–—](?=[^\W\d_]))(?:\[[ xX]?\]\s+)?)?"
    r"(?:\W{0,2}[0-9]{1,3}\ufe0f?\u20e3\s*"  # keycaps
    r"|[0-9]{1,3}\s*\\?(?:[.)]\s+|[.)](?=[^\W\d_]|[\"“'‘*_\[(《「])|[、．）]\s*|\s[-–—]\s+)"
    r"|[(\[（][0-9]{1,2}[)\]）]\s*(?=\S)|[a-z]\)\s+"
    r"|\#\s*[0-9]{1,3}(?:\s*[.):]|\s|\s[-–—])\s*"
    r"|(?:no\.?|rank|movie|film|title|recommendation)\s?\#?[0-9]{1,3}\s*[:.)–—-]\s+|(?:movie|film|title)\s*:\s+)?"
    r"(?:[-–—•]\s+)?)",
    re.IGNORECASE,
)
"""The marks in front of a list's entry: quote marks, heading, bullet, number, in this order."""
SENTENCE = re.compile(
    "(?:"
    + "|".join(
        [
            # the basis of the list
            r"Based on (?:your|the|our|what|that)|(?:Considering|Given) (?:your|that|you)|Inspired by your",
            r"(?:Since|Because|As|After) you|If you|After watching|In addition to|Looking for [a-z]+",
            r"As (?:a fan|someone)|For (?:a |an )?(?:fans?|lovers?|someone|those)|Fans of|Lovers of",
            r"Similar to|In the (?:style|vein|spirit)",
            r"(?:Some |More |Other |Great |Similar |The best )*(?:[Mm]ovies|[Ff]ilms|[Tt]itles|[Rr]ecommendations)"
            r" (?:like|similar|for|that|based|in the)",
            # greetings and announcements
            r"(?:Sure|Certainly|Absolutely|Of course|Great|Okay|OK|Yes|Hi|Hello)[,!.]+ (?:I [a-z]+|I['’]\w+ [a-z]+"
            r"|[Aa]s|[Bb]ased|[Ff]or|[Gg]iven|[Hh]ere|[Ii]f|[Ll]et|[Ss]ince|[Tt]hese|[Yy]ou)",
            r"(?:Great|Good|Excellent) choice|(?:Thanks|Thank you) for [a-z]+",
            r"Here (?:are|is)|Here['’]s|Below are|(?:The )?[Ff]ollowing (?:films|movies|are)",
            # remarks about the list and its reader
            r"These (?:are|films|movies|should|all)|All (?:of )?these|Each of|Enjoy (?:the|these|your|watching)",
            r"Let me know|Note(?: that)?:|Note that|Please note",
            r"I (?:also recommend|chose|have|hope|know you|recommend|see|suggest|think you|understand|would)",
            r"I['’](?:d|ll|ve) [a-z]+|I['’]m (?:glad|going|happy|sorry|sure)",
            r"You (?:can|could|enjoyed|liked|loved|may|mentioned|might|said|seem|should|will|would)",
        ]
    )
    + r")(?=\W)"
)
"""Openings of a sentence around a list. Case matters: "Since you liked" is one, "Since You Went Away" is a title."""
_NAMES_ONE_LATER = re.compile(r".*[ \"“'‘*_][A-Z0-9]", re.DOTALL)
_ANNOUNCES = re.compile(
    r"\b(?:here (?:are|is)|here['’]s|(?:i|we)(?:['’](?:d|ll)| would| can| also)? (?:recommend|suggest)"
    r"|you(?:['’](?:d|ll))? (?:(?:might|may|could|would|will|should|can) )?(?:also )?(?:like|enjoy|love|appreciate|try)"
    r"|the following|(?:these|some|my|more|other) (?:\w+ )?(?:recommendations|suggestions|films|movies|titles))\b",
    re.IGNORECASE,
)
"""Phrases after an item, in a sentence that introduces a list."""
# A line without ornaments, as a trained policy writes it: a letter first, and no mark that `read_line` looks for.
_CLEAN = re.compile(
    r"([^\W\d_](?:[^()\[\]*_<>&|（）［］【】〔〕\n]*[^()\[\]*_<>&|（）［］【】〔〕\s,–—-])?) \(([0-9]{4})\)"
)
_LONGEST_REMEMBERED = 200  # characters; bounds the memory, whatever a model writes
_REMEMBERED = 1 << 17  # lines


class Entry(NamedTuple):
    """One parsed line: the item it names, and its line number (from 0)."""

    title: str
    year: int | None
    line: int


class ParsedText(NamedTuple):
    """A parsed completion.

    Attributes:
        items: the item of each entry in order, including those past rank N.
        lines: the line number (from 0) of each entry.
        n_lines: number of lines that are not blank.
    """

    items: Sequence[Item]
    lines: Sequence[int]
    n_lines: int

    @property
    def entries(self) -> list[Entry]:
        return [Entry(*item, line=line) for item, line in zip(self.items, self.lines, strict=True)]


def without_markup(line: str) -> str:
    """A line without HTML tags and entities, and with the text of Markdown links in place of the links."""
    if "<" in line:
        line = _TAG.sub("", line)
    if "&" in line:
        for entity, letter in _ENTITIES.items():
            line = line.replace(entity, letter)
    if "](" in line:
        line = _LINK.sub(r"\1", line)
    return line


def read_line(line: str) -> Item | None:
    """Read one line as (title, year), or None if it is not "Title (Year)".

    These are removed: numbering ("7.", "7)", "#7", "7 -"), bullets, headings, Markdown emphasis and links, HTML tags,
    quotes and brackets around the title or the line, and text after the year. Parentheses inside the title stay. The
    year has four digits in brackets, and is the first one after some title; the brackets may hold other words, as in
    "(1999 film)". Table rows and JSON objects are read too. A colon does not end a numbering: "2001: A Space Odyssey
    (1968)" is a title. A sentence that mentions an item and introduces or follows a list is not an entry.
    """
    line = without_markup(line)
    if line.lstrip().startswith("|"):
        return _read_cells(line)
    for mark in ("**", "__"):
        if line.count(mark) % 2 == 0:  # an odd mark belongs to a title ("Don't F**k with Cats")
            line = line.replace(mark, "")
    json_item = _JSON_ITEM.search(line) if ":" in line else None
    if json_item:
        return json_item[1].replace('\\"', '"'), int(json_item[2])
    marker = MARKER.match(line)
    marked = bool(marker and marker["marks"])
    line = line[marker.end() if marker else 0 :].strip()
    if not marked and (start := JSON_START.match(line)) and start.end() and line[-1] in "\"'],}":
        line = line[start.end() :]
        first = JSON_STRING.match(line)
        line = first[2] if first else line
    line = _unwrapped(line)
    for match, year in _years(line):
        title = _unmarked(line[: match.start()].strip(), line[match.end() :])
        if len(title) > 1 and QUOTES.get(title[0]) == title[-1]:
            title = title[1:-1].strip()
        if title:
            return None if not marked and _is_sentence(title, line[match.end() :]) else (title, year)
    return None


def _read_cells(line: str) -> Item | None:
    """A table row: the first cell with "Title (Year)", otherwise the first cell followed by a year."""
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    items = (read_line(cell) for cell in cells if cell)
    item = next((item for item in items if item), None)
    if item is not None:
        return item
    if len(cells) > 2 and re.fullmatch(r"#?[0-9]{1,3}[.)]?", cells[0]):
        cells = cells[1:]
    for title, year in pairwise(cells):
        title = _unwrapped(title.replace("**", "").strip("*_ "))
        if title and re.fullmatch(r"[(]?[0-9]{4}[)]?", year):
            return title, int(year.strip("()"))
    return None


def _unwrapped(line: str) -> str:
    """A line without the quotes or brackets around all of it, and without a comma after them."""
    bare = line.rstrip(",; ")
    if len(bare) > 1 and QUOTES.get(bare[0]) == bare[-1]:
        return bare[1:-1].strip()
    for mark in ("*", "_"):
        inner = bare[1:-1]
        if len(bare) > 2 and bare[0] == bare[-1] == mark and mark not in inner and not inner[:1].isspace():
            return inner.strip()
    if len(bare) > 1 and _WRAPPERS.get(bare[0]) == bare[-1]:
        inner = bare[1:-1]
        depth = lowest = 0
        for letter in inner:
            depth += (letter in _OPEN + "<") - (letter in _CLOSE + ">")
            lowest = min(lowest, depth)
        if depth == 0 and lowest == 0 and _YEAR.search(inner, 1):
            return inner.strip()
    return line


def _years(line: str) -> Iterator[tuple[re.Match[str], int]]:
    """The brackets with a year, in order. "(1999 film) (2000)" counts as one, with the year that stands alone."""
    found = list(_YEAR.finditer(line, 1))
    for match, after in zip_longest(found, found[1:]):
        alone = match["alone"]
        if not alone and after and not line[match.end() : after.start()].strip():
            alone = after["alone"]
        yield match, int(alone or match["first"] or match["last"])


def _is_sentence(title: str, rest: str) -> bool:
    """Whether an apparent title is really the start of a sentence that mentions an item; `rest` follows the year."""
    opener = SENTENCE.match(title)
    if opener and _NAMES_ONE_LATER.match(title, opener.end()):
        return True
    goes_on = rest[:1] == "," or re.match(r"\s+[a-z]", rest) is not None
    return goes_on and (_ANNOUNCES.search(rest) is not None or (opener is not None and rest.rstrip().endswith(":")))


def _unmarked(title: str, rest: str) -> str:
    """A title without emphasis marks at both ends, or at its left end and after the year. "61*" keeps its star."""
    for mark in ("**", "__"):
        title = title.removeprefix(mark).removesuffix(mark)
    mark = title[-1:]
    if mark in ("*", "_") and len(title) > 1 and rest.startswith(mark):
        title = title[:-1].rstrip()
    mark = title[:1]
    if mark in ("*", "_") and len(title) > 1:
        if title.endswith(mark):
            title = title[1:-1]
        elif mark in rest:
            title = title[1:]
    shorter = re.sub(r"(?:\s+[–—-]|,)$", "", title.strip())
    return shorter.strip() or title.strip()


_LOOK_AGAIN = re.compile(SENTENCE.pattern + r"|(?i:no|rank|movie|film|title|recommendation)[\s0-9.#]*[:.)–—-]")
"""Lines that look clean but may not be titles."""


class Lines(dict[str, Item | tuple[()] | None]):
    """Cache of parsed lines, since the lists of one rollout share most lines: an item, () for a blank line, or None for
    a line that is not an entry.

    Args:
        read: reads a line that is not blank.
    """

    def __init__(self, read: Callable[[str], Item | None]):
        self._read = read

    def __missing__(self, line: str) -> Item | tuple[()] | None:
        read = self._read(line) if line.strip() else ()
        if len(line) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[line] = read
        return read


def _read_fast(line: str) -> Item | None:
    clean = None if _LOOK_AGAIN.match(line) else _CLEAN.fullmatch(line)
    return (clean[1], int(clean[2])) if clean else read_line(line)


_lines = Lines(_read_fast)


def forget_lines() -> None:
    """Empty the cache of lines."""
    _lines.clear()


def parse_line(line: str) -> Item | None:
    """`read_line`, cached."""
    return _lines[line] or None


def parse_text(text: str) -> ParsedText:
    """Parse a completion. Lines end only at "\\n"."""
    return parsed_by(_lines, text)


def parsed_by(lines: Lines, text: str) -> ParsedText:
    """Parse a completion with a cache of lines."""
    read = list(map(lines.__getitem__, text.split("\n")))
    if all(read):
        return ParsedText(read, range(len(read)), len(read))  # type: ignore[arg-type]
    items: list[Item] = list(compress(read, read))  # type: ignore[arg-type]
    return ParsedText(items, list(compress(range(len(read)), read)), len(read) - read.count(()))


def parse_list(text: str) -> list[Entry]:
    """Return the entries of a completion in order, including those past rank N."""
    return parse_text(text).entries
