"""Demonstrations as tokens in the data cache: tokenised once, then memory-mapped.

The rows equal those that TRL's `SFTTrainer` makes of the texts, which is what a run without a cache trains on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rlbench.base.cache import CannotStore, code_digest, key_of
from rlbench.base.files import DiskFull, write_json
from rlbench.base.progress import Progress
from rlbench.base.user_files import read_user_json
from rlbench.data.record import Record
from rlbench.data.stored import StoredRecords
from rlbench.models.loading import tokenizer_digest
from rlbench.training.demonstrations import TAIL, Kept, common_start

AT_ONCE = 1000
"""Records tokenised together, and at most that many rows in a batch of the file."""
FILE, COUNTS = "tokens.arrow", "counts.json"
IGNORED = -100
"""Label of tokens that are not trained on, as in TRL."""
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("start", pa.int32()),  # of the completion
        ("length", pa.int32()),
        ("tail", pa.list_(pa.int32())),  # the last ids
    ]
)
Row = tuple[list[int], list[int]]
"""Ids of prompt and completion."""


class Tokens(Sequence[Row]):
    """Tokenised demonstrations: those of which the length limit leaves some of the completion, in their order.

    Args:
        folder: written by `tokenised`.
        max_length: the limit.

    Attributes:
        records: number of all demonstrations.
        cut_prompts: number whose prompt alone is tokenised differently at its end than before the completion.
    """

    def __init__(self, folder: Path, max_length: int):
        self.file, self.max_length = folder / FILE, max_length
        counts = read_user_json(folder / COUNTS)
        self.records, self.cut_prompts = int(counts["count"]), int(counts["cut_prompts"])
        self._table = pa.ipc.open_stream(pa.memory_map(str(self.file))).read_all()

    def __len__(self) -> int:
        return self._table.num_rows

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        ids, start = self._table["input_ids"][place].as_py(), self._table["start"][place].as_py()
        return ids[:start], ids[start:]

    def dataset(self) -> Dataset:
        """The columns that TRL trains on, `input_ids` and `labels`."""
        return Dataset.from_file(str(self.file)).select_columns(["input_ids", "labels"])

    def kept(self, ends: Sequence[int]) -> Kept:
        """Effect of the length limit.

        Args:
            ends: ids that end a completion.
        """
        tails = self._table["tail"].combine_chunks()  # none is empty
        is_end = np.isin(tails.flatten().to_numpy(), list(ends))
        with_end = np.logical_or.reduceat(is_end, tails.offsets.to_numpy()[:-1]).sum() if len(self) else 0
        at_limit = int((self._table["length"].to_numpy() >= self.max_length).sum())
        dropped = self.records - len(self)
        return Kept(self.records, at_limit + dropped, self.records - int(with_end))

    def words(self) -> str:
        """The warning about prompts that are tokenised differently alone and before a completion."""
        return (
            f"in {self.cut_prompts:,} of {self.records:,} demonstrations, the end of the prompt is tokenised "
            "differently when a completion follows, so the model trains on prompts that differ from those it answers. "
            "Use a chat template that ends the prompt with a special token"
        )


def tokenised(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokens | None:
    """Return the tokens of stored demonstrations. They are made and stored first if they are not there.

    Args:
        records: each with a completion.
        tokenizer: loaded from a folder.
        max_length: tokens of prompt and completion together, cut at the end.

    Returns:
        None if the records are not from the data cache, or its disk is full.
    """
    if not isinstance(records, StoredRecords):
        return None
    code = code_digest("training/tokens.py", "training/demonstrations.py")
    key = key_of([records.file.stem, tokenizer_digest(tokenizer), max_length, code])
    cache = records.place.cache

    def make(folder: Path) -> None:
        words = f"tokenising {records.file.stem}"
        progress = Progress(words, len(records), file=None, show=cache.show, unit="record")
        write_tokens(records, tokenizer, max_length, folder, progress)
        progress.close()

    try:
        return Tokens(records.place.folder(f"tokens-{key}", f"tokens of {records.file.stem}", make), max_length)
    except (CannotStore, DiskFull) as error:
        cache.tell(f"data cache: the tokens are not stored, because {error}")
        return None


def write_tokens(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_length: int, folder: Path, progress: Progress
) -> None:
    """Write the rows of demonstrations, and their counts.

    Args:
        records, tokenizer, max_length: as in `tokenised`.
        folder: where to write.
        progress: shows the number of records done.
    """
    cut_prompts = 0
    with pa.OSFile(str(folder / FILE), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for begin in range(0, len(records), AT_ONCE):
            part = records[begin : begin + AT_ONCE]
            rows: list[dict[str, Any]] = []
            for prompt, whole in zip(*_ids(part, tokenizer), strict=True):
                start = common_start(prompt, whole)
                cut_prompts += start < len(prompt)
                ids = whole[:max_length]
                if start < len(ids):
                    labels = [IGNORED] * start + ids[start:]
                    row = {"input_ids": ids, "labels": labels, "start": start, "length": len(ids), "tail": ids[-TAIL:]}
                    rows.append(row)
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
            progress.to(begin + len(part))
    write_json(folder / COUNTS, {"count": len(records), "cut_prompts": cut_prompts})


def _ids(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase) -> tuple[list[list[int]], list[list[int]]]:
    """The ids of each prompt, up to the start of the answer, and of each prompt with its completion."""
    prompts = [record.prompt for record in records]
    whole = [[*record.prompt, *(record.completion or [])] for record in records]
    asked = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False)
    texts = list(dict.fromkeys(asked))  # several people answer one request
    ids = dict(zip(texts, _encoded(texts, tokenizer), strict=True))
    return [ids[text] for text in asked], _encoded(tokenizer.apply_chat_template(whole, tokenize=False), tokenizer)


def _encoded(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The ids of texts that a chat template has written, as `apply_chat_template` returns them."""
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)[
        "input_ids"
    ]
