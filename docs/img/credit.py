"""Draw docs/img/credit.svg: who receives credit under GRPO, GSPO and Rank-GRPO. Run: python docs/img/credit.py"""

from collections.abc import Iterator
from pathlib import Path

FILMS = ("The Matrix (1999)", "Heat (1995)", "Alien (1979)", "Up (2009)")
HITS = (True, False, True, False)
ROW, TOP, LEFT = 44, 96, 330
PANEL, GAP = 190, 24
INK, SOFT, GOOD, BAD, LIST = "#1f2933", "#667785", "#2a7f62", "#b4433a", "#8a6d1f"


def text(x: float, y: float, content: str, *, size: int = 15, fill: str = INK, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}"{weight}>{content}</text>'


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{colour}" fill-opacity=".14" '
        f'stroke="{colour}" stroke-width="1.5"/>'
    )


def tokens(x: float, y: float, colour: str) -> Iterator[str]:
    """Five tokens of a line, each with its own ratio."""
    for k in range(5):
        yield box(x + k * 21, y, 17, 22, colour)


def panel(number: int, title: str, rows: tuple[str, str]) -> Iterator[str]:
    x = LEFT + number * (PANEL + GAP)
    yield text(x, 34, title, size=18, bold=True)
    for k, row in enumerate(rows):
        yield text(x, 56 + k * 18, row, size=13, fill=SOFT)


def drawing() -> Iterator[str]:
    yield text(24, 34, "A ranked list", size=18, bold=True)
    yield text(24, 56, "ranks 1 and 3 are hits", size=13, fill=SOFT)
    for k, (film, hit) in enumerate(zip(FILMS, HITS, strict=True)):
        y = TOP + k * ROW
        yield text(24, y + 21, f"{k + 1}", fill=SOFT)
        yield text(48, y + 21, film)
        yield text(268, y + 21, "hit" if hit else "miss", fill=GOOD if hit else BAD, bold=True)
    height = ROW * len(FILMS) - 14
    yield from panel(0, "GRPO", ("one advantage for the list", "one ratio for each token"))
    yield from panel(1, "GSPO", ("one advantage for the list", "one ratio for the list"))
    yield from panel(2, "Rank-GRPO", ("one advantage for each rank", "one ratio for each rank"))
    for k, hit in enumerate(HITS):
        y = TOP + k * ROW
        yield from tokens(LEFT, y + 4, LIST)
        yield box(LEFT + 2 * (PANEL + GAP), y, 105, 30, GOOD if hit else BAD)
        yield text(LEFT + 2 * (PANEL + GAP) + 117, y + 21, "up" if hit else "down", size=14, fill=GOOD if hit else BAD)
    yield box(LEFT + PANEL + GAP, TOP, 105, height, LIST)
    for number in (0, 1):
        x = LEFT + number * (PANEL + GAP) + 113
        yield f'<path d="M {x} {TOP} h 7 v {height} h -7" fill="none" stroke="{LIST}" stroke-width="1.5"/>'
        yield text(x + 14, TOP + height / 2, "all up,", size=14, fill=LIST)
        yield text(x + 14, TOP + height / 2 + 18, "or all down", size=14, fill=LIST)


def main() -> None:
    width, height = LEFT + 3 * PANEL + 2 * GAP, TOP + ROW * len(FILMS) + 6
    style = 'font-family="Helvetica, Arial, sans-serif"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" {style}>',
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        *drawing(),
        "</svg>",
    ]
    Path(__file__).with_name("credit.svg").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
