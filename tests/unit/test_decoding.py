"""Decoding uses only the run's own settings, and prompts do not depend on the date."""

import datetime
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer
from transformers import GenerationConfig as HFGenerationConfig
from transformers.utils import chat_template_utils

from rlbench.base.errors import BadInput
from rlbench.base.seeding import evaluation_stream
from rlbench.commands import inspection
from rlbench.config.decoding import ABSENT, DECODING, NEUTRAL, TOKENS, check_decoding, decoding_fields
from rlbench.evaluation.evaluate import BatchLimit, Completion, eos_ids, generate, longest_prompt, prompt_ids
from rlbench.lists.reader import ListReader
from rlbench.models.generation import notices, requested
from rlbench.models.loading import load_model, load_tokenizer
from rlbench.models.templates import pin_date, random_parts
from rlbench.objective.guards import caveats
from rlbench.running.checks import check_config
from rlbench.runs.budget import Ledger
from rlbench.runs.directory import locate
from rlbench.training.demonstrations import demonstration_tokens
from rlbench.training.preference import Lists
from rlbench.training.rl import trl_arguments
from tests.conftest import SMALL, composed
from tests.helpers_training import make_scorer, make_trainer

ASKED = {
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.8,
    "top_k": 20,
    "min_p": 0.05,
    "typical_p": 0.9,
    "epsilon_cutoff": 0.001,
    "repetition_penalty": 1.1,
    "no_repeat_ngram_size": 2,
    "min_new_tokens": 8,
    "suppress_tokens": list(range(100, 500)),
    "begin_suppress_tokens": list(range(500, 800)),
    "bad_words_ids": [[7], [8, 9]],
    "sequence_bias": [[[11], 5.0]],
    "renormalize_logits": True,
    "max_time": 60.0,
}
"""Each setting changes greedy lists, sampled lists or both."""
SETTINGS = [*SMALL, "generation.max_new_tokens=12", "trainer.rl.group_size=4"]
ROLLOUT = ["trainer.rl.completions_per_update=16", "trainer.rl.micro_batch_size=16"]
WITHOUT_DIGESTS = shutil.ignore_patterns("files.json")
"""Leaves the file digests out of a copy, because its files are changed on purpose."""
CLOCK_TEMPLATE = "\n{{ 'Today is ' + strftime_now('%d %b %Y, %H:%M:%S.%f') + '\\n' }}"


def changed_folder(folder: Path, to: Path, **asked: object) -> Path:
    """Copy a model's folder and add settings to its generation config."""
    shutil.copytree(folder, to, ignore=WITHOUT_DIGESTS)
    path = to / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | asked))
    return to


def texts(completions: list[Completion]) -> list[list[int]]:
    return [completion.ids for completion in completions]


class Paths:
    """Generate lists with a model folder in every way that a run can."""

    def __init__(self, mini, where: Path, *overrides: str):
        self.mini, self.where, self.overrides = mini, where, overrides

    def config(self, *more: str):
        return composed(*SETTINGS, f"runs_dir={self.where / 'runs'}", *self.overrides, *more)

    def evaluation(self, folder: Path, sampled: bool = False) -> list[list[int]]:
        config, model, tokenizer = self.config(), load_model(folder, "float32"), load_tokenizer(folder)
        prompts = [record.prompt for record in self.mini.splits["test"]]
        reader = ListReader(tokenizer, config.dataset.list_length, eos_ids(model, tokenizer))
        with evaluation_stream(0):
            return texts(generate(model, reader, prompts, config.generation, BatchLimit(4), sampled=sampled))

    def samples(self, folder: Path) -> list[list[int]]:
        return self.evaluation(folder, sampled=True)

    def rollout(self, folder: Path, engine: str = "default") -> list[list[int]]:
        config = self.config(*ROLLOUT, f"generation={engine}")
        trainer = make_trainer(config, self.mini, load_tokenizer(folder), load_model(folder, "float32"), self.where)
        prompts = [record.prompt for record in self.mini.splits["train"][:2] for _ in range(4)]
        trainer.model.train()
        torch.manual_seed(0)
        return trainer._generate(prompts)[1]

    def continuous(self, folder: Path) -> list[list[int]]:
        return self.rollout(folder, "continuous")

    def preference(self, folder: Path) -> list[list[int]]:
        config = self.config(*ROLLOUT, "algorithm=dpo", "trainer.rl.updates=1", f"experiment_name={folder.name}")
        tokenizer, model = load_tokenizer(folder), load_model(folder, "float32")
        scorer = make_scorer(config, self.mini, tokenizer, model)
        seen: list[list[int]] = []
        lists = Lists(config, locate(config, "rl"), self.mini.splits["train"], scorer)
        made = lists._make
        lists._make = lambda records, ids, *rest: seen.extend(ids) or made(records, ids, *rest)
        one = lists.rounds[0]
        lists._draw_part(one, 0, one.prompts[:4], model, Ledger(), lambda done: None)
        return seen

    def inspect(self, folder: Path) -> list[list[str]]:
        return inspection.sample_group(self.config(), folder, prompt=0, group_size=4, seed=0).tokens


PATHS = ("evaluation", "samples", "rollout", "continuous", "preference", "inspect")


@pytest.fixture(scope="module")
def asking(tiny_folder, tmp_path_factory) -> Path:
    """A model whose generation config sets many options."""
    return changed_folder(tiny_folder, tmp_path_factory.mktemp("asking") / "model", **ASKED)


@pytest.mark.parametrize("path", PATHS)
def test_what_a_models_file_asks_for_changes_no_list(path, mini, tiny_folder, asking, tmp_path):
    lists = getattr(Paths(mini, tmp_path), path)
    assert lists(asking) == lists(tiny_folder)


@pytest.mark.parametrize("path", [path for path in PATHS if path != "continuous"])  # it does not support these options
def test_what_a_run_asks_for_changes_lists_of_every_path(path, mini, tiny_folder, tmp_path):
    lists = getattr(Paths(mini, tmp_path, "generation.no_repeat_ngram_size=1"), path)(tiny_folder)
    assert lists and all(len(set(ids)) == len(ids) for ids in lists)  # no list repeats a token


def test_every_field_of_transformers_is_accounted_for():
    """A field added by a later transformers version must be classified here before it can change lists."""
    no_text = {
        "do_sample",  # depends on the kind of list
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "return_dict_in_generate",
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        "_from_model_config",
        "transformers_version",
    }
    assert set(vars(HFGenerationConfig())) == {*DECODING, *NEUTRAL, *ABSENT, *TOKENS, *no_text}
    defaults = HFGenerationConfig._get_default_generation_params()
    assert {key: NEUTRAL[key] for key in NEUTRAL if key in defaults} == {
        key: defaults[key] for key in NEUTRAL if key in defaults
    }


def test_a_loaded_model_keeps_the_ids_of_its_tokens_alone(asking, tiny_folder):
    loaded, plain = load_model(asking, "float32").generation_config, load_model(tiny_folder, "float32")
    given = {key: value for key, value in loaded.to_dict().items() if value is not None}
    assert set(given) <= {*TOKENS, "transformers_version"}
    assert loaded.eos_token_id == plain.generation_config.eos_token_id is not None


def test_a_model_with_several_eos_ids_ends_at_each(mini, tiny_folder, tmp_path):
    """EOS ids come from the model, so plain generate, TRL and vLLM all stop at the same tokens."""
    ends = list(range(10, 60))
    folder = changed_folder(tiny_folder, tmp_path / "model", eos_token_id=ends)
    tokenizer, model = load_tokenizer(folder), load_model(folder, "float32")
    assert eos_ids(model, tokenizer) == [tokenizer.eos_token_id, *ends]
    for path in ("samples", "rollout", "continuous"):
        lists = getattr(Paths(mini, tmp_path / path, "generation.max_new_tokens=40"), path)(folder)
        closed = [ids for ids in lists if ids[-1] in eos_ids(model, tokenizer)]
        assert closed and all(not set(ids[:-1]) & set(ends) for ids in lists)
        assert all(len(ids) == 40 for ids in lists if ids not in closed)
    for engine in ("vllm_colocate", "vllm_server"):
        arguments = trl_arguments(composed(*SMALL, f"generation={engine}"), tmp_path, 1, eos_ids(model, tokenizer))
        assert arguments.generation_kwargs == {"stop_token_ids": [tokenizer.eos_token_id, *ends]}


def test_the_notice_names_field_and_both_values(asking, tiny_folder, tmp_path):
    generation = composed().generation
    assert requested(tiny_folder) == {} and notices(tiny_folder, generation) == []
    (said,) = notices(asking, generation)
    assert "repetition_penalty = 1.1 (1.0 here, generation.repetition_penalty)" in said and str(asking) in said
    assert "temperature = 0.6 (1.0 here, generation.temperature)" in said and "typical_p = 0.9 (1.0 here)" in said
    assert "bad_words_ids = [[7], [8, 9]] (not used here)" in said
    same = changed_folder(tiny_folder, tmp_path / "same", repetition_penalty=1.1, temperature=0.6)
    agreed = composed("generation.repetition_penalty=1.1", "generation.temperature=0.6").generation
    assert notices(same, agreed) == []
    old = tmp_path / "old"  # without generation_config.json, transformers reads config.json
    shutil.copytree(tiny_folder, old, ignore=WITHOUT_DIGESTS)
    (old / "generation_config.json").unlink()
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps(config | {"repetition_penalty": 1.3}))
    assert requested(old) == {"repetition_penalty": 1.3}
    assert "repetition_penalty = 1.3 (1.0 here" in notices(old, generation)[0]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["generation.min_p=1"], "generation.min_p = 1.0 must lie in [0, 1)"),
        (["generation.repetition_penalty=0"], "generation.repetition_penalty = 0.0 must be a positive number"),
        (["generation.no_repeat_ngram_size=-1"], "generation.no_repeat_ngram_size = -1 must be at least 0"),
        (["generation.template_date=today"], "generation.template_date = 'today' is not a date; write YYYY-MM-DD"),
        (["generation=continuous", "generation.min_p=0.1"], "is not supported by generation.engine = 'continuous'"),
        (
            ["generation=continuous", "generation.repetition_penalty=1.1"],
            "generation.repetition_penalty = 1.1 is not supported",
        ),
        (
            ["generation=vllm_server", "generation.no_repeat_ngram_size=3"],
            "is not supported by generation.engine = 'vl",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides, said):
    (problem,) = [problem for problem in check_config(composed(*overrides)) if "generation." in problem]
    assert said in problem


def test_settings_that_an_engine_can_do_pass():
    assert not check_decoding(composed("generation.repetition_penalty=1.1", "generation.min_p=0.1").generation)
    vllm = composed("generation=vllm_colocate", "generation.repetition_penalty=1.1", "generation.min_p=0.1")
    assert not check_decoding(vllm.generation)


@pytest.fixture(scope="module")
def of_samples():
    """Return configs without and with sampled lists in evaluation."""
    return {n: composed(f"evaluation.samples={n}") for n in (0, 2)}


def test_each_setting_reaches_trl_and_plain_generate(tmp_path):
    config = composed(*SMALL, "generation.repetition_penalty=1.2", "generation.min_p=0.1", "generation.top_k=7")
    fields = decoding_fields(config.generation, sampled=True)
    arguments = trl_arguments(config, tmp_path)
    for key in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        assert fields[key] == getattr(arguments, key) == getattr(config.generation, key), key
    others = {key: value for key, value in fields.items() if key in (*NEUTRAL, "no_repeat_ngram_size")}
    assert arguments.generation_kwargs == others
    greedy = decoding_fields(config.generation, sampled=False)
    assert greedy["repetition_penalty"] == 1.2 and not {"temperature", "top_p", "top_k", "min_p"} & set(greedy)


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("repetition_penalty", 1.1, {"zero_shot", "sft", "rl"}),
        ("no_repeat_ngram_size", 3, {"zero_shot", "sft", "rl"}),
        ("max_new_tokens", 40, {"zero_shot", "sft", "rl"}),
        ("template_date", "2025-02-03", {"zero_shot", "sft", "rl"}),
        ("min_p", 0.1, {"rl"}),
        ("top_p", 0.9, {"rl"}),
    ],
)
def test_each_setting_is_part_of_the_identity_of_stages_that_use_it(key, value, stages, of_samples):
    for samples, config in of_samples.items():
        other = replace(config, generation=replace(config.generation, **{key: value}))
        for stage in ("oracle", "zero_shot", "sft", "rl"):
            wanted = stage in (("zero_shot", "sft", "rl") if samples else stages)
            assert (locate(config, stage).hash != locate(other, stage).hash) == wanted, (samples, stage)


def test_lists_from_another_distribution_than_the_loss_takes_are_noted():
    for own in ("top_p=0.9", "top_k=5", "min_p=0.1", "repetition_penalty=1.1", "no_repeat_ngram_size=2"):
        (note,) = caveats([composed(f"generation.{own}")])
        assert f"generation.{own.replace('=', ' = ')} changes the distribution" in note
    assert not caveats([composed("generation.temperature=0.7")])  # log-probabilities use the same temperature


class At(datetime.datetime):
    """A fixed clock."""

    moment = (2031, 12, 9, 3, 4, 5)

    @classmethod
    def now(cls, tz=None):
        return cls(*cls.moment)


@pytest.fixture
def clock(monkeypatch):
    """Set the time that chat templates see in transformers."""

    def at(*moment: int) -> None:
        monkeypatch.setattr(At, "moment", moment)
        monkeypatch.setattr(chat_template_utils, "datetime", At)

    return at


@pytest.fixture
def dated(tiny_folder, tmp_path) -> Path:
    """A model whose chat template prints the date."""
    folder = tmp_path / "dated"
    shutil.copytree(tiny_folder, folder, ignore=WITHOUT_DIGESTS)
    path = folder / "chat_template.jinja"
    path.write_text(CLOCK_TEMPLATE + path.read_text())
    return folder


def test_a_template_that_asks_for_the_date_writes_the_same_on_every_day(dated, tiny_folder, mini, tmp_path, clock):
    """True for prompts, the longest prompt, demonstrations, TRL's trainer and `inspect`."""
    record = mini.splits["sft"][0]

    def ids() -> list[object]:
        tokenizer, model = load_tokenizer(dated), load_model(dated, "float32")
        trainer = make_trainer(composed(*SETTINGS, *ROLLOUT), mini, tokenizer, model, tmp_path / "out")
        by_trl, _, _ = trainer._tokenize_prompts([record.prompt])
        return [
            prompt_ids(tokenizer, record.prompt),
            longest_prompt(mini.splits["test"], tokenizer),
            demonstration_tokens(record, tokenizer, 512),
            by_trl[0],
            inspection.sample_group(composed(*SETTINGS), dated, prompt=0, group_size=2, seed=0).tokens,
        ]

    clock(2031, 12, 9, 3, 4, 5)
    first = ids()
    clock(2032, 1, 10, 13, 14, 15)
    assert ids() == first
    assert first[0] == first[3]
    text = load_tokenizer(dated).decode(first[0])
    assert "Today is 26 Jul 2024, 00:00:00." in text
    own = load_tokenizer(dated, "2025-02-03T10:11:12")
    assert "Today is 03 Feb 2025, 10:11:12." in own.decode(prompt_ids(own, record.prompt))


def test_a_saved_tokenizer_keeps_its_date_until_it_is_given_another(dated, mini, tmp_path, clock):
    prompt = mini.splits["test"][0].prompt
    load_tokenizer(dated, "2025-02-03").save_pretrained(tmp_path / "saved")
    clock(2031, 12, 9)
    plain = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert "Today is 03 Feb 2025" in plain.apply_chat_template(prompt, tokenize=False)
    again = load_tokenizer(tmp_path / "saved", "2026-03-04")
    assert again.chat_template == load_tokenizer(dated, "2026-03-04").chat_template


@pytest.mark.parametrize(
    "template",
    [
        "\n  {% if true %}x{% endif %} {{ strftime_now('%d %b %Y|%-d|%%d|%B %A %H:%M:%S|%j|%e|%c|%y|%U') }}\n\n z",
        "{{- bos }}\n{%- set d = strftime_now('%d %b %Y') %}\n{{ d }} hi\n",
        '   {{ strftime_now("it\'s %x") }}',
        "{%- if strftime_now is defined %}{{ strftime_now('%p %I') }}{% endif %}",
    ],
)
def test_a_pinned_template_writes_what_the_clock_would_have_given(template, clock):
    clock(2024, 7, 6, 15, 4, 5)
    wanted = chat_template_utils._compile_jinja_template(template).render(bos="B")
    clock(1999, 1, 1)
    pinned = pin_date(template, "2024-07-06T15:04:05")
    assert chat_template_utils._compile_jinja_template(pinned).render(bos="B") == wanted
    assert pin_date(pinned, "2025-01-01") == pin_date(template, "2025-01-01") != pinned


def test_a_template_without_a_clock_is_left_alone(tiny_folder):
    template = (tiny_folder / "chat_template.jinja").read_text()
    assert load_tokenizer(tiny_folder).chat_template == template == pin_date(template, "2025-01-01")


@pytest.mark.parametrize(
    ("part", "said"), [("{{ ['a', 'b'] | random }}", "the filter random"), ("{{ lipsum() }}", "the function lipsum")]
)
def test_a_template_that_draws_at_random_is_refused(part, said, tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder, ignore=WITHOUT_DIGESTS)
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + part)
    with pytest.raises(BadInput, match=said):
        load_tokenizer(folder)
    assert random_parts("{% generation %}{{ x }}{% endgeneration %}{% for a in b %}{% break %}{% endfor %}") == []


def test_a_template_that_is_none_is_refused(tiny_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder, ignore=WITHOUT_DIGESTS)
    (folder / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(BadInput, match="cannot be read"):
        load_tokenizer(folder)
