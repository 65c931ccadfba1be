"""The benchmark of whole updates: its task, its floor, and one shape from the command line."""

import json
import subprocess
import sys

import pytest

from benchmarks import step
from benchmarks.step_sides import PHASES, PROMPTS, Shape, film, llama, make_dataset, text_of, tokenizer_of
from rlbench.lists.entries import parse_text
from rlbench.running.cli import CONF


@pytest.mark.parametrize("text", ["300/120/8", "a/b/c/d", "1/120/8/4096", "300/0/8/4096", "300/120/1/4096", ""])
def test_a_wrong_shape_is_refused(text, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step", f"--only={text}"])
    with pytest.raises(SystemExit) as stopped:
        step.main()
    assert stopped.value.code == 2
    assert "PROMPT/COMPLETION/G/VOCABULARY, as 300/120/8/4096" in capsys.readouterr().err


def test_prompts_have_the_wanted_length():
    shape = Shape(37, 5, 2, 300)
    tokenizer, dataset = tokenizer_of(shape.vocabulary), make_dataset(shape, updates=2)
    ids = [tokenizer.apply_chat_template(record.prompt)["input_ids"] for record in dataset.splits["train"]]
    assert [len(row) for row in ids] == [37] * 2 * PROMPTS
    assert all(2 < i < shape.vocabulary for row in ids for i in row)


def test_eos_cannot_be_sampled_and_films_are_lines():
    tokenizer = tokenizer_of(300)
    assert tokenizer.eos_token_id == 300
    assert tokenizer.decode([4, 7, 6]) == "1. Film 2 (1990)\nw7 1. Film 3 (1990)\n"
    assert text_of(2004) == "2. Film 2 (1990)\n"  # the film of token 4
    assert parse_text(text_of(2004)).items == [film(4)]


def test_floor_counts_five_forward_passes():
    shape, model = Shape(2, 1, 2, 4096), llama(4096)
    # each of 4 prompts: 1 token, then its last token with both completions
    tokens, scored, pairs = PROMPTS * 3, PROMPTS * 2, PROMPTS * (1 + 2 + 2)
    h, i = 256, 704
    layer = h * h * 2 + h * h // 2 * 2 + 3 * h * i
    forward = 2 * 6 * layer * tokens + 4 * 6 * h * pairs + 2 * 4096 * h * scored
    assert step.needed_operations(model, shape) == 5 * forward


def test_medians_are_of_pairs():
    def row(total: float) -> dict[str, float]:
        return {"total": total, **dict.fromkeys(PHASES, total / 4)}

    found = {"trl": [row(8.0), row(2.0), row(9.0)], "ours": [row(2.0), row(1.0), row(1.0)]}
    result = step.summary(found, {"trl": 100, "ours": 40}, operations=30.0, rate=10.0)
    assert (result.ratio, result.trl_s, result.ours_s) == (4.0, 8.0, 1.0)
    assert (result.memory_ratio, result.floor_s, result.pairs) == (0.4, 3.0, 3)
    assert result.phase_ratios == dict.fromkeys(PHASES, 4.0)


@pytest.mark.slow
def test_one_shape_from_the_command_line(tmp_path):
    file = tmp_path / "step.json"
    options = ["--only", "20/6/2/200", "--json", str(file), "--pairs", "2", "--threads", "1"]
    subprocess.run([sys.executable, "-m", "benchmarks.step", *options], check=True, cwd=CONF.parent)
    found = json.loads(file.read_text())
    assert found["pairs"] == 2
    assert all(found[key] > 0 for key in ("ratio", "ours_s", "trl_s", "memory_ratio", "floor_s"))
    assert sum(found["ours_phases"].values()) == pytest.approx(found["ours_s"], rel=0.5)
