"""Result of a comparison with the paper: tables, sentences, CSV and optionally a figure."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text

from analysis.command import say, write_texts
from analysis.figures.style import save
from analysis.problems import Problem
from analysis.render import numbers
from analysis.render.sheet import Sheet, to_latex, to_markdown, to_rich
from rlbench.base.files import new_folder

COMMAND = "Command"
"""Header of a last column with commands. The terminal prints them below the table; LaTeX omits the table."""

DIGITS = 4
"""Number of decimals, as in the paper."""

number = partial(numbers.share, digits=DIGITS)
signed = partial(numbers.signed, digits=DIGITS)


def metric_name(metric: str) -> str:
    """R@5, N@20, as in the paper's tables."""
    kind, k = metric.split("@")
    return f"{'R' if kind == 'recall' else 'N'}@{k}"


@dataclass(frozen=True)
class Page:
    """Everything that is shown and written.

    Attributes:
        short: tables for the terminal.
        full: tables for files.
        csv: plain numbers.
        lines: sentences, such as the number of verdicts of each kind.
        problems: problems of runs.
        figure: the plot for a figure of the paper, or None.
    """

    short: list[Sheet]
    full: list[Sheet]
    csv: str
    lines: list[str]
    problems: list[Problem] = field(default_factory=list)
    figure: Figure | None = None


def show(console: Console, heading: str, page: Page) -> None:
    """Print a page."""
    console.print(Text(heading, style="bold"))
    for sheet in page.short:
        whole: list[str] = []  # lines that are not wrapped, so that they can be copied
        if COMMAND in sheet.header:
            whole = [*(f"  {line.cells[-1].text}" for line in sheet.lines), *sheet.notes]
            lines = tuple(replace(line, cells=line.cells[:-1]) for line in sheet.lines)
            sheet = replace(sheet, header=sheet.header[:-1], lines=lines, notes=())
        console.print(to_rich(sheet, console.width))
        for text in whole:
            say(console, text)
        console.print()
    for text in page.lines:
        console.print(text, markup=False, highlight=False)


def write(page: Page, heading: str, path: Path) -> list[Path]:
    """Write the page as Markdown, CSV, LaTeX and figures.

    Args:
        path: path of the files without their suffix.

    Returns:
        the files written.
    """
    new_folder(path.parent, "--out")
    parts = [f"# {heading}", "\n".join(f"- {line}" for line in page.lines), *map(to_markdown, page.full)]
    tables = [replace(sheet, title=f"{heading}: {sheet.title}") for sheet in page.full if COMMAND not in sheet.header]
    texts = {
        "md": "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n",
        "csv": page.csv,
        "tex": "\n".join(map(to_latex, tables)),
    }
    written = write_texts(path.parent, {f"{path.name}.{suffix}": text for suffix, text in texts.items()})
    return [*written, *(save(page.figure, path) if page.figure is not None else [])]
