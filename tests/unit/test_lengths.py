"""Lengths of prompts, and which prompts are generated together."""

import json
import random

import pytest
from transformers import BloomConfig, GPT2Config, T5Config

from rlbench.base.errors import BadInput
from rlbench.data.record import Record
from rlbench.evaluation.evaluate import BatchLimit, batches_of, eos_ids, generate, longest_prompt, prompt_ids
from rlbench.lists.reader import ListReader
from rlbench.models.loading import load_model, load_tokenizer, max_positions
from rlbench.running.session import check_lengths
from tests.conftest import composed


def record(text: str, number: int = 0) -> Record:
    return Record([{"role": "user", "content": text}], [("Heat", 1995)], [], f"c{number}")


def test_eight_hundred_emoji_among_longer_texts(tiny_folder):
    """The emoji have more tokens than any of a hundred texts with more characters."""
    tokenizer = load_tokenizer(tiny_folder)
    words = [record("the movie " * 130 + str(i), i) for i in range(100)]
    emoji = record("\N{CLAPPER BOARD}" * 800, 1000)
    tokens = len(prompt_ids(tokenizer, emoji.prompt))
    assert tokens > max(len(prompt_ids(tokenizer, r.prompt)) for r in words)
    assert longest_prompt([*words, emoji], tokenizer) == tokens


@pytest.mark.slow
def test_the_longest_is_that_of_all_prompts(tiny_folder):
    tokenizer, drawn = load_tokenizer(tiny_folder), random.Random(0)
    letters = ["the", " film", "\n", "\u00e9", "\u732b", "\N{CLAPPER BOARD}", "<|user|>", "   ", "\ufdfa"]
    for _ in range(20):
        records = [
            record("".join(drawn.choices(drawn.sample(letters, 3), k=drawn.randint(1, 200))), i) for i in range(400)
        ]
        records.append(Record([{"role": "system", "content": "be brief"}, *records[0].prompt], [], [], "s"))
        assert longest_prompt(records, tokenizer) == max(len(prompt_ids(tokenizer, r.prompt)) for r in records)
    assert longest_prompt([], tokenizer) == 0


def test_a_prompt_without_room_is_refused_with_keys_that_exist(mini, tiny_folder):
    tokenizer = load_tokenizer(tiny_folder)
    (*_, problem) = check_lengths(mini, tokenizer, 60, 64)
    assert "dataset.max_conversation_chars" in problem and "generation.max_new_tokens = 60" in problem
    assert check_lengths(mini, tokenizer, 60, None) == []


def test_models_without_a_limit_and_models_that_do_not_write(tmp_path):
    for name, config in {"bloom": BloomConfig(), "gpt2": GPT2Config(n_positions=77), "t5": T5Config()}.items():
        config.save_pretrained(tmp_path / name)
    assert max_positions(tmp_path / "bloom") is None and max_positions(tmp_path / "gpt2") == 77
    with pytest.raises(BadInput, match="is a t5 model, not a causal language model, so it cannot continue a prompt"):
        max_positions(tmp_path / "t5")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text('{"model_type": "no_such"}')
    with pytest.raises(BadInput, match=r"the config\.json of .*bad' cannot be used"):
        max_positions(tmp_path / "bad")


def test_limits_that_are_no_whole_numbers_and_limits_of_a_part(tmp_path):
    for value in ("many", 2048.5, 0, -1, True, [2048]):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": value}))
        with pytest.raises(BadInput, match=f"{tmp_path}.*max_position_embeddings"):
            max_positions(tmp_path)
    parts = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "max_position_embeddings": 77}}
    (tmp_path / "config.json").write_text(json.dumps(parts))
    assert max_positions(tmp_path) == 77


@pytest.mark.parametrize("content", ["{", "[]", "\x00\x01", "3"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_is_named(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=rf"{tmp_path / name} .*; download the model again"):
        load_tokenizer(tmp_path)


def test_batches_hold_few_long_prompts_and_many_short_ones():
    assert batches_of([5, 90, 5, 5, 200], BatchLimit(2), new=10) == [[0, 2], [3, 1], [4]]
    assert batches_of([5, 90, 5, 5, 200], BatchLimit(8, 45), new=10) == [[0, 2, 3], [1], [4]]
    assert batches_of([5, 90, 5, 5, 200], BatchLimit(8, 44), new=10) == [[0, 2], [3], [1], [4]]
    assert batches_of([], BatchLimit(8, 44), new=10) == []


def test_a_batch_of_unequal_prompts_is_each_prompt_alone(mini, tiny_folder):
    model, tokenizer = load_model(tiny_folder, "float32"), load_tokenizer(tiny_folder)
    prompts = [record(text).prompt for text in ("hi", "any good horror films? " * 9, "drama", "x " * 40, "1980s")]
    generation = composed("generation.max_new_tokens=12").generation
    reader, told = ListReader(tokenizer, 10, eos_ids(model, tokenizer)), []
    together = generate(model, reader, prompts, generation, BatchLimit(5), progress=told.append)
    few = generate(model, reader, prompts, generation, BatchLimit(5, 100), progress=told.append)
    alone = [generate(model, reader, [prompt], generation, BatchLimit(1))[0] for prompt in prompts]
    for batch in (together, few):
        assert [c.ids for c in batch] == [c.ids for c in alone]
        for one, other in zip(batch, alone, strict=True):
            assert one.recorded == pytest.approx(other.recorded, abs=1e-5)
    assert told[0] == 5 and len(told) > 2 and told[1:] == sorted(told[1:]) and told[-1] == 5
