"""Row names made from settings: readable, safe as a folder name, and different for different values.

Example: `learning_rate=0.0001,group_size=4`. Searches, sweeps and the analysis use the same rules.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 100
"""Maximum characters of a name. A folder name may have 255 bytes and also holds algorithm, reward and more."""
DIGITS = 6
"""Hex digits of the digest that replaces omitted text."""
_PUNCTUATION = ".,=+-_[]"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return a short name for each dotted key: as many trailing parts as needed to be unique."""
    parts = {key: key.lstrip("+").replace("/", ".").split(".") for key in keys}
    names = {}
    for key, own in parts.items():
        lengths = range(1, len(own) + 1)
        others = [other for name, other in parts.items() if name != key]
        length = next((n for n in lengths if not any(other[-n:] == own[-n:] for other in others)), len(own))
        names[key] = ".".join(own[-length:])
    return names


def variant(texts: Mapping[str, str]) -> str:
    """Return a row name from the values that define it, by key.

    If characters are dropped or the name is too long, it ends in a digest of the full text.
    """
    names = short_names(list(texts))
    whole = ",".join(f"{names[key]}={text}" for key, text in texts.items())
    shown = "".join(c for c in whole if c.isascii() and (c.isalnum() or c in _PUNCTUATION))
    if shown == whole and len(shown) <= LONGEST:
        return shown
    digest = hashlib.sha256(whole.encode()).hexdigest()[:DIGITS]
    return f"{shown[: LONGEST - DIGITS - 1]}-{digest}"


def value_text(value: Any) -> str:
    """Return one text per value, regardless of notation: 1e-4, 1.0e-4 and 0.0001 are equal, as are 1 and 1.0."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(value_text, value))}]"
    return json.dumps(value, sort_keys=True)
