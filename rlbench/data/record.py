"""The canonical record: what every dataset loads to, and what every later stage may rely on.

One `Record` is one answerer's truth for one dialogue. Samples that share a dialogue share `context_id`:
a list is generated once for the context and judged against each of its answerers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlbench.catalog import Catalog

Film = tuple[str, int]
"""(title, year)."""

Messages = list[dict[str, str]]
"""Chat messages, each {"role": ..., "content": ...}."""

SPLITS = ("sft", "train", "validation", "test")
"""`sft` holds demonstrations (records with a completion); `train` is what RL samples prompts from."""


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
        splits: records by split name (`SPLITS`; `sft` may be absent where there are no demonstrations).
        oracle: for each context_id of validation and test the best possible list under the dataset's known
            preference model; None where the truth is not known (any real dataset).
        notices: repairs made while loading, one sentence each (e.g. years given as strings, converted and counted).
        fingerprint: sha256 (hex) of the data as loaded; goes into the manifest.
    """

    name: str
    catalog: Catalog
    splits: Mapping[str, list[Record]]
    oracle: Mapping[str, list[Film]] | None = None
    notices: list[str] = field(default_factory=list)
    fingerprint: str = ""
