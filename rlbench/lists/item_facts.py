"""Facts about items that reward terms and metrics may use: popularity and recency. Loads no torch."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def percentiles(values: Ints, among: Ints) -> Floats:
    """(C,) for each of C values: the share of the (A,) values `among` that are smaller, plus half the share of equals.

    In [0, 1]; all 0 if A is 0.
    """
    ordered = np.sort(among)
    smaller, not_larger = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return (smaller + not_larger) / (2 * max(len(among), 1))


@dataclass(frozen=True)
class ItemFacts:
    """Facts about the catalogue's items that terms may use; from the training split only.

    Percentiles are taken among the items that training truths name. Items that a catalogue contains only because other
    splits name them change nothing for the rest.

    Args:
        counts: (C,) number of training truths that name each item, possibly 0.
        years: (C,) year of each item.

    Raises:
        ValueError: the two differ in length, or a count is negative.
    """

    counts: Ints
    years: Ints

    def __post_init__(self) -> None:
        if self.counts.shape != self.years.shape or self.counts.ndim != 1:
            raise ValueError(f"counts and years must be (C,), got {self.counts.shape} and {self.years.shape}")
        if (self.counts < 0).any():
            raise ValueError(f"item {int(self.counts.argmin())}: count {self.counts.min()} is negative")

    @cached_property
    def popularity(self) -> Floats:
        """(C,) share of the training truths that name each item; all 0 if there are no truths."""
        return self.counts / max(int(self.counts.sum()), 1)

    @cached_property
    def popularity_percentile(self) -> Floats:
        """(C,) in [0, 1), high for items that many truths name; ties share the mean; 0 if no truth names the item."""
        return percentiles(self.counts, self.counts[self.counts > 0])

    @cached_property
    def recency_percentile(self) -> Floats:
        """(C,) in [0, 1], high for late years; ties share the mean."""
        return percentiles(self.years, self.years[self.counts > 0])
