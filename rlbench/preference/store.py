"""The lists of a round on disk: `preferences/round-<r>/` in a run directory.

Lists are drawn in parts. Each part is a file that is either complete or absent, so a run that stopped while drawing
continues with the next part. The folder also holds the reference's log-probabilities, because the reference is the
policy at one moment, to which a resumed run does not return.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import pyarrow as pa
import torch
from pyarrow import parquet
from safetensors.torch import load_file, save_file

from rlbench.base import digests
from rlbench.base.errors import BadInput
from rlbench.base.files import drop, whole_file
from rlbench.preference.rounds import Round

KEY = b"rlbench"
IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    {
        "context_id": pa.string(),
        "prompt": IDS,
        "chosen": IDS,
        "rejected": pa.list_(IDS),
        "chosen_reward": pa.float64(),
        "rejected_rewards": pa.list_(pa.float64()),
        "drawn": pa.list_(pa.bool_()),
    }
)


REFERENCE_SCHEMA = pa.schema({"logps": pa.list_(pa.list_(pa.float32()))})
EARLIER_SCHEMA = pa.schema({"sums": pa.list_(pa.list_(pa.float64()))})


@dataclass(frozen=True)
class Preference:
    """One chosen list and all others of a tuple, as token ids with EOS, and their rewards as judged.

    `drawn` says of each list whether the policy has drawn it; in files of before recipes it is empty, for all lists.
    """

    context_id: str
    prompt: list[int]
    chosen: list[int]
    rejected: list[list[int]]
    chosen_reward: float
    rejected_rewards: list[float]
    drawn: list[bool] = field(default_factory=list)

    @property
    def lists(self) -> list[list[int]]:
        """The chosen list, then the rejected ones."""
        return [self.chosen, *self.rejected]


@dataclass
class Drawn:
    """Counts of what was drawn to form tuples.

    Attributes:
        prompts, completions, generated_tokens: as counted by the budget.
        without_tuple: prompts without a tuple, because no list had a high enough reward compared with the others.
        sums: sums over lists, by the names of metrics.
        operations: floating-point operations that generation needed.
        written: lists of tuples that the recipe wrote.
    """

    prompts: int = 0
    completions: int = 0
    generated_tokens: int = 0
    without_tuple: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    operations: int = 0
    written: int = 0

    def __add__(self, other: "Drawn") -> "Drawn":
        names = [f.name for f in fields(self) if f.name != "sums"]
        sums = {name: self.sums.get(name, 0.0) + other.sums.get(name, 0.0) for name in {**self.sums, **other.sums}}
        return Drawn(**{name: getattr(self, name) + getattr(other, name) for name in names}, sums=sums)

    def means(self) -> dict[str, float]:
        """`sums` per list."""
        return {name: value / max(self.completions, 1) for name, value in self.sums.items()}


class Store:
    """The folder `preferences` of a run directory."""

    def __init__(self, folder: Path):
        self.folder = folder

    def round(self, number: int) -> Path:
        """The folder of a round."""
        return self.folder / f"round-{number}"

    def rewind(self, rounds: Sequence[Round], update: int) -> None:
        """Delete files made by policies after update `update`. The run makes them again; on a GPU not bit for bit."""
        for one in rounds:
            if one.first > update:
                if self.round(one.number).exists():
                    drop(self.round(one.number))
            elif one.preference > update:
                for path in self.round(one.number).glob("reference-*"):
                    drop(path)

    def has(self, path: Path) -> bool:
        """Whether a file of a round exists and is complete, that is, named in its folder's list.

        Raises:
            BadInput: the file or the list is damaged.
        """
        folder = path.parent
        if not folder.exists():
            return False
        remedy = (
            f"remove {self.folder} and {self.folder.parent / 'checkpoints'}, then run the same command again to "
            "train from the start"
        )
        try:
            listed = digests.read_list(folder) if (folder / digests.LIST_FILE).exists() or folder.is_file() else {}
        except digests.Damaged as error:
            raise BadInput(f"{folder} is damaged: {error}; {remedy}") from None
        if path.name not in listed or not path.exists():
            return False
        if wrong := digests.difference(path, path.name, listed[path.name]):
            raise BadInput(f"{folder} is damaged: {wrong}; {remedy}")
        return True

    def part(self, number: int, part: int) -> Path:
        """The file with one part of a round's tuples."""
        return self.round(number) / f"part-{part:05}.parquet"

    def write(self, number: int, part: int, tuples: Sequence[Preference], drawn: Drawn) -> None:
        """Write a part."""
        table = pa.Table.from_pylist([asdict(row) for row in tuples], schema=SCHEMA)
        path = self.part(number, part)
        with whole_file(path) as beside:
            parquet.write_table(table.replace_schema_metadata({KEY: json.dumps(asdict(drawn))}), beside)
        digests.add(self.round(number), path)

    def read(self, number: int, parts: int) -> tuple[pa.Table, Drawn]:
        """All tuples of a round, and the counts of what was drawn for them."""
        tables = [parquet.read_table(self.part(number, part)) for part in range(parts)]
        drawn = (Drawn(**json.loads(table.schema.metadata[KEY])) for table in tables)
        return pa.concat_tables([table.replace_schema_metadata() for table in tables]), sum(drawn, Drawn())

    def reference(self, number: int, part: int) -> Path:
        """The file with one part of the reference's log-probabilities for a round's lists."""
        return self.round(number) / f"reference-{part:05}.parquet"

    def write_reference(self, number: int, part: int, logps: Sequence[list[list[float]]]) -> None:
        """Write a part: for each tuple, the log-probabilities of the tokens of each of its lists."""
        table = pa.Table.from_pydict({"logps": logps}, schema=REFERENCE_SCHEMA)
        path = self.reference(number, part)
        with whole_file(path) as beside:
            parquet.write_table(table, beside)
        digests.add(self.round(number), path)

    def weights(self, number: int) -> Path:
        """The file with the trained weights of a round's reference, for methods that need them in later rounds."""
        return self.round(number) / "reference-weights.safetensors"

    def write_weights(self, number: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Write the trained weights of a round's reference."""
        path = self.weights(number)
        with whole_file(path) as beside:
            save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, beside)
        digests.add(self.round(number), path)

    def read_weights(self, number: int) -> dict[str, torch.Tensor]:
        """The trained weights of a round's reference."""
        return load_file(self.weights(number))

    def earlier(self, number: int, part: int) -> Path:
        """The file with one part of the log-probabilities of a round's lists under earlier references."""
        return self.round(number) / f"reference-earlier-{part:05}.parquet"

    def write_earlier(self, number: int, part: int, sums: Sequence[list[list[float]]]) -> None:
        """Write a part: for each tuple, for each earlier round, the log-probability of each of its lists."""
        path = self.earlier(number, part)
        with whole_file(path) as beside:
            parquet.write_table(pa.Table.from_pydict({"sums": sums}, schema=EARLIER_SCHEMA), beside)
        digests.add(self.round(number), path)

    def read_earlier(self, number: int, parts: int) -> pa.Table:
        """All log-probabilities of a round under earlier references."""
        return pa.concat_tables([parquet.read_table(self.earlier(number, part)) for part in range(parts)])

    def read_reference(self, number: int, parts: int) -> pa.Table:
        """All log-probabilities of a round."""
        return pa.concat_tables([parquet.read_table(self.reference(number, part)) for part in range(parts)])


def preferences(table: pa.Table, rows: Sequence[int]) -> list[Preference]:
    """Some rows of a table of tuples."""
    return [Preference(**row) for row in table.take(list(rows)).to_pylist()]
