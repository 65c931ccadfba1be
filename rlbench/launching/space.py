"""The space of a search, as the command line gives it in Hydra's own words.

`interval(low, high)` and `tag(log, interval(low, high))` are continuous (whole numbers where both ends are);
`choice(a, b)` and `range(start, stop, step)` are sets. Plain lists `a,b` are no part of the space: `seed=0,1` are the
seeds of every proposal, and any other list makes a search of its own for each of its values.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, ValueType

from rlbench.errors import BadInput

STEPS = 1000
"""Into how many steps a linear interval is cut: a proposal is a short number, which its command repeats exactly."""
DIGITS = 3
"""Significant digits of a proposal from a logarithmic interval."""


@dataclass(frozen=True)
class Interval:
    """Numbers between two ends, which belong to it; whole ones where both ends are."""

    low: float
    high: float
    log: bool

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def text(self, value: float) -> str:
        """A value as an override has it: rounded to what a reader can take in, inside the interval."""
        if self.whole:
            return str(int(value))
        if self.log:
            rounded = float(f"{value:.{DIGITS - 1}e}")
        else:
            rounded = round(value, math.ceil(-math.log10((self.high - self.low) / STEPS)))
        return f"{min(max(rounded, self.low), self.high):.12g}"


@dataclass(frozen=True)
class Choice:
    """Values of any kind, as overrides have them."""

    texts: tuple[str, ...]


Dimension = Interval | Choice


@dataclass(frozen=True)
class Space:
    """What is searched, and around what.

    Attributes:
        dimensions: what is searched, by the key of its override (with its +, where it has one).
        seeds: overrides of the seeds that every proposal runs, one each; none where the config's own seed is meant.
        fixed: for each search, the overrides that it holds fixed.
        varied: keys by which the searches differ.
    """

    dimensions: Mapping[str, Dimension]
    seeds: tuple[str, ...]
    fixed: tuple[tuple[str, ...], ...]
    varied: tuple[str, ...] = ()


def read_space(overrides: Sequence[Override]) -> Space:
    """The space in a command line's overrides; of several for one key the last counts.

    Raises:
        BadInput: where nothing is searched, or an override of the space makes no sense.
    """
    dimensions: dict[str, Dimension] = {}
    seeds: tuple[str, ...] = ()
    lists: list[list[str]] = []
    problems = []
    for override in {override.get_key_element(): override for override in overrides}.values():
        key = override.get_key_element()
        if override.key_or_group == "variant":
            problems.append("variant is what a search names its proposals by: leave it out")
        elif not override.is_sweep_override():
            lists.append([str(override.input_line)])
        elif override.value_type in (ValueType.SIMPLE_CHOICE_SWEEP, ValueType.GLOB_CHOICE_SWEEP):
            texts = [f"{key}={value}" for value in override.sweep_string_iterator()]
            if override.key_or_group == "seed":
                seeds = tuple(texts)
            else:
                lists.append(texts)
        elif override.key_or_group == "seed":
            problems.append(f"{override.input_line}: seeds are not searched; give a list, such as seed=0,1")
        else:
            problem, dimension = _dimension(override)
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


def _dimension(override: Override) -> tuple[list[str], Dimension]:
    """(what is wrong with an override of the space, the dimension)."""
    value, said = override.value(), override.input_line
    assert isinstance(value, IntervalSweep | RangeSweep | ChoiceSweep)
    problems = [f"{said}: the tag '{tag}' is unknown; known: log" for tag in sorted(value.tags - {"log"})]
    if not isinstance(value, IntervalSweep):
        texts = tuple(str(text) for text in override.sweep_string_iterator())
        if "log" in value.tags:
            problems.append(f"{said}: the tag log goes with an interval")
        if not texts:
            problems.append(f"{said} is empty")
        return problems, Choice(texts)
    assert value.start is not None and value.end is not None
    log = "log" in value.tags
    if not value.start < value.end:
        problems.append(f"{said}: the lower end comes first")
    elif log and value.start <= 0:
        problems.append(f"{said}: a logarithmic interval lies above 0")
    return problems, Interval(value.start, value.end, log)


def ends(dimension: Dimension) -> tuple[str, ...]:
    """Values that are apart, as overrides have them: the ends of an interval, all of a set."""
    if isinstance(dimension, Choice):
        return dimension.texts
    return dimension.text(dimension.low), dimension.text(dimension.high)


def grid(dimensions: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """Every combination of sets.

    Raises:
        BadInput: where an interval is among them.
    """
    for key, dimension in dimensions.items():
        if isinstance(dimension, Interval):
            raise BadInput(f"{key}: a grid has no intervals; give a choice or a range, or hydra.sweeper.sampler=random")
    sets = [dimension.texts for dimension in dimensions.values() if isinstance(dimension, Choice)]
    return (dict(zip(dimensions, values, strict=True)) for values in itertools.product(*sets))
