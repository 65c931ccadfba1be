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
        kind: "more" for a column on demand, "tool" for one of buttons, which is neither sorted nor exported.
    """

    title: Child
    about: str = ""
    number: bool = True
    kind: str = ""


@dataclass(frozen=True)
class GridCell:
    """A cell as shown.

    Attributes:
        key: sort key; None for a missing value, which always sorts last.
        below: a second line, such as an interval.
        about: text shown on hover.
        kind: CSS class.
        ends: ends of the interval, for the export; None without one.
    """

    shown: Child
    key: float | str | None = None
    below: str = ""
    strong: bool = False
    about: str = ""
    kind: str = ""
    ends: tuple[float, float] | None = None


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
    name: str,
    caption: Child,
    heads: Sequence[Head],
    rows: Sequence[Sequence[GridCell]],
    *,
    kinds: Sequence[str] = (),
    more: str = "",
) -> Html:
    """A table in a box that scrolls if it is too wide. The first cell of a row is its header.

    Args:
        name: id of the table.
        rows: cells of each row, one per column.
        kinds: CSS class of each row; () for none.
        more: label of the switch that shows the columns on demand; "" if there are none.
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
    switch = tag("label", tag("input", type="checkbox", data_more=name), f" {more}", class_="needs-script")
    tools = tag("span", switch if more else None, class_="tools")
    return tag("figure", tag("figcaption", tag("span", caption, id=titled), tools, class_="caption"), box)


def _head(head: Head) -> Html:
    return tag("th", head.title, scope="col", class_=_kinds(head), title=head.about or None)


def _kinds(head: Head, kind: str = "") -> str | None:
    return " ".join(word for word in ("n" if head.number else "", head.kind, kind) if word) or None


def _cell(cell: GridCell, head: Head, *, first: bool) -> Html:
    content = tag("strong", cell.shown) if cell.strong else cell.shown
    below = tag("span", cell.below, class_="below") if cell.below else None
    key = None if cell.key is None else f"{cell.key:.10g}" if isinstance(cell.key, float) else cell.key
    ends = None if cell.ends is None else " ".join(f"{end:.6g}" for end in cell.ends)
    attributes = {"class_": _kinds(head, cell.kind), "data_v": key, "data_ends": ends, "title": cell.about or None}
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


def scripted(name: str, title: str) -> Html:
    """A section filled by scripts."""
    return section(
        name,
        title,
        tag("noscript", tag("p", "This part is drawn by a script, which this browser does not run.", class_="note")),
        tag("div", id=f"{name}-panel"),
    )
