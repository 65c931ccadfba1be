"""Options of pluggable functions, read from the annotations of their keyword-only parameters.

A reward term or a piece of the objective is one function. Its options are read from its signature, so it needs no
schema. Loads no torch.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, get_args, get_origin

from rlbench.base.errors import nearest
from rlbench.base.records import Values, is_finite


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
PositiveInt = Annotated[int, Values("a positive whole number", lambda value: _is_whole(value) and value > 0)]
WholeNumber = Annotated[int, Values("a whole number of at least 0", lambda value: _is_whole(value) and value >= 0)]
Share = Annotated[float, Values("a number in [0, 1]", lambda value: is_finite(value) and 0 <= value <= 1)]


@dataclass(frozen=True)
class Option:
    """An option of a function. A `default` of None means that the config must give it."""

    values: Values
    default: Any
    kind: type = object

    def typed(self, value: Any) -> Any:
        """Convert a value to the annotated type: an int given for a float becomes a float."""
        return float(value) if self.kind is float and isinstance(value, int) else value


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """Return a function's options by name, in the order of its parameters.

    Raises:
        TypeError: if an annotation does not say which values are valid.
    """
    found = {}
    for name, p in inspect.signature(function).parameters.items():
        if p.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        values = _values(p.annotation)
        if values is None:
            raise TypeError(
                f"{function.__name__}: option '{name}' has the annotation {p.annotation!r}, which is not supported; "
                "use float, int, str, bool, Literal[...] or a type of rlbench.config.options, and no "
                "`from __future__ import annotations`"
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
    """Return the type inside an annotation, or `object` for a choice."""
    plain = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return plain if isinstance(plain, type) else object


def filled(function: Callable[..., Any], given: Mapping[str, Any]) -> Callable[..., Any]:
    """Bind the given options that the function has, converted to their annotated types."""
    options = options_of(function)
    return partial(function, **{name: options[name].typed(value) for name, value in given.items() if name in options})


def with_defaults(options: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option by name, given or by default."""
    return {name: option.default for name, option in options.items()} | dict(given)


def check_options(options: Mapping[str, Option], given: Mapping[str, Any], also: tuple[str, ...] = ()) -> list[str]:
    """Return one sentence per problem with the given options, each starting with the option's name.

    Args:
        options: the known options.
        given: the options in the config.
        also: further valid keys to name in messages; not checked here.
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
