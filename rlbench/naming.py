"""What settings are called in the name of a row: readable, safe as a folder's name, and never the same for two values.

`learning_rate=0.0001,group_size=4`. Searches, sweeps and the analysis name rows by the same rules.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 100
"""Most characters of a name; folders take 255 bytes, and algorithm, reward and more stand beside it."""
DIGITS = 6
"""Hex digits of the digest that stands for what a name leaves out."""
_PUNCTUATION = ".,=+-_[]"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """What to call dotted keys: as many of their last parts as tell them apart."""
    parts = {key: key.lstrip("+").replace("/", ".").split(".") for key in keys}
    names = {}
    for key, own in parts.items():
        lengths = range(1, len(own) + 1)
        others = [other for name, other in parts.items() if name != key]
        length = next((n for n in lengths if not any(other[-n:] == own[-n:] for other in others)), len(own))
        names[key] = ".".join(own[-length:])
    return names


def variant(texts: Mapping[str, str]) -> str:
    """The name of a row, from the values by key of what sets it apart.

    A name that would leave out characters, or be too long, ends in a digest of what it stands for.
    """
    names = short_names(list(texts))
    whole = ",".join(f"{names[key]}={text}" for key, text in texts.items())
    shown = "".join(c for c in whole if c.isascii() and (c.isalnum() or c in _PUNCTUATION))
    if shown == whole and len(shown) <= LONGEST:
        return shown
    digest = hashlib.sha256(whole.encode()).hexdigest()[:DIGITS]
    return f"{shown[: LONGEST - DIGITS - 1]}-{digest}"


def value_text(value: Any) -> str:
    """One text for one value, whether it was written 1e-4, 1.0e-4 or 0.0001, 1 or 1.0."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(value_text, value))}]"
    return json.dumps(value, sort_keys=True)
