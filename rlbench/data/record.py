"""The canonical record: the form to which every dataset loads, and on which every later stage may rely.

One `Record` is one answerer's truth for one dialogue. Samples that share a dialogue share `context_id`: one list is
generated for the context and judged against each of its answerers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlbench.lists.catalog import Catalog
from rlbench.lists.items import Item

if TYPE_CHECKING:
    from rlbench.data.stored import StoredPlace

Film = tuple[str, int]
"""(title, year): an item of a dataset of films."""

Messages = list[dict[str, str]]
"""Chat messages, each {"role": ..., "content": ...}."""

SPLITS = ("sft", "train", "validation", "test")
"""`sft` holds demonstrations (records with a completion). RL samples its prompts from `train`."""


@dataclass(frozen=True)
class Record:
    """One sample in canonical form.

    Attributes:
        prompt: chat messages.
        ground_truth: the relevant items.
        seen_titles: titles that the dialogue has named.
        context_id: shared by the samples that share a prompt.
        completion: a demonstration, or None.
        cluster_id: shared by the samples that are not independent of each other, such as the turns of one dialogue.
            Intervals resample clusters. Default: `context_id`.
        gains: how relevant each item of `ground_truth` is, above 0; None if all are equally relevant.
    """

    prompt: Messages
    ground_truth: Sequence[Item]
    seen_titles: list[str]
    context_id: str
    completion: Messages | None = None
    cluster_id: str = ""
    gains: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.cluster_id == "":
            object.__setattr__(self, "cluster_id", self.context_id)

    def __repr__(self) -> str:
        """All fields. Digests are made of this text, so equal gains, the usual case, must not change it."""
        values = {name: value for name, value in vars(self).items() if name != "gains" or value is not None}
        return f"Record({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    def truth_rows(self) -> list[dict[str, Any]]:
        """The ground truth as the trainer's dataset has it: title and year, and the gain of a graded item."""
        rows: list[dict[str, Any]] = [{"title": title, "year": year} for title, year in self.ground_truth]
        return rows if self.gains is None else [row | {"gain": g} for row, g in zip(rows, self.gains, strict=True)]


@dataclass(frozen=True)
class RankedListDataset:
    """A dataset in canonical form.

    Attributes:
        name: the dataset's name, as in `conf/dataset/`.
        catalog: the items that may be recommended.
        splits: records by split name (`SPLITS`; `sft` may be absent if there are no demonstrations).
        oracle: the best possible list for each context_id of validation and test, under the dataset's known preference
            model. None if the model is unknown, as for every real dataset.
        notices: repairs made while loading, one sentence each (e.g. the number of converted years).
        fingerprint: sha256 (hex) of the data as loaded, for the manifest.
        known_digests: results of `checks.digests`: "questions" (without demonstrations) and "data"; empty if unknown.
        place: where a dataset from the data cache is stored, which has passed `checks.check_dataset`; None for others.
        item: what an item is, for messages.
    """

    name: str
    catalog: Catalog
    splits: Mapping[str, Sequence[Record]]
    oracle: Mapping[str, Sequence[Item]] | None = None
    notices: list[str] = field(default_factory=list)
    fingerprint: str = ""
    known_digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    place: "StoredPlace | None" = None
    item: str = "film"
