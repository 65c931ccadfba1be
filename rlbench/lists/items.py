"""Items: what a list may name, such as a film, a book or a product. An item has a title, and a year or none.

A run has one line format. With years, a line is "Title (Year)" and every item has a year. Without years, a line is the
title and every item has the year None. The catalogue tells which it is (`rlbench.lists.catalog.Catalog.has_years`).
Imports nothing.
"""

Item = tuple[str, int | None]
"""(title, year or None)."""

WITH_YEARS, TITLES = "{title} ({year})", "{title}"
LINE_FORMATS = (WITH_YEARS, TITLES)
"""Values of `dataset.line_format`."""


WITHOUT_YEARS = f"'dataset.line_format=\"{TITLES}\"'"
"""The setting for items without years, quoted for a shell, for messages."""


def line_of(title: str, year: int | None) -> str:
    """The line that names an item: "Title (Year)", or the title alone if the year is None."""
    return title if year is None else f"{title} ({year})"


def plural(noun: str) -> str:
    """The plural of an English noun by its spelling: film, films; story, stories; box, boxes."""
    if noun.endswith("y") and noun[-2:-1] not in ("", *"aeiou"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "z", "ch", "sh")) else f"{noun}s"
