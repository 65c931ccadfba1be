"""A table as text, and its three forms: Markdown, LaTeX and the terminal."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from analysis.render.numbers import NONE, Interval, bounds


@dataclass(frozen=True)
class Shown:
    """A cell as text.

    Attributes:
        value: the text.
        interval: what follows the value in small print, or "".
        bold: whether the value is bold.
        below: whether LaTeX and the terminal put the interval below the value instead of beside it.
        colour: colour of the value on the terminal, or "".
    """

    value: str
    interval: str = ""
    bold: bool = False
    below: bool = False
    colour: str = ""

    @property
    def text(self) -> str:
        """Value and interval on one line, without emphasis."""
        return f"{self.value} {self.interval}".strip()


NOTHING = Shown(NONE)

Cells = Sequence[str | Shown]
"""The cells of a row. A text is a cell without an interval."""


def estimate(one: Interval | None, show: Callable[[float], str], *, bold: bool = False, below: bool = False) -> Shown:
    """An estimate with its interval, if it has one; – for None."""
    return NOTHING if one is None else Shown(show(one.mean), bounds(one, show), bold, below)


@dataclass(frozen=True)
class Line:
    """A row as text.

    Attributes:
        names: the text cells on the left.
        cells: all other cells.
        group: heading above the row, or "".
        ruled: whether there is a rule above it.
    """

    names: tuple[str, ...]
    cells: tuple[Shown, ...]
    group: str = ""
    ruled: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table as text, with at least one row.

    Attributes:
        title: heading.
        header: headers of all columns.
        lines: rows.
        notes: notes below the table.
        key: one word, for a LaTeX label; "" for none.
        words: indices of text cells in `Line.cells`.
    """

    title: str
    header: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    key: str = ""
    words: frozenset[int] = frozenset()

    @property
    def names(self) -> int:
        """Number of name columns on the left."""
        return len(self.lines[0].names)

    def is_left(self, column: int) -> bool:
        """Whether a column is left-aligned."""
        return column < self.names or column - self.names in self.words


def sheet_of(
    title: str,
    header: Sequence[str],
    rows: Iterable[Cells],
    notes: Sequence[str] = (),
    *,
    names: int,
    words: Iterable[int] = (),
) -> Sheet:
    """A sheet from rows of cells, of which the first `names` are text.

    Raises:
        ValueError: if a row has more or fewer cells than the header.
    """
    lines = []
    for row in rows:
        cells = [cell if isinstance(cell, Shown) else Shown(cell) for cell in row]
        if len(cells) != len(header):
            raise ValueError(f"a row has {len(cells)} cells for {len(header)} columns: {row}")
        lines.append(Line(tuple(cell.text for cell in cells[:names]), tuple(cells[names:])))
    return Sheet(title, tuple(header), tuple(lines), tuple(notes), words=frozenset(words))


# Markdown.


def to_markdown(sheet: Sheet) -> str:
    """A heading, a GitHub table and notes. Columns are aligned in the source too."""
    rows = [list(sheet.header)]
    previous = ""
    for line in sheet.lines:
        if line.group != previous:
            rows.append([f"**{_no_bar(line.group)}**", *[""] * (len(sheet.header) - 1)])
            previous = line.group
        rows.append([*map(_no_bar, line.names), *map(_in_markdown, line.cells)])
    rows = [[no_markup(cell) for cell in row] for row in rows]
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    left = [sheet.is_left(i) for i in range(len(widths))]
    rules = [f":{'-' * (w - 1)}" if is_left else f"{'-' * (w - 1)}:" for w, is_left in zip(widths, left, strict=True)]
    text = [f"## {no_markup(sheet.title)}", ""]
    for row in (rows[0], rules, *rows[1:]):
        cells = [
            content.ljust(width) if is_left else content.rjust(width)
            for content, width, is_left in zip(row, widths, left, strict=True)
        ]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join([*text, "", *(f"- {no_markup(note)}" for note in sheet.notes), ""])


def no_markup(text: str) -> str:
    """Escape text for Markdown so that no name is read as HTML."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text)


def _in_markdown(cell: Shown) -> str:
    value = f"**{cell.value}**" if cell.bold else _no_bar(cell.value)
    return f"{value} {cell.interval}".strip()


def _no_bar(text: str) -> str:
    return text.replace("|", r"\|")


# LaTeX.


LATEX = {
    "\\": r"\textbackslash{}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "Δ": r"$\Delta$",
    "Γ": r"$\Gamma$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "ε": r"$\varepsilon$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "τ": r"$\tau$",
    "∞": r"$\infty$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\to$",
    "←": r"$\gets$",
    "↑": r"$\uparrow$",
    "…": r"\dots{}",
    "’": "'",
    "−": r"$-$",
    "–": "--",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
    "§": r"$^{\S}$",
    "¶": r"$^{\P}$",
}


def in_latex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(LATEX.get(character, character) for character in text)


def to_latex(sheet: Sheet) -> str:
    """A booktabs table with notes below, shrunk to the page if it is wider. Needs booktabs and graphicx."""
    body = "\n".join(latex_body(sheet, {}))
    lines = [
        "% Needs booktabs and graphicx.",
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{in_latex(sheet.title)}.}}",
        *([rf"\label{{tab:{sheet.key}}}"] if sheet.key else []),
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        f"{body}}}",
        r"\par\smallskip",
        r"\begin{minipage}{\textwidth}\footnotesize",
    ]
    lines += [in_latex(note) for note in sheet.notes]
    return "\n".join([*lines, r"\end{minipage}", r"\end{table*}", ""])


def latex_body(sheet: Sheet, wrapped: Mapping[int, float]) -> list[str]:
    """The tabular of a sheet, line by line.

    Args:
        wrapped: width in inches of the cells that are wrapped, by their place in `Line.cells`.
    """
    width = len(sheet.header)
    lines = [
        rf"\begin{{tabular}}{{@{{}}{''.join('l' if sheet.is_left(i) else 'r' for i in range(width))}@{{}}}}",
        r"\toprule",
        _latex_row(_latex_header(text, "l" if sheet.is_left(i) else "r") for i, text in enumerate(sheet.header)),
        r"\midrule",
    ]
    previous = ""
    for i, line in enumerate(sheet.lines):
        if line.group != previous:
            lines += [r"\midrule"] * (i > 0)
            lines.append(rf"\multicolumn{{{width}}}{{@{{}}l}}{{\textit{{{in_latex(line.group)}}}}} \\")
            previous = line.group
        elif line.ruled:
            lines.append(r"\addlinespace" if line.group else r"\midrule")
        cells = [_latex_value(cell, wrapped.get(place)) for place, cell in enumerate(line.cells)]
        lines.append(_latex_row([*map(in_latex, line.names), *cells]))
        if any(cell.interval and cell.below for cell in line.cells):
            lines.append(_latex_row([*[""] * len(line.names), *map(_latex_interval, line.cells)]) + "[2pt]")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _latex_header(text: str, side: str) -> str:
    """A header; its line breaks make a stack."""
    lines = [in_latex(line) for line in text.split("\n")]
    stack = r"\\".join(lines)
    return stack if len(lines) == 1 else rf"\shortstack[{side}]{{{stack}}}"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_value(cell: Shown, width: float | None = None) -> str:
    if width is not None:
        return rf"\parbox[t]{{{width:.2f}in}}{{\raggedright {in_latex(cell.value)}\strut}}"
    value = rf"\textbf{{{in_latex(cell.value)}}}" if cell.bold else in_latex(cell.value)
    return value if cell.below or not cell.interval else rf"{value} {{\scriptsize {in_latex(cell.interval)}}}"


def _latex_interval(cell: Shown) -> str:
    return rf"{{\scriptsize {in_latex(cell.interval)}}}" if cell.interval and cell.below else ""


# Terminal.


GAP = 2
"""Spaces between columns of the terminal table: padding of 1 plus the box's divider."""

NAME = 48
"""Maximum width reserved for the names of rows. Longer ones wrap, such as those of clones."""

WRAPPED = 24
"""Maximum width reserved for a column of words. Longer text wraps."""


def to_rich(sheet: Sheet, width: int) -> RenderableType:
    """A sheet for a terminal of `width` characters, split into several tables if needed. Each repeats the names."""
    rows = [(line.names, [line.group]) for line in sheet.lines]
    first = max(len(text) for names, group in rows for text in (sheet.header[0], names[0], *group))
    first = min(first, NAME)
    for i in range(1, sheet.names):
        first += GAP + max(len(text) for names, _ in rows for text in (sheet.header[i], names[i]))
    blocks: list[list[int]] = [[]]
    used = first
    for place, header in enumerate(sheet.header[sheet.names :]):
        cells = [line.cells[place] for line in sheet.lines]
        needs = max(len(text) for cell in cells for text in (header, *_pieces(cell)))
        needs = GAP + (min(needs, WRAPPED) if place in sheet.words else needs)
        if blocks[-1] and used + needs > width:
            blocks.append([])
            used = first
        blocks[-1].append(place)
        used += needs
    parts: list[RenderableType] = [Text(sheet.title, style="bold")]
    parts += [rich_table(sheet, block) for block in blocks]
    return Group(*parts, *(Text(note, style="dim") for note in sheet.notes))


def rich_table(sheet: Sheet, places: Sequence[int] | None = None) -> RichTable:
    """The rows of a sheet, without title and notes, as one table for a terminal.

    Args:
        places: indices of the shown cells in `Line.cells`; None for all, as a plain list without a rule.
    """
    plain = places is None
    shown = range(len(sheet.header) - sheet.names) if places is None else places
    drawn = RichTable(
        box=None if plain else box.SIMPLE_HEAD, padding=(0, GAP if plain else 1, 0, 0), pad_edge=False, show_edge=False
    )
    for header in sheet.header[: sheet.names]:
        drawn.add_column(header, overflow="fold")
    for place in shown:
        words = place in sheet.words
        drawn.add_column(sheet.header[sheet.names + place], justify="left" if words else "right", no_wrap=not words)
    previous = ""
    for line in sheet.lines:
        if line.group != previous or line.ruled:
            if drawn.row_count:
                drawn.add_section()
            if line.group != previous:
                drawn.add_row(Text(line.group, style="bold"))
            previous = line.group
        drawn.add_row(*map(Text, line.names), *(_rich_cell(line.cells[place]) for place in shown))
    return drawn


def _pieces(cell: Shown) -> tuple[str, ...]:
    """The texts that share a line in a cell of the terminal."""
    return (cell.value, cell.interval) if cell.below else (cell.text,)


def _rich_cell(cell: Shown) -> Text:
    text = Text(cell.value, style=f"{'bold ' if cell.bold else ''}{cell.colour}".strip())
    between = "\n" if cell.below else " "
    return text.append(f"{between}{cell.interval}", style="dim not bold") if cell.interval else text
