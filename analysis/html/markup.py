"""HTML from nested calls. Text is escaped when it is added to an element, so callers cannot forget it."""

import html
import json
from typing import Any

VOID = frozenset({"br", "col", "hr", "input", "link", "meta", "wbr"})


class Html(str):
    """Markup. Any other string is text and gets escaped."""


Child = str | int | float | None


def tag(name: str, /, *children: "Child | list[Html]", **attributes: str | int | float | bool | None) -> Html:
    """One element.

    Args:
        name: element name.
        children: text is escaped, `Html` is not, None is skipped.
        attributes: `class_` becomes class, other underscores become hyphens. False and None omit an attribute; True
            writes only its name.
    """
    opened = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        opened += f" {key}" if value is True else f' {key}="{html.escape(str(value), quote=True)}"'
    return Html(f"<{opened}>") if name in VOID else Html(f"<{opened}>{join(*children)}</{name}>")


def join(*children: "Child | list[Html]") -> Html:
    """Concatenate children."""
    return Html("".join(_markup(child) for child in children))


def _markup(child: "Child | list[Html]") -> str:
    if child is None:
        return ""
    if isinstance(child, list):
        return "".join(_markup(one) for one in child)
    return child if isinstance(child, Html) else html.escape(str(child), quote=True)


def breakable(text: str) -> Html:
    """Text with line-break opportunities after each of . _ - / @ and ="""
    pieces, word = [], ""
    for character in text:
        word += character
        if character in "._-/@=":
            pieces += [join(word), Html("<wbr>")]
            word = ""
    return join(*pieces, word)


ESCAPED = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""JSON escapes for characters that must not occur in a script element. In JSON they occur only inside strings."""


def json_block(name: str, data: Any) -> Html:
    """Data for the page's scripts: `JSON.parse(document.getElementById(name).textContent)`.

    Raises:
        ValueError: if a number is NaN or infinite, which JSON cannot represent.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(ESCAPED)
    return Html(f'<script type="application/json" id="{name}">{text}</script>')
