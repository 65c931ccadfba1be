"""What a comparison with the paper comes to: tables, lines, plain numbers and perhaps a figure."""

from dataclasses import dataclass, field

from matplotlib.figure import Figure

from analysis.collect import Problem
from analysis.reproduction.sheets import Sheet


@dataclass(frozen=True)
class Page:
    """Everything that is shown and written.

    Attributes:
        short: tables for the terminal.
        full: tables for files.
        csv: plain numbers.
        lines: sentences, such as how many verdicts there are of each kind.
        problems: of runs.
        figure: of a figure; else None.
    """

    short: list[Sheet]
    full: list[Sheet]
    csv: str
    lines: list[str]
    problems: list[Problem] = field(default_factory=list)
    figure: Figure | None = None
