"""Facts of a dataset's films other than their names: number of training truths that name each, and years.

Rewards may use the training split only: changing validation or test data changes no reward. Which films exist is not a
fact of a split. The catalogue defines it, and the catalogue belongs to the task.
"""

import numpy as np

from rlbench.data.record import RankedListDataset
from rlbench.data.stored import truths
from rlbench.lists.catalog import Catalog
from rlbench.lists.film_facts import FilmFacts


def film_facts(dataset: RankedListDataset, catalog: Catalog) -> FilmFacts:
    """Facts of a catalogue's films, from the RL training split. The catalogue may have any matching policy."""
    found = catalog.find_all(truths(dataset.splits["train"]))
    return FilmFacts(
        counts=np.bincount(found[found >= 0], minlength=len(catalog)),
        years=np.array([year for _, year in catalog.films], dtype=np.int64),
    )
