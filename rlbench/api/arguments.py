"""Arguments of the functions of the API: unknown names, and choices."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView, Set
from typing import Any, ParamSpec, TypeVar

from rlbench.base.errors import BadInput, nearest

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class UnknownArgument(BadInput, TypeError):
    """A call with an argument that the function does not have."""


def named_arguments(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Make a call with an unknown argument name the nearest known one. All other errors of a call stay Python's.

    Raises:
        UnknownArgument: by the decorated function, with one sentence per unknown argument.
    """
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if unknown := [name for name in kwargs if name not in known]:
            name = function.__qualname__.removesuffix(".__init__")
            raise UnknownArgument(
                *(f"rlbench.{name} has no argument '{given}'.{nearest(given, known)}" for given in unknown)
            )
        return function(*args, **kwargs)

    return checked


def out_of_order(argument: str, values: Any) -> str:
    """What is wrong with values whose order counts, if they have none that lasts, or "".

    The order of a set depends on PYTHONHASHSEED, that of a mapping on how it was made, and an iterator has one only
    once.
    """
    if not isinstance(values, Set | Mapping | MappingView | Iterator):
        return ""
    return f"{argument} = {values!r:.80} is a {type(values).__name__}, and its order counts; give a list"


def one_of(argument: str, value: str, known: Iterable[str]) -> str:
    """The value, if it is known.

    Raises:
        BadInput: it is not; names the argument, the value and the nearest known one.
    """
    choices = list(known)
    if value in choices:
        return value
    raise BadInput(f"{argument} = {value!r} is unknown; known: {', '.join(choices)}.{nearest(str(value), choices)}")
