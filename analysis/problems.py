"""Problems of runs, for every room and command. Loads no large package."""

from dataclasses import dataclass
from unicodedata import category


@dataclass(frozen=True)
class Problem:
    """A problem of one run.

    Attributes:
        run: its directory, relative to the folder that was searched.
        reason: what is wrong, and what to do about it if anything.
        left_out: whether the run is excluded from all tables and curves.
    """

    run: str
    reason: str
    left_out: bool = True

    def __str__(self) -> str:
        return printable(f"{self.run}: {self.reason}")


CONTROL = ("Cc", "Cf", "Cs")
"""Unicode categories that control a terminal or cannot be shown: control, format, lone surrogate."""


def printable(text: str) -> str:
    """Escape control characters for a terminal, so that a name cannot move the cursor."""
    return "".join(
        letter.encode("unicode_escape").decode() if letter != "\n" and category(letter) in CONTROL else letter
        for letter in text
    )


class Unusable(Exception):
    """Raised for a run that cannot be used; the message says why."""
