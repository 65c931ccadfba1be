"""Numbers on the command lines of the tools, checked when they are read. Loads no torch."""

from argparse import ArgumentTypeError
from collections.abc import Callable

from rlbench.bounds import LARGEST_SEED, MOST, Bound

LONGEST_SHOWN = 40
"""Characters of a wrong number that are shown."""


def whole(low: int, high: int = MOST) -> Callable[[str], int]:
    """An argparse type: a whole number of a range.

    Args:
        low, high: its ends, which belong to it.
    """
    bound = Bound(low, high)

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:  # no number, or one of thousands of digits
            shown = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
            raise ArgumentTypeError(f"{shown!r} must be a whole number of at least {low}") from None
        if wrong := bound.problem(number):
            raise ArgumentTypeError(f"{number} {wrong}")
        return number

    return read


count = whole(1)
"""A whole number from 1 on."""
index = whole(0)
"""A whole number from 0 on."""
seed = whole(0, LARGEST_SEED)
"""A seed that numpy and torch take."""
