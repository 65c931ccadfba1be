"""What each entry of a list is worth knowing as: hit, miss, out of catalogue, seen or duplicate.

One definition serves the reward and the report. Ranks are kept: an entry that is no hit keeps its place.
"""

from collections.abc import Sequence
from enum import StrEnum

from rlbench.catalog import Catalog, normalise


class Verdict(StrEnum):
    HIT = "hit"
    MISS = "miss"
    OUT_OF_CATALOG = "out_of_catalog"
    SEEN = "seen"
    DUPLICATE = "duplicate"


def film_key(title: str, year: int) -> tuple[str, int]:
    """The identity of a film when lists, truths and catalogue are compared: normalised title and exact year."""
    return normalise(title), year


def judge(
    entries: Sequence[tuple[str, int]],
    ground_truth: Sequence[tuple[str, int]],
    seen_titles: Sequence[str],
    catalog: Catalog,
) -> list[Verdict]:
    """Judge a list rank by rank (paper, section 2.1: rel_k = 1 iff the film is relevant and not named earlier).

    Args:
        entries: (title, year) by rank.
        ground_truth: relevant films.
        seen_titles: titles of the dialogue; recommending one of them is no hit.
        catalog: a film outside it is no hit.

    Returns:
        One verdict an entry; the first that applies of: out of catalogue, duplicate, seen, hit, miss.
    """
    truth = {film_key(*film) for film in ground_truth}
    seen = {normalise(title) for title in seen_titles}
    verdicts, earlier = [], set()
    for title, year in entries:
        key = film_key(title, year)
        if (title, year) not in catalog:
            verdict = Verdict.OUT_OF_CATALOG
        elif key in earlier:
            verdict = Verdict.DUPLICATE
        elif key[0] in seen:
            verdict = Verdict.SEEN
        elif key in truth:
            verdict = Verdict.HIT
        else:
            verdict = Verdict.MISS
        earlier.add(key)
        verdicts.append(verdict)
    return verdicts


def truth_size(ground_truth: Sequence[tuple[str, int]]) -> int:
    """How many different films are relevant."""
    return len({film_key(*film) for film in ground_truth})
