"""Finds text that cannot be written as UTF-8. Loads no torch."""

import re
from typing import Any

_SURROGATE = re.compile(r"[\ud800-\udfff]")


def is_broken(text: str) -> bool:
    """Whether a text holds half a character (a lone surrogate, such as JSON's \\ud800), which UTF-8 cannot encode."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def broken_texts(value: Any) -> list[str]:
    """Return all texts with half a character in nested lists, tuples and dicts, including keys."""
    if isinstance(value, str):
        return [value] if is_broken(value) else []
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in broken_texts(part)]
    if isinstance(value, list | tuple):
        return [text for part in value for text in broken_texts(part)]
    return []
