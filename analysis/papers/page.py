"""Result of a comparison with the paper: tables, sentences, CSV and optionally a figure."""

from dataclasses import dataclass, field

from matplotlib.figure import Figure

from analysis.collection import Problem
from analysis.papers.sheets import Sheet


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
