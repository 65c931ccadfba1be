"""Finds films in free text, written as "Title (Year)" with nothing that marks where the title begins.

"You should watch Police Academy (1984)" could name five films. The beginning is found in this order:

1. A known film: the longest run of words before the year that a list of names contains with that year.
2. A reading, if none is known: the run of title-like words before the year, back to the start of the sentence.
   Title-like are capitalised words and numbers, and small words ("of", "the") between them. Words that open a sentence
   ("Or", "Also", "Yes,", "It's") are left out.
3. A reading may be longer than the title. Words before a possible beginning belong to the title only if the longer
   title is in the list of names (with any year or none), or has strictly more support than the shorter one:

   - The shorter title is read with the same year elsewhere ("Yes Black Hawk Down (2001)").
   - Several readings of the year end in the same three words or more ("Mars 2036 Origin Unknown (2018)" and "In 2036
     Origin Unknown (2018)").
   - A word joins two films ("The Fifth Element and John Carter (2012)"): the part before it, or after it, is a separate
     title elsewhere, or both begin with the same word ("Evil Dead or Evil Dead II (1987)"). Unless they do, both parts
     need two words or more: "The King and I (1999)" stays one film even if "The King" is another.

A year with nothing title-like before it names no film.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

from rlbench.data.record import Film
from rlbench.lists.catalog import normalise

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
_JOINS_FILMS = re.compile(r"and|or|&", re.IGNORECASE)
_JOINS_WORDS = re.compile(r"at|by|from|in|on|with", re.IGNORECASE)
_SHARED_WORDS = 3
"""Number of shared last words that make two readings of a year the same film. Two ("the Woman") are not enough."""
_OPENER = re.compile(
    r"(?:absolutely|actually|ah|also|and|but|definitely|either|have|hello|hey|hi|hmm|is|like|loved|maybe|nope|oh"
    r"|ok|okay|or|perhaps|see|seen|so|sure|then|try|watched|well|yeah|yep),?|(?:no|yes),",
    re.IGNORECASE,
)
_NAMES_IT = re.compile(r"(?:it|that|there)['’]s", re.IGNORECASE)
_AFTER_I = re.compile(
    r"(?:ai|am|can|could|did|do|does|dream|dreamed|hate|heart|know|like|love|married|never|once|only|remember|saw|see"
    r"|served|shot|spit|still|think|walk|walked|want|wanted|was|will|wish|wo)(?:n?['’]t)?",
    re.IGNORECASE,
)
"""Words that make a preceding "I" part of the title ("I Am Legend") instead of the sentence."""


def split_film(name: str) -> Film | None:
    """Read a name of the form "Title (Year)", or return None."""
    match = _FILM.fullmatch(name)
    return (match[1].strip(), int(match[2])) if match else None


@dataclass(frozen=True)
class FilmNames:
    """The films to search for in text.

    Attributes:
        spelling: (normalised title, year) to the title as the catalogue spells it.
        known, read, unread: number of mentions in the source texts that name a film from the list of names, that name a
            film read from the text, and that name no film.
    """

    spelling: dict[Film, str]
    known: int
    read: int
    unread: int

    @property
    def films(self) -> list[Film]:
        """All films in catalogue form, sorted."""
        return sorted((title, year) for (_, year), title in self.spelling.items())

    def preferred_to(self, other: "FilmNames") -> "FilmNames":
        """These films, plus those that only the other collection has, with the other's counts."""
        return FilmNames({**other.spelling, **self.spelling}, other.known, other.read, other.unread)

    def find(self, text: str) -> list[Film]:
        """The films that a text names with a year, in catalogue form, in order of mention, repeats included."""
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
        texts: different texts; each is searched for films that `names` lacks.
    """
    listed = list(names)
    spellings: defaultdict[Film, Counter[str]] = defaultdict(Counter)
    for film in filter(None, map(split_film, listed)):
        spellings[normalise(film[0]), film[1]][film[0]] += 1
    readings: Counter[Film] = Counter()  # as spelt
    known = unread = 0
    for text in texts:
        for before, year in _mentions(text):
            title = None
            if _longest_known(before, year, spellings) is not None:
                known += 1
            elif (title := _read_title(before)) is None:
                unread += 1
            else:
                readings[title, year] += 1
    dated = Counter(normalise(film[0]) for film in map(split_film, listed) if film)
    undated = Counter(normalise(name) for name in listed if not split_film(name))
    for (title, year), count in _shortened(readings, dated, undated).items():
        spellings[normalise(title), year][title] += count
    spelling = {key: max(sorted(counter), key=counter.__getitem__) for key, counter in spellings.items()}
    return FilmNames(spelling, known, readings.total(), unread)


def _mentions(text: str) -> Iterator[tuple[str, int]]:
    """(text between the previous mention and this one's year, year) for every "(dddd)"."""
    start = 0
    for match in _YEAR.finditer(text):
        yield text[start : match.start()].strip(), int(match[1])
        start = match.end()


def _endings(text: str) -> list[str]:
    """The text from each of its last words onwards, longest first."""
    return [text[match.start() :] for match in _WORD_START.finditer(text)][-_MAX_WORDS:]


def _longest_known(before: str, year: int, films: Container[Film]) -> Film | None:
    keys = ((normalise(ending), year) for ending in _endings(before))
    return next((key for key in keys if key in films), None)


def _read_title(before: str) -> str | None:
    """The run of title-like words at the end of a text, or None."""
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
        names_it = _NAMES_IT.fullmatch(title[0])
        title = title[1:]
        if names_it and _begins_title(title[0]):  # "It's Hello, Dolly!": the rest is the title
            break
    return None if title[0].islower() else " ".join(title).lstrip("\"'“‘(¡¿")


def _opens_sentence(words: list[str]) -> bool:
    first, second = words[0], words[1]
    if first == "I":
        return not _AFTER_I.fullmatch(second)
    if _NAMES_IT.fullmatch(first):
        return _begins_title(second)  # "It's a Wonderful Life" is a title
    return bool(_OPENER.fullmatch(first)) or first.casefold() == second.casefold() == "the"


def _shortened(readings: Mapping[Film, int], dated: Mapping[str, int], undated: Mapping[str, int]) -> Counter[Film]:
    """Readings without the words before the title, shortened until nothing changes.

    Args:
        readings: (title as spelt, year) to the number of readings.
        dated, undated: normalised title to its number of occurrences in the list of names, with and without a year.
    """
    films = Counter(readings)
    while True:
        support = _Support(films, dated, undated)
        changed: Counter[Film] = Counter()
        for film, count in films.items():
            changed[support.without_lead(film), film[1]] += count
        if changed == films:
            return films
        films = changed


class _Support:
    """How often titles occur, as listed names and as readings.

    Args:
        films, dated, undated: as in `_shortened`.
    """

    def __init__(self, films: Mapping[Film, int], dated: Mapping[str, int], undated: Mapping[str, int]):
        self.dated, self.undated = dated, undated
        self.read: Counter[Film] = Counter()
        """Readings by normalised title and year."""
        self.of_title: Counter[str] = Counter()
        """Readings by normalised title alone."""
        self.parts: defaultdict[str, set[Film]] = defaultdict(set)
        """Readings that have this normalised title next to a join: before "and", or after "in"."""
        self.ending: defaultdict[Film, set[Film]] = defaultdict(set)
        """Readings of a year that end in these normalised words."""
        for (title, year), count in films.items():
            key = normalise(title), year
            self.read[key] += count
            self.of_title[key[0]] += count
            words = title.split()
            for start in range(len(words) - _SHARED_WORDS + 1):
                self.ending[normalise(" ".join(words[start:])), year].add(key)
            for before, after, joins_films in _parts(title):
                self.parts[normalise(before if joins_films else after)].add(key)

    def without_lead(self, film: Film) -> str:
        """The title of a reading without the words before it."""
        title, year = film
        key = normalise(title), year
        if key[0] in self.dated or key[0] in self.undated:
            return title
        shorter = [ending for ending in _endings(title) if ending != title]
        for ending in shorter:
            if self.read[normalise(ending), year] >= self.read[key]:
                return ending
        for ending in shorter:
            if _begins_title(ending) and len(self.ending[normalise(ending), year]) > len(self.ending[key]):
                return ending
        for before, after, joins_films in _parts(title):
            if joins_films and _begin_alike(before, after):
                return after
            if len(before.split()) > 1 and len(after.split()) > 1 and joins_films:
                split = self._support(before, key) + self.undated.get(normalise(before), 0)
            elif len(after.split()) > 1:
                split = 0
            else:
                continue
            if max(split, self._support(after, key)) >= self.read[key]:
                return after
        return title

    def _support(self, part: str, of: Film) -> int:
        """How often a part of a reading is a film elsewhere."""
        title = normalise(part)
        return self.dated.get(title, 0) + self.of_title[title] + len(self.parts[title] - {of})


def _begin_alike(first: str, second: str) -> bool:
    """Whether two titles begin with the same word: "Evil Dead or Evil Dead II" names two films."""
    words = [title.split()[0].casefold() for title in (first, second)]
    return words[0] == words[1] and not _SMALL_WORD.fullmatch(words[0])


def _begins_title(text: str) -> bool:
    return text[:1].isupper() or text[:1].isdigit()


def _parts(title: str) -> Iterator[tuple[str, str, bool]]:
    """(text before a join, text after it, whether it may join films) for each join inside a title.

    The text after it must look like the start of a title: "Butch Cassidy and the Sundance Kid" has no such join.
    """
    words = title.split()
    for place in range(1, len(words)):
        after = " ".join(words[place:])
        if not _begins_title(after):
            continue
        if words[place - 1].endswith(","):
            yield " ".join(words[:place]).removesuffix(","), after, True
        elif place > 1 and _JOINS_FILMS.fullmatch(words[place - 1]):
            yield " ".join(words[: place - 1]).removesuffix(","), after, True
        elif place > 1 and _JOINS_WORDS.fullmatch(words[place - 1]):
            yield " ".join(words[: place - 1]), after, False
