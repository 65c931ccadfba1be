"""Errors that a user is meant to read: each names the file or key, the value, and what to do."""

import difflib

KEYS_SHOWN = 3
"""Most keys that a suggestion names."""


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


def nearest_key(name: str, known: list[str]) -> str:
    """Return " Did you mean 'a.b.c'?" for the closest of dotted keys, or "" where none is close.

    A key that ends in the name comes first, whatever stands before it; then one whose last part is close to the name's.
    """
    last = name.rsplit(".", 1)[-1]
    ending = [key for key in known if key == name or key.endswith(f".{name}")]
    ending = ending or [key for key in known if key.rsplit(".", 1)[-1] == last]
    if not ending:
        close = difflib.get_close_matches(last, [key.rsplit(".", 1)[-1] for key in known], n=1, cutoff=0.6)
        ending = [key for key in known if close and key.rsplit(".", 1)[-1] == close[0]]
    shown = " or ".join(f"'{key}'" for key in ending[:KEYS_SHOWN])
    return f" Did you mean {shown}?" if shown else ""


def nearest(name: str, known: list[str]) -> str:
    """Return " Did you mean 'x'?" for the closest of `known`, or "" where none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
