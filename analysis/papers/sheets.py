"""Tables as text for Markdown, LaTeX and the terminal, and formatting of their numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from analysis import tables as of_tables
from analysis.tables import NOTHING, Cell, share
from rlbench.base.files import new_folder, write_text

COMMAND = "Command"
"""Header of a last column with commands. The terminal prints them below the table; LaTeX omits the table."""


@dataclass(frozen=True)
class Sheet:
    """A table as text.

    Attributes:
        title, notes: text above and below.
        header, lines: cells; the first `names` columns are text.
    """

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    names: int = 2


DIGITS = 4
"""Number of decimals, as in the paper."""


def number(value: float) -> str:
    """.0945, −.0945; – for NaN."""
    if math.isnan(value):
        return NOTHING.value
    rounded = round(value, DIGITS)
    return f"{'−' if rounded < 0 else ''}{share(abs(rounded), DIGITS)}"


def signed(value: float) -> str:
    """A number with its sign: +.0134, −.0134, .0000."""
    return of_tables.signed(value, DIGITS)


def between(cell: Cell, show: Callable[[float], str]) -> str:
    """A mean, with its interval if it has one."""
    return f"{show(cell.mean)} [{show(cell.low)}, {show(cell.high)}]" if cell.has_interval else show(cell.mean)


def percent(value: float) -> str:
    """A share as a signed percentage: +53.4 %, −53.4 %, 0.0 %."""
    rounded = round(100 * value, 1)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else ''}{abs(rounded):.1f} %"


def metric_name(metric: str) -> str:
    """R@5, N@20, as in the paper's tables."""
    kind, k = metric.split("@")
    return f"{'R' if kind == 'recall' else 'N'}@{k}"


def to_markdown(heading: str, parts: Sequence[Sheet], lines: Sequence[str]) -> str:
    """A Markdown page."""
    text = [f"# {heading}", "", *(f"- {line}" for line in lines), *([""] if lines else [])]
    for sheet in parts:
        rows = [sheet.header, *(tuple(cell.replace("|", "\\|") for cell in line) for line in sheet.lines)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(sheet.header))]
        rules = [f":{'-' * (w - 1)}" if i < sheet.names else f"{'-' * (w - 1)}:" for i, w in enumerate(widths)]
        text += [f"## {sheet.title}", ""]
        for row in (rows[0], rules, *rows[1:]):
            cells = [
                c.ljust(w) if i < sheet.names else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ]
            text.append(f"| {' | '.join(cells)} |")
        text += ["", *(f"- {note}" for note in sheet.notes), *([""] if sheet.notes else [])]
    return "\n".join(text).rstrip() + "\n"


LATEX = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "−": "$-$", "–": "--", "∞": r"$\infty$", ">": "$>$"}
LATEX |= {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "~": r"$\sim$", "≤": r"$\leq$", "→": r"$\to$"}


def in_latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def to_latex(heading: str, parts: Sequence[Sheet]) -> str:
    """A booktabs table for each sheet, except sheets of commands. Needs the packages booktabs and graphicx."""
    text = ["% Needs booktabs and graphicx."]
    for sheet in parts:
        if COMMAND in sheet.header:
            continue
        columns = "l" * sheet.names + "r" * (len(sheet.header) - sheet.names)
        text += [r"\begin{table*}[t]", r"\centering", rf"\caption{{{in_latex(f'{heading}: {sheet.title}')}.}}"]
        text += [r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule"]
        text += [" & ".join(map(in_latex, sheet.header)) + r" \\", r"\midrule"]
        text += [" & ".join(map(in_latex, line)) + r" \\" for line in sheet.lines]
        text += [r"\bottomrule", r"\end{tabular}}", r"\par\smallskip", r"\begin{minipage}{\textwidth}\footnotesize"]
        text += [*map(in_latex, sheet.notes), r"\end{minipage}", r"\end{table*}", ""]
    return "\n".join(text)


def show(console: Console, heading: str, parts: Sequence[Sheet], lines: Sequence[str]) -> None:
    """Print a page."""
    console.print(f"[bold]{escape(heading)}[/]")
    for sheet in parts:
        commands = COMMAND in sheet.header
        table = RichTable(title=sheet.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for index, header in enumerate(sheet.header[:-1] if commands else sheet.header):
            table.add_column(header, justify="left" if index < sheet.names else "right", overflow="fold")
        for line in sheet.lines:
            table.add_row(*map(escape, line[:-1] if commands else line))
        console.print(table)
        if commands:
            for line in sheet.lines:
                console.print(f"  {line[-1]}", markup=False, highlight=False, soft_wrap=True)
        for note in sheet.notes:
            console.print(note, markup=False, highlight=False, soft_wrap=commands)
        console.print()
    for text in lines:
        console.print(text, markup=False, highlight=False)


def write(path: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write one file per suffix. Returns their paths."""
    new_folder(path.parent, "--out")
    files = {path.with_name(f"{path.name}.{suffix}"): text for suffix, text in texts.items()}
    for file, text in files.items():
        write_text(file, text)
    return list(files)
