"""CSV files that a spreadsheet can open safely."""

import csv
import io
import math
from collections.abc import Iterable, Sequence

from analysis.render.numbers import Interval

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that make a spreadsheet read a cell as a formula."""


def as_text(cell: str) -> str:
    """Prefix a CSV cell with an apostrophe if a spreadsheet would run it as a formula.

    Numbers keep their sign. The rule follows OWASP's advice on CSV injection.
    """
    if not cell.startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def csv_text(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A CSV.

    Raises:
        ValueError: if a line has more or fewer cells than the header.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for line in (header, *lines):
        if len(line) != len(header):
            raise ValueError(f"a line of a CSV has {len(line)} cells for {len(header)} columns: {line}")
        writer.writerow(map(as_text, line))
    return text.getvalue()


def csv_number(value: float | None) -> str:
    """A number with six decimals; "" if there is none."""
    return "" if value is None or math.isnan(value) else f"{value:.6f}"


def csv_interval(one: Interval | None) -> list[str]:
    """Mean, lower and upper end of an estimate; "" for a number that does not exist."""
    return [csv_number(value) for value in ((one.mean, one.low, one.high) if one is not None else (None,) * 3)]


def csv_p(p: float | None) -> str:
    """p with six significant digits; "" if there is none."""
    return "" if p is None else f"{p:.6g}"
