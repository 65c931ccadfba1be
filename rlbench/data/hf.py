"""A dataset of the Hugging Face hub, or a local folder of `datasets`: `dataset=hf` (docs/adding-a-dataset.md).

`dataset.columns` maps the fields of a record to columns, and `dataset.splits` our splits to those of the dataset.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlbench.base.errors import BadInput, nearest
from rlbench.config.datasets import named_files
from rlbench.config.schema import HFConfig
from rlbench.data.own import (
    dataset_of,
    named_columns,
    option_problems,
    read_own_catalog,
    template_of,
)
from rlbench.data.own_rows import OwnRow, Reading
from rlbench.data.record import SPLITS, RankedListDataset

WHOLE = "all"
"""Name of the split of a folder that holds one table."""


def load(config: HFConfig) -> RankedListDataset:
    """Load the rows of a dataset.

    Raises:
        BadInput: all problems of settings, columns and rows at once; or the dataset cannot be opened.
    """
    problems = option_problems(config) + named_columns(config.columns)
    problems += [
        f"dataset.splits names '{split}', which is unknown; known: {', '.join(SPLITS)}.{nearest(split, list(SPLITS))}"
        for split in config.splits
        if split not in SPLITS
    ]
    problems += [f"dataset.columns has no {name}" for name in ("prompt", "ground_truth") if name not in config.columns]
    if config.path is None:
        problems.append(
            "dataset.path is not set: give dataset.path=ID of a dataset on the hub, or a folder "
            "(docs/adding-a-dataset.md)"
        )
    if problems:
        raise BadInput(*problems)
    tables = open_tables(config)
    reading = Reading(template_of(config), "row")
    for split, theirs in _chosen(config, tables, problems).items():
        where = f"{config.path}, split {theirs}"
        if missing := [column for column in config.columns.values() if column not in tables[theirs].column_names]:
            problems.append(
                f"{where}: there is no column {' and no '.join(missing)}; there are "
                f"{', '.join(tables[theirs].column_names)}; set dataset.columns"
            )
            continue
        for number, values in enumerate(_rows(tables[theirs], config.columns)):
            reading.add(OwnRow(where, number, split if split != WHOLE else None, values))
    catalog, notices = read_own_catalog(config, None if config.catalog is None else Path(config.catalog), problems)
    problems += reading.problems()
    if problems:
        raise BadInput(*problems, notices=[*notices, *reading.notices()])
    return dataset_of(config.name, reading, catalog, notices)


def sources(config: HFConfig) -> dict[str, Path]:
    """The Arrow files that `load` reads, in the folder or in the cache of `datasets`, and the other files."""
    found = named_files(catalogue=config.catalog, demonstrations=config.demonstrations_from)
    if config.path is None:
        return found
    try:
        tables = open_tables(config)
    except BadInput:
        return found  # which `load` reports
    for split, table in tables.items():
        for number, file in enumerate(table.cache_files):
            found[f"{split} {number}"] = Path(file["filename"])
    return found


def open_tables(config: HFConfig) -> Mapping[str, Any]:
    """The splits of the dataset by their own names; `WHOLE` for a folder with one table.

    Raises:
        BadInput: it cannot be opened.
    """
    import datasets  # takes a second

    assert config.path is not None
    place = Path(config.path)
    try:
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            opened = datasets.load_from_disk(str(place))
        else:
            opened = datasets.load_dataset(config.path, config.subset, revision=config.revision)
    except Exception as error:  # `datasets` raises errors of many libraries: of files, of the net, of parsers
        first = " ".join(str(error).split())[:300]
        raise BadInput(
            f"dataset.path = {config.path} cannot be opened: {first or type(error).__name__}; give the id of a dataset "
            "on the hub, or a folder written by save_to_disk"
        ) from error
    return opened if isinstance(opened, Mapping) else {WHOLE: opened}


def _chosen(config: HFConfig, tables: Mapping[str, Any], problems: list[str]) -> dict[str, str]:
    """Our splits, each with the name of theirs. Without `dataset.splits`, those of equal names, or the only table."""
    if not config.splits:
        same = {split: split for split in SPLITS if split in tables}
        if same or len(tables) > 1:
            if "train" not in same:
                problems.append(
                    f"{config.path} has the splits {', '.join(tables)}, but no train; map them in dataset.splits, for "
                    f"example splits: {{train: {next(iter(tables))}}} in the dataset's YAML (docs/adding-a-dataset.md)"
                )
            return same
        return {WHOLE: next(iter(tables))}
    problems += [
        f"dataset.splits.{split} = '{theirs}': {config.path} has no such split; there are {', '.join(tables)}"
        for split, theirs in config.splits.items()
        if theirs not in tables
    ]
    return {split: theirs for split, theirs in config.splits.items() if theirs in tables}


def _rows(table: Any, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for row in table.select_columns(list(dict.fromkeys(columns.values()))):
        yield {field: _plain(row[column]) for field, column in columns.items()}


def _plain(value: Any) -> Any:
    """A value without the nulls of structs, and with a dict of equally long lists as a list of dicts."""
    lists = isinstance(value, dict) and value and all(isinstance(part, list) for part in value.values())
    if lists and len(set(map(len, value.values()))) == 1:
        return [_plain(dict(zip(value, parts, strict=True))) for parts in zip(*value.values(), strict=True)]
    if isinstance(value, dict):
        return {key: part for key, part in value.items() if part is not None}
    return [_plain(part) if isinstance(part, dict) else part for part in value] if isinstance(value, list) else value
