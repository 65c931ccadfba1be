"""Integer types for the tools' command lines, with range checks. Loads no torch."""

from argparse import ArgumentTypeError
from collections.abc import Callable

from rlbench.config.bounds import LARGEST_SEED, MOST, Bound

LONGEST_SHOWN = 40
"""Maximum number of characters of a wrong number to show in an error."""


def whole(low: int, high: int = MOST) -> Callable[[str], int]:
    """Return an argparse type for an integer between `low` and `high`, both inclusive."""
    bound = Bound(low, high)

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:  # not a number, or one with thousands of digits
            shown = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
            raise ArgumentTypeError(f"{shown!r} must be a whole number of at least {low}") from None
        if wrong := bound.problem(number):
            raise ArgumentTypeError(f"{number} {wrong}")
        return number

    return read


count = whole(1)
"""An integer of at least 1."""
index = whole(0)
"""An integer of at least 0."""
seed = whole(0, LARGEST_SEED)
"""A seed in the range that numpy and torch accept."""
