"""Finding films in free text, where they stand as "Title (Year)" with nothing that marks where the title begins.

"You should watch Police Academy (1984)" could name five films. The beginning is found in this order:

1. the longest run of words before the year that is a film known, with that year, from a list of names;
2. where none is known, the run of title-like words before the year: capitalised words and numbers, small words ("of",
   "the") between them, back to the sentence's start; openers of a sentence ("Or", "Also", "Yes,") are left out;
3. of such readings, one that merely lengthens another, more frequent reading of the same year is taken for it, so
   that "Yes Black Hawk Down (2001)" adds no film where "Black Hawk Down (2001)" is read more often.

A year with nothing title-like before it names no film.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from rlbench.catalog import normalise
from rlbench.data.record import Film

_YEAR = re.compile(r"\(\s*(\d{4})\s*\)")
_FILM = re.compile(r"(.*\S)\s*\(\s*(\d{4})\s*\)\s*")
_WORD_START = re.compile(r"(?:(?<!\S)|(?<=[\"'(“‘,.!?;/]))\S")
_MAX_WORDS = 20
_SENTENCE_END = re.compile(r"[.?!]+[\"'”’)]*$")
_ABBREVIATION = re.compile(r"(?:\w\.)+|(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|Vol|Pt|vs|v)\.", re.IGNORECASE)
_SMALL_WORD = re.compile(
    r"a|an|and|as|at|by|de|del|der|des|die|du|el|for|from|in|into|la|le|les|of|on|or|the|to|und|upon|vs?\.?|with|[&–+-]",
    re.IGNORECASE,
)
_OPENER = re.compile(
    r"(?:absolutely|actually|ah|also|and|but|definitely|either|have|hello|hey|hi|hmm|is|like|loved|maybe|nope|oh|ok|okay"
    r"|or|perhaps|see|seen|so|sure|then|try|watched|well|yeah|yep),?|(?:no|yes),",
    re.IGNORECASE,
)


def split_film(name: str) -> Film | None:
    """Read a name of the form "Title (Year)", or return None."""
    match = _FILM.fullmatch(name)
    return (match[1].strip(), int(match[2])) if match else None


@dataclass(frozen=True)
class FilmNames:
    """The films that text is searched for.

    Attributes:
        spelling: (normalised title, year) to the title as the catalogue spells it.
        known, read, unread: how many mentions in the texts it was learned from name a film known from the list of
            names, a film read off the text, and no film.
    """

    spelling: dict[Film, str]
    known: int
    read: int
    unread: int

    @property
    def films(self) -> list[Film]:
        """All films in catalogue form, sorted."""
        return sorted((title, year) for (_, year), title in self.spelling.items())

    def find(self, text: str) -> list[Film]:
        """The films that a text names with a year, in catalogue form and order of mention, repeats included."""
        films = []
        for before, year in _mentions(text):
            key = _longest_known(before, year, self.spelling)
            if key is not None:
                films.append((self.spelling[key], year))
        return films


def learn_film_names(names: Iterable[str], texts: Iterable[str]) -> FilmNames:
    """Collect the films of a data set.

    Args:
        names: names of any kind; those of the form "Title (Year)" are films. A film spelt in several ways gets its
            most frequent spelling.
        texts: different texts; each is read for films that `names` lacks.
    """
    spellings: defaultdict[Film, Counter[str]] = defaultdict(Counter)
    for film in filter(None, map(split_film, names)):
        spellings[normalise(film[0]), film[1]][film[0]] += 1
    readings: defaultdict[Film, Counter[str]] = defaultdict(Counter)
    known = unread = 0
    for text in texts:
        for before, year in _mentions(text):
            title = None
            if _longest_known(before, year, spellings) is not None:
                known += 1
            elif (title := _read_title(before)) is None:
                unread += 1
            else:
                readings[normalise(title), year][title] += 1
    counts = {key: counter.total() for key, counter in readings.items()}
    spellings.update({key: counter for key, counter in readings.items() if not _lengthens(key, counts)})
    spelling = {key: max(sorted(counter), key=counter.__getitem__) for key, counter in spellings.items()}
    return FilmNames(spelling, known, sum(counts.values()), unread)


def _mentions(text: str) -> Iterator[tuple[str, int]]:
    """(text between the last mention and this one's year, year) for every "(dddd)"."""
    start = 0
    for match in _YEAR.finditer(text):
        yield text[start : match.start()].strip(), int(match[1])
        start = match.end()


def _endings(text: str) -> list[str]:
    """The text from each of its last words on, longest first."""
    return [text[match.start() :] for match in _WORD_START.finditer(text)][-_MAX_WORDS:]


def _longest_known(before: str, year: int, films: Container[Film]) -> Film | None:
    keys = ((normalise(ending), year) for ending in _endings(before))
    return next((key for key in keys if key in films), None)


def _read_title(before: str) -> str | None:
    """The run of title-like words that ends a text, or None."""
    words = before.split()
    begin = None
    for index in range(len(words) - 1, -1, -1):
        word = words[index].lstrip("\"'“‘(¡¿")
        is_last = index == len(words) - 1
        if not is_last and _SENTENCE_END.search(word) and not _ABBREVIATION.fullmatch(word):
            break
        if word[:1].isupper() or word[:1].isdigit():
            begin = index
        elif not _SMALL_WORD.fullmatch(word):
            break
    if begin is None:
        return None
    title = words[begin:]
    while len(title) > 1 and (_opens_sentence(title) or title[0].islower()):
        title = title[1:]
    return None if title[0].islower() else " ".join(title).lstrip("\"'“‘(¡¿")


def _opens_sentence(words: list[str]) -> bool:
    return bool(_OPENER.fullmatch(words[0])) or words[0].casefold() == words[1].casefold() == "the"


def _lengthens(key: Film, counts: dict[Film, int]) -> bool:
    """Whether a reading only puts words before a more frequent reading of the same year."""
    title, year = key
    return any(counts.get((ending, year), 0) > counts[key] for ending in _endings(title) if ending != title)
