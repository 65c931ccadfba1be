"""Datasets: records, loaders, checks, and the demonstrations of Stage 1.

Imports `base`, `config` and `lists`. Loads no torch, except for the sentence encoder of Stage 1.
"""

from collections.abc import Callable
from dataclasses import asdict

from rlbench.config.schema import DatasetConfig
from rlbench.data import mini, reddit_v2, redial
from rlbench.data.record import RankedListDataset

LOADERS: dict[str, Callable[..., RankedListDataset]] = {
    "mini": mini.load,
    "redial": redial.load,
    "reddit_v2": reddit_v2.load,
}
"""One loader per dataset. Its arguments are the keys of `conf/dataset/<name>.yaml` except name and cutoffs."""


def load_dataset(config: DatasetConfig) -> RankedListDataset:
    """Load the dataset of a configuration.

    Raises:
        BadInput: all problems of the files at once.
    """
    options = {key: value for key, value in asdict(config).items() if key not in ("name", "cutoffs")}
    return LOADERS[config.name](**options)
