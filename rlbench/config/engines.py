"""Rollout engine settings: as TRL arguments, as part of a run's identity, and their checks.

Importing this module loads neither torch nor transformers.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rlbench.config.decoding import NEUTRAL, constraint_identity, sampling_identity
from rlbench.config.schema import GenerationConfig, VLLMConfig

ENGINES = ("transformers", "continuous", "vllm_colocate", "vllm_server")
PREFILLS = ("shared", "repeated")
CORRECTIONS = ("none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
DECIDE_RESULTS = ("correction", "ratio_min", "ratio_max")
"""Keys of `generation.vllm` that affect results. The others say where the engine runs and how much memory it gets."""
PAGE_TOKENS = 256
"""Page size of transformers' KV cache, in tokens."""


def uses_vllm(generation: GenerationConfig) -> bool:
    return generation.engine in ("vllm_colocate", "vllm_server")


def correction_of(generation: GenerationConfig) -> str:
    """Return the active correction, or "none" if the engine has none."""
    return generation.vllm.correction if uses_vllm(generation) else "none"


def readable(generation: GenerationConfig, positions: int | None) -> int | None:
    """Return the maximum number of tokens, prompt plus completion, for model and engine; None for no limit.

    Args:
        positions: the model's own limit.
    """
    own = generation.vllm.max_model_length if generation.engine == "vllm_colocate" else None
    return min((limit for limit in (positions, own) if limit is not None), default=None)


def rollout_arguments(generation: GenerationConfig, eos_token_ids: Sequence[int] = ()) -> dict[str, Any]:
    """Return the arguments of TRL's GRPOConfig for sampling and engine.

    Args:
        generation: the run's settings.
        eos_token_ids: every id that ends a list, passed to vLLM. For other engines TRL uses the model's own.
    """
    arguments: dict[str, Any] = {
        "max_completion_length": generation.max_new_tokens,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "top_k": generation.top_k,
        "min_p": generation.min_p or None,  # 0 would make transformers sort probabilities at every step without effect
        "repetition_penalty": generation.repetition_penalty,
        "generation_kwargs": {"stop_token_ids": list(eos_token_ids)}
        if uses_vllm(generation)
        else NEUTRAL | {"no_repeat_ngram_size": generation.no_repeat_ngram_size},
    }
    if generation.engine == "continuous":
        return arguments | _continuous_arguments(generation)
    if uses_vllm(generation):
        return arguments | _vllm_arguments(generation.engine, generation.vllm)
    return arguments


def _continuous_arguments(generation: GenerationConfig) -> dict[str, Any]:
    continuous = generation.continuous
    settings: dict[str, Any] = {
        "max_batch_tokens": continuous.batch_tokens,
        # By default transformers uses FlashAttention wherever it is installed.
        "auto_switch_to_flash": continuous.flash_attention,
    }
    if continuous.cache_tokens is not None:
        settings |= {"page_size": PAGE_TOKENS, "num_blocks": math.ceil(continuous.cache_tokens / PAGE_TOKENS)}
    return {"use_transformers_continuous_batching": True, "transformers_continuous_batching_config": settings}


def _vllm_arguments(engine: str, vllm: VLLMConfig) -> dict[str, Any]:
    corrected = vllm.correction != "none"
    arguments: dict[str, Any] = {
        "use_vllm": True,
        "vllm_mode": engine.removeprefix("vllm_"),
        "vllm_importance_sampling_correction": corrected,
    }
    if corrected:
        arguments |= {
            "vllm_importance_sampling_mode": vllm.correction,
            "vllm_importance_sampling_clip_min": vllm.ratio_min,
            "vllm_importance_sampling_clip_max": vllm.ratio_max,
        }
    if engine == "vllm_colocate":
        return arguments | {
            "vllm_tensor_parallel_size": vllm.tensor_parallel_size,
            "vllm_gpu_memory_utilization": vllm.gpu_memory_utilization,
            "vllm_max_model_length": vllm.max_model_length,
            "vllm_enable_sleep_mode": vllm.enable_sleep_mode,
        }
    return arguments | {
        "vllm_server_host": vllm.server_host,
        "vllm_server_port": vllm.server_port,
        "vllm_server_timeout": vllm.server_timeout,
        "vllm_group_port": vllm.group_port,
    }


def rollout_identity(generation: GenerationConfig) -> dict[str, Any]:
    """Return the generation settings that affect a run's results. Plain generate adds no engine name."""
    identity = sampling_identity(generation) | constraint_identity(generation)
    identity |= {"stop_after_list": True} if generation.stop_after_list else {}
    if generation.engine == "transformers":
        return identity
    identity["engine"] = generation.engine
    if generation.engine == "continuous":
        return identity | {"continuous": asdict(generation.continuous)}
    decides = {key: getattr(generation.vllm, key) for key in DECIDE_RESULTS}
    if generation.vllm.correction == "none":
        decides = {"correction": "none"}
    if generation.engine == "vllm_colocate":  # each engine has its own random stream
        decides["tensor_parallel_size"] = generation.vllm.tensor_parallel_size
    return identity | {"vllm": decides}


def check_generation(generation: GenerationConfig, processes: int) -> list[str]:
    """Return one sentence per problem with the engine's settings. Names and numbers were checked before.

    Args:
        processes: number of processes of the run.
    """
    vllm = generation.vllm
    problems = _bounds(vllm) if uses_vllm(generation) else []
    if generation.stop_after_list and (generation.engine != "transformers" or generation.prefill != "shared"):
        problems.append(
            "generation.stop_after_list = true needs generation.engine=transformers and generation.prefill=shared; use "
            "these, or false"
        )
    if generation.engine == "vllm_colocate":
        if processes % vllm.tensor_parallel_size:
            problems.append(
                f"generation.vllm.tensor_parallel_size = {vllm.tensor_parallel_size} does not divide the number of "
                f"processes, {processes}; use 1, or start a multiple of it"
            )
        if vllm.max_model_length is not None and vllm.max_model_length <= generation.max_new_tokens:
            problems.append(
                f"generation.vllm.max_model_length = {vllm.max_model_length} leaves no room for a prompt before "
                f"generation.max_new_tokens = {generation.max_new_tokens}; use null for the model's own limit"
            )
    if generation.engine == "vllm_server":
        unused = {"tensor_parallel_size": 1, "max_model_length": None, "enable_sleep_mode": False}
        problems += [
            f"generation.vllm.{key} = {getattr(vllm, key)} has no effect under generation.engine = 'vllm_server': "
            f"set it on the server, and leave it at {str(value).lower().replace('none', 'null')} here"
            for key, value in unused.items()
            if getattr(vllm, key) != value
        ]
        if vllm.server_port == vllm.group_port:
            problems.append(
                f"generation.vllm.group_port = {vllm.group_port} is the port of the server itself; choose another "
                "one for sending weights"
            )
    return problems


def _bounds(vllm: VLLMConfig) -> list[str]:
    low, high = vllm.ratio_min, vllm.ratio_max
    problems = []
    if low is not None and high is not None and low >= high:
        problems.append(f"generation.vllm.ratio_min = {low} must be below generation.vllm.ratio_max = {high}")
    if vllm.correction.endswith("truncate") and low is None and high is None:
        problems.append(
            f"generation.vllm.correction = '{vllm.correction}' has no bound to truncate at; set ratio_max (for "
            "example 3.0) or ratio_min"
        )
    return problems
