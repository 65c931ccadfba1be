"""Formatting of numbers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

DIGITS = 3

NONE = "–"
"""What is shown for a number that does not exist."""


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval.

    Attributes:
        mean: a mean, an interquartile mean, a difference, a ratio or a probability.
        low, high: ends of the interval, or NaN without one.
        p: p-value for no difference, corrected where its owner says so; None if not tested.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    p: float | None = None

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)


def bounds(one: Interval, show: Callable[[float], str]) -> str:
    """The ends of an interval: [.102, .131]; "" without one."""
    return f"[{show(one.low)}, {show(one.high)}]" if one.has_interval else ""


def share(value: float, digits: int = DIGITS) -> str:
    """A number without its leading zero: .183 for 0.1834, 1.000 for 1, −.024 for -0.024; – for NaN."""
    if math.isnan(value):
        return NONE
    rounded = round(value, digits)
    text = f"{abs(rounded):.{digits}f}"
    return f"{'−' if rounded < 0 else ''}{text[1:] if text.startswith('0.') else text}"


def at_least(size: float, digits: int = DIGITS) -> str:
    """A positive size as `share`, or "less than .001" if it would round to .000."""
    smallest = 10.0**-digits
    return f"less than {share(smallest, digits)}" if 0 < size < smallest / 2 else share(size, digits)


def signed(value: float, digits: int = DIGITS) -> str:
    """A number with its sign: +.035, −.035, .000."""
    return f"{'+' if round(value, digits) > 0 else ''}{share(value, digits)}"


def signed_percent(value: float) -> str:
    """A share as a percentage with its sign: +53.4 %, −53.4 %, 0.0 %."""
    rounded = round(100 * value, 1)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else ''}{abs(rounded):.1f} %"


def chance(p: float | None) -> str:
    """p as .034, or <.001 if it would round to .000; – if there is none."""
    if p is None or math.isnan(p):
        return NONE
    return "<.001" if p < 0.0005 else share(p)


def count(value: float) -> str:
    """A count as 812, 12.3 k or 4.56 M: three significant digits, or all digits below 1,000."""
    units = iter(("", " k", " M", " G"))
    unit = next(units)
    while value >= 999.5 and unit != " G":
        value, unit = value / 1_000, next(units)
    digits = 0 if not unit or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{unit}"


def many(number: int, noun: str) -> str:
    """A number with its noun: 1 seed, 1,200 samples."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def counted(number: int, noun: str) -> str:
    """A number with its noun, for sentences: one run, 2 runs."""
    return f"one {noun}" if number == 1 else f"{number:,} {noun}s"


def words(parts: Sequence[str], last: str = "and") -> str:
    """Join parts: a; a and b; a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}" if parts else ""


def first_words(parts: Sequence[str], most: int, noun: str = "") -> str:
    """The first parts, joined, and the number of further ones: a, b and 3 more; with a noun: a, b and 3 more runs."""
    left = len(parts) - most
    if left <= 0:
        return words(parts)
    return words([*parts[:most], counted(left, f"more {noun}") if noun else f"{left} more"])


def percent(value: float) -> str:
    """12 % for .12, with a non-breaking space."""
    return f"{100 * value:.0f}\u00a0%"
