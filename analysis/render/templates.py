"""Widths and letter sizes of paper templates. Loads no large package."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlbench.base.errors import BadInput

PAGE_WIDTH = 6.9
"""Width of a figure without a template, in inches."""
NARROWEST, WIDEST = 2.0, 20.0
"""Limits of a width in inches."""


@dataclass(frozen=True)
class Template:
    """A paper template.

    Attributes:
        title: name in words.
        column, full: width of a column and of the text, in inches; equal in a template with one column.
        tables: LaTeX size commands for a table to their points, largest first.
        described: whether the class asks for `\\Description` in a figure.
        labels, small: letters of a figure's labels, and of its ticks and legend, in points.
    """

    title: str
    column: float
    full: float
    tables: Mapping[str, float]
    described: bool = False
    labels: float = 8.0
    small: float = 7.0


OF_TEN = {"small": 9.0, "footnotesize": 8.0, "scriptsize": 7.0}
"""Sizes of a class with a text of ten points."""

TEMPLATES = {
    "iclr": Template("ICLR", 5.5, 5.5, OF_TEN),
    "neurips": Template("NeurIPS", 5.5, 5.5, {"small": 9.0, "scriptsize": 7.0}),
    "icml": Template("ICML", 3.25, 6.75, OF_TEN),
    "acl": Template("ACL", 3.03, 6.3, {"small": 10.0, "footnotesize": 9.0, "scriptsize": 8.0}),
    "acm": Template("ACM sigconf", 3.33, 7.0, {"small": 8.0, "footnotesize": 7.0}, described=True),
    "ieee": Template("IEEE", 3.48, 7.13, OF_TEN),
}
"""Templates by the name that --template takes. A width is rounded down to a hundredth of an inch."""


@dataclass(frozen=True)
class Paper:
    """Where a figure or a table is to stand.

    Attributes:
        width: its width in inches.
        template: None without one; notes are then drawn into the figure, since there is no caption.
        wide: whether it spans both columns of its template.
        names: displayed names of algorithms and rewards.
    """

    width: float = PAGE_WIDTH
    template: Template | None = None
    wide: bool = False
    names: Mapping[str, str] = field(default_factory=dict)


PAGE = Paper()
"""A figure without a template."""


def make_paper(template: str | None, width: str | None, names: Mapping[str, str] | None = None) -> Paper:
    """The paper that options describe.

    Args:
        template: a name of `TEMPLATES`, or None.
        width: column, full (the default) or a number of inches.

    Raises:
        BadInput: if the width is none of these, or not within `NARROWEST` and `WIDEST`, or needs a template.
    """
    known = None if template is None else TEMPLATES[template]
    named = {} if known is None else {"column": known.column, "full": known.full}
    if width in (None, *named):
        inches = PAGE_WIDTH if known is None else named[width or "full"]
    elif width in ("column", "full"):
        raise BadInput(f"--width {width} needs a --template ({', '.join(TEMPLATES)}), or give a number of inches")
    else:
        inches = _inches(str(width))
    return Paper(inches, known, known is not None and inches > known.column, names or {})


def _inches(width: str) -> float:
    try:
        inches = float(width)
    except ValueError:
        inches = float("nan")
    if not NARROWEST <= inches <= WIDEST:
        raise BadInput(
            f"--width {width} is neither column nor full nor a number of inches from {NARROWEST:g} to {WIDEST:g}"
        )
    return inches
