"""Datasets from the data cache: read, checked and fingerprinted once, then memory-mapped.

The folder of a dataset is named after everything that its records depend on: the content of its files, the settings of
its loader, the code of the rooms that read it, and the versions of Python and of the libraries. A cached dataset has
passed `check_dataset`.
"""

import platform
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlbench.base.cache import Cache, CannotStore, bytes_of, code_digest, key_of
from rlbench.base.files import DiskFull, megabytes, write_json
from rlbench.base.progress import Progress
from rlbench.base.user_files import read_user_json
from rlbench.config.datasets import DATASETS
from rlbench.config.plugins import code_digest_of
from rlbench.config.schema import DatasetConfig
from rlbench.data import load_dataset
from rlbench.data.checks import check_dataset, digests
from rlbench.data.record import RankedListDataset
from rlbench.data.stage1.files import manifest_of
from rlbench.data.stored import StoredPlace, StoredRecords, write_records
from rlbench.lists.catalog import Catalog
from rlbench.lists.items import Item

CODE = ("base", "config", "data", "lists")
"""Rooms whose code can change a record."""
LIBRARIES = ("numpy", "datasets", "pyarrow")
WITHOUT_EFFECT = ("cutoffs",)
"""Settings of a dataset that change no record."""
TOLD = 50 * 10**6
"""Bytes from which on the user is told where the cache lies."""
RECORDS, CONTENT = "records", "content.json"


class _HasProblems(Exception):
    """The dataset that was loaded does not pass `check_dataset`."""


def open_dataset(config: DatasetConfig, cache: Cache | None) -> RankedListDataset:
    """Return a dataset from the cache. It is read and stored first if it is not there.

    A dataset with problems is returned as loaded and not stored. So is one that the cache has no room for.

    Args:
        config: the dataset's configuration.
        cache: the cache; None reads the data as they are.

    Raises:
        BadInput: all problems of the files at once.
    """
    if cache is None:
        return load_dataset(config)
    named = dict(DATASETS[config.kind].sources(config))
    named |= {
        f"{name} manifest": manifest_of(path) for name, path in named.items() if name.startswith("demonstrations")
    }
    sources = {name: path for name, path in named.items() if path.is_file()}
    try:
        key = _key(config, sources, cache)
    except OSError:  # a file that cannot be read, which the loader reports
        return load_dataset(config)
    place = StoredPlace(cache, f"{config.name}-{key}")
    loaded: list[RankedListDataset] = []

    def make(folder: Path) -> None:
        loaded.append(load_dataset(config))
        if check_dataset(loaded[0], config.list_length):
            raise _HasProblems  # the caller reports them with all others
        _write(loaded[0], folder, cache)
        if _key(config, sources, cache) != key:
            raise CannotStore("its files have changed while they were read")

    try:
        folder = place.folder(RECORDS, config.name, make)
    except _HasProblems:
        return loaded[0]
    except (CannotStore, DiskFull) as error:
        cache.tell(f"data cache: {config.name} is not stored, because {error}")
        return loaded[0] if loaded else load_dataset(config)
    if loaded and (size := bytes_of(folder)) >= TOLD:
        cache.tell(
            f"data cache: {config.name} takes {megabytes(size)} in {folder.parent}; later runs read it from there. To "
            "free the space, remove that folder"
        )
    return _open(folder, place)


def _key(config: DatasetConfig, sources: Mapping[str, Path], cache: Cache) -> str:
    settings = {key: value for key, value in asdict(config).items() if key not in (*config.paths, *WITHOUT_EFFECT)}
    files = {name: cache.digest(path) for name, path in sources.items()}
    unicode = [platform.python_version(), unicodedata.unidata_version]
    module = DATASETS[config.kind].module
    code = [code_digest(*CODE), *([] if module.startswith("rlbench.") else [code_digest_of(module)])]
    return key_of([settings, files, *code, unicode, [version(name) for name in LIBRARIES]])


def _write(dataset: RankedListDataset, folder: Path, cache: Cache) -> None:
    total = sum(map(len, dataset.splits.values()))
    progress = Progress(f"storing {dataset.name}", total, file=None, show=cache.show, unit="record")
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress.to(done)

    for split, records in dataset.splits.items():
        write_records(records, folder / f"{split}.arrow", advance)
    progress.close()
    content = {
        "name": dataset.name,
        "splits": list(dataset.splits),
        "catalogue": dataset.catalog.items,
        "oracle": dataset.oracle,
        "notices": dataset.notices,
        "fingerprint": dataset.fingerprint,
        "item": dataset.item,
        "questions": digests(dataset, demonstrations=False),
        "data": digests(dataset, demonstrations=True),
    }
    write_json(folder / CONTENT, content)


def _open(folder: Path, place: StoredPlace) -> RankedListDataset:
    content = read_user_json(folder / CONTENT)
    oracle = content["oracle"]
    return RankedListDataset(
        content["name"],
        Catalog(map(_item, content["catalogue"])),
        {split: StoredRecords(folder / f"{split}.arrow", place) for split in content["splits"]},
        None if oracle is None else {context: list(map(_item, items)) for context, items in oracle.items()},
        content["notices"],
        content["fingerprint"],
        {"questions": content["questions"], "data": content["data"]},
        place,
        content["item"],
    )


def _item(pair: list[Any]) -> Item:
    return pair[0], pair[1]
