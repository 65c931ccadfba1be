"""vLLM itself, in the training's process and behind a server. The commands are in docs/generation.md.

Without a GPU, the tests use vLLM's CPU build and skip cases that need one or two GPUs.
"""

import json
import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from rlbench.training.engine_checks import check_server
from rlbench.training.engines import engine_seed, seeded_requests
from tests.conftest import SMALL, composed
from tests.helpers_training import load

pytestmark = pytest.mark.vllm
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
LIMIT = 900
ENDS = {3, *range(10, 60)}
"""Token ids that end a list: the tokenizer's and others, so that an untrained model ends some lists."""


@pytest.fixture(scope="module")
def colocated(tmp_path_factory) -> Any:
    """Run `tests.engines.vllm_run` once per set of overrides. All share the SFT stage."""
    folder, known = tmp_path_factory.mktemp("colocated"), {}

    def run(*overrides: str, again: bool = False) -> dict[str, Any]:
        if overrides not in known or again:
            out = folder / f"{len(known)}{again}.json"
            places = [f"runs_dir={folder / ('again' if again else 'runs')}", f"cache_dir={folder / 'cache'}"]
            command = [sys.executable, "-m", "tests.engines.vllm_run", str(out), *places, *overrides]
            subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True, timeout=LIMIT)
            if again:
                return json.loads(out.read_text())
            known[overrides] = json.loads(out.read_text())
        return known[overrides]

    return run


def measured(found: dict[str, Any], name: str) -> list[float]:
    return [row["value"] for row in found["metrics"] if (row["split"], row["metric"]) == ("train", name)]


def test_a_whole_run(colocated):
    found = colocated("seed=0")
    assert Path(found["root"], "STATUS").read_text().startswith("done")
    assert len(found["rollouts"]) == 2 and all(len(lists) == 8 for lists in found["rollouts"])
    lists = [tuple(ids) for rollout in found["rollouts"] for ids in rollout]
    assert len(set(lists)) == len(lists)  # all completions of a group differ, and so do those of two updates
    assert all(0 < gap < 0.1 for gap in measured(found, "engine_logp_difference_mean"))
    assert all(0.5 < ratio < 2 for ratio in measured(found, "engine_ratio_mean"))


def test_the_seed_reaches_the_engine(colocated):
    first, other = colocated("seed=0"), colocated("seed=1")
    assert set(first["seeds"]) == {engine_seed(0, 0)} and set(other["seeds"]) == {engine_seed(1, 0)}
    assert colocated("seed=0", again=True)["rollouts"] == first["rollouts"]
    assert all(a != b for a, b in zip(first["rollouts"][0], other["rollouts"][0], strict=True))


def test_a_prompt_is_requested_once(colocated):
    """Lists and log-probabilities are those of one request per completion, which `prefill=repeated` makes."""
    shared, repeated = colocated("seed=0"), colocated("seed=0", "generation.prefill=repeated")
    assert shared["requests"] == [[4, 4]] * 2 and repeated["requests"] == [[1] * 8] * 2
    assert shared["rollouts"] == repeated["rollouts"]
    for name in ("engine_logp_difference_mean", "engine_ratio_min"):
        assert measured(shared, name) == pytest.approx(measured(repeated, name), rel=1e-4)


@pytest.fixture(scope="module")
def tiny_wide(tmp_path_factory) -> Path:
    from rlbench.data import load_dataset
    from rlbench.models import tiny
    from tests.engines.vllm_run import WIDE

    config = composed(*SMALL, *WIDE)
    folder = tiny.build(config.model, load_dataset(config.dataset), tmp_path_factory.mktemp("cache"))
    for part in load(folder, ends_early=True):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(tiny_wide, tmp_path_factory) -> Any:
    """The config for a vLLM server of an untrained model, started by the command that the check names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = composed(
        *SMALL, "generation=vllm_server", f"generation.vllm.server_port={port}", "generation.vllm.server_timeout=5"
    )
    command = ["vllm-serve", "--model", str(tiny_wide), "--host", "127.0.0.1", "--port", str(port)]
    log = (tmp_path_factory.mktemp("server") / "log.txt").open("w")
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "trl"), *command], env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + LIMIT
        while problems := check_server(config, str(tiny_wide)):
            assert process.poll() is None and time.monotonic() < deadline, (
                problems,
                Path(log.name).read_text()[-2000:],
            )
        yield config
    finally:
        process.terminate()
        process.wait(60)


def test_lists_end_with_eos_or_at_the_limit(server):
    """The ids include the EOS that ended a list, as `ListReader.is_finished` expects; any of several EOS ids counts."""
    from trl.generation.vllm_client import VLLMClient

    vllm = server.generation.vllm
    client = VLLMClient(base_url=f"http://{vllm.server_host}:{vllm.server_port}")
    lists = client.generate([[5, 6, 7, 8]], n=40, max_tokens=12, generation_kwargs={"seed": 0})["completion_ids"]
    ended = [ids[-1] in ENDS for ids in lists]
    assert 0 < sum(ended) < len(lists)
    assert not any(token in ENDS for ids in lists for token in ids[:-1])
    assert all(end or len(ids) == 12 for ids, end in zip(lists, ended, strict=True))


def test_a_server_draws_by_the_seed(server):
    """Through TRL's own client, seed and update decide; no two completions or prompts share random numbers."""
    from trl.generation.vllm_client import VLLMClient

    vllm = server.generation.vllm
    client = VLLMClient(base_url=f"http://{vllm.server_host}:{vllm.server_port}")

    def lists(seed: int, update: int) -> list[list[int]]:
        send = seeded_requests(partial(VLLMClient.generate, client), seed, lambda: update)
        prompts = [[5, 6, 7, 8]] * 3  # the same prompt three times: only the seeds differ
        found = send(prompts, n=4, max_tokens=12, temperature=1.0, logprobs=0)
        assert found["prompt_ids"] == prompts and len(found["logprobs"]) == 12
        return found["completion_ids"]

    first = lists(0, 3)
    assert lists(0, 3) == first
    assert len({tuple(ids) for ids in first}) == 12
    for other in (lists(1, 3), lists(0, 4)):
        assert not {tuple(ids) for ids in other} & {tuple(ids) for ids in first}


@pytest.mark.gpu
def test_a_whole_run_by_a_server(server, tmp_path):
    """Weights reach the server over NCCL, which cannot connect two processes on one GPU."""
    if torch.cuda.device_count() < 2:
        pytest.skip("a server and a training need a GPU each")
    port = server.generation.vllm.server_port
    overrides = [f"generation.vllm.server_port={port}", f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path}"]
    out = tmp_path / "found.json"
    environment = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": "1"}
    command = [sys.executable, "-m", "tests.engines.vllm_run", str(out), "generation=vllm_server", *overrides]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=LIMIT)
    found = json.loads(out.read_text())
    assert Path(found["root"], "STATUS").read_text().startswith("done")
    assert all(0 < gap < 0.1 for gap in measured(found, "engine_logp_difference_mean"))
