"""Continuous batching gives the lists of plain generate, is reproducible, and works in a whole run."""

import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation import ContinuousBatchingConfig
from transformers.generation.continuous_batching import ContinuousBatchingManager

from rlbench.evaluation.evaluate import eos_ids, prompt_ids
from rlbench.lists.reader import ListReader
from rlbench.running.runner import run
from rlbench.runs.directory import Run, locate
from rlbench.training.checkpoints import RESUME_FILE
from rlbench.training.engines import distinct, generate_all_at_once, repeatable_batches, weights_kept, with_room
from tests.conftest import SMALL, composed
from tests.helpers_training import load

TOKENS = 16


@pytest.fixture(scope="module")
def parts(tiny_folder):
    return load(tiny_folder, ends_early=True)


@pytest.fixture(scope="module")
def prompts(parts, mini) -> list[list[int]]:
    return [prompt_ids(parts[0], record.prompt) for record in mini.splits["train"][:8]]


def settings(model: PreTrainedModel, **changes) -> GenerationConfig:
    """The settings that TRL makes."""
    sampling = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, **changes}
    return GenerationConfig(
        max_new_tokens=TOKENS, pad_token_id=0, eos_token_id=model.generation_config.eos_token_id, **sampling
    )


def continuous(model: PreTrainedModel, prompts, **changes) -> list[list[int]]:
    config = ContinuousBatchingConfig(max_batch_tokens=1024, auto_switch_to_flash=False, max_memory_percent=0.5)
    found = generate_all_at_once(model, prompts, settings(model, **changes), config)
    return [output.generated_tokens for output in found.values()]


def plain(model: PreTrainedModel, prompts, **changes) -> list[list[int]]:
    """Lists of plain generate, up to and including EOS."""
    longest, ends = max(map(len, prompts)), model.generation_config.eos_token_id
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    model.eval()
    rows = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings(model, **changes))
    rows = rows[:, longest:].tolist()
    lengths = [next((i + 1 for i, token in enumerate(row) if token in ends), TOKENS) for row in rows]
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


@pytest.fixture(scope="module")
def drawn(parts, prompts) -> list[list[int]]:
    torch.manual_seed(0)
    return continuous(parts[1], prompts * 4)


def test_greedy_lists_are_those_of_plain_generate(parts, prompts):
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    assert continuous(parts[1], prompts, **greedy) == plain(parts[1], prompts, **greedy)


@pytest.mark.slow
def test_samples_follow_the_same_distribution(parts, prompts):
    """First tokens of one prompt, 1000 per engine: a two-sample chi-square test on the 12 likeliest and the rest."""
    _, model = parts
    torch.manual_seed(1)
    settings_of = {"temperature": 0.3, "top_k": 40}  # otherwise an untrained model's are nearly uniform
    counts = []
    for generate in (continuous, plain):
        model.generation_config.eos_token_id, ends = list(range(4, 900)), model.generation_config.eos_token_id
        counts.append(Counter(row[0] for row in generate(model, [prompts[0]] * 1000, **settings_of)))
        model.generation_config.eos_token_id = ends
    likeliest = [token for token, _ in (counts[0] + counts[1]).most_common(12)]
    cells = [[*(count[token] for token in likeliest), 1000 - sum(count[t] for t in likeliest)] for count in counts]
    statistic = sum((a - b) ** 2 / (a + b) for a, b in zip(*cells, strict=True) if a + b)
    assert statistic < 32.9  # .999 quantile of chi-square with 12 degrees of freedom
    assert len(likeliest) == 12 and min(map(min, cells)) > 0


def test_a_prompt_is_requested_once_for_all_of_its_lists(parts, prompts, monkeypatch):
    """Greedy lists of prompts, each 4 times, are those of generate. Sampled lists of one prompt differ."""
    asked, prompts = [], [list(ids) for ids in dict.fromkeys(map(tuple, prompts))]
    add = ContinuousBatchingManager.add_requests

    def counting(self, inputs, **options):
        asked.append(len(inputs))
        return add(self, inputs, **options)

    monkeypatch.setattr(ContinuousBatchingManager, "add_requests", counting)
    config = ContinuousBatchingConfig(max_batch_tokens=1024, auto_switch_to_flash=False, max_memory_percent=0.5)
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    repeated = [prompt for prompt in prompts for _ in range(4)]
    for changes in (greedy, {}):
        chosen = settings(parts[1], **changes)
        found = list(generate_all_at_once(parts[1], repeated, chosen, config, shared=True).values())
        assert [output.prompt_ids for output in found] == repeated and chosen.num_return_sequences in (None, 1)
        lists = [output.generated_tokens for output in found]
        assert not changes or lists == plain(parts[1], repeated, **greedy)
    assert all(len(set(map(tuple, lists[i : i + 4]))) == 4 for i in range(0, len(lists), 4))
    assert asked == [len(prompts)] * 2 and len(prompts) > 2
    assert distinct([[1, 2], [1, 2], [3, 4]]) == ([[1, 2], [1, 2], [3, 4]], 1)
    assert distinct([[1], [1]]) == ([[1], [1]], 1)


def test_the_same_seed_gives_the_same_lists_whatever_the_threads_do(parts, prompts, drawn, monkeypatch):
    add = ContinuousBatchingManager.add_request

    def slowly(self, *args, **kwargs):
        time.sleep(0.002)
        return add(self, *args, **kwargs)

    monkeypatch.setattr(ContinuousBatchingManager, "add_request", slowly)
    torch.manual_seed(0)
    assert continuous(parts[1], prompts * 4) == drawn
    torch.manual_seed(1)
    assert continuous(parts[1], prompts * 4) != drawn
    config = ContinuousBatchingConfig(max_batch_tokens=1024, num_blocks=64, max_memory_percent=0.5)
    torch.manual_seed(0)  # as in transformers: its thread takes the waiting requests
    found = parts[1].generate_batch(prompts * 4, settings(parts[1]), config)
    assert [output.generated_tokens for output in found.values()] != drawn


def test_lists_end_with_eos_or_at_the_limit(parts, drawn):
    tokenizer, model = parts
    ends = model.generation_config.eos_token_id
    finished = ListReader(tokenizer, 10, eos_ids(model, tokenizer)).is_finished(drawn)
    assert 0 < sum(finished) < len(drawn)
    for ids, complete in zip(drawn, finished, strict=True):
        assert not any(token in ends for token in ids[:-1])
        assert complete == (ids[-1] in ends) and (complete or len(ids) == TOKENS)


def test_a_failed_request_is_an_error(parts, prompts):
    with pytest.raises(RuntimeError, match=r"continuous batching finished only \d of 8 lists"):
        config = ContinuousBatchingConfig(max_batch_tokens=1024, max_memory_percent=0.5, num_blocks=1, page_size=16)
        generate_all_at_once(parts[1], prompts, settings(parts[1]), config)


def test_the_cache_has_room_for_all_and_no_more():
    config = ContinuousBatchingConfig(page_size=16)
    sized = with_room(config, [16, 17, 40])
    assert (sized.num_blocks, sized.safety_margin) == (1 + 2 + 3, 0.0) and config.num_blocks is None
    assert with_room(ContinuousBatchingConfig(num_blocks=7), [400]).num_blocks == 7


def test_weights_are_what_they_were(parts):
    """TRL casts the trained model before it batches continuously in mixed precision."""
    _, model = parts
    before = {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    pointers = [p.data_ptr() for p in model.parameters()]
    with pytest.raises(KeyError), weights_kept(model):
        model.to(torch.bfloat16)
        assert next(model.parameters()).dtype == torch.bfloat16
        raise KeyError
    with repeatable_batches(model):
        assert "generate_batch" in vars(model)
    assert "generate_batch" not in vars(model)
    assert pointers == [p.data_ptr() for p in model.parameters()]
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        assert value.dtype == before[name].dtype and torch.equal(value, before[name]), name


def cell(folder: Path, *overrides: str):
    places = (f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}")
    contexts = ("evaluation.validation_contexts=null", "evaluation.test_contexts=null", "trainer.rl.save_every=1")
    return composed(*SMALL, "+debug=smoke", *contexts, *places, *overrides)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("continuous")
    return folder, run(cell(folder, "generation=continuous"))


def curve(target: Run) -> list[tuple]:
    return [(r["step"], r["split"], r["metric"], r["value"]) for r in target.read_metrics()]


@pytest.mark.slow
def test_a_whole_run_repeats_and_resumes_to_the_bit(whole):
    folder, first = whole
    weights = load_file(first.final_model / "model.safetensors")
    kept = folder / "kept"
    shutil.move(first.root, kept)
    again = run(cell(folder, "generation=continuous"))
    assert curve(again) == curve(Run(kept, "rl", "", 0, "", {}))
    (again.checkpoints / "checkpoint-2" / RESUME_FILE).unlink()  # killed before its last checkpoint was complete
    again.set_status("running")
    assert curve(run(cell(folder, "generation=continuous"))) == curve(Run(kept, "rl", "", 0, "", {}))
    assert again.attempts() == 2
    for name, weight in load_file(again.final_model / "model.safetensors").items():
        assert torch.equal(weight, weights[name]), name


@pytest.mark.slow
def test_in_mixed_precision_the_masters_stay_in_single(whole):
    folder, _ = whole
    target = run(cell(folder, "generation=continuous", "trainer.bf16=true", "stage=rl"))
    weights = load_file(target.final_model / "model.safetensors")
    start = load_file(locate(cell(folder, "trainer.bf16=true"), "sft").final_model / "model.safetensors")
    moved = torch.cat([(weights[name] - start[name]).flatten() for name in weights])
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())
    assert moved.abs().max() < 1e-2  # a step, not just what rounding to bfloat16 removes


@pytest.mark.gpu
@pytest.mark.parametrize("bf16", [False, True])
def test_on_a_gpu(bf16, whole):
    """A whole run, repeated with the same seed, gives the same lists."""
    folder, _ = whole
    config = cell(folder, "generation=continuous", "runtime.device=cuda", f"trainer.bf16={str(bf16).lower()}", "seed=3")
    target = run(config)
    weights = load_file(target.final_model / "model.safetensors")
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    lengths = [row for row in curve(target) if row[2] == "completion_length"]
    shutil.rmtree(target.root)
    assert [row for row in curve(run(config)) if row[2] == "completion_length"] == lengths
