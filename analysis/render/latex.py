"""A table for a paper in LaTeX: as wide as its template allows, in the largest letters that fit.

Widths are measured with STIX, whose letters are as wide as those of Times.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from matplotlib.font_manager import FontProperties, findfont
from PIL import ImageFont

from analysis.render.sheet import Sheet, Shown, in_latex, latex_body
from analysis.render.templates import Paper

GAP = 4.0
"""Points from a column to the edge of the next: \\tabcolsep."""

LEAST_WORDS = 1.1
"""Inches that a column of words needs at least."""

SPARE = 0.97
"""Share of the width that is planned, since the letters of a template may be a little wider."""

INTERVALS = 7.0
"""Points of intervals, in \\scriptsize. Smaller classes have smaller ones."""

PLAIN = {"small": 9.0, "footnotesize": 8.0, "scriptsize": 7.0}
"""Sizes without a template."""


@dataclass(frozen=True)
class Plan:
    """How a sheet fits a width.

    Attributes:
        size: LaTeX size command.
        sheet: the sheet, its intervals below their values if that was needed.
        blocks: places of the cells in each block; every block repeats the names.
        words: width in inches of each column of words that is wrapped, by its place.
    """

    size: str
    sheet: Sheet
    blocks: tuple[tuple[int, ...], ...]
    words: Mapping[int, float]


def paper_latex(sheet: Sheet, paper: Paper) -> str:
    """A sheet as a LaTeX table for a paper; its notes follow the title in the caption. Needs booktabs."""
    kind = "table*" if paper.wide else "table"
    plan = plan_table(sheet, paper)
    caption = " ".join([f"{sheet.title}.", *sheet.notes])
    lines = [
        "% Needs booktabs.",
        rf"\begin{{{kind}}}[t]",
        rf"\caption{{{in_latex(caption)}}}",
        *([rf"\label{{tab:{sheet.key}}}"] if sheet.key else []),
        r"\centering",
        rf"\{plan.size}",
        rf"\setlength{{\tabcolsep}}{{{GAP:g}pt}}",
    ]
    for number, block in enumerate(plan.blocks):
        lines += [r"\par\medskip"] * (number > 0)
        lines += latex_body(
            part(plan.sheet, block),
            {block.index(place): width for place, width in plan.words.items() if place in block},
        )
    return "\n".join([*lines, rf"\end{{{kind}}}", ""])


def part(sheet: Sheet, places: Sequence[int]) -> Sheet:
    """The sheet with its names and the cells at some places only."""
    header = (*sheet.header[: sheet.names], *(sheet.header[sheet.names + place] for place in places))
    lines = tuple(replace(line, cells=tuple(line.cells[place] for place in places)) for line in sheet.lines)
    return replace(
        sheet, header=header, lines=lines, words=frozenset(i for i, p in enumerate(places) if p in sheet.words)
    )


def plan_table(sheet: Sheet, paper: Paper) -> Plan:
    """The largest letters with which the sheet fits; if it does not, the smallest, in several blocks."""
    sizes = paper.template.tables if paper.template is not None else PLAIN
    sheet = replace(sheet, header=(*sheet.header[: sheet.names], *map(_stacked, sheet.header[sheet.names :])))
    below = replace(sheet, lines=tuple(replace(line, cells=tuple(map(_below, line.cells))) for line in sheet.lines))
    everything = tuple(range(len(sheet.header) - sheet.names))
    for size, points in sizes.items():
        for form in (sheet, below):
            words = _wrapped(form, everything, points, paper.width * SPARE)
            if words is not None:
                return Plan(size, form, (everything,), words)
    size, points = list(sizes.items())[-1]
    blocks = tuple(_blocks(below, everything, points, paper.width * SPARE))
    found: dict[int, float] = {}
    for block in blocks:
        found |= _wrapped(below, block, points, paper.width * SPARE) or {}
    return Plan(size, below, blocks, found)


def _stacked(header: str) -> str:
    """A header of several words in two lines of about equal length."""
    breaks = [i for i, letter in enumerate(header) if letter == " "]
    middle = min(breaks, key=lambda i: abs(2 * i - len(header)), default=None)
    return header if middle is None else f"{header[:middle]}\n{header[middle + 1 :]}"


def _below(cell: Shown) -> Shown:
    return replace(cell, below=bool(cell.interval))


def _blocks(sheet: Sheet, places: Sequence[int], points: float, width: float) -> Iterator[tuple[int, ...]]:
    """Successive places that fit beside the names."""
    block: tuple[int, ...] = ()
    for place in places:
        if block and _wrapped(sheet, (*block, place), points, width) is None:
            yield block
            block = ()
        block = (*block, place)
    yield block


def _wrapped(sheet: Sheet, places: Sequence[int], points: float, width: float) -> dict[int, float] | None:
    """Width of each column of words that must be wrapped to fit; None if the columns cannot fit."""
    fixed = sum(max(inches(text, points) for text in _texts(sheet, i)) for i in range(sheet.names))
    fixed += 2 * GAP / 72 * (sheet.names + len(places) - 1)
    needs = {place: _needs(sheet, place, points) for place in places}
    fixed += sum(need for place, need in needs.items() if place not in sheet.words)
    words = {place: needs[place] for place in places if place in sheet.words}
    if fixed + sum(words.values()) <= width:
        return {}
    left = (width - fixed) / len(words) if words else 0.0
    return {place: left for place in words} if left >= LEAST_WORDS else None


def _texts(sheet: Sheet, column: int) -> list[str]:
    return [sheet.header[column], *(line.names[column] for line in sheet.lines)]


def _needs(sheet: Sheet, place: int, points: float) -> float:
    """Width of a column of cells in inches, unwrapped."""
    small = min(points, INTERVALS)
    found = [inches(line, points) for line in sheet.header[sheet.names + place].split("\n")]
    for line in sheet.lines:
        cell = line.cells[place]
        value, interval = inches(cell.value, points, bold=cell.bold), inches(cell.interval, small)
        found.append(max(value, interval) if cell.below else value + interval + 0.3 * points / 72 * bool(interval))
    return max(found)


def inches(text: str, points: float, *, bold: bool = False) -> float:
    """Width of a text in Times."""
    return float(_font(bold).getlength(text)) / 1_000 * points / 72


@cache
def _font(bold: bool) -> ImageFont.FreeTypeFont:
    file = findfont(FontProperties(family="STIXGeneral", weight="bold" if bold else "normal"))
    return ImageFont.truetype(file, 1_000)
