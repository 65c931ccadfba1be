"""Sortable tables: plain HTML with a sort key in every cell, readable without scripts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.html.markup import Child, Html, tag
from analysis.render.numbers import count


@dataclass(frozen=True)
class Head:
    """A column.

    Attributes:
        about: explanation, shown on hover, or "".
        number: whether the column is numeric: sorted in descending order and right-aligned.
    """

    title: Child
    about: str = ""
    number: bool = True


@dataclass(frozen=True)
class GridCell:
    """A cell as shown.

    Attributes:
        key: sort key; None for a missing value, which always sorts last.
        below: a second line, such as an interval.
        about: text shown on hover.
        kind: CSS class.
    """

    shown: Child
    key: float | str | None = None
    below: str = ""
    strong: bool = False
    about: str = ""
    kind: str = ""


MISSING = GridCell("–")


def number(value: float | None, show: Callable[[float], str], below: str = "", *, strong: bool = False) -> GridCell:
    """A number cell; a missing cell if the value is None, NaN or infinite."""
    if value is None or not math.isfinite(value):
        return MISSING
    return GridCell(show(value), float(value), below, strong)


def amount(value: float | None, show: Callable[[float], str] = count) -> GridCell:
    """An amount that was spent; a missing cell for 0, too."""
    return number(value or None, show)


def text(shown: Child, key: str | None = None, *, about: str = "", kind: str = "") -> GridCell:
    """A text cell."""
    return GridCell(shown, key if key is not None else str(shown), about=about, kind=kind)


def grid(
    name: str, caption: Child, heads: Sequence[Head], rows: Sequence[Sequence[GridCell]], *, kinds: Sequence[str] = ()
) -> Html:
    """A table in a box that scrolls if it is too wide. The first cell of a row is its header.

    Args:
        name: id of the table.
        rows: cells of each row, one per column.
        kinds: CSS class of each row; () for none.
    """
    body = [
        tag(
            "tr",
            [_cell(cell, head, first=i == 0) for i, (cell, head) in enumerate(zip(row, heads, strict=True))],
            class_=kind or None,
        )
        for row, kind in zip(rows, kinds or [""] * len(rows), strict=True)
    ]
    top, titled = tag("tr", [_head(head) for head in heads]), f"{name}-caption"
    table = tag("table", tag("thead", top), tag("tbody", body), id=name, class_="sortable", aria_labelledby=titled)
    box = tag("div", table, class_="scroll", tabindex=0, role="region", aria_labelledby=titled)
    return tag("figure", tag("figcaption", caption, class_="caption", id=titled), box)


def _head(head: Head) -> Html:
    return tag("th", head.title, scope="col", class_="n" if head.number else None, title=head.about or None)


def _cell(cell: GridCell, head: Head, *, first: bool) -> Html:
    content = tag("strong", cell.shown) if cell.strong else cell.shown
    below = tag("span", cell.below, class_="below") if cell.below else None
    kinds = " ".join(word for word in ("n" if head.number else "", cell.kind) if word)
    key = None if cell.key is None else f"{cell.key:.10g}" if isinstance(cell.key, float) else cell.key
    attributes = {"class_": kinds or None, "data_v": key, "title": cell.about or None}
    return tag("th", content, below, scope="row", **attributes) if first else tag("td", content, below, **attributes)


def folded(title: Child, *content: Child) -> Html:
    """Content that opens on a click on its title."""
    return tag("details", tag("summary", title), *content)


def section(name: str, title: str, *content: Child) -> Html:
    """A section of the page, with a heading and an id for links."""
    return tag("section", tag("h2", title, id=f"{name}-title"), *content, id=name, aria_labelledby=f"{name}-title")


def lines(items: Sequence[Child], **attributes: str) -> Html:
    """A bullet list."""
    return tag("ul", [tag("li", item) for item in items], **attributes)
