"""What a run reads beside its config: data and model files, as digests that go into its identity.

A process loads a dataset and reads a model's files once, and stays with what it has seen then, however long it runs:
`forget` lets it look again. Importing this module loads neither torch nor the datasets.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlbench import content
from rlbench.config import Config, DatasetConfig, TinyModelConfig
from rlbench.errors import BadInput

if TYPE_CHECKING:
    from rlbench.data.record import RankedListDataset


@dataclass(frozen=True)
class Inputs:
    """Digests of what the stages of a config read: sha256 in hex.

    Attributes:
        questions: of the data without demonstrations, by part (catalogue, `split test`, ...).
        data: of all data, by part.
        model: of the model's source (`rlbench.models.sources`).
    """

    questions: Mapping[str, str]
    data: Mapping[str, str]
    model: str

    def of(self, stage: str) -> dict[str, Any]:
        """What a stage reads.

        Every stage is evaluated on validation and test, and judged with facts from train. Demonstrations, and what is
        made with them, are read by SFT and RL alone.
        """
        data = dict(self.data if stage in ("sft", "rl") else self.questions)
        return {"data": data} if stage == "oracle" else {"data": data, "model": self.model}


_loaded: dict[str, "RankedListDataset"] = {}
"""The dataset that was asked for last."""
_found: dict[str, Inputs] = {}
_problems: dict[str, list[str]] = {}


def load(config: DatasetConfig) -> "RankedListDataset":
    """`rlbench.data.load_dataset`; the dataset that was asked for last is not loaded again.

    Raises:
        BadInput: all problems of the files at once.
    """
    from rlbench.data import load_dataset  # only here: it takes a second to import

    key = repr(config)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_dataset(config)
    return _loaded[key]


def inputs(config: Config) -> Inputs:
    """The digests of what a config's stages read.

    Raises:
        BadInput: problems of the data, or of the model's files.
    """
    key = repr([asdict(config.dataset), asdict(config.model), config.cache_dir])
    if key in _problems:
        raise BadInput(*_problems[key])
    if key not in _found:
        try:
            _found[key] = _read(config)
        except BadInput as error:
            _problems[key] = error.problems
            raise
    return _found[key]


def _read(config: Config) -> Inputs:
    from rlbench.data.validation import digests as digests_of
    from rlbench.models.sources import source_digest, texts_digest

    problems: list[str] = []
    dataset, model = None, None
    try:
        dataset = load(config.dataset)
    except BadInput as error:
        problems += error.problems
    try:
        if not isinstance(config.model, TinyModelConfig):
            model = source_digest(config.model, Path(config.cache_dir))
        elif dataset is not None:
            model = texts_digest(dataset)
    except BadInput as error:
        problems += error.problems
    if dataset is None or model is None:
        raise BadInput(*problems)
    return Inputs(
        questions=digests_of(dataset, demonstrations=False),
        data=digests_of(dataset, demonstrations=True),
        model=model,
    )


def release() -> None:
    """Let go of the dataset in memory; its digests stay known."""
    _loaded.clear()


def forget() -> None:
    """Read data and model files again from now on."""
    for known in (_loaded, _found, _problems):
        known.clear()
    content.forget()
