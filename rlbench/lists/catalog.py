"""The item catalogue, and the matching policy by which a title and a year name one of its items. Loads no torch."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz, process

from rlbench.base.errors import BadInput, nearest
from rlbench.config.bounds import check_numbers
from rlbench.config.plugins import HINT, for_every_stage
from rlbench.config.schema import MatchingConfig
from rlbench.lists.items import Item, line_of, plural

NOT_FOUND = -1
"""Result of a look-up for an item or a title that the catalogue lacks."""
LAX_YEARS = 2
"""Largest difference in years for `Catalog.has_lax`, and for years that `Catalog.report` calls close."""
EXAMPLES = 3
"""Number of items of one kind that `Catalog.report` names. It counts all."""

_ARTICLES = ("the", "a", "an")
_LEADING_ARTICLES = re.compile(r"\s*(?:(?:the|an?)\s+)+(?=\S)", re.IGNORECASE)
_REMEMBERED = 100_000
_LONGEST_REMEMBERED = 200  # characters; bounds the memory, whatever a model writes
_LONGEST_SHOWN = 80


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf")


def _unless_blank(left: str, title: str) -> str:
    """The shortened title, or the original if only white space is left."""
    return left if left.strip() else title


def _nfkc(title: str) -> str:
    """Unicode NFKC: full-width letters, ligatures and composed letters each get one code."""
    return title if title.isascii() else unicodedata.normalize("NFKC", title)


def _spaces(title: str) -> str:
    """Collapses white space to single spaces and trims."""
    return " ".join(title.split())


def _accents(title: str) -> str:
    """Without combining marks: "Amélie" becomes "Amelie". Letters that Unicode does not decompose, such as ø, stay."""
    apart = unicodedata.normalize("NFD", title)
    bare = "".join(character for character in apart if not unicodedata.combining(character))
    return _unless_blank(unicodedata.normalize("NFC", bare), title)


def _punctuation(title: str) -> str:
    """Without punctuation and symbols (Unicode categories P and S): "Face/Off" becomes "FaceOff"; "$" alone stays."""
    return _unless_blank("".join(c for c in title if unicodedata.category(c)[0] not in "PS"), title)


def _articles(title: str) -> str:
    """Without leading the, a, an, and without the same after a last comma: "The Matrix" and "Matrix, The" become
    "Matrix".

    A last word without a comma before it is not an article: "Plan A" stays.
    """
    parts = title.split(",")
    while len(parts) > 1 and parts[-1].strip().casefold() in _ARTICLES:
        parts.pop()
    title = _unless_blank(",".join(parts), title)
    leading = _LEADING_ARTICLES.match(title)
    return title[leading.end() :] if leading else title


def _invisible(title: str) -> str:
    """Without control and format characters (Unicode categories Cc and Cf). A tab or newline becomes a space."""
    spaced = (" " if character.isspace() else character for character in title)
    return _unless_blank("".join(c for c in spaced if not _is_hidden(c)), title)


NORMALISERS: dict[str, Callable[[str], str]] = {
    "nfkc": _nfkc,
    "spaces": _spaces,
    "casefold": str.casefold,
    "accents": _accents,
    "punctuation": _punctuation,
    "articles": _articles,
    "invisible": _invisible,
}
"""Steps of a policy. Each is idempotent. A step that drops characters leaves a title unchanged if it would empty it.
Plugins add theirs with `normaliser`."""
Matcher = Callable[[str, "int | None", "Catalog"], int]
"""(title, year, catalogue) -> index of the item of the catalogue, or `NOT_FOUND`."""
MATCHERS: dict[str, Matcher] = {}
"""Look-ups of plugins, by name. `matching.rules` chooses one."""
Function = TypeVar("Function", bound=Callable[..., Any])


def normaliser(function: Callable[[str], str]) -> Callable[[str], str]:
    """Register a step of a matching policy under the function's name, for plugins.

    Raises:
        ValueError: there is a step of this name already.
    """
    return _entered(NORMALISERS, function)


def matcher(function: Matcher) -> Matcher:
    """Register a look-up under the function's name, for plugins. `matching.rules=NAME` chooses it.

    It replaces `Catalog.find` for entries that are not spelt exactly as an item of the catalogue. It should compare
    titles as `catalog.policy.normalise` gives them. Seen titles are still compared by the policy's steps.

    Raises:
        ValueError: there is a look-up or a rule of this name already.
    """
    return _entered(MATCHERS, function)


def _entered(registry: dict[str, Any], function: Function) -> Function:
    if function.__name__ in (*registry, "ours", "published"):
        raise ValueError(f"two matching rules or steps are called '{function.__name__}'")
    registry[function.__name__] = function
    for_every_stage(function)
    return function


@dataclass(frozen=True)
class MatchingPolicy:
    """When a title and a year name an item of the catalogue.

    Args:
        normalisers: names in `NORMALISERS`, applied in this order to both titles before they are compared.
        year_tolerance: largest difference in years.
        fuzzy_threshold: smallest `rapidfuzz.fuzz.ratio` (0 to 100) of two normalised titles that count as the same,
            used only if no title is equal. None: titles must be equal.
        matcher: name in `MATCHERS` of a look-up that replaces the rules above; "" for none.

    Raises:
        ValueError: an unknown normaliser, a negative tolerance, or a threshold that is not above 0 and at most 100.
    """

    normalisers: tuple[str, ...]
    year_tolerance: int = 0
    fuzzy_threshold: float | None = None
    matcher: str = ""

    def __post_init__(self) -> None:
        unknown = [name for name in self.normalisers if name not in NORMALISERS]
        if unknown:
            raise ValueError(f"unknown normalisers {', '.join(unknown)}; known: {', '.join(NORMALISERS)}")
        if self.year_tolerance < 0:
            raise ValueError(f"year_tolerance must be at least 0, got {self.year_tolerance}")
        if self.fuzzy_threshold is not None and not 0 < self.fuzzy_threshold <= 100:
            raise ValueError(f"fuzzy_threshold must be above 0 and at most 100, got {self.fuzzy_threshold}")

    def normalise(self, title: str) -> str:
        """The title in the form that this policy compares."""
        for name in self.normalisers:
            title = NORMALISERS[name](title)
        return title


CASEFOLD = MatchingPolicy(("nfkc", "spaces", "casefold"))
# Articles come before punctuation, which would remove the comma of "Matrix, The". Spaces come last, to clean up.
LOOSE = MatchingPolicy(("nfkc", "invisible", "casefold", "accents", "articles", "punctuation", "spaces"))


def normalise(title: str) -> str:
    """The title as `CASEFOLD` compares it: Unicode NFKC, white space collapsed and trimmed, case-folded."""
    return CASEFOLD.normalise(title)


class _Memo(dict[Any, Any]):
    """Cache of item or title look-ups: a repeated question costs one dict access. It is emptied when full."""

    def __init__(self, look_up: Callable[[Any], Any]):
        self._look_up = look_up

    def __missing__(self, key: Item | str) -> Any:
        found = self._look_up(key)
        if len(key if isinstance(key, str) else key[0]) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[key] = found
        return found


class Catalog:
    """Items in the order of their file, looked up by title and year under a matching policy.

    Args:
        items: (title, year) pairs, years as int. Without years, all of them are None.
        policy: when a title and a year name an item.

    Attributes:
        items: the C items in their order.
        policy: the matching policy.
        has_years: whether its items have years. If not, lists name titles only.
        title_ids: (C,) id of each item's normalised title; ids number titles by first appearance.
    """

    def __init__(self, items: Iterable[Item], policy: MatchingPolicy = CASEFOLD):
        self.items = list(items)
        self.policy = policy
        self.has_years = not self.items or self.items[0][1] is not None
        self._of_title: dict[str, dict[int | None, int]] = {}  # normalised title -> year -> first such item
        self._of_year: dict[int | None, dict[str, int]] = {}  # year -> normalised title -> first such item
        self._title_id: dict[str, int] = {}
        self._lax: dict[str, set[int | None]] = {}
        ids, first = [], []
        for index, (title, year) in enumerate(self.items):
            normal = policy.normalise(title)
            first.append(self._of_title.setdefault(normal, {}).setdefault(year, index))
            self._of_year.setdefault(year, {}).setdefault(normal, index)
            ids.append(self._title_id.setdefault(normal, len(self._title_id)))
            lax = (None,) if year is None else range(year - LAX_YEARS, year + LAX_YEARS + 1)
            self._lax.setdefault(_lower(title), set()).update(lax)
        self.title_ids: NDArray[np.int64] = np.array(ids, dtype=np.int64)
        self._found = _Memo(self._look_up)
        self._found_title = _Memo(self._look_up_title)
        self._found_and_lax = _Memo(self._look_up_and_lax)
        # Most items that a trained policy writes are spelt as in the catalogue. These are cached from the start.
        spelt = dict(zip(self.items[:_REMEMBERED], first, strict=False))
        self._found.update(spelt)
        self._found_and_lax.update({item: (index << 1) | True for item, index in spelt.items()})

    def __len__(self) -> int:
        return len(self.items)

    def __contains__(self, item: Item) -> bool:
        return self.find(*item) != NOT_FOUND

    def lines(self) -> list[str]:
        """Each item as a line of a list."""
        return [line_of(*item) for item in self.items]

    def with_policy(self, policy: MatchingPolicy) -> "Catalog":
        """The same items under another policy."""
        return Catalog(self.items, policy)

    def find(self, title: str, year: int | None) -> int:
        """Index of the item that title and year name, or `NOT_FOUND`.

        Items with the same normalised title come first. Only if none lies within the year tolerance, and the policy has
        a threshold, the title with the highest ratio is taken. Ties go to the nearest year, then the older item, then
        the first in the file.
        """
        return self._found[title, year]

    def find_all(self, items: Sequence[Item]) -> NDArray[np.int64]:
        """(n,) index of each item, or `NOT_FOUND`, as `find` gives it."""
        return np.fromiter(map(self._found.__getitem__, items), dtype=np.int64, count=len(items))

    def has_lax(self, title: str, year: int | None) -> bool:
        """Whether an item has this title in lower case and a year at most two off, whatever the policy.

        The published code counts catalogue membership in this way.
        """
        return year in self._lax.get(_lower(title), ())

    def find_all_and_lax(self, items: Sequence[Item]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """`find` and `has_lax` of many items for the cost of one look-up, (n,) each."""
        codes = np.fromiter(map(self._found_and_lax.__getitem__, items), dtype=np.int64, count=len(items))
        return codes >> 1, (codes & 1).astype(np.bool_)

    def find_titles(self, titles: Sequence[str]) -> NDArray[np.int64]:
        """(n,) id in `title_ids` of each title, by the same normalisers and threshold as `find`, or `NOT_FOUND`."""
        return np.fromiter(map(self._found_title.__getitem__, titles), dtype=np.int64, count=len(titles))

    def _look_up(self, item: Item) -> int:
        title, year = item
        if self.policy.matcher:
            return self._matched(title, year)
        normal = self.policy.normalise(title)
        same = self._of_title.get(normal, {})
        if year in same:
            return same[year]
        years = self._near(same, year)
        if years:
            return same[years[0]]
        if self.policy.fuzzy_threshold is None:
            return NOT_FOUND
        candidates = [item for near in self._near(self._of_year, year) for item in self._of_year[near].items()]
        best = self._most_similar(normal, [candidate for candidate, _ in candidates])
        return NOT_FOUND if best is None else candidates[best][1]

    def _matched(self, title: str, year: int | None) -> int:
        """The look-up of a plugin.

        Raises:
            BadInput: it returns no index of the catalogue.
        """
        found = MATCHERS[self.policy.matcher](title, year, self)
        if not isinstance(found, int | np.integer) or not NOT_FOUND <= found < len(self):
            raise BadInput(
                f"matching.rules = '{self.policy.matcher}': returned {found!r} for {_shown((title, year))}; it must "
                f"return an index below {len(self)}, or {NOT_FOUND}"
            )
        return int(found)

    def _look_up_and_lax(self, item: Item) -> int:
        """Both in one number: the index, and `has_lax` in the last bit."""
        return (self._look_up(item) << 1) | self.has_lax(*item)

    def _look_up_title(self, title: str) -> int:
        normal = self.policy.normalise(title)
        if normal in self._title_id or self.policy.fuzzy_threshold is None:
            return self._title_id.get(normal, NOT_FOUND)
        best = self._most_similar(normal, list(self._title_id))
        return NOT_FOUND if best is None else best

    def _near(self, years: Iterable[int | None], year: int | None) -> Sequence[int | None]:
        """The years within the tolerance, nearest first; of two equally near, the older first. None is near None."""
        if year is None:
            return [known for known in years if known is None]
        near = [known for known in years if known is not None and abs(known - year) <= self.policy.year_tolerance]
        return sorted(near, key=lambda known: (abs(known - year), known))

    def _most_similar(self, title: str, candidates: Sequence[str]) -> int | None:
        """Position of the most similar normalised title, the first if tied; None if below the threshold."""
        best = process.extractOne(title, candidates, scorer=fuzz.ratio, score_cutoff=self.policy.fuzzy_threshold)
        return None if best is None else best[2]

    def report(self, noun: str = "film") -> list[str]:
        """Oddities of the catalogue under its policy, one sentence for each kind found.

        Kinds: items equal to an earlier one, items of one title whose years are close, years without four digits,
        titles without a visible character.

        Args:
            noun: what an item is, for the sentences.
        """
        many = plural(noun)
        apart = max(self.policy.year_tolerance, LAX_YEARS)
        nameless = f"so no list can name these {many}; they stay in the catalogue"
        year = [item for item in self.items if item[1] is not None and not 1000 <= item[1] <= 9999]
        empty = [item for item in self.items if all(c.isspace() or _is_hidden(c) for c in item[0])]
        kinds = {
            f"{many} equal an earlier {noun} under the matching policy, so they can never be matched": self._repeats(),
            f"titles belong to several {many} at most {apart} years apart, which this tolerance cannot tell "
            "apart": self._close(apart),
            f"years do not have four digits, {nameless}": [_shown(item) for item in year],
            f"titles are empty, {nameless}": [_shown(item) for item in empty],
        }
        return [f"{len(named)} {kind}: {', '.join(named[:EXAMPLES])}" for kind, named in kinds.items() if named]

    def _repeats(self) -> list[str]:
        """Each item that equals an earlier one, with that one."""
        return [
            f"{_shown(item)} = {_shown(self.items[first])}"
            for index, item in enumerate(self.items)
            if (first := self.find(*item)) < index
        ]

    def _close(self, apart: int) -> list[str]:
        """For each title, the first two of its items that are at most `apart` years apart."""
        named = []
        for items in self._of_title.values():
            years = sorted(year for year in items if year is not None)
            close = [(older, newer) for older, newer in pairwise(years) if newer - older <= apart]
            named += [f"{_shown(self.items[items[a]])} and {_shown(self.items[items[b]])}" for a, b in close[:1]]
        return named


def _lower(title: str) -> str:
    """The title in the form that the published code compares."""
    return " ".join(title.lower().split())


def _shown(item: Item) -> str:
    """The item for a sentence: unprintable characters are escaped, long titles are cut."""
    title, year = item
    text = title[:_LONGEST_SHOWN] + "..." * (len(title) > _LONGEST_SHOWN)
    text = text if text.isprintable() else repr(text)
    if year is not None and abs(year) >= 10**9:
        return f"{text} ({hex(year)[:12]}...)"  # Python refuses decimals of 4,300 digits
    return line_of(text, year)


def check_matching(matching: MatchingConfig) -> list[str]:
    """Return one sentence for each problem of a matching policy."""
    problems = [
        f"matching.normalisers contains '{name}', which is unknown; known: {', '.join(NORMALISERS)}."
        f"{nearest(name, list(NORMALISERS))}{HINT}"
        for name in matching.normalisers
        if name not in NORMALISERS
    ]
    problems += check_numbers(asdict(matching), "matching.")
    own = (matching.normalisers, matching.year_tolerance, matching.fuzzy_threshold)
    if matching.rules == "published" and own != ([], 0, None):
        problems.append(
            "matching.rules = 'published' compares titles in its own way; leave normalisers empty, year_tolerance 0 "
            "and fuzzy_threshold null (matching=published sets all three)"
        )
    return problems
