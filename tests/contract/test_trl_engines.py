"""The seam to TRL's rollout engines: what TRL's code asks a vLLM engine or a server for, and with which seeds."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

from rlbench.models.completing import ListEnd
from rlbench.training.engines import engine_seed, once_per_prompt, prepared_engine, request_seed, seeded_requests
from rlbench.training.rl import trl_arguments
from tests.conftest import SMALL, composed
from tests.helpers_engine import NoisyEngine, noisy_engine  # noqa: F401
from tests.helpers_training import load, make_trainer

ENDED = ["generation.stop_after_list=true", "algorithm=rank_grpo", "algorithm.length_shaping.rule=none"]


class Engine:
    """A replacement for vLLM's class that records its arguments. It numbers the completions in the order of requests.

    Attributes:
        asked: prompts and numbers of completions of all requests.
    """

    made: list[dict[str, Any]] = []

    def __init__(self, **settings: Any):
        Engine.made.append(settings)
        self.asked: list[tuple[list[int], int]] = []

    def generate(self, prompts: list[Any], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        of_each = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        outputs, made = [], sum(n for _, n in self.asked)
        for prompt, params in zip(prompts, of_each, strict=True):
            ids = prompt["prompt_token_ids"]
            completions = [self.completion(ids, made + i) for i in range(params.n)]
            made += params.n
            self.asked.append((ids, params.n))
            outputs.append(SimpleNamespace(prompt_token_ids=ids, outputs=completions))
        return outputs

    @staticmethod
    def completion(prompt: list[int], number: int) -> Any:
        """A completion whose ids and log-probabilities tell its prompt and its number."""
        logps = [{token: SimpleNamespace(rank=1, logprob=-token - number / 100)} for token in (*prompt, number)]
        return SimpleNamespace(token_ids=[*prompt, number], logprobs=logps)


@pytest.fixture
def engines(monkeypatch) -> list[dict[str, Any]]:
    """Arguments of the engines."""
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "LLM", Engine, raising=False)
    monkeypatch.setattr(vllm_generation, "ensure_master_addr_port", lambda: None)
    monkeypatch.setattr(
        vllm_generation.torch.distributed, "new_subgroups_by_enumeration", lambda groups: (groups, groups)
    )
    monkeypatch.setattr(os, "environ", dict(os.environ))  # TRL writes ranks into the environment
    Engine.made = []
    return Engine.made


def make_engines(processes: int, size: int) -> list[VLLMGeneration]:
    """Construct engines by TRL's constructor, in each of several processes."""
    state = Accelerator(cpu=True).state
    model = SimpleNamespace(name_or_path="model", named_modules=lambda: [])
    made = []
    for process in range(processes):
        alone = SimpleNamespace(
            num_processes=processes,
            process_index=process,
            local_process_index=process,
            is_main_process=process == 0,
            state=state,
            wait_for_everyone=lambda: None,
        )
        made.append(VLLMGeneration(model, alone, None, mode="colocate", tensor_parallel_size=size))
    return made


def test_trl_seeds_an_engine_with_its_group_alone(engines):
    """`prepared_engine` is needed: TRL does not pass the run's seed to the engine."""
    make_engines(4, 2)
    assert [made["seed"] for made in engines] == [0, 0, 1, 1]
    assert {made["distributed_executor_backend"] for made in engines} == {"external_launcher"}


@pytest.mark.parametrize("seed", [0, 5])
def test_the_seed_reaches_every_engine(engines, seed, tmp_path):
    arguments = trl_arguments(composed(*SMALL, "generation=vllm_colocate", f"seed={seed}"), tmp_path)
    with prepared_engine(arguments, shared=True):
        make_engines(4, 2)
    assert [made["seed"] for made in engines] == [engine_seed(seed, group) for group in (0, 0, 1, 1)]
    assert {made["generation_config"] for made in engines} == {"vllm"}  # not the model's own file
    assert {made["model"] for made in engines} == {"model"} and vllm_generation.LLM is Engine


@pytest.mark.parametrize("option", ["default", "continuous", "vllm_server"])
def test_nothing_is_replaced_for_other_engines(option, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_generation, "LLM", Engine, raising=False)
    with prepared_engine(trl_arguments(composed(*SMALL, f"generation={option}"), tmp_path), shared=True):
        assert vllm_generation.LLM is Engine


@pytest.fixture
def colocated(engines, monkeypatch, tmp_path) -> Any:
    """TRL's generation with an engine in the process, with or without shared prompts."""
    monkeypatch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)
    arguments = trl_arguments(composed(*SMALL, "generation=vllm_colocate"), tmp_path)

    def make(shared: bool) -> VLLMGeneration:
        with prepared_engine(arguments, shared):
            (engine,) = make_engines(1, 1)
        engine.model = None
        return engine

    return make


@pytest.mark.parametrize("size", [1, 2])
def test_an_engine_gets_a_prompt_once(colocated, size, monkeypatch):
    """Completions and log-probabilities are those of TRL's requests, where a process holds only part of a group, too.

    If two processes share an engine, each sends the prompts of both to it, and keeps its own completions.
    """
    own = [[7, 8], [7, 8], [7, 8], [5], [5], [7, 8], [9]]
    others = [[9], [9], [6], [6], [6], [6], [6]]

    def gather(found, prompts, group):
        found[:] = [others, own] if isinstance(prompts[0], list) else [prompts, prompts]

    monkeypatch.setattr(vllm_generation.torch.distributed, "all_gather_object", gather)
    monkeypatch.setattr(vllm_generation.torch.distributed, "get_rank", lambda group: 1)
    found = {}
    for shared in (False, True):
        engine = colocated(shared)
        engine.tensor_parallel_size, engine.tp_group, engine.model = size, None, torch.nn.Module()
        found[shared] = engine.generate(own, None, num_generations=4)
        asked = engine.llm.asked
        if shared:
            first = [([9], 2), ([6], 5)] if size == 2 else []
            assert asked == [*first, ([7, 8], 3), ([5], 2), ([7, 8], 1), ([9], 1)]
        else:
            assert {n for _, n in asked} == {1} and len(asked) == 7 * size
    prompt_ids, completion_ids, logps, _ = found[True]
    assert found[True] == found[False] and prompt_ids == own
    first = 7 * (size - 1)
    assert completion_ids == [[*ids, first + place] for place, ids in enumerate(own)]
    assert logps[1] == [[-token - (first + 1) / 100] for token in (7, 8, first + 1)]


def test_requests_for_equal_prompts_keep_their_settings():
    """The caller's settings are copied, not changed."""
    given = SimpleNamespace(n=1, temperature=0.7)
    engine, seen = Engine(), []

    def generate(prompts, sampling_params, use_tqdm):
        seen.extend(sampling_params)
        return engine.generate(prompts, sampling_params, use_tqdm)

    prompts = [{"prompt_token_ids": [i]} for i in (1, 1, 2)]
    found = once_per_prompt(generate)(prompts, sampling_params=given, use_tqdm=False)
    assert [(one.n, one.temperature) for one in seen] == [(2, 0.7), (1, 0.7)] and given.n == 1
    assert [[one.token_ids for one in output.outputs] for output in found] == [[[1, 0]], [[1, 1]], [[2, 2]]]


def test_requests_to_a_server_go_through_the_client(monkeypatch):
    """TRL's own `generate` in server mode sends one prompt of a group, asks for n completions, and sets no seed."""
    sent = []

    def answer(prompts, features=None, n=1, generation_kwargs=None, **settings):
        sent.append((prompts, generation_kwargs))
        ids = [[*prompt, generation_kwargs.get("seed", 0) % 97, i] for prompt in prompts for i in range(n)]
        return {
            "prompt_ids": prompts,
            "completion_ids": ids,
            "logprobs": [[[0.0]]] * len(ids),
            "logprob_token_ids": ids,
        }

    monkeypatch.setattr(vllm_generation, "gather_object", lambda found: found)
    monkeypatch.setattr(vllm_generation, "broadcast_object_list", lambda found, from_process: found)
    engine = object.__new__(VLLMGeneration)
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}
    vars(engine).update(
        accelerator=SimpleNamespace(is_main_process=True, process_index=0),
        mode="server",
        enable_sleep_mode=False,
        max_completion_length=8,
        logprobs=0,
        structured_outputs_regex=None,
        generation_kwargs={},
        vllm_client=SimpleNamespace(generate=answer),
        **sampling,
    )
    prompts = [[1], [1], [2], [2]]
    engine.generate(prompts, None, 2)
    assert sent == [([[1], [2]], {})]  # TRL: one request for everything, no seed
    sent.clear()
    engine.vllm_client.generate = seeded_requests(answer, 3, lambda: 6)
    prompt_ids, completion_ids, _, _ = engine.generate(prompts, None, 2)
    assert sorted(sent) == [([[p]], {"seed": request_seed(3, 6, place)}) for place, p in enumerate((1, 2))]
    assert prompt_ids == prompts
    assert completion_ids == [[p, request_seed(3, 6, p - 1) % 97, i] for p in (1, 2) for i in range(2)]


@pytest.mark.usefixtures("noisy_engine")
def test_the_trainer_seeds_the_client(mini, tiny_folder, tmp_path, monkeypatch):
    seeds = []

    def answer(prompts, generation_kwargs=None, **settings):
        seeds.append(generation_kwargs["seed"])
        return {"completion_ids": []}

    def with_client(self, *args, **settings):
        self.vllm_client = SimpleNamespace(
            generate=answer, get_server_info=lambda: {"model_config": {"logprobs_mode": "processed_logprobs"}}
        )

    monkeypatch.setattr(NoisyEngine, "__init__", with_client)
    tokenizer, model = load(tiny_folder)
    config = composed(*SMALL, "generation=vllm_server", "seed=9")
    trainer = make_trainer(config, mini, tokenizer, model, tmp_path)
    trainer.vllm_generation.vllm_client.generate([[1]])
    trainer.state.global_step = 4
    trainer.vllm_generation.vllm_client.generate([[1]])
    assert seeds == [request_seed(9, 0, 0), request_seed(9, 4, 0)]


@pytest.mark.usefixtures("noisy_engine")
def test_ends_of_another_engines_lists_are_read(mini, tiny_folder, tmp_path):
    """TRL returns the engine's ids unchanged: lists that end with EOS are finished, the others are cut off."""
    overrides = ["completions_per_update=16", "group_size=4", "micro_batch_size=16"]
    config = composed(*SMALL, "generation=vllm_colocate", *(f"trainer.rl.{o}" for o in overrides))
    tokenizer, model = load(tiny_folder)
    trainer = make_trainer(config, mini, tokenizer, model, tmp_path)
    trainer.model.train()
    output = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    lengths = output["completion_mask"].sum(1)
    last = output["completion_ids"].gather(1, lengths[:, None] - 1).squeeze(1)
    finished = [scored.finished for scored in trainer.scorer.lists]
    assert finished == (last == tokenizer.eos_token_id).tolist() and 0 < sum(finished) < len(finished)
    eos = trainer.objective.units.eos
    assert (output["unit_ids"] == eos).sum(1).tolist() == [int(end) for end in finished]
    assert trainer._metrics["train"]["completions/clipped_ratio"] == [1 - sum(finished) / len(finished)]


def test_rollouts_of_shared_prompts_are_those_of_generate(mini, tiny_folder, tmp_path):
    """Greedy rollouts of both paths are equal. Gradient checkpointing and training mode are on again afterwards."""
    config = composed(*SMALL, "generation.max_new_tokens=12", "trainer.gradient_checkpointing=true")
    tokenizer, model = load(tiny_folder)
    trainer = make_trainer(config, mini, tokenizer, model, tmp_path)
    model.gradient_checkpointing_enable()
    trainer.generation_config.do_sample = False
    prompts = [record.prompt for record in mini.splits["train"][:3] for _ in range(4)]
    ids = trainer._tokenize_prompts(prompts)[0]
    found = {}
    for prefill in ("shared", "repeated"):
        trainer.prefill = prefill
        trainer.model.train()
        found[prefill] = trainer._generate_single_turn(ids, None, {}, 4)
        assert model.is_gradient_checkpointing and model.training
    assert found["shared"] == found["repeated"] and len(found["shared"][0]) == 12


def test_rollouts_repeat_with_their_seed(mini, tiny_folder, tmp_path):
    config = composed(*SMALL, "generation.max_new_tokens=12")
    tokenizer, model = load(tiny_folder)
    trainer = make_trainer(config, mini, tokenizer, model, tmp_path)
    ids = trainer._tokenize_prompts([mini.splits["train"][0].prompt] * 8)[0]
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(trainer._generate_single_turn(ids, None, {}, 8)[0])
    assert drawn[0] == drawn[1] != drawn[2] and len(set(map(tuple, drawn[0]))) > 4


def test_rollouts_end_after_their_last_rank(mini, tiny_folder, tmp_path):
    """A policy that repeats one entry has exactly N of them; preambles and blank lines are no entries."""
    config = composed(*SMALL, *ENDED, "generation.max_new_tokens=200", "dataset.list_length=3", "dataset.cutoffs=[3]")
    tokenizer, model = load(tiny_folder)
    trainer = make_trainer(config, mini, tokenizer, model, tmp_path)
    texts = {"": False, "Heat (1995)\n" * 3: True, "Heat (1995)\n" * 2 + "Heat (1995)": False}
    texts |= {"List:\n\n" + "Heat (1995)\n" * 2: False, "List:\n\n" + "Heat (1995)\n\n" * 3: True}
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert trainer.scorer.has_all_ranks(ids) == list(texts.values())
    assert trainer.list_end is not None and trainer.list_end.least == 3
    trainer.list_end = ListEnd(trainer.list_end.newlines, 0, lambda rows: [True] * len(rows))
    asked = trainer._tokenize_prompts([mini.splits["train"][0].prompt] * 16)[0]
    torch.manual_seed(3)
    found = trainer._generate_single_turn(asked, None, {}, 16)[0]
    newlines = trainer.scorer.reader.newlines_per_token
    assert all(int(newlines[row[:-1]].sum()) == 0 for row in found if len(row) > 1)
    assert any(int(newlines[row[-1]]) for row in found)
