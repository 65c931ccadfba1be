"""Checks of the values that a reward term returns, before they enter a reward. Loads no torch.

Terms may come from plugins. A value that is not finite would stop the training much later, without naming its source.
An array of another shape might be broadcast, and the run would train on other rewards than its configuration says.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlbench.base.errors import BadInput

if TYPE_CHECKING:
    from rlbench.lists.relevance import JudgedLists
    from rlbench.rewards.terms import Term

SHOWN = 200
"""Characters of a list's text to show in a message."""


def checked_values(
    name: str, term: "Term", values: Any, lists: "JudgedLists", texts: Sequence[str], *, negative: bool = True
) -> NDArray[np.float64]:
    """A term's values as float64.

    Args:
        name: the term's name.
        term: the term; its scope gives the shape: (B, N) for ranks, (B,) for lists.
        values: the function's return value for `lists`.
        lists: B judged lists.
        texts: their texts, for messages; empty if not available.
        negative: whether values below 0 are accepted.

    Raises:
        BadInput: values of another type or shape, NaN or infinite values, a value other than 0 at a rank that a list
            does not have, or a negative value when none is accepted. It names the term, the list and the value.
    """
    key = f"reward term '{name}'"
    wanted = lists.verdicts.shape if term.scope == "rank" else lists.verdicts.shape[:1]
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        kind = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
        raise BadInput(f"{key} returned {kind}; it must return a numpy array of numbers of shape {wanted}")
    if values.shape != wanted:
        of = "one value for each rank of each list" if term.scope == "rank" else "one value for each list"
        raise BadInput(f"{key} returned an array of shape {values.shape} instead of {wanted}; it must return {of}")
    numbers = values.astype(np.float64)
    bad = ~np.isfinite(numbers)
    _refuse(key, bad, numbers, texts, "values must be finite numbers")
    if term.scope == "rank":
        _refuse(
            key,
            (numbers != 0) & ~lists.present,
            numbers,
            texts,
            "the list does not have that rank, so the value there must be 0",
        )
    if not negative:
        _refuse(
            key,
            numbers < 0,
            numbers,
            texts,
            "combine=power_mean does not accept negative values; declare the term signed",
        )
    return numbers


def checked_totals(totals: NDArray[np.float64], texts: Sequence[str]) -> NDArray[np.float64]:
    """(B,) weighted totals of lists.

    Raises:
        BadInput: a sum of finite terms is too large for a number.
    """
    _refuse("the reward's total", ~np.isfinite(totals), totals, texts, "lower the weights of its terms")
    return totals


def _refuse(key: str, bad: NDArray[np.bool_], values: NDArray[np.float64], texts: Sequence[str], remedy: str) -> None:
    """Raise BadInput for the first bad value, if any."""
    if not bad.any():
        return
    place = tuple(int(i) for i in np.argwhere(bad)[0])
    rank = f" at rank {place[1] + 1}" if len(place) > 1 else ""
    count = int(bad.any(axis=1).sum()) if bad.ndim > 1 else int(bad.sum())
    more = f" ({count} of {len(bad)} lists have such a value)" if count > 1 else ""
    raise BadInput(f"{key} is {values[place]}{rank} for {_text(texts, place[0])}{more}; {remedy}")


def _text(texts: Sequence[str], row: int) -> str:
    if not texts:
        return f"list {row + 1}"
    text = texts[row] if len(texts[row]) <= SHOWN else f"{texts[row][:SHOWN]}…"
    return f"the list {text!r}"
