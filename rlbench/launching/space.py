"""The space of a search, parsed from Hydra's sweep syntax.

`interval(low, high)` and `tag(log, interval(low, high))` are continuous, `int(interval(low, high))` is whole.
`choice(a, b)` and `range(start, stop, step)` are sets. Plain lists `a,b` are not searched: `seed=0,1` gives the seeds
of every proposal, and any other list starts one search per value.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, ValueType

from rlbench.base.errors import BadInput

STEPS = 1000
"""Number of steps in a linear interval. Proposals are thus short numbers that a command reproduces exactly."""
DIGITS = 3
"""Significant digits of a proposal from a logarithmic interval."""


@dataclass(frozen=True)
class SearchInterval:
    """Numbers between two inclusive ends; integers if both ends are integers."""

    low: float
    high: float
    log: bool

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def text(self, value: float) -> str:
        """Return a value as an override: rounded to a short number inside the interval."""
        if self.whole:
            return str(int(value))
        if self.log:
            rounded = float(f"{value:.{DIGITS - 1}e}")
        else:
            rounded = round(value, math.ceil(-math.log10((self.high - self.low) / STEPS)))
        return f"{min(max(rounded, self.low), self.high):.12g}"


@dataclass(frozen=True)
class Choice:
    """Values of any type, as texts of overrides."""

    texts: tuple[str, ...]


Dimension = SearchInterval | Choice


@dataclass(frozen=True)
class Space:
    """What is searched, and what is fixed.

    Attributes:
        dimensions: searched values, by override key (including a leading + if given).
        seeds: one seed override per seed that every proposal runs; empty to use the config's seed.
        fixed: the fixed overrides of each search.
        varied: keys in which the searches differ.
    """

    dimensions: Mapping[str, Dimension]
    seeds: tuple[str, ...]
    fixed: tuple[tuple[str, ...], ...]
    varied: tuple[str, ...] = ()


def read_space(overrides: Sequence[Override]) -> Space:
    """Parse the space from a command line's overrides. The last override of a key wins.

    Raises:
        BadInput: if nothing is searched, or an override of the space is invalid.
    """
    dimensions: dict[str, Dimension] = {}
    seeds: tuple[str, ...] = ()
    lists: list[list[str]] = []
    problems = []
    for override in {override.get_key_element(): override for override in overrides}.values():
        key = override.get_key_element()
        if override.key_or_group == "variant":
            problems.append("variant is set by the search, which uses it to name its proposals; remove it")
        elif not override.is_sweep_override():
            lists.append([str(override.input_line)])
        elif override.value_type in (ValueType.SIMPLE_CHOICE_SWEEP, ValueType.GLOB_CHOICE_SWEEP):
            texts = [f"{key}={value}" for value in override.sweep_string_iterator()]
            if override.key_or_group == "seed":
                seeds = tuple(texts)
            else:
                lists.append(texts)
        elif override.key_or_group == "seed":
            problems.append(f"{override.input_line}: seeds cannot be searched; give a list, such as seed=0,1")
        else:
            problem, dimension = dimension_of(override)
            problems += problem
            dimensions[key] = dimension
    if not dimensions and not problems:
        problems.append(
            "hydra/sweeper=optuna has nothing to search; give a key an interval, a choice or a range, for example "
            "'trainer.rl.learning_rate=tag(log, interval(1e-5, 1e-3))'"
        )
    if problems:
        raise BadInput(*problems)
    varied = tuple(texts[0].split("=", 1)[0] for texts in lists if len(set(texts)) > 1)
    return Space(dimensions, seeds, tuple(itertools.product(*lists)), varied)


def dimension_of(override: Override) -> tuple[list[str], Dimension]:
    """Return the errors of an override of the space, and its dimension."""
    value, said = override.value(), override.input_line
    assert isinstance(value, IntervalSweep | RangeSweep | ChoiceSweep)
    problems = [f"{said}: the tag '{tag}' is unknown; known: log" for tag in sorted(value.tags - {"log"})]
    if not isinstance(value, IntervalSweep):
        texts = tuple(str(text) for text in override.sweep_string_iterator())
        if "log" in value.tags:
            problems.append(f"{said}: the tag log needs an interval")
        if not texts:
            problems.append(f"{said} is empty")
        return problems, Choice(texts)
    assert value.start is not None and value.end is not None
    log = "log" in value.tags
    if not value.start < value.end:
        problems.append(f"{said}: the lower end must come first")
    elif log and value.start <= 0:
        problems.append(f"{said}: a logarithmic interval must lie above 0")
    return problems, SearchInterval(value.start, value.end, log)


def ends(dimension: Dimension) -> tuple[str, ...]:
    """Return distinct values as override texts: the ends of an interval, or all values of a set."""
    if isinstance(dimension, Choice):
        return dimension.texts
    return dimension.text(dimension.low), dimension.text(dimension.high)


def grid(dimensions: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """Return all combinations of sets.

    Raises:
        BadInput: if a dimension is an interval.
    """
    for key, dimension in dimensions.items():
        if isinstance(dimension, SearchInterval):
            raise BadInput(
                f"{key}: a grid search cannot use an interval; give a choice or a range, or "
                "hydra.sweeper.sampler=random"
            )
    sets = [dimension.texts for dimension in dimensions.values() if isinstance(dimension, Choice)]
    return (dict(zip(dimensions, values, strict=True)) for values in itertools.product(*sets))
