"""Reddit-v2 in the form published with the Rank-GRPO paper (arXiv 2510.20150).

A folder with four datasets written by `datasets.save_to_disk`, and the catalogue:

    sft_dataset/train           demonstrations                 -> split `sft`
    sft_dataset/validation      with completions               -> split `validation`
    sft_dataset/test            with completions               -> split `test`
    grpo/grpo_dataset/train     without completions            -> split `train`
    gt_catalog.pkl | .json | .csv, here or in reddit_catalog/

Columns: `prompt` and `completion` (lists of {role, content}), `seen_titles` (list of str) and
`groundtruth_with_release_year` (list of [title, year], years as strings: converted and counted). Prompts are used as
published; they ask for 20 films.

Several people answer one request, and each answer is a separate sample. The data do not identify requests, so samples
of one split with the same prompt share their context.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlbench.base.errors import BadInput
from rlbench.base.user_files import one_line
from rlbench.config.datasets import named_files
from rlbench.config.schema import RedditV2Config
from rlbench.data.catalog_files import SUFFIXES, integer_year, read_catalog
from rlbench.data.checks import check_records, fingerprint, same_wording, share_outside_catalog, wordings
from rlbench.data.lengths import LongPrompts
from rlbench.data.record import Messages, RankedListDataset, Record
from rlbench.data.stage1.files import demonstrated
from rlbench.lists.catalog import Catalog

if TYPE_CHECKING:
    import datasets

PARTS = {
    "sft": "sft_dataset/train",
    "train": "grpo/grpo_dataset/train",
    "validation": "sft_dataset/validation",
    "test": "sft_dataset/test",
}
_COLUMNS = ("prompt", "seen_titles", "groundtruth_with_release_year")
_BATCH = 4096
_NO_RECORDS = "the dataset has no records"
BROKEN_TABLE = (
    OSError,  # pyarrow: an Arrow file is truncated; `datasets`: a file is missing
    ValueError,  # pyarrow: bad offsets or UTF-8; json: no JSON; `datasets`: unknown columns or types
    KeyError,  # `datasets`: state.json or dataset_info.json lacks a key
    TypeError,  # `datasets`: null, or a number in place of an object
    AttributeError,  # `datasets`: a number or a list in place of an object or a text
    RecursionError,  # json: thousands of nested lists
    NotImplementedError,  # pyarrow: a damaged schema, for example with integers of 128 bits
    MemoryError,  # pyarrow: a damaged length of a compressed column
)
"""Errors of damaged datasets, caught only where a table is opened.

`datasets` uses the values of its JSON files without checking them. Damage of single values and bytes raised each of
these errors, and no others but IndexError."""


def load(config: RedditV2Config) -> RankedListDataset:
    """Load Reddit-v2. Demonstrations longer than the list length are cut, and counted.

    Raises:
        BadInput: all problems of the folder, of the catalogue and of the records at once.
    """
    if config.path is None:
        raise BadInput(
            f"dataset.path is not set: give dataset.path=FOLDER, a folder with {', '.join(PARTS.values())} and "
            "gt_catalog.pkl as published (docs/data.md says where to get it)"
        )
    root = Path(config.path)
    if not root.is_dir():
        raise BadInput(
            f"dataset.path = {config.path}: there is no such folder; expected one with {', '.join(PARTS.values())} "
            "(each written by datasets.save_to_disk) and gt_catalog.pkl, .json or .csv"
        )
    problems: list[str] = []
    notices: list[str] = []
    films = _catalog(root, config.catalog, problems, notices)
    n = config.list_length
    splits = {split: _records(root / part, part, split, n, problems, notices) for split, part in PARTS.items()}
    if problems or films is None:
        raise BadInput(*problems)
    long = LongPrompts(config.max_conversation_chars, config.long_prompts)
    splits = long.applied(splits)
    notices += long.notices()
    training = wordings(splits["sft"], splits["train"])
    for split in ("validation", "test"):
        share = share_outside_catalog(splits[split], films)
        if share:
            notices.append(
                f"{split}: {share:.2%} of the ground-truth films are not in the catalogue and can never be hits"
            )
        notices += same_wording(split, splits[split], training)
    found = demonstrated(config.demonstrations_from, {k: splits[k] for k in ("train", "sft", "validation")}, n)
    if found is not None:
        splits |= found[0]
        notices += found[1]
    return RankedListDataset("reddit_v2", films, splits, notices=notices, fingerprint=fingerprint(splits, films))


def sources(config: RedditV2Config) -> dict[str, Path]:
    """The files that `load` reads, by name. Files that are missing are left out or do not exist."""
    if config.path is None:
        return {}
    root = Path(config.path)
    found = {f.relative_to(root).as_posix(): f for part in PARTS.values() for f in sorted((root / part).rglob("*"))}
    catalog = _catalog_file(root, config.catalog)
    return found | named_files(catalogue=catalog, demonstrations=config.demonstrations_from)


def _catalog_places(root: Path) -> list[Path]:
    return [root / folder / f"gt_catalog{suffix}" for folder in ("", "reddit_catalog") for suffix in SUFFIXES]


def _catalog_file(root: Path, option: str | None) -> Path | None:
    return Path(option) if option else next((place for place in _catalog_places(root) if place.is_file()), None)


def _catalog(root: Path, option: str | None, problems: list[str], notices: list[str]) -> Catalog | None:
    file = _catalog_file(root, option)
    if file is None:
        places = ", ".join(str(place.relative_to(root)) for place in _catalog_places(root))
        problems.append(f"{root} has no catalogue; looked for {places}. Use dataset.catalog=FILE for another file")
        return None
    try:
        films, found = read_catalog(file)
    except BadInput as error:
        problems += error.problems
        return None
    notices += found
    return films


def _records(
    folder: Path, part: str, split: str, list_length: int, problems: list[str], notices: list[str]
) -> list[Record]:
    """The records of one part. Adds problems and notices to the given lists."""
    table = _open(folder, part, problems)
    if table is None:
        return []
    prefix = "train" if split == "sft" else split
    has_completion = "completion" in table.column_names
    prompts: dict[str, Messages] = {}  # one object for all samples of a context
    records = []
    converted = cut = 0
    for batch in table.with_format("arrow").iter(_BATCH):
        columns = batch.to_pydict()
        completions = columns["completion"] if has_completion else [None] * batch.num_rows
        for prompt, completion, truth, seen in zip(
            columns["prompt"],
            completions,
            columns["groundtruth_with_release_year"],
            columns["seen_titles"],
            strict=True,
        ):
            context_id = f"{prefix}-{hashlib.sha256(repr(prompt).encode()).hexdigest()[:16]}"
            shared = prompts.setdefault(context_id, prompt)
            films, strings = _truth(truth)
            shortened = _first_lines(completion, list_length)
            converted += strings
            cut += shortened != completion
            records.append(Record(shared, films, seen, context_id, shortened))
    problems += check_records(records, str(folder))
    if not records:
        problems.append(f"{folder}: {_NO_RECORDS}")
    if converted:
        notices.append(f"{part}: {converted} years given as strings were converted")
    if cut:
        notices.append(f"{part}: {cut} completions were truncated to their first {list_length} lines")
    return records


def _open(folder: Path, part: str, problems: list[str]) -> "datasets.Dataset | None":
    if not folder.is_dir():
        problems.append(f"{folder}: there is no such folder; expected a dataset written by datasets.save_to_disk")
        return None
    import datasets  # only here: it takes seconds to import

    try:
        table = datasets.load_from_disk(str(folder))
        if isinstance(table, datasets.Dataset):
            table.data.validate(full=True)  # offsets and UTF-8: reading a damaged Arrow file may end the process
    except BROKEN_TABLE as error:  # state or info file missing or malformed, Arrow file truncated
        problems.append(f"{folder}: not a dataset written by datasets.save_to_disk: {one_line(error)}")
        return None
    except IndexError as error:
        # A dataset saved without rows has no Arrow file. Otherwise one of the JSON files holds an empty list.
        damaged = any(folder.glob("*.arrow"))
        what = f"not a dataset written by datasets.save_to_disk: {one_line(error)}" if damaged else _NO_RECORDS
        problems.append(f"{folder}: {what}")
        return None
    if not isinstance(table, datasets.Dataset):
        problems.append(
            f"{folder} has the splits {', '.join(map(str, table))}; expected a single dataset without splits"
        )
        return None
    needed = _COLUMNS + (("completion",) if part == PARTS["sft"] else ())
    missing = [column for column in needed if column not in table.column_names]
    if missing:
        problems.append(f"{folder}: column {', '.join(missing)} is missing; it has {', '.join(table.column_names)}")
        return None
    return table


def _truth(pairs: Any) -> tuple[Any, int]:
    """([(title, year)], number of years given as strings). Values that cannot be converted stay for `check_records`."""
    if not isinstance(pairs, list):
        return pairs, 0
    films: list[Any] = []
    converted = 0
    for pair in pairs:
        if isinstance(pair, list) and len(pair) == 2:
            year = integer_year(pair[1])
            converted += year is not None and year is not pair[1]
            films.append((pair[0], pair[1] if year is None else year))
        else:
            films.append(pair)
    return films, converted


def _first_lines(completion: Messages | None, count: int) -> Messages | None:
    """The completion with each message cut to its first `count` lines. Malformed messages stay unchanged."""
    if not isinstance(completion, list) or not all(
        isinstance(m, dict) and isinstance(m.get("content"), str) for m in completion
    ):
        return completion
    return [{**message, "content": "\n".join(message["content"].split("\n")[:count])} for message in completion]
