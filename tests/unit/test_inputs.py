"""Data and model files are part of a run's identity, by content and not by path."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from rlbench.base import digests
from rlbench.base.errors import BadInput
from rlbench.config.schema import Config
from rlbench.models import sources, wheels
from rlbench.runs import inputs
from rlbench.runs.claiming import claim
from rlbench.runs.directory import locate
from rlbench.runs.existing import superseded
from rlbench.runs.identity import stage_config, stage_settings
from tests.conftest import composed
from tests.helpers_inputs import OF_REDIAL, weights, write_model, write_redial

SHARED = ("zero_shot", "sft")
STAGES = (*SHARED, "rl")


@pytest.fixture(autouse=True)
def fresh():
    """Empty caches, as in a new process."""
    inputs.forget()


composed_once = cache(composed)


def redial(path: Path, *overrides: str, demonstrations: Path | None = None) -> Config:
    config = composed_once(*OF_REDIAL, *overrides)
    found = replace(config.dataset, path=str(path), demonstrations_from=demonstrations and str(demonstrations))
    return replace(config, dataset=found, runs_dir=str(path.parent / "runs"))


def roots(config: Config) -> list[Path]:
    return [locate(config, stage).root for stage in STAGES]


# Data.


def test_other_data_are_other_runs_of_every_stage(tmp_path):
    first, other = write_redial(tmp_path / "a"), write_redial(tmp_path / "b", swap="test")
    assert all(a != b for a, b in zip(roots(redial(first)), roots(redial(other)), strict=True))


def test_the_same_data_elsewhere_are_the_same_run(tmp_path):
    first, again = write_redial(tmp_path / "a"), write_redial(tmp_path / "b")
    assert roots(redial(first)) == roots(redial(again))


@pytest.mark.parametrize("file", ["train", "valid", "test"])
def test_edited_files_are_another_run(tmp_path, file):
    config = redial(write_redial(tmp_path / "a"))
    before = roots(config)
    shutil.rmtree(tmp_path / "a")
    write_redial(tmp_path / "a", swap=file)
    assert roots(config) == before  # a process keeps using the data it has read
    inputs.forget()
    assert all(a != b for a, b in zip(roots(config), before, strict=True))


def test_the_part_that_differs_is_named(tmp_path):
    """The film was already in the catalogue, so the digests of the other splits stay the same."""
    first, other = write_redial(tmp_path / "a"), write_redial(tmp_path / "b", swap="test")
    one, two = (stage_config(redial(path), "zero_shot")["inputs"]["data"] for path in (first, other))
    assert [part for part in one if one[part] != two[part]] == ["split test"]


def test_the_order_of_records_counts(tmp_path):
    first, other = write_redial(tmp_path / "a"), write_redial(tmp_path / "b")
    lines = (other / "train.jsonl").read_text().splitlines(keepends=True)
    (other / "train.jsonl").write_text("".join(reversed(lines)))
    assert locate(redial(first), "rl").root != locate(redial(other), "rl").root


def test_membership_of_splits_counts(tmp_path):
    """The records are the same, but one is in another split."""
    first, other = write_redial(tmp_path / "a"), write_redial(tmp_path / "b")
    *kept, moved = (other / "train.jsonl").read_text().splitlines(keepends=True)
    (other / "train.jsonl").write_text("".join(kept))
    with (other / "valid.jsonl").open("a") as file:
        file.write(moved)
    one, two = (stage_config(redial(path), "rl")["inputs"]["data"] for path in (first, other))
    assert one["split train"] != two["split train"] and one["split validation"] != two["split validation"]
    assert one["split test"] == two["split test"]


def test_demonstrations_of_one_file_name_have_rows_and_runs_of_their_own(tmp_path):
    data = write_redial(tmp_path / "data")
    context = inputs.load(redial(data)).splits["train"][0].context_id
    configs = []
    for teacher, film in (("gpt4", "Big (1988)"), ("llama", "Up (2009)")):
        file = tmp_path / teacher / "demonstrations.jsonl"
        file.parent.mkdir()
        file.write_text(json.dumps({"context_id": context, "completion": film}) + "\n")
        configs.append(redial(data, demonstrations=file))
    for stage in ("sft", "rl"):
        one, two = (locate(config, stage) for config in configs)
        assert one.hash != two.hash and one.label != two.label and "demonstrations-" in one.label
    assert locate(configs[0], "zero_shot").hash == locate(configs[1], "zero_shot").hash != ""
    moved = shutil.copytree(tmp_path / "gpt4", tmp_path / "elsewhere") / "demonstrations.jsonl"
    again = redial(data, demonstrations=moved)
    assert locate(again, "sft").root == locate(configs[0], "sft").root


def test_a_catalogue_file_counts_by_its_content():
    """The path used to be part of the identity, and the content was not."""
    plain = composed_once("dataset=reddit_v2")
    one, two = (replace(plain, dataset=replace(plain.dataset, catalog=path)) for path in ("a.json", "b.json"))
    assert stage_settings(one, "rl") == stage_settings(two, "rl")


def test_data_that_are_not_there_are_told_with_the_model_that_is_not(tmp_path):
    config = hub(tmp_path / "neither", tmp_path / "nowhere")
    for _ in range(2):  # the remembered error is raised again
        with pytest.raises(BadInput) as error:
            locate(config, "rl")
        assert [str(tmp_path / "nowhere") in error.value.problems[0], len(error.value.problems)] == [True, 2]


def test_a_run_on_other_inputs_is_named_with_both_digests(tmp_path):
    """The earlier run stays in place, and the command explains why it does not continue it."""
    config = redial(write_redial(tmp_path / "a"))
    before = locate(config, "sft")
    with claim(before, config):
        pass
    assert superseded(before) == []
    shutil.rmtree(tmp_path / "a")
    write_redial(tmp_path / "a", swap="test")
    inputs.forget()
    after = locate(config, "sft")
    (notice,) = superseded(after)
    there, now = (run.identity["inputs"]["data"]["split test"][:12] for run in (before, after))
    assert f"split test: was {there}, is now {now}" in notice and str(before.root) in notice
    assert "split train" not in notice
    other_settings = replace(config, trainer=replace(config.trainer, bf16=True))
    assert superseded(locate(other_settings, "sft")) == []


# Models.


def hub(folder: Path, data: Path, *overrides: str) -> Config:
    config = redial(data, "model=qwen2.5_0.5b", *overrides)
    return replace(config, model=replace(config.model, path=str(folder)))


@pytest.fixture
def data(tmp_path) -> Path:
    return write_redial(tmp_path / "data")


def test_a_model_counts_by_its_content(tmp_path, data):
    first, again = write_model(tmp_path / "a"), write_model(tmp_path / "b")
    assert roots(hub(first, data)) == roots(hub(again, data))


def test_two_models_of_one_process_are_two_runs(tmp_path, data):
    first, other = write_model(tmp_path / "a"), write_model(tmp_path / "b")
    (other / "model.safetensors").write_bytes(weights(2.0))
    assert all(a != b for a, b in zip(roots(hub(first, data)), roots(hub(other, data)), strict=True))


def test_one_dataset_at_a_time_is_in_memory(tmp_path, data):
    first, other = redial(data), redial(write_redial(tmp_path / "b"))
    loaded = inputs.load(first)
    assert inputs.load(first) is loaded
    inputs.load(other)
    assert inputs.load(first) is not loaded


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
        "additional_chat_templates/tool_use.jinja",
    ],
)
def test_every_file_that_is_read_counts(tmp_path, data, name):
    config = hub(write_model(tmp_path / "a"), data)
    before = roots(config)
    file = tmp_path / "a" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(weights(2.0) if file.suffix == ".safetensors" else b"changed")
    inputs.forget()
    assert all(a != b for a, b in zip(roots(config), before, strict=True))


@pytest.mark.parametrize("name", ["README.md", "LICENSE.txt", "optimizer.pt", "pytorch_model.bin"])
def test_files_that_are_not_read_do_not_count(tmp_path, data, name):
    config = hub(write_model(tmp_path / "a"), data)
    before = roots(config)
    (tmp_path / "a" / name).write_text("changed")
    inputs.forget()
    assert roots(config) == before


def test_shards_count(tmp_path):
    folder = write_model(tmp_path / "a")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1.safetensors").write_bytes(weights(1.0))
    with pytest.raises(BadInput, match=r"lists model-2.safetensors, which is missing"):
        sources.folder_digests(folder, "a")
    (folder / "model-2.safetensors").write_bytes(weights(2.0))
    assert {"model-1.safetensors", "model-2.safetensors"} < set(sources.folder_digests(folder, "a"))


def test_folders_without_weights_or_with_an_adapter_are_refused(tmp_path):
    folder = write_model(tmp_path / "a")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match="has an adapter"):
        sources.folder_digests(folder, "a")
    (folder / "adapter_config.json").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="'a' has no weights"):
        sources.folder_digests(folder, "a")


def test_a_tiny_model_counts_by_config_and_texts(tmp_path):
    """Its tokenizer is trained on the catalogue and the requests; its name and the data's path have no effect."""
    first, again = write_redial(tmp_path / "a"), write_redial(tmp_path / "b")
    one = stage_config(redial(first), "zero_shot")
    assert one == stage_config(redial(again, "model.name=mine"), "zero_shot")
    assert one["model"] != stage_config(redial(again, "model.seed=9"), "zero_shot")["model"]
    *kept, _ = (again / "train.jsonl").read_text().splitlines(keepends=True)
    (again / "train.jsonl").write_text("".join(kept))
    inputs.forget()
    assert one["inputs"]["model"] != stage_config(redial(again), "zero_shot")["inputs"]["model"]


def test_the_wheel_counts_by_its_gguf(tmp_path, data):
    def digest_with(sha: str) -> str:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        config = replace(redial(data, "model=smollm2_135m"), cache_dir=str(tmp_path / "cache"))
        folder = tmp_path / "cache" / wheels.converted_name(config.model.package, config.model.version, sha)
        folder.mkdir(parents=True)
        (folder / "source.json").write_text(json.dumps({"member": config.model.member, "sha256": sha}))
        digests.seal(folder)
        inputs.forget()
        return locate(config, "sft").hash

    assert digest_with("a" * 64) == digest_with("a" * 64) != digest_with("b" * 64)
