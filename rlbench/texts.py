"""Text that can be written to a file. Loads no torch."""

import re
from typing import Any

_SURROGATE = re.compile(r"[\ud800-\udfff]")


def is_broken(text: str) -> bool:
    """Whether a text holds half a character (a lone surrogate), as JSON's \\ud800 makes one; UTF-8 has none."""
    return _SURROGATE.search(text) is not None


def broken_texts(value: Any) -> list[str]:
    """The texts that hold half a character, anywhere in lists, tuples and dicts, keys included."""
    if isinstance(value, str):
        return [value] if is_broken(value) else []
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in broken_texts(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in broken_texts(part)]
    return []
