"""Finds the films that an utterance names without marking them, with the help of an annotation that is often wrong.

Annotations of films in dialogues are often made by looking up every word of an utterance. So "It is good" is annotated
with the film It, "Emma Thompson" with Emma, and "A Clockwork Orange, I think" with nothing. An utterance names a title
if the words of the title stand in it, one after another, and one of these rules holds. Case, accents, punctuation,
spaces and a leading article do not count ("Avengers End Game" is Avengers: Endgame), and numbers may be digits, Roman
numerals or words up to ten.

1. The utterance is annotated with the title, and

   - the title has three words or more, or two of which the first is capitalised within a sentence;
   - or the words are capitalised, or a word such as "seen", "watch" or "about" stands before them, or a word such as
     "movie" or "is" behind them. One word alone is rejected as a part of something else if a capitalised word or a
     number stands next to it ("Bill Murray", "November 1", "Frozen 2"), or "a", "this" or "my" before it. At the start
     of a sentence, where every word is capitalised, it must be the whole sentence or stand before a word such as
     "movie" or "is". Pronouns, greetings and a few other words are films only before "movie".

2. Another utterance of the dialogue names the title under rule 1. Pronouns, greetings, and words after "a", "this" or
   "my" are left out.
3. The catalogue has the title, and it has three words or more, or two of which both are capitalised in the utterance,
   or a single capitalised one after a word such as "seen", "called" or "movie".

A title inside a longer one ("Toy Story" in "Toy Story 4"), or in front of a number ("John Wick 3"), is not named.
"""

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass

from rlbench.lists.catalog import LOOSE

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.?!]")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_IN_WORDS = ("one two three four five six seven eight nine ten", "i ii iii iv v vi vii viii ix x")
_NUMBERS = {
    word: str(number)
    for words in _IN_WORDS
    for number, word in enumerate(words.split(), 1)
    if len(word) > 1  # "X-Men" and "Ford v Ferrari" have letters, not numerals
}
_STRONG_CUES = _set("seen saw watch watched watching called recommend suggest movie film")
_CUES = _STRONG_CUES | _set("see about like liked love loved enjoy enjoyed try")
_NOUNS = _set("movie movies film films trailer series trilogy franchise")
_VERBS = _set("is was has had looks starring stars would seems sounds with")
_ARTICLES = _set("the a an")
_OWNERS = _set("a an this my your his her our their")
_MOST_WORDS = 14
"""Words of the longest title that is searched for."""
_SHORTEST = 6
"""Letters of the shortest title of several words that needs no annotation."""
_NO_FILM = _set(
    """alright awesome bye cool film goodbye great greetings happy hello her here hey hi him it mine movie nice no ok
    okay original perfect she he sure tell thanks that them this trailer us wow oscar oscars yes you yourself"""
)


@dataclass(frozen=True)
class _Word:
    """A word of an utterance: as written, as compared, whether it begins or ends a sentence, and ends a part of one."""

    text: str
    key: str
    begins: bool
    ends: bool
    breaks: bool

    @property
    def capital(self) -> bool:
        return self.text[:1].isupper()

    @property
    def is_capital_or_number(self) -> bool:
        return self.capital or self.key.isdigit()


def _key(word: str) -> str:
    key = word.casefold() if word.casefold() in _ARTICLES else LOOSE.normalise(word)
    return _NUMBERS.get(key, key)


def _words(text: str) -> list[_Word]:
    matches = list(_WORD.finditer(text))
    words = []
    for place, match in enumerate(matches):
        before = text[matches[place - 1].end() : match.start()] if place else "."
        after = text[match.end() : matches[place + 1].start()] if place + 1 < len(matches) else "."
        begins, ends = (_SENTENCE_END.search(between) is not None for between in (before, after))
        words.append(_Word(match[0], _key(match[0]), begins, ends, ends or "," in after or ";" in after))
    return words


def title_key(title: str) -> str:
    """A title as this module compares it: words without case, accents, article, punctuation and spaces."""
    keys = [_key(word) for word in _WORD.findall(title)]
    return "".join(keys[1:] if len(keys) > 1 and keys[0] in _ARTICLES else keys)


def named_titles(text: str, annotated: Container[str], elsewhere: Container[str], known: Container[str]) -> list[str]:
    """The titles that an utterance names, as keys, in their order, repeats included.

    Args:
        text: the utterance.
        annotated: keys (`title_key`) of the titles with which the utterance is annotated.
        elsewhere: keys of the titles that other utterances of the dialogue name under rule 1.
        known: keys of the titles of the catalogue.
    """
    words = _words(text)
    found: list[tuple[int, int, str]] = []
    for start in range(len(words)):
        key = ""
        for stop in range(start + 1, min(start + _MOST_WORDS, len(words)) + 1):
            key += words[stop - 1].key
            if (
                (key in annotated and _is_name(words, start, stop))
                or (key in elsewhere and _may_repeat(words, start, stop))
                or (key in known and _is_known_title(words, start, stop))
            ):
                found.append((start, stop, key))
    return [
        key
        for start, stop, key in found
        if not any(a <= start and stop <= b and (a, b) != (start, stop) for a, b, _ in found)
    ]


def _may_repeat(words: Sequence[_Word], start: int, stop: int) -> bool:
    """Rule 2."""
    owned = start > 0 and not words[start - 1].breaks and words[start - 1].key in _OWNERS
    return words[start].key not in _NO_FILM and not owned and not _followed_by_number(words, stop)


def _is_known_title(words: Sequence[_Word], start: int, stop: int) -> bool:
    """Rule 3."""
    if stop == start + 1:
        cue = start > 0 and not words[start - 1].breaks and words[start - 1].key in _STRONG_CUES
        return cue and words[start].capital and _is_name(words, start, stop)
    if _followed_by_number(words, stop) or sum(len(word.text) for word in words[start:stop]) < _SHORTEST:
        return False
    return stop > start + 2 or (words[start].capital and words[stop - 1].is_capital_or_number)


def _followed_by_number(words: Sequence[_Word], stop: int) -> bool:
    return stop < len(words) and not words[stop - 1].breaks and words[stop].key.isdigit()


def _is_name(words: Sequence[_Word], start: int, stop: int) -> bool:
    title = words[start:stop]
    if _followed_by_number(words, stop):
        return False
    if len(title) > 2:
        return True
    first = start - 1 if start and not title[0].begins and words[start - 1].key == "the" else start  # with its article
    before = words[first - 1] if first and not words[first - 1].breaks else None
    after = words[stop] if stop < len(words) and not title[-1].breaks else None
    noun = after is not None and after.key in _NOUNS
    verb = after is not None and after.key in _VERBS
    if len(title) == 2:
        cue = before is not None and before.key in _CUES
        inside = title[0].capital and not title[0].begins
        return cue or noun or verb or inside or all(word.is_capital_or_number for word in title)
    word = title[0]
    if word.key in _NO_FILM:
        return noun and word.capital and not word.begins
    if before is not None and before.key in _OWNERS:
        return False
    if after is not None and after.capital and after.text != "I" and not noun:
        return False
    if word.begins:
        return word.ends or noun or verb
    if word.capital:
        return before is None or not (before.capital and not before.begins and before.text != "I")
    return noun or (before is not None and before.key in _STRONG_CUES)
