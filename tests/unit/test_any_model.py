"""Models of any folder: their registry, names, identity, prompt forms and tokens, and what is refused."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as token_models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from rlbench.base.errors import BadInput
from rlbench.config import plugins
from rlbench.config.models import MODELS, model, model_schemas
from rlbench.config.resolving import resolve
from rlbench.config.schema import Config
from rlbench.data.record import RankedListDataset, Record
from rlbench.evaluation.prompts import check_prompts, form_notice
from rlbench.models.loading import check_model, load_model, load_tokenizer, locate_model, max_positions
from rlbench.models.prompt_form import has_template
from rlbench.running.checks import check_values
from rlbench.running.session import check_demonstrations, prepare
from rlbench.runs.identity import canonical, config_hash, stage_settings
from rlbench.runs.inputs import forget, inputs
from rlbench.training.engine_checks import check_abilities
from tests.conftest import SMALL, composed
from tests.helpers_models import save_model
from tests.properties.tokenizers import end_alone, gpt2_like, unigram_like

SYSTEM, USER, ANSWER = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Films like Heat?"},
    {"role": "assistant", "content": "Ronin (1998)"},
)
REFUSING = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '[' + m['role'] + ']' + m['content'] + eos_token }}{% endfor %}"
)
SILENT = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] + eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a chat template, whose tokenizer begins its texts with BOS and has no padding."""
    return save_model(tmp_path_factory.mktemp("models") / "base-7b", "llama", unigram_like())


@pytest.fixture
def changed(base: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a copy of the model with another template, or other values in one of its JSON files."""

    def copy(template: str | None = None, file: str = "tokenizer_config.json", **values: object) -> Path:
        folder = tmp_path / "changed"
        if not folder.exists():
            shutil.copytree(base, folder)
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        content = json.loads((folder / file).read_text()) | values
        (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
        return folder

    return copy


def asked(*messages: dict[str, str]) -> RankedListDataset:
    """A dataset with one prompt, and its answer as a demonstration."""
    record = Record(list(messages), [("Ronin", 1998)], [], "c", [ANSWER])
    return RankedListDataset("one", None, {"sft": [record]}, fingerprint="")  # type: ignore[arg-type]


def of_model(path: Path | str, *overrides: str) -> Config:
    return composed("model=hf", f"model.path={path}", *overrides)


def written(tokenizer: PreTrainedTokenizerBase, *messages: dict[str, str]) -> str:
    return tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)


# Settings and identity.

HASHES = {
    "model=tiny": ("6d21768d", "d90d62fa", "80d8d0ae"),
    "model=qwen2.5_0.5b": ("93d8b0a0", "b0bca19c", "04588d25"),
    "model=smollm2_135m": ("93d8b0a0", "b0bca19c", "04588d25"),
}
"""Hashes of settings from before models had a template or a system role."""


@pytest.mark.parametrize("choice", HASHES)
def test_older_settings_have_their_hash(choice: str) -> None:
    config = composed(choice)
    found = [config_hash(canonical(stage_settings(config, stage))) for stage in ("zero_shot", "sft", "rl")]
    assert found == list(HASHES[choice])


def test_a_name_is_the_last_part_of_the_path_and_may_be_given() -> None:
    assert of_model("owner/Some-Model-7B").model.name == "Some-Model-7B"
    assert of_model("/models/mine/").model.name == "mine"
    assert of_model("owner/other", "model.name=ours").model.name == "ours"
    assert composed("model=qwen2.5_0.5b", "model.path=/models/x").model.name == "qwen2.5_0.5b"


def test_what_is_no_model_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (problem,) = check_values(composed("model=hf", "model.name=mine"))
    assert problem.startswith("model.path is not set; give a transformers model folder or a hub id")
    for settings in (["model=hf"], ["model=qwen2.5_0.5b", "model.path=null", "model.name=null"]):
        with pytest.raises(
            BadInput, match=r"^model\.path is not set; give a transformers model folder or a hub id, as"
        ):
            composed(*settings)
    with pytest.raises(BadInput, match=r"^model\.name = null: it needs a value$"):
        composed("model=tiny", "model.name=null")
    (problem,) = check_values(of_model("x/y", "model.system_role=merged"))
    assert problem.startswith("model.system_role = 'merged' is unknown; known: template, merge. Did you mean 'merge'?")
    (tmp_path / "file").touch()
    remedy = "give a transformers model folder or a hub id"
    for path, said in (
        (tmp_path, f"has no config.json; {remedy}"),
        (tmp_path / "none", f"does not exist; {remedy}"),
        (tmp_path / "file", "is a file; give the folder that has config.json, weights and tokenizer"),
    ):
        assert check_model(of_model(path).model) == [f"model.path = '{path}' {said}"]
        with pytest.raises(BadInput, match=re.escape(f"model.path = '{path}' {said}")):
            MODELS["hub"].digest(of_model(path).model, None, tmp_path)
    (tmp_path / "empty.jinja").write_text("\n")
    for name, words in (
        ("none.jinja", "is not a file; give a file with a Jinja template"),
        ("empty.jinja", "is empty"),
    ):
        (problem,) = check_model(of_model("x/y", f"model.chat_template={tmp_path / name}").model)
        assert problem.startswith(f"model.chat_template = '{tmp_path / name}' {words}")
    with pytest.raises(BadInput, match=r"model\.kind = 'hugging' is unknown; known: tiny, wheel, hub"):
        composed("model=hf", "model.kind=hugging")


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_a_folder_without_the_tokenizers_files(family: str, tmp_path: Path) -> None:
    """transformers makes an empty tokenizer of some kinds, and fails for others."""
    folder = save_model(tmp_path / "model", family, gpt2_like())
    load_tokenizer(folder)
    for settings in (False, True):
        (folder / "tokenizer.json").unlink(missing_ok=True)
        if settings:
            (folder / "tokenizer_config.json").unlink()
        with pytest.raises(BadInput) as caught:
            load_tokenizer(folder)
        (problem,) = caught.value.problems
        assert problem.startswith(
            f"'{folder}' has no tokenizer files, such as tokenizer.json and tokenizer_config.json; c"
        )


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_in_a_folder_has_nothing_to_do_with_the_hub(changed: Callable[..., Path], text: str) -> None:
    folder = changed()
    (folder / "config.json").write_text(text)
    with pytest.raises(BadInput) as caught:
        load_tokenizer(folder)
    (problem,) = caught.value.problems
    assert str(folder / "config.json") in problem or f"the config.json of '{folder}'" in problem
    assert "hub" not in problem and "online" not in problem


def test_a_template_counts_by_its_content(base: Path, changed: Callable[..., Path], tmp_path: Path) -> None:
    def digest(folder: Path, *overrides: str) -> str:
        forget()
        config = of_model(folder, *overrides)
        return MODELS["hub"].digest(config.model, None, tmp_path)

    own = digest(base)
    assert digest(base, "model.chat_template=none") == own  # the plain form, asked for or not
    for name, text in (("a", SILENT), ("b", SILENT), ("c", REFUSING)):
        (tmp_path / name).write_text(text)
    a, b, c = (digest(base, f"model.chat_template={tmp_path / name}") for name in "abc")
    assert a == b and len({own, a, c}) == 3
    template = changed(SILENT)
    assert has_template(template) and not has_template(base)
    assert digest(template) != digest(template, "model.chat_template=none")


def test_a_system_role_is_part_of_the_identity(base: Path) -> None:
    one, two = (stage_settings(of_model(base, *more), "sft")["model"] for more in ([], ["model.system_role=merge"]))
    assert one == {"dtype": "float32"} and two == {"dtype": "float32", "system_role": "merge"}


# Prompt forms.


def test_the_plain_form(base: Path, tmp_path: Path) -> None:
    config = of_model(base)
    tokenizer = load_tokenizer(base, config=config.model)
    assert written(tokenizer, SYSTEM, USER) == "<s>Be brief.\n\nUser: Films like Heat?\nAssistant:\n"
    whole = tokenizer.apply_chat_template([USER, ANSWER], tokenize=False)
    assert whole == "<s>User: Films like Heat?\nAssistant:\nRonin (1998)</s>"
    assert check_prompts(asked(SYSTEM, USER), tokenizer, config.model, base) == []
    (notice,) = form_notice(config.model, base)
    assert notice.startswith("base-7b has no chat template, so prompts have the plain form")
    assert form_notice(of_model(base, "model.chat_template=none").model, base) == []
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).chat_template == tokenizer.chat_template
    without_bos = save_model(tmp_path / "other", "llama", end_alone())
    assert written(load_tokenizer(without_bos), USER) == "User: Films like Heat?\nAssistant:\n"


def test_none_replaces_a_template(changed: Callable[..., Path]) -> None:
    folder = changed(SILENT)
    assert written(load_tokenizer(folder), USER) == "Films like Heat?</s>"
    plain = load_tokenizer(folder, config=of_model(folder, "model.chat_template=none").model)
    assert written(plain, USER).endswith("User: Films like Heat?\nAssistant:\n")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (REFUSING, "refuses messages of the roles system, user: System role not supported"),
        (SILENT, "leaves out the text of the role system in messages of the roles system, user"),
    ],
)
def test_a_refused_or_unused_system_role_is_told_and_can_be_merged(
    template: str, words: str, base: Path, tmp_path: Path
) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(template)
    config = of_model(base, f"model.chat_template={file}").model
    tokenizer, data = load_tokenizer(base, config=config), asked(SYSTEM, USER)
    (problem,) = check_prompts(data, tokenizer, config, base)
    assert problem.startswith(f"the chat template of '{base}' {words}; use model.system_role=merge, or give another")
    assert check_prompts(asked(USER), tokenizer, config, base) == []
    config = of_model(base, f"model.chat_template={file}", "model.system_role=merge").model
    tokenizer = load_tokenizer(base, config=config)
    assert check_prompts(data, tokenizer, config, base) == []
    assert "Be brief.\n\nFilms like Heat?" in written(tokenizer, SYSTEM, USER)
    assert "Be brief.\n\nAgain." in written(tokenizer, SYSTEM, {"role": "system", "content": "Again."}, ANSWER)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved", config=config)
    assert written(again, SYSTEM, USER) == written(tokenizer, SYSTEM, USER)


def test_a_template_that_fails_is_refused_before_compute(changed: Callable[..., Path], tmp_path: Path) -> None:
    folder = changed("{{ messages[0]['content'] + messages[7]['content'] }}")
    small = [text for text in SMALL if not text.startswith("model.")]
    config = of_model(folder, *small, "+debug=smoke", f"runs_dir={tmp_path / 'runs'}")
    with pytest.raises(BadInput, match=r"template of '.*changed' refuses messages of the roles user: .*; give another"):
        prepare(config)
    assert not (tmp_path / "runs").exists()


# Tokens.


def test_a_tokenizer_without_an_end_takes_the_models(changed: Callable[..., Path]) -> None:
    folder = changed(eos_token=None)
    assert load_tokenizer(folder).eos_token == "</s>"  # of generation_config.json
    (folder / "generation_config.json").unlink()
    changed(file="config.json", eos_token_id=[7, 1])
    assert load_tokenizer(folder).eos_token_id == 7
    for nothing in (None, 10**6, []):
        changed(file="config.json", eos_token_id=nothing)
        with pytest.raises(BadInput, match="has no EOS token, so lists could not end; set eos_token in its"):
            load_tokenizer(folder)


def test_padding_is_a_spare_token_or_else_the_end(base: Path, tmp_path: Path) -> None:
    assert load_tokenizer(base).pad_token == "<unk>"
    tokenizer = load_tokenizer(save_model(tmp_path, "gpt2", end_alone()))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    rows = [[5, 6, tokenizer.eos_token_id], [7, tokenizer.eos_token_id]]
    batch = DataCollatorForLanguageModeling(tokenizer.pad_token_id)([{"input_ids": row, "labels": row} for row in rows])
    assert batch["labels"].tolist() == [rows[0], [*rows[1], -100]]  # EOS is learnt, padding is not
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_a_tokenizer_of_another_model_is_refused(changed: Callable[..., Path]) -> None:
    folder = changed(file="config.json", vocab_size=500)
    with pytest.raises(BadInput, match=r"does not fit its model: vocab_size in config\.json is 500, but the voc"):
        load_tokenizer(folder)


def test_a_tokenizer_without_newlines_is_refused(tmp_path: Path) -> None:
    words = Tokenizer(token_models.WordLevel({"<unk>": 0, "</s>": 1, "Heat": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>").save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="cannot write a newline, so the ranks of a list could not be told apart"):
        load_tokenizer(tmp_path)


# Positions.


def test_a_model_with_absolute_positions_does_not_count_padding(tmp_path: Path) -> None:
    model = load_model(save_model(tmp_path, "gpt2", gpt2_like()), "float32").eval()
    ids, padding = torch.tensor([[5, 6, 7, 8]]), torch.zeros(1, 3, dtype=torch.long)
    padded, mask = torch.cat([padding, ids], 1), torch.cat([padding, torch.ones_like(ids)], 1)
    with torch.no_grad():
        found = model(input_ids=padded, attention_mask=mask).logits[:, 3:]
        torch.testing.assert_close(found, model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)


def test_demonstrations_beyond_the_positions_are_refused(base: Path) -> None:
    tokenizer, records = load_tokenizer(base), asked(USER).splits["sft"]
    size = len(tokenizer.apply_chat_template([USER, ANSWER], return_dict=True)["input_ids"])
    assert check_demonstrations(records, tokenizer, size + 9, size) == []
    assert check_demonstrations(records, tokenizer, size - 1, size - 1) == []  # cut to the positions
    (problem,) = check_demonstrations(records, tokenizer, size + 9, size - 1)
    assert f"has {size} tokens, which is more than the model's {size - 1} positions" in problem
    assert problem.endswith(f"use trainer.sft.max_length={size - 1}, which truncates such demonstrations")


def test_models_without_a_limit(tmp_path: Path) -> None:
    for family, limit in (("falcon_alibi", None), ("mamba", None), ("bloom", None), ("opt", 300)):
        assert max_positions(save_model(tmp_path / family, family, gpt2_like())) == limit


# Plugins.

PLUGIN = """
from dataclasses import dataclass
from pathlib import Path

from rlbench.config.models import model
from rlbench.config.schema import ModelConfig


@dataclass
class CopyConfig(ModelConfig):
    path: str
    layers: int
    paths = ("path",)


def sources(config):
    return {"config": Path(config.path) / "config.json"}


@model("copied", schema=CopyConfig, about="a copy", sources=sources)
def build(config, dataset, cache_dir):
    return Path(config.path)
"""


def test_a_plugin_adds_a_kind_of_models(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files count by their content, and its other settings by their value. A second kind of the name is refused."""
    monkeypatch.setattr(plugins, "_of_every_stage", set())
    file = tmp_path / "copies.py"
    file.write_text(PLUGIN)

    def config_of(folder: Path, layers: int) -> Config:
        values = asdict(composed(*SMALL, f"plugins=[{file}]"))
        values["model"] = {"name": None, "kind": "copied", "dtype": "float32", "path": str(folder), "layers": layers}
        return resolve(OmegaConf.create(values))

    elsewhere = Path(shutil.copytree(base, tmp_path / "elsewhere"))
    try:
        one, two, deeper = config_of(base, 2), config_of(elsewhere, 2), config_of(base, 3)
        assert model_schemas()["copied"] is type(one.model) and one.model.name == "base-7b"
        settings = stage_settings(one, "zero_shot")["model"]
        assert settings == {"kind": "copied", "dtype": "float32", "layers": 2}
        assert stage_settings(deeper, "zero_shot")["model"]["layers"] == 3
        assert plugins.used_by("sft", [str(file)]) == [str(file)]
        assert inputs(one).model == inputs(two).model
        forget()
        (elsewhere / "config.json").write_text("{}")
        assert inputs(one).model != inputs(two).model
        assert locate_model(one.model, asked(USER), tmp_path) == str(base)
        with pytest.raises(ValueError, match="two kinds of models are called 'copied'"):
            model("copied", schema=type(one.model), about="")(lambda config, dataset, cache_dir: cache_dir)
    finally:
        MODELS.pop("copied", None)
        forget()


# What an architecture cannot do.


def test_what_an_architecture_cannot_do_is_refused_before_it_is_loaded(base: Path, tmp_path: Path) -> None:
    wanted = ["generation=continuous", "evaluation.beams=2", "generation.stop_after_list=true"]
    for family, reason in (("bloom", "does not use transformers' AttentionInterface"), ("mamba", "a recurrent state")):
        folder = save_model(tmp_path / family, family, gpt2_like())
        problems = check_abilities(of_model(folder, *wanted, "trainer.share_prompts=always"), str(folder))
        assert len(problems) == 3 + (family == "mamba") and all(reason in problem for problem in problems)
        assert problems[0].startswith("evaluation.beams = 2: ") and problems[0].endswith("; use evaluation.beams=1")
        assert check_abilities(of_model(folder), str(folder)) == []
    assert check_abilities(of_model(base, *wanted, "trainer.share_prompts=always"), str(base)) == []
