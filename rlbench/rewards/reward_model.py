"""A small reward model that is trained to rank relevant items above the items of lists.

The score of an item in a context is u . v + b: u is the mean of the vectors of the titles that the context names, plus
one vector for all contexts; v is the vector of the item, b its bias. It is trained by the Bradley-Terry loss, as reward
models are: -log sigmoid(score of a relevant item - score of a wrong item of the list), the mean over all such pairs of
a list, and then over lists. Everything is in float64 on the CPU, so that results do not depend on devices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlbench.lists.item_facts import Floats

if TYPE_CHECKING:
    from rlbench.lists.catalog import Catalog
    from rlbench.lists.entries import Item
    from rlbench.lists.relevance import JudgedLists

SIZE = 16
"""Length of the vectors."""
FIRST = 0.1
"""Standard deviation of the vectors of items at first. The other weights are 0, so every score is 0."""


@dataclass(frozen=True)
class ItemPairs:
    """The items of one context to compare.

    Attributes:
        titles: the titles that the context names, as codes from 0.
        better: relevant items.
        worse: items that are not.
    """

    titles: Sequence[int]
    better: Sequence[int]
    worse: Sequence[int]


def compared_items(
    lists: "JudgedLists", catalog: "Catalog", truths: Sequence[Sequence["Item"]], titles: Sequence[Sequence[int]]
) -> list[ItemPairs]:
    """For each list, the relevant items of the catalogue against its misses.

    Args:
        lists: B judged lists.
        catalog: the items.
        truths: relevant items of each list.
        titles: codes of the titles that each dialogue has named (`title_codes`).
    """
    misses = lists.of_verdict("miss")
    return [
        ItemPairs(
            titles[row],
            [item for item in catalog.find_all(truth).tolist() if item >= 0],
            lists.items[row][misses[row]].tolist(),
        )
        for row, truth in enumerate(truths)
    ]


def title_codes(catalog: "Catalog", seen: Sequence[str]) -> list[int]:
    """Codes of the titles of the catalogue among these."""
    return [code for code in catalog.find_titles(seen).tolist() if code >= 0]


class RewardModel(torch.nn.Module):
    """The model with its optimiser.

    Args:
        titles: number of title codes.
        items: C, number of items.
        seed: of the first weights.
    """

    def __init__(self, titles: int, items: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(items, SIZE, generator=generator, dtype=torch.float64) * FIRST
        self.of_items = torch.nn.Parameter(first)
        self.of_titles = torch.nn.Parameter(torch.zeros(titles, SIZE, dtype=torch.float64))
        self.of_all = torch.nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))
        self.bias = torch.nn.Parameter(torch.zeros(items, dtype=torch.float64))
        self.optimiser = torch.optim.Adam(self.parameters())

    @classmethod
    def of_catalog(cls, catalog: "Catalog", seed: int) -> "RewardModel":
        """A model for the titles and items of a catalogue."""
        return cls(int(catalog.title_ids.max()) + 1, len(catalog), seed)

    def context(self, titles: Sequence[int]) -> torch.Tensor:
        """(SIZE,) the vector of a context."""
        if not titles:
            return self.of_all
        return self.of_all + self.of_titles[torch.tensor(titles)].mean(dim=0)

    def scores(self, titles: Sequence[int], items: Sequence[int]) -> torch.Tensor:
        """(K,) scores of K items in a context."""
        chosen = torch.tensor(items, dtype=torch.long)
        return self.of_items[chosen] @ self.context(titles) + self.bias[chosen]

    def shares(self, titles: Sequence[Sequence[int]], items: np.ndarray) -> Floats:
        """(B, N) sigmoid of the score of each item; 0 for an item of index -1."""
        table = np.zeros(items.shape)
        with torch.no_grad():
            for row, of_list in enumerate(items):
                there = of_list >= 0
                table[row, there] = self.scores(titles[row], of_list[there].tolist()).sigmoid().numpy()
        return table

    def loss(self, comparisons: Sequence[ItemPairs]) -> torch.Tensor:
        """The mean Bradley-Terry loss of comparisons with both sides."""
        losses = []
        for one in comparisons:
            better, worse = self.scores(one.titles, one.better), self.scores(one.titles, one.worse)
            losses.append(torch.nn.functional.softplus(worse[None, :] - better[:, None]).mean())
        return torch.stack(losses).mean()

    def learn(self, comparisons: Sequence[ItemPairs], steps: int, rate: float) -> None:
        """Take steps of Adam on all comparisons together. Without a comparison that has both sides nothing happens."""
        usable = [one for one in comparisons if one.better and one.worse]
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        for _ in range(steps if usable else 0):
            self.optimiser.zero_grad()
            self.loss(usable).backward()
            self.optimiser.step()

    def accuracy(self, comparisons: Sequence[ItemPairs]) -> float:
        """Share of pairs in which the better item has the higher score; a tie counts half. NaN without a pair."""
        right, pairs = 0.0, 0
        with torch.no_grad():
            for one in comparisons:
                better, worse = self.scores(one.titles, one.better), self.scores(one.titles, one.worse)
                difference = better[:, None] - worse[None, :]
                right += float((difference > 0).sum()) + float((difference == 0).sum()) / 2
                pairs += difference.numel()
        return right / pairs if pairs else float("nan")

    def whole_state(self) -> dict[str, Any]:
        """Weights and optimiser, for a checkpoint."""
        return {"weights": self.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore `whole_state`."""
        self.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
