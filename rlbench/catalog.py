"""The film catalogue: normalised titles and years, and the look-up that decides what is in it."""

import re
import unicodedata
from collections.abc import Iterable

_SPACES = re.compile(r"\s+")


def normalise(title: str) -> str:
    """Return the title as compared: Unicode NFKC, case-folded, runs of white space made one space, trimmed."""
    return _SPACES.sub(" ", unicodedata.normalize("NFKC", title)).strip().casefold()


class Catalog:
    """A set of films, looked up by normalised title and exact year.

    Args:
        films: (title, year) pairs, years as int.
    """

    def __init__(self, films: Iterable[tuple[str, int]]):
        self.films = list(films)
        self._keys = {(normalise(title), year) for title, year in self.films}

    def __len__(self) -> int:
        return len(self.films)

    def __contains__(self, film: tuple[str, int]) -> bool:
        return (normalise(film[0]), film[1]) in self._keys
