"""A model file with valid JSON but wrong values: one message names the file."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlbench.base.errors import BadInput
from rlbench.models.generation import requested
from rlbench.models.loading import load_model, load_tokenizer, max_positions

NO_OBJECT = ("3", "null", '"x"', "[]", "", "{", "[" * 100_000, "9" * 5000, '{"a": "\\ud800')
WRONG: list[tuple[str, dict[str, Any]]] = [
    *(("tokenizer.json", {"model": value}) for value in (3, None, [], {}, {"type": "none"})),
    *(("tokenizer.json", {"added_tokens": value}) for value in (3, [3], [{"id": "x"}])),
    *(("tokenizer.json", {key: 3}) for key in ("normalizer", "pre_tokenizer", "decoder", "post_processor")),
    *(("tokenizer_config.json", {"eos_token": value}) for value in (3, [], {"a": 1})),
    *(("tokenizer_config.json", {"model_max_length": value}) for value in ("x", [3])),
    *(("tokenizer_config.json", {"tokenizer_class": value}) for value in (3, [])),
    *(("config.json", {"hidden_size": value}) for value in ("x", None, -1, 3, 10**30)),
    *(("config.json", {"num_hidden_layers": value}) for value in ("x", 0, 2.5, True, 10**9, 10**30)),
    *(("config.json", {"model_type": value}) for value in (3, "none", [])),
    *(("config.json", {"hidden_act": value}) for value in (3, "none")),
    *(("config.json", {"vocab_size": value}) for value in ("x", -1, 3)),
    ("config.json", {"pad_token_id": 10**30}),
    ("config.json", {"rope_parameters": 3}),
    *(("generation_config.json", {"eos_token_id": value}) for value in ("x", -1, 1.5, True, ["x"], [[1]], {"a": 1})),
]


@pytest.fixture(scope="module")
def model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as from the hub, without digests beside its files."""
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("models") / "sound")
    (folder / "files.json").unlink()
    read(folder)
    return folder


def read(folder: Path) -> None:
    load_tokenizer(folder)
    max_positions(folder)
    requested(folder)
    load_model(folder, "float32")


def refused(folder: Path, name: str, text: str) -> None:
    file = folder / name
    sound = file.read_bytes()
    file.write_text(text)
    try:
        with pytest.raises(BadInput) as caught:
            read(folder)
    finally:
        file.write_bytes(sound)
    (problem,) = caught.value.problems
    assert str(folder) in problem and name in problem, problem
    assert "\n" not in problem and len(problem) < 1000


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"])
def test_files_that_hold_no_json_object(model: Path, name: str) -> None:
    for text in NO_OBJECT:
        refused(model, name, text)


@pytest.mark.parametrize(("name", "changes"), WRONG, ids=lambda value: json.dumps(value)[:60])
def test_values_that_no_model_can_be_made_of(model: Path, name: str, changes: dict[str, Any]) -> None:
    refused(model, name, json.dumps(json.loads((model / name).read_text()) | changes))


def test_missing_keys_of_a_tokenizer(model: Path) -> None:
    sound = json.loads((model / "tokenizer.json").read_text())
    for key in ("model", "added_tokens"):
        refused(model, "tokenizer.json", json.dumps({name: value for name, value in sound.items() if name != key}))


def test_weights_of_another_size_than_the_config_says(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": config["intermediate_size"] * 2}))
    with pytest.raises(BadInput, match=f"cannot build a model from the config.json and the weights of '{folder}'"):
        load_model(folder, "float32")
