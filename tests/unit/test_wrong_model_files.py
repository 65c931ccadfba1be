"""A model file with valid JSON but wrong values: one message names the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlbench.base.errors import BadInput
from rlbench.models.generation import requested
from rlbench.models.loading import check_weights, load_model, load_tokenizer, max_positions
from rlbench.models.sources import folder_digests
from rlbench.running.session import prepare
from tests.conftest import SMALL, composed
from tests.helpers_models import save_model
from tests.properties.tokenizers import gpt2_like

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


def in_safetensors(folder: Path, weights: dict[str, Any]) -> None:
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def in_torch(folder: Path, weights: dict[str, Any]) -> None:
    torch.save(weights, folder / "pytorch_model.bin")


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


def test_weights_of_another_shape_name_the_tensor(model: Path, tmp_path: Path) -> None:
    weights, folder = load_file(model / "model.safetensors"), shutil.copytree(model, tmp_path / "other")
    save_file(weights | {"model.norm.weight": torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})
    wide = weights["model.norm.weight"].numel()
    for read_weights in (check_weights, lambda source: load_model(source, "float32")):
        with pytest.raises(BadInput, match=rf"'{folder}': model.norm.weight is \(3\) instead of \({wide}\)"):
            read_weights(folder)


@pytest.mark.parametrize("save", [in_safetensors, in_torch], ids=["safetensors", "bin"])
def test_weights_that_are_missing(model: Path, tmp_path: Path, save: Callable[[Path, dict[str, Any]], None]) -> None:
    """transformers would draw them at random. A tied head is not missing."""
    weights, folder = load_file(model / "model.safetensors"), shutil.copytree(model, tmp_path / "other")
    (folder / "model.safetensors").unlink()
    assert "lm_head.weight" not in weights and json.loads((model / "config.json").read_text())["tie_word_embeddings"]
    save(folder, weights)
    check_weights(folder)
    lost = sorted(name for name in weights if "layers.0" in name)
    assert len(lost) > 3
    save(folder, {name: value for name, value in weights.items() if name not in lost} | {"other": torch.zeros(2)})
    said = f"'{folder}': the weights lack {', '.join(lost[:3])} and {len(lost) - 3} more, and have other, which"
    for read_weights in (check_weights, lambda source: load_model(source, "float32")):
        with pytest.raises(BadInput) as caught:
            read_weights(folder)
        (problem,) = caught.value.problems
        assert said in problem


@pytest.mark.parametrize("family", ["gpt2", "falcon", "mamba", "opt", "bloom", "gemma3"])
def test_weights_as_transformers_saves_them_are_complete(family: str, tmp_path: Path) -> None:
    check_weights(save_model(tmp_path / family, family, gpt2_like()))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_end_too_early(model: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(model, tmp_path / "short")
    if name == "pytorch_model.bin":
        in_torch(folder, load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
    whole = (folder / name).read_bytes()
    for kept in (len(whole) - 1, len(whole) // 2, 300, 5, 0):
        (folder / name).write_bytes(whole[:kept])
        for read_weights in (
            lambda folder: folder_digests(folder, "mine"),
            lambda folder: load_model(folder, "float32"),
        ):
            with pytest.raises(BadInput) as caught:
                read_weights(folder)
            (problem,) = caught.value.problems
            assert f"{folder / name} is damaged" in problem and "download the model again" in problem, problem
    (folder / name).write_bytes(whole)
    assert name in folder_digests(folder, "mine")


def test_a_shard_that_ends_too_early(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    load_model(model, "float32").save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2 and len(folder_digests(folder, "mine")) > len(shards)
    for shard in shards[1:3]:
        shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(BadInput) as caught:
        folder_digests(folder, "mine")
    assert [problem.partition(" is damaged")[0] for problem in caught.value.problems] == [
        str(one) for one in shards[1:3]
    ]


def test_a_dry_run_finds_weights_that_are_missing(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "less")
    weights = load_file(folder / "model.safetensors")
    in_safetensors(folder, {name: value for name, value in weights.items() if name != "model.norm.weight"})
    small = [setting for setting in SMALL if not setting.startswith("model.")]
    config = composed(*small, "model=hf", f"model.path={folder}", f"cache_dir={tmp_path}", "stage=zero_shot")
    with pytest.raises(BadInput, match="the weights lack model.norm.weight; download"):
        prepare(config)
