"""Digests of the data and model files that a run reads. They are part of the run's identity.

A process reads a dataset and a model's files once and keeps the result until `forget` is called. Importing this module
loads neither torch nor the datasets.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlbench.base import content
from rlbench.base.cache import Cache
from rlbench.base.errors import BadInput
from rlbench.config.models import MODELS
from rlbench.config.schema import Config
from rlbench.runs.record import WITHOUT_MODEL

if TYPE_CHECKING:
    from rlbench.data.record import RankedListDataset


@dataclass(frozen=True)
class Inputs:
    """sha256 digests, in hex, of what the stages of a config read.

    Attributes:
        questions: digests of the data without demonstrations, by part (catalogue, `split test`, ...).
        data: digests of all data, by part.
        model: digest of the model's source (`rlbench.config.models`).
    """

    questions: Mapping[str, str]
    data: Mapping[str, str]
    model: str

    def of(self, stage: str) -> dict[str, Any]:
        """Return the digests of what a stage reads.

        Every stage is evaluated on validation and test and uses facts from train. Only SFT and RL read demonstrations
        and what is made from them.
        """
        data = dict(self.data if stage in ("sft", "rl") else self.questions)
        return {"data": data} if stage in WITHOUT_MODEL else {"data": data, "model": self.model}


_loaded: dict[str, "RankedListDataset"] = {}
"""The most recently loaded dataset."""
_found: dict[str, Inputs] = {}
_problems: dict[str, tuple[list[str], list[str]]] = {}


def load(config: Config) -> "RankedListDataset":
    """Load the dataset of a config, from `runtime.data_cache` if it is set; the most recent one is kept.

    Raises:
        BadInput: all problems of the files together.
    """
    from rlbench.data.cached import open_dataset  # importing it takes a second

    key = repr([config.dataset, config.runtime.data_cache])
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = open_dataset(config.dataset, _cache(config))
    return _loaded[key]


def _cache(config: Config) -> Cache | None:
    if config.runtime.data_cache is None:
        return None
    main = os.environ.get("RANK", "0") == "0"
    return Cache(Path(config.runtime.data_cache), _tell if main else _say_nothing, main and config.runtime.progress)


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _say_nothing(sentence: str) -> None:
    """The main process speaks for all."""


def inputs(config: Config) -> Inputs:
    """Return the digests of what a config's stages read.

    Raises:
        BadInput: problems of the data or of the model's files.
    """
    key = repr([asdict(config.dataset), asdict(config.model), config.cache_dir, config.runtime.data_cache])
    if key in _problems:
        problems, notices = _problems[key]
        raise BadInput(*problems, notices=notices)
    if key not in _found:
        try:
            _found[key] = _read(config)
        except BadInput as error:
            _problems[key] = error.problems, error.notices
            raise
    return _found[key]


def _read(config: Config) -> Inputs:
    from rlbench.data.checks import digests as digests_of

    problems: list[str] = []
    notices: list[str] = []
    dataset, model = None, None
    try:
        dataset = load(config)
    except BadInput as error:
        problems, notices = error.problems, error.notices
    try:
        kind = MODELS[config.model.kind]
        if dataset is not None or not kind.reads_data:
            model = kind.digest(config.model, dataset, Path(config.cache_dir))
    except BadInput as error:
        problems += error.problems
    if dataset is None or model is None:
        raise BadInput(*problems, notices=notices)
    return Inputs(
        questions=digests_of(dataset, demonstrations=False),
        data=digests_of(dataset, demonstrations=True),
        model=model,
    )


def release() -> None:
    """Free the dataset's memory. Its digests stay cached."""
    _loaded.clear()


def forget() -> None:
    """Read data and model files again at their next use."""
    for known in (_loaded, _found, _problems):
        known.clear()
    content.forget()
