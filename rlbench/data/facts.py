"""Facts of a dataset's items other than their names: number of training truths that name each, and years.

Rewards may use the training split only: changing validation or test data changes no reward. Which items exist is not a
fact of a split. The catalogue defines it, and the catalogue belongs to the task.
"""

import numpy as np

from rlbench.data.record import RankedListDataset
from rlbench.data.stored import truths
from rlbench.lists.catalog import Catalog
from rlbench.lists.item_facts import ItemFacts


def item_facts(dataset: RankedListDataset, catalog: Catalog) -> ItemFacts:
    """Facts of a catalogue's items, from the RL training split. The catalogue may have any matching policy.

    Without years, every year is 0; a reward term that asks for recency is then refused.
    """
    found = catalog.find_all(truths(dataset.splits["train"]))
    return ItemFacts(
        counts=np.bincount(found[found >= 0], minlength=len(catalog)),
        years=np.array([year or 0 for _, year in catalog.items], dtype=np.int64),
    )
