"""Thresholds of a metric, as a user writes them. Loads no large package, so that a bad one is refused at once."""

import math

from rlbench.base.errors import BadInput

FINAL = "final"
"""The threshold at the baseline's final value."""


def threshold_value(asked: str, start: float, final: float) -> float:
    """Value of a threshold from the user's spelling.

    Raises:
        BadInput: if it is not a valid threshold.
    """
    if asked == FINAL:
        return final
    try:
        number = float(asked.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"--threshold {asked}: give {FINAL}, a share of the way like 50%, or a number like 0.13")
    return start + number / 100 * (final - start) if asked.endswith("%") else number
