"""Draw docs/img/rooms.svg: the rooms of rlbench, from the layers in pyproject.toml and the docstrings of the rooms.

Run: python docs/img/rooms.py
"""

import ast
import textwrap
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_name("rooms.svg")
WIDTH, ROW, GAP, LEFT, TOP = 900, 40, 8, 20, 20
INK, SOFT, EDGE, FILL = "#1f2933", "#52606d", "#7b8794", "#f0f4f8"
LETTERS = 104
"""Maximum characters of a subject beside a room's name; half as many if two rooms share a row."""


def layers() -> list[list[str]]:
    """Return rows of rooms from the top of the import order down. Rooms in one row do not import each other."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    order = next(each["layers"] for each in contracts if each["type"] == "layers")
    rows = [[name.strip().removeprefix("rlbench.") for name in layer.split("|")] for layer in reversed(order)]
    return [row for row in rows if (ROOT / "rlbench" / row[0]).is_dir()]


def subject(room: str) -> str:
    """Return the first sentence of a room's docstring."""
    text = (ROOT / "rlbench" / room / "__init__.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").split(".")[0].replace("\n", " ").replace("&", "&amp;")


def drawing() -> str:
    rows = layers()
    height = TOP + len(rows) * (ROW + GAP) + TOP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        'font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    for place, row in enumerate(rows):
        y = TOP + place * (ROW + GAP)
        width = (WIDTH - 2 * LEFT - 60 - GAP * (len(row) - 1)) / len(row)
        for column, room in enumerate(row):
            x = LEFT + column * (width + GAP)
            said = textwrap.shorten(subject(room), LETTERS // len(row) - 8 * (len(row) - 1), placeholder=" …")
            lines += [
                f'<rect x="{x:g}" y="{y}" width="{width:g}" height="{ROW}" rx="5" fill="{FILL}" stroke="{EDGE}"/>',
                f'<text x="{x + 12:g}" y="{y + 25}" font-size="14" font-weight="600" fill="{INK}">{room}</text>',
                f'<text x="{x + 100:g}" y="{y + 25}" font-size="12" fill="{SOFT}">{said}</text>',
            ]
    x, bottom = WIDTH - 40, height - TOP - GAP
    lines += [
        f'<path d="M {x} {bottom} V {TOP + 8} m -6 10 l 6 -10 l 6 10" fill="none" stroke="{EDGE}" stroke-width="2"/>',
        f'<text transform="translate({x + 20} {height / 2}) rotate(90)" font-size="12" fill="{SOFT}" '
        'text-anchor="middle">a room imports only from rooms above it</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
