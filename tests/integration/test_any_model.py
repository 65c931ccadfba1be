"""Models of the usual families, with tokenizers of the usual kinds, go through all stages of a run."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlbench.base.errors import BadInput
from rlbench.base.jsonl import read_rows
from rlbench.config.models import MODELS
from rlbench.config.schema import Config
from rlbench.lists.reader import ListReader
from rlbench.models.loading import load_tokenizer
from rlbench.running.cli import config_of
from rlbench.running.runner import run
from rlbench.running.session import prepare
from rlbench.runs.directory import DONE, locate
from rlbench.runs.inputs import forget
from tests.conftest import SMALL, composed
from tests.helpers import ROOT
from tests.helpers_inputs import write_lines
from tests.helpers_models import save_model
from tests.properties.tokenizers import cl100k_like, end_alone, gpt2_like, sentencepiece_like, unigram_like

FAMILIES = {
    "gpt2": end_alone,  # absolute positions; BOS is EOS, and there is no padding
    "opt": unigram_like,  # BOS before every text, and no padding
    "bloom": gpt2_like,  # ALiBi
    "falcon": cl100k_like,  # newlines that fuse with the character before them
    "falcon_alibi": gpt2_like,
    "falcon_groups": end_alone,
    "gemma": sentencepiece_like,
    "gemma2": unigram_like,  # soft caps, windows
    "gemma3": unigram_like,
    "phi": end_alone,
    "phi3": sentencepiece_like,
    "qwen2": cl100k_like,
    "qwen3": cl100k_like,
    "mistral_sliding": sentencepiece_like,
    "llama": unigram_like,
    "mamba": gpt2_like,  # a recurrent state
}
OWN_COPY = "each completion is forwarded with its own copy of the prompt, because MambaForCausalLM carries a recurrent"
REFUSING = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<' + m['role'] + '>' + m['content'] + (eos_token if m['role'] == 'assistant' else '') }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def cell(model: Path, folder: Path, *overrides: str) -> Config:
    """A smoke run of a model's folder on `mini`, unless the overrides name other data."""
    small = [text for text in SMALL if not text.startswith(("model.", "dataset."))]
    folders = [f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    return composed("model=hf", f"model.path={model}", "+debug=smoke", *small, *folders, *overrides)


MINI = ["dataset.contexts={train:40,validation:4,test:4}", "dataset.demonstrations=40", "algorithm.kl.beta=0.01"]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_stage_of_a_run(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """SFT changes the weights, RL makes its updates, and the saved model has the prompt form of the run."""
    tokenizer = FAMILIES[family]()
    model = save_model(tmp_path / family, family, tokenizer)
    config = cell(model, tmp_path, *MINI)
    made = run(config)
    said = capsys.readouterr().err
    without = tokenizer.chat_template is None
    assert (f"{family} has no chat template, so prompts have the plain form" in said) == without
    assert (OWN_COPY in caplog.text) == (family == "mamba")
    assert made.status() == DONE
    budget = json.loads((made.root / "budget.json").read_text())
    assert (budget["updates"], budget["completions"]) == (2, 16)
    losses = [row["value"] for row in read_rows(locate(config, "sft").metrics_file) if row["metric"] == "loss"]
    assert losses and all(math.isfinite(loss) for loss in losses)
    trained, before = locate(config, "sft").final_model, load_file(model / "model.safetensors")
    after = load_file(trained / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    saved, own = load_tokenizer(trained), load_tokenizer(model)
    assert saved.chat_template == own.chat_template
    assert (saved.pad_token, saved.eos_token) == (own.pad_token, own.eos_token)


@pytest.mark.parametrize("make", [cl100k_like, end_alone, unigram_like])
def test_a_token_that_joins_two_ranks_belongs_to_the_first(make, tmp_path: Path) -> None:
    """A rank begins with the first token that starts in its line."""
    tokenizer = make()
    reader = ListReader(tokenizer, 3)
    text = "Heat (1995)\n\nAlien (1979)\nJaws (1975)"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    row = torch.tensor([ids])
    units = reader.segment(row, torch.ones_like(row), [[0, 2, 3]]).unit_ids[0].tolist()
    pieces = [tokenizer.decode([i]) for i in ids]
    starts, line = [], 0
    for piece in pieces:
        starts.append({0: 0, 2: 1, 3: 2}.get(line, reader.units.other))
        line += piece.count("\n")
    assert units == starts and line == 3
    assert any(piece.endswith("\n") and piece != "\n" for piece in pieces) == (make is cl100k_like)


@pytest.mark.slow
def test_a_template_with_its_system_role(tmp_path: Path) -> None:
    """A template that refuses a system role stops the run before compute, and `merge` makes it run.

    The same template elsewhere is the same run; another template is another run.
    """
    titles = ["Heat (1995)", "Alien (1979)", "Jaws (1975)", "Tron (1982)", "Big (1988)", "Speed (1994)"]
    rows = [
        {
            "prompt": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"{number}: like {one}?"},
            ],
            "ground_truth": [titles[(place + 1) % 6]],
            "completion": "\n".join(titles[place:] + titles[:place]),
        }
        for number in range(12)
        for place, one in enumerate(titles)
    ]
    write_lines(tmp_path / "data.jsonl", rows)
    model = save_model(tmp_path / "gemma", "gemma2", unigram_like())
    file = tmp_path / "own.jinja"
    file.write_text(REFUSING)
    data = ["dataset=jsonl", f"dataset.path={tmp_path / 'data.jsonl'}", "dataset.list_length=3"]
    settings = [*data, "dataset.cutoffs=[1,3]", "evaluation.metric=ndcg@3", f"model.chat_template={file}"]
    with pytest.raises(BadInput, match=r"refuses messages of the roles system, user: System role not supported; use m"):
        prepare(cell(model, tmp_path, *settings))
    assert not (tmp_path / "runs").exists()
    config = cell(model, tmp_path, *settings, "model.system_role=merge")
    made = run(config)
    assert made.status() == DONE
    text = load_tokenizer(made.final_model).apply_chat_template(rows[0]["prompt"], tokenize=False)
    assert text == "<user>Be brief.\n\n0: like Heat (1995)?"
    forget()
    moved = Path(shutil.move(file, tmp_path / "moved.jinja"))
    settings[-1] = f"model.chat_template={moved}"
    assert locate(cell(model, tmp_path, *settings, "model.system_role=merge"), "rl").root == made.root
    forget()
    moved.write_text(REFUSING.replace("<", "["))
    assert locate(cell(model, tmp_path, *settings, "model.system_role=merge"), "rl").root != made.root


@pytest.mark.slow
def test_the_plugin_of_the_page(tmp_path: Path) -> None:
    """It makes a model of one layer, which goes through all stages."""
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (code,), (values,) = (re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) for language in ("python", "yaml"))
    plugin = tmp_path / "first_layers.py"
    plugin.write_text(code)
    model = save_model(tmp_path / "whole", "llama", unigram_like())
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "shallow.yaml").write_text(
        values.replace("FOLDER", str(model)).replace("layers: 2", "layers: 1")
    )
    small = [text for text in SMALL if not text.startswith(("model.", "dataset."))]
    folders = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"]
    words = ["model=shallow", f"plugins=[{plugin}]", "+debug=smoke", "dataset=mini", *small, *MINI, *folders]
    try:
        config = config_of(words, tmp_path / "conf")
        made = run(config)
        assert made.status() == DONE and made.root.parent.parent.name == "mini-shallow"
        assert json.loads((made.final_model / "config.json").read_text())["num_hidden_layers"] == 1
        sft = json.loads((locate(config, "sft").root / "manifest.json").read_text())
        assert list(sft["plugins"]) == [str(plugin)]
    finally:
        MODELS.pop("first_layers", None)
