"""What a dataset says of its films beside their names: how many training truths name each, and their years.

Rewards may use the training split only: changing validation or test data changes no reward. Which films exist is not a
fact of a split. The catalogue says it, and the catalogue belongs to the task.
"""

import numpy as np

from rlbench.catalog import Catalog
from rlbench.data.record import RankedListDataset
from rlbench.rewards.terms import FilmFacts


def film_facts(dataset: RankedListDataset, catalog: Catalog) -> FilmFacts:
    """Facts of the films of a catalogue (the dataset's, under some matching policy), from the RL training split."""
    found = catalog.find_all([film for record in dataset.splits["train"] for film in record.ground_truth])
    return FilmFacts(
        counts=np.bincount(found[found >= 0], minlength=len(catalog)),
        years=np.array([year for _, year in catalog.films], dtype=np.int64),
    )
