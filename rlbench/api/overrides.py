"""Settings in Python as the words of a command line. Loads no torch."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rlbench.api.arguments import out_of_order
from rlbench.base.errors import BadInput

PLAIN = re.compile(r"[A-Za-z0-9_./+@%-]+")
"""Texts that Hydra's grammar takes as they are."""
SPECIAL = re.compile(
    r"(?:true|false|yes|no|on|off|null|[+-]?(?:inf|nan)|[+-]?[0-9._]+(?:e[+-]?[0-9]+)?)", re.IGNORECASE
)
"""Texts that it would take for another type."""
FREE = ("algorithm.options", "algorithm.regularisers", "reward.terms")
"""Sections whose keys the config need not have. Their own checks report a wrong one."""


def words(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One KEY=VALUE for each setting in nested mappings; keys may be dotted.

    Args:
        settings: key to value: None, a bool, a number, a text, a path, a list, or a mapping of settings.
        prefix: section of the keys, with a dot at its end.

    Raises:
        BadInput: a key is no text, or a value has another type. All problems together.
    """
    found, problems = [], []
    for key, value in settings.items():
        if not isinstance(key, str) or not key:
            problems.append(f"{prefix}{key!r}: a key must be a text")
            continue
        name = f"{prefix}{key}"
        try:
            if isinstance(value, Mapping) and value:
                found += words(value, f"{name}.")
            else:
                sign = "++" if any(name.startswith(f"{section}.") for section in FREE) else ""
                found.append(f"{sign}{name}={written(name, value)}")
        except BadInput as error:
            problems += error.problems
    if problems:
        raise BadInput(*problems)
    return found


def written(name: str, value: Any) -> str:
    """A value in Hydra's grammar.

    Raises:
        BadInput: it has a type that no setting has; names the setting.
    """
    if hasattr(value, "item") and not isinstance(value, Mapping) and getattr(value, "ndim", 1) == 0:
        value = value.item()  # a number of numpy or torch
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) and not SPECIAL.fullmatch(value) else quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(name, one)}" for key, one in value.items()) + "}"
    if wrong := out_of_order(name, value):
        raise BadInput(wrong)
    if isinstance(value, Iterable):
        return "[" + ",".join(written(name, one) for one in value) + "]"
    raise BadInput(
        f"{name} = {value!r:.80} has the type {type(value).__name__}; give None, a bool, a number, a text, a path, a "
        "list or a mapping"
    )


def quoted(text: str) -> str:
    """A text in double quotes. Backslashes are doubled where they stand before a quote, as Hydra reads them."""
    escaped = re.sub(r'(\\*)"', lambda found: f'{found[1] * 2}\\"', text)
    end = re.search(r"\\*$", escaped)
    return f'"{escaped}{end[0] if end else ""}"'
