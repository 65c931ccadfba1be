"""Rollout engines as settings: TRL's arguments, identity, refusals, seeds, and the server check."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlbench.base.errors import BadInput
from rlbench.config.engines import ENGINES, check_generation, readable, rollout_arguments
from rlbench.config.schema import Config
from rlbench.objective.guards import caveats
from rlbench.running.checks import check_config
from rlbench.running.cli import groups
from rlbench.running.session import prepare
from rlbench.runs.directory import locate
from rlbench.runs.identity import stage_config
from rlbench.training import engine_checks
from rlbench.training.engine_checks import check_engine, check_server
from rlbench.training.engines import engine_seed, request_seed, seeded_requests
from rlbench.training.rl import trl_arguments
from tests.conftest import SMALL, composed

COLOCATE, SERVER = "generation=vllm_colocate", "generation=vllm_server"


def test_every_option_composes_and_sets_its_engine():
    engines = {option: composed(f"generation={option}").generation.engine for option in groups()["generation"]}
    assert engines.pop("default") == "transformers"
    assert all(option == engine for option, engine in engines.items())
    assert {"transformers", *engines} == set(ENGINES)


@pytest.mark.parametrize("option", ["default", "continuous", "vllm_colocate", "vllm_server"])
def test_trl_takes_the_arguments(option, tmp_path):
    config = composed(*SMALL, f"generation={option}")
    assert not check_config(config)
    arguments = trl_arguments(config, tmp_path)
    for name, value in rollout_arguments(config.generation).items():
        assert getattr(arguments, name) == value, name
    assert arguments.use_vllm == option.startswith("vllm")
    assert arguments.use_transformers_continuous_batching == (option == "continuous")


def test_settings_reach_trl(tmp_path):
    vllm = "generation.vllm"
    colocate = composed(
        COLOCATE,
        f"{vllm}.correction=token_mask",
        f"{vllm}.ratio_min=0.5",
        f"{vllm}.gpu_memory_utilization=0.4",
        f"{vllm}.tensor_parallel_size=2",
        f"{vllm}.max_model_length=300",
        f"{vllm}.enable_sleep_mode=true",
    )
    arguments = trl_arguments(colocate, tmp_path)
    assert (arguments.vllm_mode, arguments.vllm_importance_sampling_mode) == ("colocate", "token_mask")
    assert (arguments.vllm_importance_sampling_clip_min, arguments.vllm_importance_sampling_clip_max) == (0.5, 3.0)
    assert (arguments.vllm_gpu_memory_utilization, arguments.vllm_tensor_parallel_size) == (0.4, 2)
    assert (arguments.vllm_max_model_length, arguments.vllm_enable_sleep_mode) == (300, True)
    server = composed(SERVER, f"{vllm}.server_host=far", f"{vllm}.server_port=9000", f"{vllm}.correction=none")
    arguments = trl_arguments(server, tmp_path)
    assert (arguments.vllm_mode, arguments.vllm_server_host, arguments.vllm_server_port) == ("server", "far", 9000)
    assert not arguments.vllm_importance_sampling_correction
    continuous = composed("generation=continuous", "generation.continuous.cache_tokens=1000")
    settings = trl_arguments(continuous, tmp_path).transformers_continuous_batching_config
    assert settings == {"max_batch_tokens": 1024, "auto_switch_to_flash": False, "page_size": 256, "num_blocks": 4}


def test_the_identity_holds_what_decides_results():
    base = composed()

    def digest(engine: str = "transformers", stage: str = "rl", **settings: Any) -> str:
        generation = replace(base.generation, engine=engine)
        for section in ("vllm", "continuous"):
            known = vars(getattr(generation, section))
            changed = replace(getattr(generation, section), **{k: v for k, v in settings.items() if k in known})
            generation = replace(generation, **{section: changed})
        return locate(replace(base, generation=generation), stage).hash

    plain = stage_config(base, "rl")["generation"]
    sampling, greedy = {"temperature", "top_p", "top_k", "min_p"}, {"repetition_penalty", "no_repeat_ngram_size"}
    assert set(plain) == sampling | greedy | {"max_new_tokens", "template_date", "prefill"}
    assert len({digest(engine) for engine in ENGINES}) == len(ENGINES)
    where = {"gpu_memory_utilization": 0.5, "server_port": 9000, "server_host": "far", "max_model_length": 400}
    what = {"correction": "token_mask", "ratio_max": 2.0, "ratio_min": 0.1}
    for engine in ("vllm_colocate", "vllm_server"):
        assert {digest(engine, **{key: value}) for key, value in where.items()} == {digest(engine)}
        assert len({digest(engine), *(digest(engine, **{key: value}) for key, value in what.items())}) == 4
        uncorrected = digest(engine, correction="none")
        assert digest(engine) != uncorrected == digest(engine, correction="none", ratio_max=2.0)
        for stage in ("zero_shot", "sft"):
            assert digest(engine, stage) == digest(stage=stage)
    assert digest("vllm_colocate", tensor_parallel_size=2) != digest("vllm_colocate")
    assert digest(ratio_max=2.0, batch_tokens=7) == digest()
    assert digest("continuous", batch_tokens=64) != digest("continuous")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["generation.engine=vlm_colocate"], "Did you mean 'vllm_colocate'?"),
        (["generation.vllm.correction=token"], "generation.vllm.correction = 'token' is unknown"),
        (["generation=continuous", "generation.stop_after_list=true"], "needs generation.engine=transformers"),
        (["generation.prefill=repeated", "generation.stop_after_list=true"], "and generation.prefill=shared"),
        (["generation.prefill=once"], "generation.prefill = 'once' is unknown"),
        (["generation.continuous.batch_tokens=0"], "generation.continuous.batch_tokens = 0 must be at least 1"),
        (["generation.vllm.gpu_memory_utilization=1"], "gpu_memory_utilization = 1.0 must lie in (0, 1)"),
        (["generation.vllm.server_port=70000"], "server_port = 70000 must lie in [1, 65535]"),
        (["generation.vllm.server_timeout=0"], "server_timeout = 0.0 must be a positive number"),
        ([COLOCATE, "generation.vllm.tensor_parallel_size=2"], "does not divide the number of processes, 1"),
        ([COLOCATE, "generation.vllm.max_model_length=60"], "leaves no room for a prompt"),
        ([COLOCATE, "generation.vllm.ratio_min=4"], "must be below generation.vllm.ratio_max = 3.0"),
        ([COLOCATE, "generation.vllm.ratio_max=-1"], "ratio_max = -1.0 must be a positive number, or be null"),
        (
            [COLOCATE, "generation.vllm.correction=token_truncate", "generation.vllm.ratio_max=null"],
            "has no bound to truncate at",
        ),
        ([SERVER, "generation.vllm.tensor_parallel_size=2"], "set it on the server, and leave it at 1 here"),
        ([SERVER, "generation.vllm.enable_sleep_mode=true"], "leave it at false here"),
        ([SERVER, "generation.vllm.group_port=8000"], "is the port of the server itself"),
        ([COLOCATE, "algorithm=vespo"], "whose weights are corrected token by token"),
    ],
)
def test_bad_settings_are_refused(overrides, said):
    problems = check_config(composed(*overrides))
    assert any(said in problem for problem in problems), problems


def test_good_settings_pass():
    two = composed(COLOCATE, "generation.vllm.tensor_parallel_size=2").generation
    assert not check_generation(two, processes=4) and check_generation(two, processes=3)
    assert not check_config(composed(COLOCATE, "algorithm=vespo", "generation.vllm.correction=token_mask"))
    assert not check_config(composed("generation.vllm.ratio_min=4"))  # setting of an engine that is not used


def test_a_correction_of_truncated_sampling_is_noted():
    assert any("top_p = 0.9" in note for note in caveats([composed(COLOCATE, "generation.top_p=0.9")]))
    assert not caveats([composed(COLOCATE)])


def test_what_an_engine_can_read():
    colocate = composed(COLOCATE, "generation.vllm.max_model_length=400").generation
    assert readable(colocate, 512) == 400 and readable(colocate, 300) == 300
    assert readable(composed(COLOCATE).generation, 512) == readable(composed().generation, 512) == 512


class TestMachine:
    def test_vllm_is_refused_on_the_cpu(self):
        (colocate,) = check_engine(composed(COLOCATE, "runtime.device=cpu"))
        assert "'vllm_colocate' on the CPU: vLLM's CPU build repacks the weights" in colocate
        (server,) = check_engine(composed(SERVER, "runtime.device=cpu"))
        assert "'vllm_server' on the CPU: weights are sent to the server over NCCL" in server

    def test_without_the_package_the_command_is_named(self, monkeypatch):
        find_spec = engine_checks.importlib.util.find_spec
        monkeypatch.setattr(engine_checks.importlib.util, "find_spec", lambda n: None if n == "vllm" else find_spec(n))
        for engine in (COLOCATE, SERVER):
            (problem,) = check_engine(composed(engine, "runtime.device=cuda"))
            assert 'pip install "trl[vllm]==1.16.0"' in problem

    def test_flash_attention_needs_gpu_and_half_precision(self):
        problems = check_engine(
            composed("generation=continuous", "generation.continuous.flash_attention=true", "runtime.device=cpu")
        )
        assert "needs a GPU" in problems[0] and "trainer.bf16=true" in problems[1]

    def test_continuous_batching_is_refused_under_fsdp(self, monkeypatch):
        config = composed("generation=continuous", "runtime.device=cpu")
        assert not check_engine(config)
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        assert "with FSDP" in check_engine(config)[0]

    def test_only_where_there_are_rollouts(self):
        for engine in (COLOCATE, SERVER):
            config = composed(engine, "runtime.device=cpu", "stage=sft")
            assert not check_engine(config) and not check_server(config, "model")

    def test_before_any_compute(self, tmp_path):
        with pytest.raises(BadInput, match="on the CPU"):
            prepare(composed(*SMALL, COLOCATE, f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}"))
        assert not (tmp_path / "runs").exists()


class TestSeeds:
    def test_of_engines_and_requests_differ(self):
        engines = {engine_seed(seed, group) for seed in range(20) for group in range(20)}
        assert len(engines) == 400 and all(0 <= seed < 2**32 for seed in engines)
        requests = {request_seed(s, update, prompt) for s in range(8) for update in range(8) for prompt in range(8)}
        assert len(requests) == 512 and all(0 <= seed < 2**62 for seed in requests)
        assert engine_seed(3, 1) == engine_seed(3, 1)

    def test_every_prompt_is_a_request_with_a_seed_of_its_own(self):
        sent, update = [], 4

        def generate(prompts, generation_kwargs=None, **settings):
            sent.append((prompts, generation_kwargs, settings))
            n = settings["n"]
            return {"prompt_ids": prompts, "completion_ids": [[*prompts[0], i] for i in range(n)], "logprobs": [0] * n}

        send = seeded_requests(generate, 7, lambda: update)
        prompts = [[place] for place in range(5)]
        found = send(prompts, features=None, n=2, generation_kwargs={"min_tokens": 1})
        assert found["prompt_ids"] == prompts
        assert found["completion_ids"] == [[place, i] for place in range(5) for i in range(2)]
        by_prompt = {given[0][0]: (kwargs, settings) for given, kwargs, settings in sent}
        assert {place: kwargs["seed"] for place, (kwargs, _) in by_prompt.items()} == {
            place: request_seed(7, 4, place) for place in range(5)
        }
        assert all(kwargs["min_tokens"] == 1 and settings["n"] == 2 for kwargs, settings in by_prompt.values())
        update = 5
        sent.clear()
        send(prompts, n=2)
        assert {kwargs["seed"] for _, kwargs, _ in sent} == {request_seed(7, 5, place) for place in range(5)}


Answers = dict[str, tuple[int, object]]
GOOD: Answers = {
    "/health": (200, {}),
    "/server_info": (
        200,
        {
            "vllm_config": {
                "weight_transfer_config": {"backend": "nccl"},
                "model_config": {"logprobs_mode": "processed_logprobs"},
            }
        },
    ),
}


@pytest.fixture
def serve() -> Iterator[Callable[[Answers], Config]]:
    """Start a local server with these answers, and return the config of a run that uses it."""
    servers = []

    def start(answers: Answers) -> Config:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                status, body = answers.get(self.path.split("?")[0], (404, {}))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return composed(SERVER, f"generation.vllm.server_port={server.server_port}", "generation.vllm.server_timeout=1")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class TestServer:
    def test_one_that_serves_passes(self, serve):
        assert check_server(serve(GOOD), "model") == []

    def test_none_is_refused_with_address_and_command(self, serve):
        config = serve(GOOD)
        port = config.generation.vllm.server_port
        free = composed(SERVER, "generation.vllm.server_port=9", "generation.vllm.server_timeout=0.2")
        (problem,) = check_server(free, "/folder of/model")
        assert "no vLLM server at http://127.0.0.1:9 responded within 0.2 s (" in problem and "refused" in problem
        assert "trl vllm-serve --model '/folder of/model' --host 127.0.0.1 --port 9" in problem
        assert check_server(config, "model") == [] and port != 9

    @pytest.mark.parametrize(
        ("path", "answer", "said"),
        [
            ("/health", (503, {}), "no vLLM server at"),
            ("/server_info", (404, {}), "VLLM_SERVER_DEV_MODE=1 is not set"),
            ("/server_info", (500, {}), "responds with 500"),
            (
                "/server_info",
                (200, {"vllm_config": {**GOOD["/server_info"][1]["vllm_config"], "weight_transfer_config": None}}),
                "does not accept new weights",
            ),
            (
                "/server_info",
                (
                    200,
                    {"vllm_config": {"weight_transfer_config": {}, "model_config": {"logprobs_mode": "raw_logprobs"}}},
                ),
                "(--logprobs-mode raw_logprobs)",
            ),
        ],
    )
    def test_one_that_was_started_otherwise_is_refused(self, serve, path, answer, said):
        (problem,) = check_server(serve(GOOD | {path: answer}), "model")
        assert said in problem and "trl vllm-serve --model model" in problem

    def test_one_that_hangs_is_refused(self, monkeypatch):
        monkeypatch.setattr(engine_checks, "REQUEST_SECONDS", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections but never answers
            port = silent.getsockname()[1]
            config = composed(SERVER, f"generation.vllm.server_port={port}", "generation.vllm.server_timeout=0.3")
            (problem,) = check_server(config, "model")
            assert "(timed out)" in problem
            (problem,) = engine_checks._settings(f"http://127.0.0.1:{port}", config.generation.vllm)
            assert "does not report its settings (timed out)" in problem

    def test_its_probabilities_matter_to_the_correction_alone(self, serve):
        raw = {"weight_transfer_config": {}, "model_config": {"logprobs_mode": "raw_logprobs"}}
        config = serve(GOOD | {"/server_info": (200, {"vllm_config": raw})})
        assert check_server(config, "model")
        config.generation.vllm.correction = "none"
        assert not check_server(config, "model")


def test_no_torch_for_settings():
    code = "import sys, rlbench.config.engines; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


HELD = "generation.constraint=catalogue"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["generation.constraint=catalog"], "generation.constraint = 'catalog' is unknown; known: none, catalogue"),
        (["generation.exclude=[repeats]"], "generation.exclude = [repeats] needs generation.constraint=catalogue"),
        (["evaluation.exclude=[seen]"], "evaluation.exclude = [seen] needs evaluation.constraint=catalogue"),
        ([HELD, "generation.exclude=[repeat]"], "generation.exclude = 'repeat' is unknown; known: repeats, seen"),
        ([HELD, "generation.exclude=[seen,seen]"], "generation.exclude contains seen 2 times"),
        ([HELD, "generation=continuous"], "needs generation.engine=transformers and generation.prefill=shared"),
        ([HELD, "generation.prefill=repeated"], "needs generation.engine=transformers and generation.prefill=shared"),
        ([HELD, "generation.stop_after_list=true"], "use generation.stop_after_list=false"),
        (["evaluation.beams=2", "generation.repetition_penalty=1.2"], "is no probability of a list"),
        (["evaluation.beams=2", "generation.prefill=repeated"], "evaluation.beams = 2 needs generation.prefill=shared"),
        (["evaluation.beams=0"], "evaluation.beams = 0 must be at least 1"),
    ],
)
def test_refused_under_a_constraint(config, overrides, said):
    assert any(said in problem for problem in check_config(config(*overrides)))


def test_evaluation_follows_rollouts_unless_it_is_set(config):
    found = config(HELD, "generation.exclude=[repeats,seen]")
    assert (found.evaluation.constraint, found.evaluation.exclude) == ("catalogue", ["repeats", "seen"])
    free = config(HELD, "generation.exclude=[repeats]", "evaluation.constraint=none")
    assert not check_config(free) and not check_config(config("evaluation.constraint=catalogue"))
