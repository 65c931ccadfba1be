"""Errors for users. Each names the file or key, the value, and what to do."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

KEYS_SHOWN = 3
"""Maximum number of keys in a suggestion."""


class BadInput(ValueError):
    """Input that the user can correct.

    Args:
        problems: one sentence per problem. All problems found are reported together.
        notices: what else was found in the same files, one sentence each. Reported with the problems.
    """

    def __init__(self, *problems: str, notices: Iterable[str] = ()):
        self.problems, self.notices = list(problems), list(notices)
        super().__init__("\n".join(problems))


@contextmanager
def noting(notices: Iterable[str]) -> Iterator[None]:
    """Add notices to bad input that is found inside."""
    try:
        yield
    except BadInput as error:
        error.notices[:0] = notices
        raise


@contextmanager
def also(problems: Iterable[str]) -> Iterator[None]:
    """Add problems that were found before to bad input that is found inside, as its first ones."""
    try:
        yield
    except BadInput as error:
        raise BadInput(*problems, *error.problems, notices=error.notices) from error


class OutOfMemory(RuntimeError):
    """A run ran out of memory. The message says where, what was expected, and which settings to lower."""


class Unavailable(RuntimeError):
    """A model that a run asks does not answer any more. The message says which one, why, and how to go on."""


def nearest_key(name: str, known: list[str]) -> str:
    """Return " Did you mean 'a.b.c'?" for the closest dotted key, or "" if none is close.

    Keys that end in the name come first, then keys with the same last part, then keys with a similar last part.
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
    """Return " Did you mean 'x'?" for the closest of `known`, or "" if none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
