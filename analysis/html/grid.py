"""Sortable tables: plain HTML with a sort key in every cell, readable without scripts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.html.markup import Child, Html, tag


@dataclass(frozen=True)
class Head:
    """A column.

    Attributes:
        title: short title.
        about: explanation, shown on hover, or "".
        number: whether the column is numeric: sorted in descending order and right-aligned.
    """

    title: Child
    about: str = ""
    number: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell as shown.

    Attributes:
        shown: its text.
        key: sort key; None for a missing value, which always sorts last.
        below: a second line, such as an interval.
        strong: whether it is bold.
        about: text shown on hover.
        kind: CSS class.
    """

    shown: Child
    key: float | str | None = None
    below: str = ""
    strong: bool = False
    about: str = ""
    kind: str = ""


MISSING = Cell("–")


def number(value: float | None, shown: str, below: str = "", *, strong: bool = False) -> Cell:
    """A number cell; a missing cell if the value is None, NaN or infinite."""
    if value is None or not math.isfinite(value):
        return MISSING
    return Cell(shown, float(value), below, strong)


def text(shown: Child, key: str | None = None, *, about: str = "", kind: str = "") -> Cell:
    """A text cell."""
    return Cell(shown, key if key is not None else str(shown), about=about, kind=kind)


def grid(
    name: str, caption: Child, heads: Sequence[Head], rows: Sequence[Sequence[Cell]], *, kinds: Sequence[str] = ()
) -> Html:
    """A table in a box that scrolls if it is too wide. The first cell of a row is its header.

    Args:
        name: id of the table.
        caption: caption above it.
        heads: columns.
        rows: cells of each row, one per column.
        kinds: CSS class of each row; () for none.
    """
    top = tag("tr", [_head(head) for head in heads])
    body = [
        tag(
            "tr",
            [_cell(cell, head, first=i == 0) for i, (cell, head) in enumerate(zip(row, heads, strict=True))],
            class_=kind or None,
        )
        for row, kind in zip(rows, kinds or [""] * len(rows), strict=True)
    ]
    table = tag(
        "table", tag("thead", top), tag("tbody", body), id=name, class_="sortable", aria_labelledby=f"{name}-caption"
    )
    box = tag("div", table, class_="scroll", tabindex=0, role="region", aria_labelledby=f"{name}-caption")
    return tag("figure", tag("figcaption", caption, class_="caption", id=f"{name}-caption"), box)


def _head(head: Head) -> Html:
    return tag("th", head.title, scope="col", class_="n" if head.number else None, title=head.about or None)


def _cell(cell: Cell, head: Head, *, first: bool) -> Html:
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


def words(parts: Sequence[str], last: str = "and") -> str:
    """Join parts: a; a and b; a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}" if parts else ""


def many(count: int, noun: str) -> str:
    """A count with its noun: one run, 2 runs."""
    return f"one {noun}" if count == 1 else f"{count:,} {noun}s"


def percent(share: float) -> str:
    """12 % for .12, with a non-breaking space."""
    return f"{100 * share:.0f}\u00a0%"


def p_value(p: float) -> str:
    """p as .031, or < .001."""
    if p < 0.001:
        return "< .001"
    return "1.00" if p >= 0.995 else f"{p:.3f}"[1:]
