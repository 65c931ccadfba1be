"""Datasets: records, loaders, checks, and the demonstrations of Stage 1.

Imports `base`, `config` and `lists`. Loads no torch, except for the sentence encoder of Stage 1.
"""

from collections.abc import Callable
from typing import Any

from rlbench.config.schema import DatasetConfig
from rlbench.data import mini, reddit_v2, redial, redial_official
from rlbench.data.record import RankedListDataset

LOADERS: dict[str, Callable[[Any], RankedListDataset]] = {
    "mini": mini.load,
    "redial": redial.load,
    "reddit_v2": reddit_v2.load,
    "redial_official": redial_official.load,
}
"""One loader per dataset. It takes the dataset's configuration, of the class that `config.schema.DATASETS` names."""


def load_dataset(config: DatasetConfig) -> RankedListDataset:
    """Load the dataset of a configuration.

    Raises:
        BadInput: all problems of the files at once.
    """
    return LOADERS[config.name](config)
