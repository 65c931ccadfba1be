"""The registry of datasets: for each its settings, its loader, the files that it reads, and a line about it.

Plugins add theirs with the decorator `dataset`, as they add pieces of algorithms. This module loads no loader, so help
and checks of a configuration stay fast.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlbench.config.plugins import for_every_stage
from rlbench.config.schema import (
    DatasetConfig,
    HFConfig,
    InspiredConfig,
    JsonlConfig,
    MiniConfig,
    MovielensConfig,
    RedditMovieConfig,
    RedditV2Config,
    RedialConfig,
    RedialOfficialConfig,
)

Loader = TypeVar("Loader", bound=Callable[[Any], Any])
Sources = Callable[[Any], Mapping[str, Path]]


def named_files(**files: str | Path | None) -> dict[str, Path]:
    """Optional files of a dataset for its `sources`, as "kind name": a file's name alone may not say what it holds.

    Args:
        files: by kind (catalogue, demonstrations); None for files that are not set.
    """
    return {f"{kind} {Path(file).name}": Path(file) for kind, file in files.items() if file}


@dataclass(frozen=True)
class Dataset:
    """An entry of the registry.

    Attributes:
        schema: class of the dataset's settings.
        about: what it is, in a line.
        get: where its files come from, in a line; "" if it needs none.
        load: takes the settings and returns a `rlbench.data.record.RankedListDataset`.
        sources: takes the settings and returns the files that `load` reads, by a name for each. Their content is the
            dataset's, wherever they are.
        module: module of `load`.
    """

    schema: type[DatasetConfig]
    about: str
    get: str
    load: Callable[[Any], Any]
    sources: Sources
    module: str


def _of_package(schema: type[DatasetConfig], name: str, about: str, get: str = "") -> Dataset:
    """An entry whose loader is rlbench.data.<name>, which is imported at its first use."""
    module = f"rlbench.data.{name}"

    def load(config: Any) -> Any:
        return importlib.import_module(module).load(config)

    def sources(config: Any) -> Mapping[str, Path]:
        found: Mapping[str, Path] = importlib.import_module(module).sources(config)
        return found

    return Dataset(schema, about, get, load, sources, module)


DATASETS: dict[str, Dataset] = {
    "mini": _of_package(
        MiniConfig, "mini", "requests for 200 real films, with truth from a known model; part of rlbench"
    ),
    "redial": _of_package(
        RedialConfig,
        "redial",
        "ReDial, conversations about films, in CRSLab's form",
        "https://github.com/RUCAIBox/CRSLab",
    ),
    "reddit_v2": _of_package(
        RedditV2Config,
        "reddit_v2",
        "Reddit-v2, requests for films, as published with the Rank-GRPO paper",
        "https://github.com/yaochenzhu/Rank-GRPO",
    ),
    "redial_official": _of_package(
        RedialOfficialConfig,
        "redial_official",
        "ReDial, conversations about films, as its authors publish it",
        "https://redialdata.github.io/website/",
    ),
    "jsonl": _of_package(
        JsonlConfig, "jsonl", "your own records in JSONL files", "your own (docs/adding-a-dataset.md)"
    ),
    "hf": _of_package(
        HFConfig,
        "hf",
        "a dataset of the Hugging Face hub, or a local folder of datasets",
        "https://huggingface.co/datasets",
    ),
    "reddit_movie": _of_package(
        RedditMovieConfig,
        "reddit_movie",
        "Reddit-Movie, the first release of the Reddit data, as published",
        "https://huggingface.co/datasets/ZhankuiHe/reddit_movie_small_v1",
    ),
    "inspired": _of_package(
        InspiredConfig,
        "inspired",
        "INSPIRED, conversations about films and their trailers, as published",
        "https://github.com/sweetpeach/Inspired",
    ),
    "movielens": _of_package(
        MovielensConfig,
        "movielens",
        "MovieLens-1M as a list task: films that people liked, and the ones liked next",
        "https://grouplens.org/datasets/movielens/1m/",
    ),
}
"""The datasets, by the value of `dataset.name`, or of `dataset.loader` for own data."""


def schemas() -> dict[str, type[DatasetConfig]]:
    """The class of each dataset's settings, by name."""
    return {name: entry.schema for name, entry in DATASETS.items()}


def dataset(
    name: str, *, schema: type[DatasetConfig], about: str, sources: Sources, get: str = ""
) -> Callable[[Loader], Loader]:
    """Register a loader, for plugins. Its settings also need a file conf/dataset/NAME.yaml (docs/adding-a-dataset.md).

    Args:
        name, schema, about, sources, get: as in `Dataset`.

    Raises:
        ValueError: there is a dataset of this name already.
    """

    def enter(load: Loader) -> Loader:
        if name in DATASETS:
            raise ValueError(f"two datasets are called '{name}'")
        DATASETS[name] = Dataset(schema, about, get, load, sources, load.__module__)
        for_every_stage(load)
        return load

    return enter
