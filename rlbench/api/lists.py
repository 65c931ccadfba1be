"""Lists from anywhere: how a text is read as a list, and the metrics of lists. Loads no torch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import yaml

from rlbench.api.arguments import named_arguments, one_of, out_of_order
from rlbench.base.errors import BadInput
from rlbench.base.program import CONF
from rlbench.base.records import is_finite
from rlbench.config.schema import MatchingConfig
from rlbench.data.record import Record
from rlbench.evaluation.given import ENDED, text_of
from rlbench.evaluation.judging import Answer, Criteria, judge_answers
from rlbench.lists.catalog import Catalog, check_matching
from rlbench.lists.entries import ParsedText, parse_line, parse_text
from rlbench.lists.exact import CatalogReader
from rlbench.lists.item_facts import ItemFacts
from rlbench.lists.items import LINE_FORMATS, TITLES, WITH_YEARS, Item
from rlbench.lists.relevance import make_judge
from rlbench.lists.titles import parse_titles

ItemLike: TypeAlias = "str | tuple[str, int | None] | Sequence[Any]"
"""An item: its line, such as "Heat (1995)", or (title, year), with the year None in lists without years."""
ListLike: TypeAlias = "str | Sequence[ItemLike]"
"""A list: a text with one item per line, or its items."""

CUTOFFS = (5, 10, 15, 20)
_NEEDS_MODEL = ("eos", "completion_tokens")
_NEEDS_TRAINING = ("popularity", "novelty")
_NEEDS_CATALOG = ("in_catalog", "in_catalog_lax", "coverage", "gini")
_NO_METRICS = ("context_id", "sample", "cluster_id", "text", "titles", "years", "confidence", "finished")


@dataclass(frozen=True)
class Dropped:
    """A line of a text that is not one of the list's items.

    Attributes:
        line: its number, from 0.
        text: the line.
        reason: "not an entry", or "past rank N".
    """

    line: int
    text: str
    reason: str


@dataclass(frozen=True)
class ParsedList:
    """A text as the reader of runs reads it.

    Attributes:
        items: (title, year) of each rank, from rank 1; the year is None in lists without years.
        lines: the line of each item, from 0.
        dropped: the other lines that are not blank, in order.
    """

    items: list[Item]
    lines: list[int]
    dropped: list[Dropped]


@named_arguments
def parse(
    text: str,
    n: int | None = None,
    line_format: str = WITH_YEARS,
    catalog: "Catalog | Iterable[ItemLike] | None" = None,
) -> ParsedList:
    """Read a text as a ranked list, as runs do (docs/metrics.md, "Entries").

    Args:
        text: what a model has written.
        n: N, the number of ranks; None keeps every entry.
        line_format: "{title} ({year})", or "{title}" for items without years.
        catalog: the items that may be named. A line that is exactly one of them is that item, also if it looks like
            numbering or a greeting. Its items must fit the line format.

    Raises:
        BadInput: an argument is invalid.

    Example:
        >>> rlbench.parse("Sure, here you go:\\n1. Heat (1995)\\n2. Alien (1979)", n=1).items
        [('Heat', 1995)]
    """
    if not isinstance(text, str):
        raise BadInput(f"text = {text!r:.80} must be a text")
    has_years = one_of("line_format", line_format, LINE_FORMATS) == WITH_YEARS
    if n is not None and (type(n) is not int or n < 1):
        raise BadInput(f"n = {n!r} must be a whole number of at least 1")
    plain = parse_text if has_years else parse_titles
    read = plain(text) if catalog is None else CatalogReader(_catalog(catalog, has_years)).text(text)
    lines = text.split("\n")
    kept = len(read.items) if n is None else min(n, len(read.items))
    past = set(read.lines[kept:])
    entries = {*read.lines}
    dropped = [
        Dropped(place, line, f"past rank {n}" if place in past else "not an entry")
        for place, line in enumerate(lines)
        if line.strip() and (place in past or place not in entries)
    ]
    return ParsedList(list(read.items[:kept]), list(read.lines[:kept]), dropped)


class Metrics(dict[str, float]):
    """Metrics of lists: a dictionary from each metric to its mean over lists, or its value for all lists together.

    Attributes:
        per_list: one row per list, under the name that the list was given: `n_truth`, `verdicts` (one word per rank)
            and every metric that a single list has.
    """

    def __init__(self, means: Mapping[str, float], per_list: pd.DataFrame):
        super().__init__(means)
        self.per_list = per_list

    def __missing__(self, name: str) -> float:
        from rlbench.base.errors import nearest

        raise KeyError(f"there is no metric '{name}'.{nearest(name, list(self))}")


@named_arguments
def metrics(
    lists: "Sequence[ListLike] | Mapping[Any, ListLike]",
    truth: "Sequence[Sequence[ItemLike]] | Mapping[Any, Sequence[ItemLike]]",
    catalog: "Catalog | Iterable[ItemLike] | None" = None,
    cutoffs: Sequence[int] = CUTOFFS,
    seen: "Sequence[Sequence[ItemLike]] | Mapping[Any, Sequence[ItemLike]] | None" = None,
    gains: "Sequence[Sequence[float]] | Mapping[Any, Sequence[float]] | None" = None,
    line_format: str | None = None,
    matching: str | MatchingConfig = "casefold",
    n: int | None = None,
) -> Metrics:
    """Metrics of ranked lists, computed by the code that evaluates runs (docs/metrics.md).

    Args:
        lists: one list per query: its items in order, or a text with one item per line. An item is its line, such as
            "Heat (1995)", or (title, year). A mapping gives the queries names.
        truth: the relevant items of each query, in the same order, or under the same names. Without gains, the items of
            a query may be a set.
        catalog: the items that may be recommended; others are no hits. Default: every item of `lists` and `truth`. The
            metrics that are about a catalogue are then left out.
        cutoffs: the values of K in Recall@K and the others.
        seen: items that each dialogue has named before. Recommending one is no hit.
        gains: how relevant each item of `truth` is, above 0, for NDCG; default: all equally.
        line_format: "{title} ({year})" or "{title}"; default: the first if every item of `truth` has a year. Lists in
            which every item has a year are then refused if `truth` has items without.
        matching: when a title and a year name an item: a file name in `conf/matching/`, or a MatchingConfig.
        n: N, the number of ranks of a list; default: the largest cut-off. Later entries are ignored, and counted in
            `overflow`.

    Returns:
        the means, and one row per list in `per_list`. Metrics that need tokens or a training split are left out.

    Raises:
        BadInput: every problem of the arguments.

    Example:
        >>> found = rlbench.metrics([["Heat (1995)", "Alien (1979)"]], [["Alien (1979)"]], cutoffs=[1, 2])
        >>> found["recall@2"], round(found["ndcg@2"], 3)
        (1.0, 0.631)
    """
    names, texts, (truths, seens, graded) = _aligned(lists, truth=truth, seen=seen, gains=gains)
    truths = [list(items) if isinstance(items, Iterator) else items for items in truths]  # they are read several times
    problems = _wrong_numbers(cutoffs, n)
    if line_format is not None:
        one_of("line_format", line_format, LINE_FORMATS)
    has_years = _have_years(truths) if line_format is None else line_format == WITH_YEARS
    rules = _matching(matching)
    relevant = [
        _items(f"truth[{name!r}]", items, has_years, problems) for name, items in zip(names, truths, strict=True)
    ]
    problems += [
        f"truth[{name!r}] is empty: recall is undefined" for name, own in zip(names, truths, strict=True) if not own
    ]
    given = [_given(f"lists[{name!r}]", one, has_years, problems) for name, one in zip(names, texts, strict=True)]
    named = [_titles(f"seen[{name!r}]", items, has_years, problems) for name, items in zip(names, seens, strict=True)]
    weights = [
        _gains(f"gains[{name!r}]", own, items, problems) for name, own, items in zip(names, graded, truths, strict=True)
    ]
    known = None if catalog is None else _catalog(catalog, has_years)
    if line_format is None and not has_years and not problems:
        problems += _no_match(relevant, given)
    if problems:
        raise BadInput(*problems)
    length = n or max(cutoffs)
    items = known.items if known else _every(relevant, given, has_years)
    judge = make_judge(rules, Catalog(items), length)
    facts = ItemFacts(np.zeros(len(items), np.int64), np.array([year or 0 for _, year in items], np.int64))
    records = [
        Record([], own, titles, str(row), gains=of_list)
        for row, (own, titles, of_list) in enumerate(zip(relevant, named, weights, strict=True))
    ]
    unknown = np.full(length, np.nan)
    answers = {
        record.context_id: Answer(
            one if isinstance(one, str) else text_of(one),
            judge.parse(one) if isinstance(one, str) else ParsedText(one, range(len(one)), len(one)),
            *ENDED,
            unknown,
        )
        for record, one in zip(records, given, strict=True)
    }
    table, means = judge_answers(records, answers, Criteria(judge, facts), list(cutoffs))
    left_out = {*_NEEDS_MODEL, *_NEEDS_TRAINING, *(() if known else _NEEDS_CATALOG)}
    without = [name for name in means if name in left_out or (known is None and name.startswith("published_"))]
    table = table.set_index(pd.Index(names, name="list"))
    return Metrics(
        {name: value for name, value in means.items() if name not in without},
        table.drop(columns=[name for name in (*_NO_METRICS, *without) if name in table]),
    )


def _aligned(lists: Any, **others: Any) -> tuple[list[Any], list[Any], list[list[Any]]]:
    """Names of the queries, their lists, and the values of the other arguments in the same order.

    An argument that is None gives an empty value for each query.

    Raises:
        BadInput: an argument has other names or another length than `lists`.
    """
    named = isinstance(lists, Mapping)
    if isinstance(lists, str) or not isinstance(lists, Sequence | Mapping):
        raise BadInput(f"lists = {lists!r:.80} must be a sequence of lists, or a mapping from names to lists")
    if not lists:
        raise BadInput("lists is empty: there is nothing to measure")
    names: list[Any] = list(lists) if named else list(range(len(lists)))
    found, problems = [], []
    for argument, values in others.items():
        if values is None:
            found.append([()] * len(names))
        elif not named and (wrong_order := out_of_order(argument, values)) and not isinstance(values, Mapping):
            problems.append(wrong_order)
        elif isinstance(values, Mapping) is not named or isinstance(values, str | int | float):
            problems.append(f"{argument} must be {'a mapping' if named else 'a sequence'}, as lists is")
        elif named and (wrong := [name for name in [*values, *lists] if name not in values or name not in lists]):
            where = argument if wrong[0] not in values else "lists"
            problems.append(f"{argument} and lists must have the same names: {where} has no {wrong[0]!r}")
        elif len(values) != len(names):
            problems.append(f"{argument} has {len(values)} entries, but there are {len(names)} lists")
        else:
            found.append([values[name] for name in names])
    if problems:
        raise BadInput(*problems)
    return names, [lists[name] for name in names], found


def _wrong_numbers(cutoffs: Any, n: Any) -> list[str]:
    problems = []
    if not isinstance(cutoffs, Sequence) or isinstance(cutoffs, str) or not cutoffs:
        problems.append(f"cutoffs = {cutoffs!r} must be a sequence of whole numbers, such as (5, 10)")
    elif wrong := [k for k in cutoffs if type(k) is not int or k < 1]:
        problems.append(f"cutoffs = {list(cutoffs)} must be whole numbers of at least 1; {wrong[0]!r} is not")
    if n is not None and (type(n) is not int or n < 1):
        problems.append(f"n = {n!r} must be a whole number of at least 1")
    if problems:
        raise BadInput(*problems)
    return problems


def _have_years(truths: Sequence[Any]) -> bool:
    """Whether every relevant item that is given has a year."""
    every = [item for items in truths if isinstance(items, Iterable) for item in items]
    return all(
        parse_line(item) is not None if isinstance(item, str) else item[1:] not in ((None,), [None]) for item in every
    )


def _no_match(relevant: Sequence[Sequence[Item]], given: Sequence[str | list[Item]]) -> list[str]:
    """An error if relevant items have no years, but every line of the lists does: they could not match."""
    texts = [one for one in given if isinstance(one, str)]
    entries = [item for text in texts for item in parse_titles(text).items]
    with_years = [item for text in texts for item in parse_text(text).items]
    bare = next((title for items in relevant for title, _ in items if parse_line(title) is None), None)
    if bare is None or not entries or len(with_years) != len(entries) or len(texts) != len(given):
        return []
    return [
        f"truth has items without years, such as {bare!r}, but every item of lists has one, such as {entries[0][0]!r}: "
        f"give years in both or in none, or line_format='{TITLES}' if they belong to the titles"
    ]


def _item(item: Any, has_years: bool) -> Item | None:
    """An item, or None if the value is none."""
    if isinstance(item, str):
        if not has_years:
            return (item.strip(), None) if item.strip() else None
        return parse_line(item)
    if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[0], str) or not item[0].strip():
        return None
    title, year = item
    if has_years:
        return (title, int(year)) if isinstance(year, int | np.integer) and not isinstance(year, bool) else None
    return (title, None) if year is None else None


def _items(argument: str, items: Any, has_years: bool, problems: list[str]) -> list[Item]:
    """The items of a value, with a sentence in `problems` for each that is none."""
    if isinstance(items, str | Mapping) or not isinstance(items, Iterable):
        problems.append(f"{argument} = {items!r:.80} must be a sequence of items")
        return []
    found = []
    for rank, item in enumerate(sorted(items, key=repr) if isinstance(items, Set) else items):
        if (read := _item(item, has_years)) is not None:
            found.append(read)
            continue
        form = "'Title (Year)' or (title, year)" if has_years else "a title or (title, None)"
        other = TITLES if has_years else WITH_YEARS
        problems.append(f"{argument}[{rank}] = {item!r:.80} is not {form}; for others, line_format='{other}'")
    return found


def _given(argument: str, one: Any, has_years: bool, problems: list[str]) -> str | list[Item]:
    """A list as a text to read, or as items that need no reading."""
    if isinstance(one, str):
        return one
    if wrong := out_of_order(argument, one):
        problems.append(wrong)
        return []
    every = list(one) if isinstance(one, Iterable) else []
    if every and all(isinstance(item, str) for item in every):
        broken = [item for item in every if "\n" in item]
        problems += [f"{argument} has an item with a line break: {item!r:.80}" for item in broken]
        return "\n".join(every)
    return _items(argument, one, has_years, problems)


def _titles(argument: str, items: Any, has_years: bool, problems: list[str]) -> list[str]:
    """The titles of items; a text without a year is a title."""
    if isinstance(items, str | Mapping) or not isinstance(items, Iterable):
        problems.append(f"{argument} = {items!r:.80} must be a sequence of items or titles")
        return []
    found = []
    for rank, item in enumerate(items):
        read = _item(item, has_years) or ((item, None) if isinstance(item, str) and item.strip() else None)
        if read is None:
            problems.append(f"{argument}[{rank}] = {item!r:.80} is no item and no title")
        else:
            found.append(read[0])
    return found


def _gains(argument: str, gains: Any, truth: Any, problems: list[str]) -> tuple[float, ...] | None:
    if gains is None or (isinstance(gains, tuple) and not gains):
        return None
    if wrong_order := out_of_order(argument, gains) or out_of_order(argument.replace("gains", "truth", 1), truth):
        problems.append(wrong_order)
        return None
    values = list(gains) if isinstance(gains, Iterable) else [gains]
    if len(values) != len(truth):
        problems.append(f"{argument} has {len(values)} numbers, but truth has {len(truth)} items there")
    elif wrong := [value for value in values if not is_finite(value) or value <= 0]:
        problems.append(f"{argument} must hold finite numbers above 0; {wrong[0]!r} is not")
    else:
        return tuple(map(float, values))
    return None


def _catalog(catalog: Any, has_years: bool) -> Catalog:
    """The catalogue of an argument.

    Raises:
        BadInput: an item is none, or does not fit the line format.
    """
    if isinstance(catalog, Catalog):
        if catalog.has_years is not has_years:
            has, format_ = ("years", WITH_YEARS) if catalog.has_years else ("no years", TITLES)
            raise BadInput(f"catalog has {has}: give line_format='{format_}'")
        return catalog
    problems: list[str] = []
    items = _items("catalog", catalog, has_years, problems)
    if problems:
        raise BadInput(*problems)
    if not items:
        raise BadInput("catalog is empty; leave it out to allow every item")
    return Catalog(list(dict.fromkeys(items)))


def _every(relevant: Sequence[Sequence[Item]], given: Sequence[str | list[Item]], has_years: bool) -> list[Item]:
    """Every item that the truths or the lists name."""
    reader = CatalogReader(Catalog([item for items in relevant for item in items]))
    lists = [reader.text(one).items if isinstance(one, str) else one for one in given]
    return list(dict.fromkeys(item for items in (*relevant, *lists) for item in items))


def _matching(matching: str | MatchingConfig) -> MatchingConfig:
    """The matching policy of an argument.

    Raises:
        BadInput: it is unknown or invalid.
    """
    if isinstance(matching, str):
        files = sorted((CONF / "matching").glob("*.yaml"))
        name = one_of("matching", matching, [file.stem for file in files])
        matching = MatchingConfig(**yaml.safe_load((CONF / "matching" / f"{name}.yaml").read_text(encoding="utf-8")))
    if problems := check_matching(matching):
        raise BadInput(*problems)
    return matching
