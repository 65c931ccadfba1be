"""Formatting of numbers and metric names."""

import math

TITLES = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "map": "MAP"}

DIGITS = 3


def share(value: float, digits: int = DIGITS) -> str:
    """A number without its leading zero: .183 for 0.1834, 1.000 for 1."""
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0.") else text


def at_least(size: float, digits: int = DIGITS) -> str:
    """A positive size as `share`, or "less than .001" if it would round to .000."""
    smallest = 10.0**-digits
    return f"less than {share(smallest, digits)}" if 0 < size < smallest / 2 else share(size, digits)


def signed(value: float, digits: int = DIGITS) -> str:
    """A number with its sign: +.035, −.035, .000."""
    rounded = round(value, digits)
    return share(0.0, digits) if rounded == 0 else f"{'+' if value > 0 else '−'}{share(abs(rounded), digits)}"


def chance(p: float | None) -> str:
    """p as .034, or <.001; – if there is none."""
    if p is None or math.isnan(p):
        return "–"
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


def metric_title(metric: str) -> str:
    """NDCG@10 for ndcg@10. A metric without a title keeps its name."""
    name, at, k = metric.partition("@")
    return f"{TITLES.get(name, name)}{at}{k}"
