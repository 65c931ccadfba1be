"""The canonical record: the form to which every dataset loads, and on which every later stage may rely.

One `Record` is one answerer's truth for one dialogue. Samples that share a dialogue share `context_id`: one list is
generated for the context and judged against each of its answerers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlbench.lists.catalog import Catalog

if TYPE_CHECKING:
    from rlbench.data.stored import StoredPlace

Film = tuple[str, int]
"""(title, year)."""

Messages = list[dict[str, str]]
"""Chat messages, each {"role": ..., "content": ...}."""

SPLITS = ("sft", "train", "validation", "test")
"""`sft` holds demonstrations (records with a completion). RL samples its prompts from `train`."""


@dataclass(frozen=True)
class Record:
    """One sample in canonical form.

    Attributes:
        prompt: chat messages.
        ground_truth: the relevant films.
        seen_titles: titles that the dialogue has named.
        context_id: shared by the samples that share a prompt.
        completion: a demonstration, or None.
        cluster_id: shared by the samples that are not independent of each other, such as the turns of one dialogue.
            Intervals resample clusters. Default: `context_id`.
    """

    prompt: Messages
    ground_truth: list[Film]
    seen_titles: list[str]
    context_id: str
    completion: Messages | None = None
    cluster_id: str = ""

    def __post_init__(self) -> None:
        if self.cluster_id == "":
            object.__setattr__(self, "cluster_id", self.context_id)


@dataclass(frozen=True)
class RankedListDataset:
    """A dataset in canonical form.

    Attributes:
        name: the dataset's name, as in `conf/dataset/`.
        catalog: the films that may be recommended.
        splits: records by split name (`SPLITS`; `sft` may be absent if there are no demonstrations).
        oracle: the best possible list for each context_id of validation and test, under the dataset's known preference
            model. None if the model is unknown, as for every real dataset.
        notices: repairs made while loading, one sentence each (e.g. the number of converted years).
        fingerprint: sha256 (hex) of the data as loaded, for the manifest.
        known_digests: results of `checks.digests`: "questions" (without demonstrations) and "data"; empty if unknown.
        place: where a dataset from the data cache is stored, which has passed `checks.check_dataset`; None for others.
    """

    name: str
    catalog: Catalog
    splits: Mapping[str, Sequence[Record]]
    oracle: Mapping[str, list[Film]] | None = None
    notices: list[str] = field(default_factory=list)
    fingerprint: str = ""
    known_digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    place: "StoredPlace | None" = None
