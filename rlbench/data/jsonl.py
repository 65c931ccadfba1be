"""A user's own data in JSONL files: `dataset=jsonl` (docs/adding-a-dataset.md).

`dataset.path` is one file, or a folder with one file per split: train.jsonl, and validation.jsonl, test.jsonl and
sft.jsonl if there are such splits. Other names of splits that are accepted: `own_rows.SPLIT_NAMES`.
"""

from collections.abc import Mapping
from pathlib import Path

from rlbench.base.errors import BadInput
from rlbench.base.user_files import NOT_JSON, read_user_bytes, read_user_lines, unreachable
from rlbench.config.datasets import named_files
from rlbench.config.schema import JsonlConfig
from rlbench.data.catalog_files import SUFFIXES
from rlbench.data.own import (
    dataset_of,
    examples,
    option_problems,
    read_own_catalog,
    template_of,
)
from rlbench.data.own_rows import SPLIT_NAMES, OwnRow, Reading
from rlbench.data.record import RankedListDataset

CUT_OFF = "not a JSON object; the line may be cut off, or not be UTF-8"


def load(config: JsonlConfig) -> RankedListDataset:
    """Load the records of JSONL files.

    Raises:
        BadInput: all problems of settings, files and records at once.
    """
    problems = option_problems(config)
    files = _files(config, problems)
    reading = Reading(template_of(config), "line")
    for file, split in files.items():
        try:
            one_list = read_user_bytes(file).lstrip()[:1] == b"["
            lines = [] if one_list else list(read_user_lines(file))
        except BadInput as error:
            problems += error.problems
            continue
        if one_list:
            problems.append(
                f"{file} is one JSON list; write one JSON object per line, for example with jq -c '.[]' FILE"
            )
        elif not lines:
            problems.append(f"{file} has no records; write one JSON object per line, or remove the file")
        for number, values, wrong in lines:
            row = OwnRow(str(file), number, split, values)
            if wrong:
                reading.problem(row, CUT_OFF if wrong[0] == NOT_JSON else wrong[0], wrong[1])
            else:
                reading.add(row)
    catalog, notices = read_own_catalog(config, _catalog(config), problems)
    notices = [*notices, *_unread(config, files)]
    problems += reading.problems()
    if problems:
        raise BadInput(*problems, notices=[*notices, *reading.notices()])
    return dataset_of(config.name, reading, catalog, notices)


def sources(config: JsonlConfig) -> dict[str, Path]:
    """The files that `load` reads, by name. Files that are missing are left out or do not exist."""
    found = {file.name: file for file in _files(config, [])}
    return found | named_files(catalogue=_catalog(config), demonstrations=config.demonstrations_from)


def _files(config: JsonlConfig, problems: list[str]) -> dict[Path, str | None]:
    """The files with their splits; None for a file that may hold several."""
    wanted = "a file of records, or a folder with train.jsonl and files for further splits"
    if config.path is None:
        problems.append(f"dataset.path is not set: give dataset.path=PLACE, {wanted} (docs/adding-a-dataset.md)")
        return {}
    place = Path(config.path)
    if reason := unreachable(place):
        problems.append(f"dataset.path = {config.path} cannot be read: {reason}; give {wanted}")
        return {}
    if place.is_file():
        return {place: SPLIT_NAMES.get(place.stem.lower()) if place.stem.lower() != "train" else None}
    if not place.is_dir():
        problems.append(f"dataset.path = {config.path}: there is no such file or folder; give {wanted}")
        return {}
    catalog = _catalog(config)
    if config.catalog is None and len(several := _catalogs(place)) > 1:
        problems.append(
            f"dataset.path = {config.path}: there are several catalogues, {examples(one.name for one in several)}; "
            "keep one, or set dataset.catalog=FILE"
        )
    rows = [file for file in sorted(place.glob("*.jsonl")) if file != catalog]
    of_split = {file: SPLIT_NAMES.get(file.stem.lower()) for file in rows}
    files = {file: split for file, split in of_split.items() if split}
    if not files and len(rows) == 1:
        return {rows[0]: None}
    ignored = [file.name for file, split in of_split.items() if not split]
    splits = list(files.values())
    if twice := {split for split in splits if splits.count(split) > 1}:
        both = [file.name for file, split in files.items() if split in twice]
        problems.append(f"dataset.path = {config.path}: {' and '.join(both)} are for the same split; join them")
    if not files:
        found = examples(ignored) or "no file that ends in .jsonl"
        problems.append(f"dataset.path = {config.path}: found {found}; expected {wanted}")
    return dict(files)


def _catalog(config: JsonlConfig) -> Path | None:
    """The catalogue: `dataset.catalog`, or a file catalog.* in the folder; None if there is neither."""
    if config.catalog is not None:
        return Path(config.catalog)
    if config.path is None or unreachable(Path(config.path)) or not Path(config.path).is_dir():
        return None
    return next(iter(_catalogs(Path(config.path))), None)


def _catalogs(folder: Path) -> list[Path]:
    """The files or folders of a catalogue's name."""
    return [file for end in SUFFIXES if (file := folder / f"catalog{end}").exists()]


def _unread(config: JsonlConfig, files: Mapping[Path, str | None]) -> list[str]:
    """Notice of files in the folder that look like records or a catalogue, but are not read."""
    place = Path(config.path or "")
    if config.path is None or unreachable(place) or not place.is_dir():
        return []
    read = {file.resolve() for file in files}
    read |= {Path(path).resolve() for path in (_catalog(config), config.demonstrations_from) if path}
    unread = [
        file.name
        for file in sorted(place.iterdir())
        if (file.suffix.lower() in (".jsonl", ".ndjson") or file.stem.lower().startswith("catalog"))
        and file.resolve() not in read
    ]
    if not unread:
        return []
    return [
        f"{len(unread)} files of the folder are not read: {examples(unread)}; records are read from train.jsonl, "
        "validation.jsonl, test.jsonl and sft.jsonl, and the catalogue from dataset.catalog or catalog.*"
    ]
