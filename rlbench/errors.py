"""Errors that a user is meant to read: each names the file or key, the value, and what to do."""

import difflib


class BadInput(ValueError):
    """Input that the user can mend.

    Args:
        problems: one sentence a problem; all that could be found are reported at once.
    """

    def __init__(self, *problems: str):
        self.problems = list(problems)
        super().__init__("\n".join(problems))


class OutOfMemory(RuntimeError):
    """A run needed more memory than there is; the message says where, what was expected and which settings to lower."""


def nearest(name: str, known: list[str]) -> str:
    """Return " Did you mean 'x'?" for the closest of `known`, or "" where none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
