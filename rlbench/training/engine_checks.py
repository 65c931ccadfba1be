"""Checks that this machine meets the needs of a rollout engine, before compute is spent."""

import importlib.util
import json
import os
import shlex
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any

from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from rlbench.config.engines import uses_vllm
from rlbench.config.schema import Config, VLLMConfig
from rlbench.models import prompt_cache, shared_prompt
from rlbench.models.dropout import without_dropout
from rlbench.models.loading import without_weights
from rlbench.training.arguments import on_cpu

INSTALL = 'pip install "trl[vllm]==1.16.0"'
REQUEST_SECONDS = 30.0
RETRY_SECONDS = 1.0


def check_engine(config: Config) -> list[str]:
    """What a run's rollout engine or optimiser lacks on this machine, one sentence each."""
    problems = _optimizer(config)
    if config.stage != "rl":
        return problems
    if config.generation.engine == "continuous":
        return problems + _continuous(config)
    return problems + (_vllm(config) if uses_vllm(config.generation) else [])


def _optimizer(config: Config) -> list[str]:
    name = config.trainer.optimizer
    if not name.startswith("paged") or config.stage == "zero_shot" or not on_cpu(config):
        return []
    return [
        f"trainer.optimizer = '{name}' moves its states between GPU and host memory, but this run computes on the CPU; "
        f"use trainer.optimizer={name.removeprefix('paged_')}"
    ]


def _continuous(config: Config) -> list[str]:
    problems = []
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true"):
        problems.append(
            "generation.engine = 'continuous': transformers 5.23 does not support continuous batching with FSDP; use "
            "generation=default or generation=vllm_colocate"
        )
    if not config.generation.continuous.flash_attention:
        return problems
    if on_cpu(config):
        problems.append("generation.continuous.flash_attention = true needs a GPU; use false on the CPU")
    elif not (is_flash_attn_2_available() or is_flash_attn_3_available()):
        problems.append(
            "generation.continuous.flash_attention = true: needs the package flash-attn, which is not installed; run "
            "pip install flash-attn, or use false"
        )
    if not config.trainer.bf16 and config.model.dtype == "float32":
        problems.append(
            "generation.continuous.flash_attention = true computes in half precision, but the weights are float32; "
            "use trainer.bf16=true, or use false"
        )
    return problems


def _vllm(config: Config) -> list[str]:
    engine = config.generation.engine
    if on_cpu(config):
        reason = {
            "vllm_colocate": "vLLM's CPU build repacks the weights after loading and accepts no new ones "
            "(vllm "
            "0.31, model_executor/layers/linear.py, UnquantizedLinearMethod)",
            "vllm_server": "weights are sent to the server over NCCL, which needs a CUDA device (TRL 1.16, "
            "VLLMClient.init_communicator)",
        }[engine]
        return [f"generation.engine = '{engine}' on the CPU: {reason}; use generation=default or generation=continuous"]
    if importlib.util.find_spec("vllm") is None:
        return [
            f"generation.engine = '{engine}' needs the package vllm, which is not installed; run {INSTALL} in a "
            "separate environment, because vLLM pins torch and transformers (docs/generation.md)"
        ]
    return []


def check_abilities(config: Config, source: str) -> list[str]:
    """Settings that the model's architecture cannot follow, one sentence each. The model is not loaded.

    Args:
        config: the run.
        source: folder or hub id of the model.

    Raises:
        BadInput: no model can be made of its config.json.
    """
    generation, evaluation, in_rl = config.generation, config.evaluation, config.stage == "rl"
    of_lists = {
        f"evaluation.beams = {evaluation.beams}": ("evaluation.beams=1", evaluation.beams > 1),
        "generation.stop_after_list = true": ("generation.stop_after_list=false", generation.stop_after_list and in_rl),
        "generation.engine = 'continuous'": ("generation=default", generation.engine == "continuous" and in_rl),
    }
    asked = {setting: remedy for setting, (remedy, wanted) in of_lists.items() if wanted}
    always = config.trainer.share_prompts == "always" and in_rl
    if not asked and not always:
        return []
    model = without_dropout(without_weights(source))
    reason = prompt_cache.reason_against(model)
    problems = [f"{setting}: {reason}; use {remedy}" for setting, remedy in asked.items() if reason is not None]
    if always and (reason := shared_prompt.reason_against(model)) is not None:
        problems.append(f"trainer.share_prompts = always: {reason}; use trainer.share_prompts=auto")
    return problems


def check_server(config: Config, source: str) -> list[str]:
    """Check that the requested vLLM server answers and has the settings that TRL needs. Empty without a server.

    Args:
        source: folder or hub id of the model, for the command that starts the server.
    """
    if config.stage != "rl" or config.generation.engine != "vllm_server":
        return []
    vllm = config.generation.vllm
    address = f"http://{vllm.server_host}:{vllm.server_port}"
    command = f"trl vllm-serve --model {shlex.quote(source)} --host {vllm.server_host} --port {vllm.server_port}"
    failure = _wait(f"{address}/health", vllm.server_timeout)
    if failure:
        return [
            f"generation.vllm.server_host, server_port: no vLLM server at {address} responded within "
            f"{vllm.server_timeout:g} s ({failure}); start one on a separate GPU: {command}"
        ]
    return [f"the vLLM server at {address} {problem}; start it with: {command}" for problem in _settings(address, vllm)]


def _wait(url: str, seconds: float) -> str:
    """ "" once the address answers, otherwise the failure."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=min(REQUEST_SECONDS, seconds)):
                return ""
        except OSError as error:  # refused, unreachable, timed out, or an HTTP status of failure
            failure = str(getattr(error, "reason", error))
        if time.monotonic() + RETRY_SECONDS > deadline:
            return failure
        time.sleep(RETRY_SECONDS)


def _settings(address: str, vllm: VLLMConfig) -> list[str]:
    """Problems of the server's settings, as the server itself reports them."""
    try:
        settings = _read(f"{address}/server_info?config_format=json")["vllm_config"]
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.NOT_FOUND:
            return ["does not report its settings, which TRL needs to send weights (VLLM_SERVER_DEV_MODE=1 is not set)"]
        return [f"responds with {error.code} {error.reason} when asked for its settings"]
    except OSError as error:  # unreachable now, or timed out
        return [f"responds to the health check, but does not report its settings ({getattr(error, 'reason', error)})"]
    problems = []
    if settings["weight_transfer_config"] is None:
        problems.append("does not accept new weights (it was started without --weight-transfer-config)")
    mode = settings["model_config"]["logprobs_mode"]
    if vllm.correction != "none" and mode != "processed_logprobs":
        problems.append(
            f"returns probabilities before temperature and truncation (--logprobs-mode {mode}), so "
            f"generation.vllm.correction = '{vllm.correction}' would be wrong"
        )
    return problems


def _read(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=REQUEST_SECONDS) as answer:
        return json.load(answer)
