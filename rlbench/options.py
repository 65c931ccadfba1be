"""Options of pluggable functions: keyword-only parameters, whose annotations say what a configuration may give.

A reward term or a piece of the objective is one function; what can be set about it is read from its signature, so that
a new one needs no schema of its own. Loads no torch.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, get_args, get_origin

from rlbench.errors import nearest


@dataclass(frozen=True)
class Values:
    """What an option can hold: `accepts` decides, `wanted` says it."""

    wanted: str
    accepts: Callable[[Any], bool]


def is_finite(value: object) -> bool:
    """Whether a value of a configuration is a number that a float holds; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_PLAIN = {
    float: Values("a finite number", is_finite),
    int: Values("a whole number", _is_whole),
    str: Values("a text", lambda value: isinstance(value, str)),
    bool: Values("true or false", lambda value: isinstance(value, bool)),
}
NonNegative = Annotated[float, Values("a finite number of at least 0", lambda value: is_finite(value) and value >= 0)]
Positive = Annotated[float, Values("a finite number above 0", lambda value: is_finite(value) and value > 0)]
AtLeastOne = Annotated[float, Values("a finite number of at least 1", lambda value: is_finite(value) and value >= 1)]
PositiveInt = Annotated[int, Values("a whole number above 0", lambda value: _is_whole(value) and value > 0)]
Share = Annotated[float, Values("a number in [0, 1]", lambda value: is_finite(value) and 0 <= value <= 1)]


@dataclass(frozen=True)
class Option:
    """An option of a function; `default` is None where a configuration has to give it."""

    values: Values
    default: Any
    kind: type = object

    def typed(self, value: Any) -> Any:
        """A value as its annotation has it: a whole number given for a float is one."""
        return float(value) if self.kind is float and isinstance(value, int) else value


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """The options of a function by name, in the order of its parameters.

    Raises:
        TypeError: where an annotation does not say what the option can hold.
    """
    found = {}
    for name, p in inspect.signature(function).parameters.items():
        if p.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        values = _values(p.annotation)
        if values is None:
            raise TypeError(
                f"{function.__name__}: the annotation {p.annotation!r} of option '{name}' says nothing to us; use "
                "float, int, str, bool, Literal[...] or a type of rlbench.options, and no `from __future__ import "
                "annotations`"
            )
        found[name] = Option(values, None if p.default is inspect.Parameter.empty else p.default, _kind(p.annotation))
    return found


def _values(annotation: Any) -> Values | None:
    if get_origin(annotation) is Annotated:
        return next((part for part in get_args(annotation) if isinstance(part, Values)), None)
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        return Values(
            f"one of {', '.join(map(str, choices))}",
            lambda value: value in choices and type(value) in map(type, choices),
        )
    return _PLAIN.get(annotation) if isinstance(annotation, type) else None


def _kind(annotation: Any) -> type:
    """The type under an annotation; `object` for a choice."""
    plain = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return plain if isinstance(plain, type) else object


def filled(function: Callable[..., Any], given: Mapping[str, Any]) -> Callable[..., Any]:
    """The function with those of the given options that it has, each of the type that its annotation names."""
    options = options_of(function)
    return partial(function, **{name: options[name].typed(value) for name, value in given.items() if name in options})


def check_options(options: Mapping[str, Option], given: Mapping[str, Any], also: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with the options given, one sentence a problem; each begins with the option's name.

    Args:
        options: what there is.
        given: what a configuration gives.
        also: further keys that may be named in a message as known; they are not checked here.
    """
    known = [*also, *options]
    problems = []
    for name, value in given.items():
        if name not in options:
            problems.append(f"{name} is unknown; known: {', '.join(known)}.{nearest(str(name), known)}")
        elif not options[name].values.accepts(value):
            problems.append(f"{name} = {value!r} must be {options[name].values.wanted}")
    return problems + [
        f"{name} is missing; it must be {option.values.wanted}"
        for name, option in options.items()
        if option.default is None and name not in given
    ]
