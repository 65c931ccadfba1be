"""Additions to TRL's code for rollout engines: the run's seed, a repeatable order of requests, unchanged weights.

TRL 1.16 drives the engines. It leaves four problems, which are solved here without copying its methods:

- A colocated vLLM engine is seeded with the number of its tensor-parallel group, whatever the run's seed. Requests to a
  vLLM server have no seed.
- A colocated vLLM engine receives a prompt once for each of its completions.
- transformers' `generate_batch` starts its thread before it submits the requests. So the size of the first batches, and
  with it the assignment of random numbers, depends on the timing of two threads.
- In mixed precision, continuous batching permanently casts the trained model to half precision.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from transformers import GenerationConfig, PreTrainedModel
from transformers.distributed.fsdp import is_fsdp_managed_module
from transformers.generation import ContinuousBatchingConfig
from transformers.generation.continuous_batching.requests import GenerationOutput
from transformers.generation.continuous_batching.utils import WorkloadHints
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOConfig, GRPOTrainer
from trl.generation import vllm_generation
from trl.models import unwrap_model_for_generation

from rlbench.models.adapters import adapted, causal, weights_put_back
from rlbench.models.completing import Completion, ListEnd, Record, complete
from rlbench.models.constraint import Walk

REQUESTS_AT_ONCE = 64  # as in TRL's client
STOP_SECONDS = 5  # how long transformers waits for its thread to end


def engine_seed(seed: int, group: int) -> int:
    """Seed of the vLLM engine of a tensor-parallel group, in 32 bits (NumPy's limit)."""
    return int(np.random.SeedSequence([seed, group]).generate_state(1, np.uint32)[0])


def request_seed(seed: int, update: int, prompt: int) -> int:
    """Seed of a prompt's request to a vLLM server. 62 bits, because vLLM adds 1 to it for each further completion."""
    return int(np.random.SeedSequence([seed, update, prompt]).generate_state(1, np.uint64)[0] >> np.uint64(2))


@contextmanager
def prepared_engine(args: GRPOConfig, shared: bool) -> Iterator[None]:
    """Give the run's seed to a colocated vLLM engine that TRL creates in this block. A group's processes share it.

    Args:
        args: the trainer's arguments.
        shared: whether the engine gets a prompt once for all of its completions (`once_per_prompt`).
    """
    if not args.use_vllm or args.vllm_mode != "colocate":
        yield
        return
    make = vllm_generation.LLM

    def seeded(*, seed: int, **settings: Any) -> Any:
        # "vllm" keeps the engine from reading the model's generation_config.json: every request states all settings.
        engine = make(seed=engine_seed(args.seed, seed), generation_config="vllm", **settings)
        if shared:
            engine.generate = once_per_prompt(engine.generate)
        return engine

    vllm_generation.LLM = seeded
    try:
        yield
    finally:
        vllm_generation.LLM = make


def once_per_prompt(generate: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """`LLM.generate` with one request for k equal prompts in a row, which asks for k completions.

    A process may hold only part of a group, so k may differ between prompts. Each completion keeps its place and its
    log-probabilities.

    Args:
        generate: the engine's own method.

    Returns:
        a method with one output of one completion for each given prompt, as TRL reads them.
    """

    def grouped(prompts: Sequence[Any], sampling_params: Any, **settings: Any) -> list[Any]:
        runs = [list(same) for _, same in itertools.groupby(prompts)]
        wanted = [copy.copy(sampling_params) for _ in runs]
        for own, same in zip(wanted, runs, strict=True):
            own.n = len(same)
        outputs = generate([same[0] for same in runs], sampling_params=wanted, **settings)
        found = []
        for output in outputs:
            for completion in output.outputs:
                found.append(copy.copy(output))
                found[-1].outputs = [completion]
        return found

    return grouped


def seeded_requests(generate: Callable[..., Any], seed: int, update: Callable[[], int]) -> Callable[..., Any]:
    """`VLLMClient.generate` with one request per prompt, each with its own seed.

    In TRL's single request all prompts would share their random numbers. A seed depends only on the run's seed, the
    update and the prompt's position, so a resumed run continues with the same seeds.

    Args:
        generate: the client's own method.
        seed: the run's seed.
        update: returns the number of finished updates.
    """

    def seeded(prompts: Sequence[Any], generation_kwargs: dict[str, Any] | None = None, **settings: Any) -> Any:
        done = update()

        def send(place: int) -> dict[str, list[Any]]:
            own = {**(generation_kwargs or {}), "seed": request_seed(seed, done, place)}
            return generate([prompts[place]], generation_kwargs=own, **settings)

        with ThreadPoolExecutor(min(REQUESTS_AT_ONCE, len(prompts))) as pool:
            answers = list(pool.map(send, range(len(prompts))))
        return {key: [row for answer in answers for row in answer[key]] for key in answers[0]}

    return seeded


def exact_sync(sync: Callable[[], None], model: Any) -> Callable[[], None]:
    """`VLLMGeneration.sync_weights` that leaves a policy's weights as they were.

    TRL merges an adapter to send the weights, and subtracts it again, which rounds.

    Args:
        sync: the engine's own method.
        model: the policy, with or without an adapter.
    """

    def exact() -> None:
        with weights_put_back(adapted(model)):
            sync()

    return exact


def lists_of_shared_prompts(
    trainer: GRPOTrainer,
    prompt_ids: Sequence[Sequence[int]],
    end: ListEnd | None,
    record: Record | None = None,
    walk: Walk | None = None,
    written: Sequence[int] | None = None,
) -> list[Completion]:
    """One completion per prompt, each distinct prompt forwarded once (`rlbench.models.completing`).

    The policy is made ready as for TRL's generate: without gradient checkpointing, with gathered weights under
    DeepSpeed, and with steps in common where processes hold parts of the weights.

    Args:
        trainer: the trainer of the policy.
        prompt_ids: token ids of this process's prompts. TRL repeats a prompt for each of its completions.
        end: what ends a list besides EOS and the limit; None for nothing.
        record: what to record at each position; None for nothing.
        walk: what each list is held to, at its beginning; None for nothing.
        written: as for `complete`.
    """
    with (
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model,
        trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
    ):
        sharded = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)
        synced = sharded and trainer.accelerator.num_processes > 1
        config = trainer.generation_config
        policy = causal(model)
        return complete(policy, prompt_ids, config, synced=synced, end=end, record=record, walk=walk, written=written)


@contextmanager
def repeatable_batches(model: PreTrainedModel, shared: bool = False) -> Iterator[None]:
    """In this block `model.generate_batch` is `generate_all_at_once`. Afterwards the weights are restored.

    Args:
        model: the policy.
        shared: whether a prompt is requested once for all of its lists.
    """
    with weights_kept(model):
        model.generate_batch = partial(generate_all_at_once, causal(model), shared=shared)
        try:
            yield
        finally:
            del model.generate_batch


@contextmanager
def weights_kept(model: PreTrainedModel) -> Iterator[None]:
    """Restore the tensors of parameters and buffers afterwards, whatever they are cast to in this block."""
    parameters = [(parameter, parameter.data) for parameter in model.parameters()]
    buffers = [(m, name, buffer) for m in model.modules() for name, buffer in m.named_buffers(recurse=False)]
    try:
        yield
    finally:
        for parameter, data in parameters:
            parameter.data = data
        for module, name, buffer in buffers:
            setattr(module, name, buffer)


def generate_all_at_once(
    model: PreTrainedModel,
    inputs: list[list[int]],
    generation_config: GenerationConfig,
    continuous_batching_config: ContinuousBatchingConfig,
    progress_bar: bool = False,
    shared: bool = False,
) -> dict[str, GenerationOutput]:
    """As `model.generate_batch`, but all requests are submitted before the first batch is formed.

    With `shared`, prompts that are repeated equally often are requested once with that number of lists.

    So random numbers are always assigned in the same order. If the configuration leaves the cache's size open, the
    cache has room for all requests at full length, instead of a share of the currently free memory.

    Raises:
        RuntimeError: a request fails. `model.generate_batch` would omit it.
    """
    limit = generation_config.max_new_tokens
    prompts, copies = distinct(inputs) if shared else (inputs, 1)
    if copies > 1:
        generation_config = copy.copy(generation_config)
        generation_config.num_return_sequences = copies
    manager = model.init_continuous_batching(
        generation_config=generation_config,
        continuous_batching_config=with_room(continuous_batching_config, [len(ids) + limit for ids in inputs]),
        workload_hints=WorkloadHints(max(map(len, inputs)), limit, len(inputs)),
    )
    found: dict[str, GenerationOutput] = {}
    try:
        manager.warmup()
        parents = manager.add_requests(inputs=prompts, max_new_tokens=limit)
        # transformers' names for the further lists of a request
        wanted = [name for one in parents for name in (one, *(f"{one}__child#{i}" for i in range(copies - 1)))]
        manager.start()
        while len(found) < len(wanted):
            output = manager.get_result(timeout=1)
            if output is not None:
                found[output.request_id] = output
                if output.error is not None:  # a request that fails early has no further lists to wait for
                    break
            elif not manager.is_running():
                break
        cause = manager.background_thread_status.fatal_error
    finally:
        manager.stop(block=True, timeout=STOP_SECONDS)
        manager.destroy()
    errors = [output.error for output in found.values() if output.error is not None]
    if errors or len(found) < len(wanted):
        reason = cause or (errors[0] if errors else "its thread ended")
        raise RuntimeError(
            f"continuous batching finished only {len(found) - len(errors)} of {len(wanted)} lists: {reason}"
        )
    return {name: found[name] for name in wanted}


def distinct(inputs: Sequence[list[int]]) -> tuple[list[list[int]], int]:
    """Prompts without repetitions, and how often each is repeated in a row. (inputs, 1) if that differs."""
    runs = [(ids, len(list(same))) for ids, same in itertools.groupby(inputs)]
    counts = {count for _, count in runs}
    # A request needs two tokens: transformers forks it before the last one.
    if len(counts) > 1 or any(len(ids) < 2 for ids, _ in runs):
        return list(inputs), 1
    return [ids for ids, _ in runs], counts.pop()


def with_room(config: ContinuousBatchingConfig, lengths: Sequence[int]) -> ContinuousBatchingConfig:
    """The configuration with a cache for requests of these lengths (prompt plus completion), unless it sets a size."""
    if config.num_blocks is not None:
        return config
    sized = copy.copy(config)
    sized.num_blocks = sum(math.ceil(length / config.page_size) for length in lengths)
    sized.safety_margin = 0.0  # no request has to wait for room
    return sized
