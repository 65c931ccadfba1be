"""Datasets: records, loaders, checks, and the demonstrations of Stage 1.

Imports `base`, `config` and `lists`. Loads no torch, except for the sentence encoder of Stage 1.
"""

from dataclasses import replace

from rlbench.config.datasets import DATASETS
from rlbench.config.schema import DatasetConfig
from rlbench.data.line_format import without_years
from rlbench.data.record import RankedListDataset
from rlbench.lists.items import TITLES


def load_dataset(config: DatasetConfig) -> RankedListDataset:
    """Load the dataset of a configuration, without years if its line format has none.

    Raises:
        BadInput: all problems of the files at once.
    """
    dataset: RankedListDataset = DATASETS[config.kind].load(config)
    if config.item != dataset.item:
        dataset = replace(dataset, item=config.item)
    return without_years(dataset) if config.line_format == TITLES else dataset
