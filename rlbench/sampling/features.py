"""Features of prompts without a model: weights of their words, hashed to a fixed number of columns."""

import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WIDTH = 512
_WORD = re.compile(r"\w+")


def hashed_words(texts: Sequence[str], width: int = WIDTH) -> NDArray[np.float64]:
    """(n, width) rows of length 1: counts of hashed words times log((1 + n) / (1 + texts with the column)) + 1.

    A text without words has a row of zeros.
    """
    counts = np.zeros((len(texts), width))
    for row, text in enumerate(texts):
        for word, number in Counter(_WORD.findall(text.lower())).items():
            counts[row, zlib.crc32(word.encode()) % width] += number
    rarity = np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0))) + 1
    weighted = counts * rarity
    return np.asarray(weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-12))
