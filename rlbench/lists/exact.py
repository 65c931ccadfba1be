"""Reads lists with the lines of a catalogue, for titles that look like numbering or chat. Loads no torch.

The rules of `rlbench.lists.titles` and `rlbench.lists.entries` read the title "2. Fast" as "Fast", and "Hello" as a
greeting. Here, a line that equals the line of such an item names this item.
"""

import re
from functools import cached_property

from rlbench.lists.catalog import Catalog
from rlbench.lists.entries import Lines, ParsedText, parse_line, parse_text, parsed_by
from rlbench.lists.items import Item, line_of
from rlbench.lists.titles import parse_title, parse_titles

_NUMBERING = re.compile(r"\s*(?:[0-9]{1,3}[.)]|[-*•])\s+")
"""Plain numbers and bullets in front of an exact line."""


class CatalogReader:
    """Reads lines and texts for a catalogue.

    Args:
        catalog: the items. It tells whether lines have years.
    """

    def __init__(self, catalog: Catalog):
        self.catalog = catalog
        self._parse_line = parse_line if catalog.has_years else parse_title

    @cached_property
    def exact(self) -> dict[str, Item]:
        """Items by their lines, for lines that the rules read as something else.

        Some items are left out, and no list can name them: items whose year does not have four digits, and those whose
        title has a newline or no visible character.
        """
        found: dict[str, Item] = {}
        for item in self.catalog.items:
            line = line_of(*item).strip()
            read = self._parse_line(line) if line else None
            if read == item or (read is not None and self.catalog.find(*read) == self.catalog.find(*item)):
                continue
            visible = any(letter.isprintable() and letter != " " for letter in item[0])
            if visible and "\n" not in line and (item[1] is None or 1000 <= item[1] <= 9999):
                found.setdefault(line, item)
        return found

    @cached_property
    def _lines(self) -> Lines:
        return Lines(self._read)

    def _read(self, line: str) -> Item | None:
        found = self.exact.get(line.strip())
        if found is None and (number := _NUMBERING.match(line)):
            found = self.exact.get(line[number.end() :].strip())
        return found or self._parse_line(line)

    def line(self, line: str) -> Item | None:
        """The item that a line names, or None."""
        return (self._lines[line] or None) if self.exact else self._parse_line(line)

    def text(self, text: str) -> ParsedText:
        """The items that the lines of a text name. Lines end only at "\\n"."""
        if self.exact:
            return parsed_by(self._lines, text)
        return parse_text(text) if self.catalog.has_years else parse_titles(text)
