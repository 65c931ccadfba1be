"""Datasets: records, loaders, checks, and the demonstrations of Stage 1.

Imports `base`, `config` and `lists`. Loads no torch, except for the sentence encoder of Stage 1.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rlbench.config.schema import DatasetConfig
from rlbench.data import mini, reddit_v2, redial, redial_official
from rlbench.data.line_format import without_years
from rlbench.data.record import RankedListDataset
from rlbench.lists.items import TITLES

LOADERS: dict[str, Callable[[Any], RankedListDataset]] = {
    "mini": mini.load,
    "redial": redial.load,
    "reddit_v2": reddit_v2.load,
    "redial_official": redial_official.load,
}
"""One loader per dataset. It takes the dataset's configuration, of the class that `config.schema.DATASETS` names."""


def load_dataset(config: DatasetConfig) -> RankedListDataset:
    """Load the dataset of a configuration, without years if its line format has none.

    Raises:
        BadInput: all problems of the files at once.
    """
    dataset = LOADERS[config.name](config)
    if config.item != dataset.item:
        dataset = replace(dataset, item=config.item)
    return without_years(dataset) if config.line_format == TITLES else dataset
