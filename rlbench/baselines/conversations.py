"""The conversations of a split as sparse matrices over the catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rlbench.data.record import Record
from rlbench.data.stored import column, truths
from rlbench.lists.catalog import NOT_FOUND, Catalog

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Conversations:
    """The U contexts of a split, in the order in which they first appear. C is the number of catalogue items.

    Attributes:
        contexts: their ids.
        seen: (U, C) 1 for each item whose title the conversation has named. A title may belong to several items.
        truth: (U, C) number of the context's truths that name each item.
        records: the split; source of `texts`.
    """

    contexts: list[str]
    seen: csr_array
    truth: csr_array
    records: Sequence[Record]

    def __len__(self) -> int:
        return len(self.contexts)

    @cached_property
    def counts(self) -> Ints:
        """(C,) number of truths that name each item."""
        return np.asarray(self.truth.sum(axis=0), dtype=np.int64)

    @cached_property
    def answers(self) -> csr_array:
        """(U, C) 1 for each item that a truth of the context names."""
        return _binary(self.truth)

    @cached_property
    def named(self) -> csr_array:
        """(U, C) 1 for each item that the conversation or a truth of it names."""
        return _binary(self.seen + self.truth)

    @cached_property
    def texts(self) -> list[str]:
        """The prompt of each context, without roles."""
        prompts = dict(zip(column(self.records, "context_id"), column(self.records, "prompt"), strict=True))
        return ["\n".join(message["content"] for message in prompts[context]) for context in self.contexts]


def read_conversations(records: Sequence[Record], catalog: Catalog) -> Conversations:
    """The conversations of a split. Truths outside the catalogue are ignored."""
    contexts: list[str] = column(records, "context_id")
    row_of = {context: row for row, context in enumerate(dict.fromkeys(contexts))}
    rows = np.array([row_of[context] for context in contexts], dtype=np.int64)
    items = catalog.find_all(truths(records))
    of_truth = np.repeat(rows, [len(truth) for truth in column(records, "ground_truth")])
    shape = (len(row_of), len(catalog))
    seen = dict(zip(contexts, column(records, "seen_titles"), strict=True))
    return Conversations(
        contexts=list(row_of),
        seen=_binary(_seen([seen[context] for context in row_of], catalog, shape)),
        truth=_matrix(of_truth[items != NOT_FOUND], items[items != NOT_FOUND], shape),
        records=records,
    )


def _seen(titles: Sequence[Sequence[str]], catalog: Catalog, shape: tuple[int, int]) -> csr_array:
    ids = catalog.find_titles(list(chain.from_iterable(titles)))
    rows = np.repeat(np.arange(len(titles)), [len(one) for one in titles])[ids != NOT_FOUND]
    n_titles = int(catalog.title_ids.max(initial=-1)) + 1
    of_context = _matrix(rows, ids[ids != NOT_FOUND], (shape[0], n_titles))
    of_title = _matrix(catalog.title_ids, np.arange(shape[1]), (n_titles, shape[1]))
    return csr_array(of_context @ of_title)


def _matrix(rows: Ints, columns: Ints, shape: tuple[int, int]) -> csr_array:
    """Number of times that each (row, column) occurs."""
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _binary(matrix: csr_array) -> csr_array:
    found = csr_array(matrix, copy=True)
    found.data[:] = 1.0
    return found
