"""The estimate of a run's memory, and messages when memory runs out.

Real measurements: `pytest -m slow tests/unit/test_memory.py` (minutes).
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MixtralConfig,
    OPTConfig,
    Qwen2Config,
    T5Config,
)
from trl.trainer.utils import add_fused_lm_head

from rlbench.base.errors import OutOfMemory
from rlbench.models.loading import load_tokenizer
from rlbench.running import memory, shortage
from rlbench.running.cli import CONF
from rlbench.running.memory import (
    _of_group,
    _saved_by_layer,
    estimate,
    shape_of,
    words,
)
from rlbench.running.shortage import is_out_of_memory, settings_to_lower
from rlbench.runs.budget import Ledger
from rlbench.runs.directory import locate
from tests.conftest import SMALL, composed

LLAMA = LlamaConfig(
    vocab_size=1000,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)


def of(*overrides: str, on_gpu: bool = True) -> memory.MemoryEstimate:
    """Return the estimate by the GPU's rules (no process memory, no heap), without needing a GPU."""
    shape = memory.Shape(10**6, 4, 64, 128, 64, 32, 1000)
    config = composed(*SMALL, *overrides)
    available = memory.available_memory
    memory.available_memory = lambda on_gpu: 10**9
    try:
        return estimate(config, shape, 50, 100, on_gpu)
    finally:
        memory.available_memory = available


def test_a_shape_is_that_of_the_model():
    shape = shape_of(LLAMA)
    assert shape.parameters == sum(p.numel() for p in LlamaForCausalLM(LLAMA).parameters())
    assert (shape.attention, shape.key_value, shape.layers) == (256, 64, 2)
    assert shape_of(Qwen2Config(hidden_size=64, num_attention_heads=4, num_hidden_layers=1)).attention == 64


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (GPT2Config(n_embd=64, n_layer=3, n_head=4, vocab_size=300), (3, 64, 256, 64, 64, 300)),
        (GPT2Config(n_embd=64, n_layer=3, n_head=4, n_inner=100, vocab_size=300), (3, 64, 100, 64, 64, 300)),
        (OPTConfig(hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4), (2, 64, 96, 64, 64, 50272)),
        (BloomConfig(hidden_size=64, n_layer=2, n_head=4, vocab_size=300), (2, 64, 256, 64, 64, 300)),
        (
            MixtralConfig(
                vocab_size=300,
                hidden_size=64,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                num_local_experts=4,
                num_experts_per_tok=2,
            ),
            (2, 64, 192, 64, 32, 300),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_shape_of_any_architecture(model, expected):
    """Layers, width, feed-forward width (of one token's experts), query width, key and value width, vocabulary."""
    shape = shape_of(model)
    assert tuple(asdict(shape).values())[1:] == expected
    assert shape.parameters == sum(p.numel() for p in AutoModelForCausalLM.from_config(model).parameters())


def test_no_estimate_never_stops_a_run(mini, tiny_folder, tmp_path, monkeypatch):
    """For a model that is no decoder, or whose config has no heads, only the reason is printed."""
    config, tokenizer = composed(*SMALL), load_tokenizer(tiny_folder)
    for model, said in [(T5Config(d_model=32, num_layers=1), "ValueError: "), (MambaConfig(), "AttributeError: ")]:
        folder = tmp_path / model.model_type
        model.save_pretrained(folder)
        expected = memory.estimate_or_reason(config, mini, str(folder), tokenizer)
        assert isinstance(expected, memory.NoEstimate) and expected.reason.startswith(said), expected
        console = Console(record=True, width=300)
        shortage.tell(config, expected, console)
        assert "memory: no estimate: " + said in console.export_text()
    ended = pytest.raises(OutOfMemory, match="Expected: no estimate: AttributeError")
    with ended, shortage.explained(config, "rl", Ledger(), expected):
        raise MemoryError
    monkeypatch.setattr(memory, "estimate_or_reason", lambda *_: expected)
    console = Console(record=True, width=300)
    shortage.show([composed(*SMALL, f"cache_dir={tmp_path}")], 2, console)
    assert "memory: no estimate: AttributeError" in console.export_text()


def test_few_long_prompts_are_no_reason_for_a_large_batch():
    shape, config = memory.Shape(10**6, 4, 64, 128, 64, 32, 1000), composed(*SMALL, "generation.max_new_tokens=100")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "available_memory", lambda on_gpu: None)
        long = estimate(config, shape, 30_000, 500, True).parts["evaluation"]
        short = estimate(config, shape, 200, 500, True).parts["evaluation"]
    assert long["KV cache"] == 2 * 4 * 32 * 4 * 30_100 * 4 + 2 * 32 * 4 * 30_100 * 4  # 4 rows of 131,072 tokens
    assert short["logits"] == 4 * config.evaluation.batch_size * 1000 * 4


@pytest.mark.parametrize("bf16", [False, True])
def test_what_a_block_keeps_is_what_torch_saves(bf16):
    """Measured with autograd's hooks, as the difference between four blocks and two."""

    def saved(layers: int) -> int:
        model = LlamaForCausalLM(LlamaConfig(**{**LLAMA.to_dict(), "num_hidden_layers": layers}))
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        seen, kept = {p.untyped_storage()._cdata for p in model.parameters()}, []

        def pack(tensor):
            if tensor.untyped_storage()._cdata not in seen:
                seen.add(tensor.untyped_storage()._cdata)
                kept.append(tensor)
            return tensor

        ids, mask = torch.ones(16, 100, dtype=torch.long), torch.ones(16, 100, dtype=torch.long)
        mask[0, :3] = 0
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept)

    shape, config = shape_of(LLAMA), composed(*SMALL, f"trainer.bf16={str(bf16).lower()}")
    copies = 2 * (3 * 256 * 704 + 2 * 256 * 256 + 2 * 256 * 64) if bf16 else 0  # autocast's weight copies
    by_token = ((saved(4) - saved(2)) / 2 - copies) / 1600
    assert _saved_by_layer(config, shape, 100) == pytest.approx(by_token, rel=0.05)


def test_parts_grow_with_what_makes_them():
    small, wide = of("trainer.rl.micro_batch_size=8"), of("trainer.rl.micro_batch_size=64")
    assert wide.parts["update"]["activations"] == 8 * small.parts["update"]["activations"]
    assert wide.parts["rollout"] == small.parts["rollout"] and wide.phase == "update"
    checkpointed = of("trainer.rl.micro_batch_size=64", "trainer.gradient_checkpointing=true")
    assert checkpointed.parts["update"]["activations"] < wide.parts["update"]["activations"] / 2
    longer = of("generation.max_new_tokens=350")
    assert longer.parts["rollout"]["KV cache"] == 400 * small.parts["rollout"]["KV cache"] // 150
    assert of("evaluation.batch_size=9").parts["evaluation"]["logits"] == 9 * 4 * 1000 * 4
    without = of("algorithm.kl.beta=0")
    assert without.parts["update"]["reference"] == 0 and small.parts["update"]["reference"] == 4 * 10**6
    assert set(of("stage=zero_shot").parts) == {"evaluation"} and "rollout" not in of("stage=sft").parts
    assert (
        small.parts["update"]["optimiser"] == 8 * 10**6 and of("model.dtype=bfloat16").parts["update"]["weights"] == 2e6
    )


def test_a_warning_says_what_to_lower(capsys):
    console, config = Console(record=True, width=500), composed(*SMALL, "trainer.rl.micro_batch_size=64")
    fits = memory.MemoryEstimate({"update": {"weights": 900 * 2**20, "activations": 2**31}}, 2**32, False)
    shortage.tell(config, fits, console)
    text = console.export_text()
    assert "memory: about 2.88 GiB of 4.00 GiB available, most in update: activations 2.00 GiB, weights 900 MiB" in text
    assert "warning" not in text
    shortage.tell(config, memory.MemoryEstimate(fits.parts, 2**31, False), console)
    assert "warning: this is more than is available" in (text := console.export_text())
    assert "To reduce it, lower these settings in this order: trainer.rl.micro_batch_size (now 64; " in text


def test_what_helps_the_phase_comes_first():
    config = composed(*SMALL, "trainer.rl.micro_batch_size=64")

    def keys(phase):
        return [re.split(r"[ =]", setting)[0] for setting in settings_to_lower(config, phase)]

    assert keys("update")[:3] == ["trainer.rl.micro_batch_size", "trainer.gradient_checkpointing", "trainer.bf16"]
    assert keys("evaluation")[0] == "evaluation.batch_size" and keys("rollout")[0] == "trainer.bf16"
    assert sorted(keys("rollout")) == sorted(keys("update")) == sorted(keys(None))
    done = composed(*SMALL, "trainer.rl.micro_batch_size=1", "trainer.bf16=true", "trainer.gradient_checkpointing=true")
    assert len(settings_to_lower(done, "update")) == 3


def test_errors_for_want_of_memory_are_known():
    with pytest.raises(RuntimeError) as allocation:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(allocation.value) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")) and is_out_of_memory(
        OSError(12, "no memory")
    )
    assert not is_out_of_memory(RuntimeError("shapes do not match")) and not is_out_of_memory(OSError(28, "disk full"))


def test_the_message_names_phase_estimate_and_settings():
    config, ledger, expected = (
        composed(*SMALL),
        Ledger(),
        memory.MemoryEstimate({"update": {"weights": 2**30}}, None, False),
    )

    def ends() -> None:
        with shortage.explained(config, "rl", ledger, expected), ledger.phase("update"), ledger.phase("reference"):
            raise MemoryError

    with pytest.raises(OutOfMemory) as error:
        ends()
    text = str(error.value)
    assert text.startswith("out of memory in the rl stage, phase reference (MemoryError)") and "\n" not in text
    assert "Expected: about 1.00 GiB, most in update: weights 1.00 GiB" in text and "trainer.bf16=true" in text
    with pytest.raises(ValueError, match="other"), shortage.explained(config, "rl", ledger, expected):
        raise ValueError("other")


def test_a_control_group_bounds_what_there_is(tmp_path):
    assert _of_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000\n")
    assert _of_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("10000\n")
    assert _of_group(tmp_path) == 7000
    assert words(1.5 * 2**30) == "1.50 GiB" and words(2**20) == "1 MiB"


def test_a_dry_run_shows_the_parts(tmp_path):
    configs = [composed(*SMALL, f"cache_dir={tmp_path}", f"trainer.rl.micro_batch_size={size}") for size in (8, 64)]
    console = Console(record=True, width=200)
    shortage.show(configs, 2, console)
    text = console.export_text()
    for word in (
        "rollout",
        "SFT update",
        "activations",
        "KV cache",
        "together",
        "with 2 runs at once on this machine",
    ):
        assert word in text
    config, expected = memory.largest(configs)
    assert config is configs[1] and expected.parts["update"]["process"] > 100e6


SHORT = [
    *SMALL[:2],
    *SMALL[6:],
    "+debug=smoke",
    "trainer.rl.updates=2",
    "trainer.rl.save_every=100",
    "trainer.sft.save_every=100",
    "evaluation.every=100",
    "generation.max_new_tokens=40",
]
MEDIUM = ["model.hidden_size=512", "model.intermediate_size=1408", "model.layers=16", "model.heads=8"]
"""52 million parameters."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "completions", "micro_batch", "more"),
    [
        ([], 64, 64, ["generation.max_new_tokens=100"]),
        (MEDIUM, 8, 2, []),
        (MEDIUM, 8, 8, []),
        (MEDIUM, 32, 32, []),
        (MEDIUM, 32, 32, ["trainer.gradient_checkpointing=true"]),
    ],
)
def test_the_estimate_is_near_what_is_measured(model, completions, micro_batch, more, tmp_path):
    """Within a quarter of the process's peak resident memory."""
    batches = [f"trainer.rl.completions_per_update={completions}", f"trainer.rl.micro_batch_size={micro_batch}"]
    overrides = [*SHORT, *model, *batches, *more, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for stage in ("sft", "rl"):  # each in its own process
        command = [sys.executable, str(CONF.parent / "run.py"), *overrides, f"stage={stage}"]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
    budget = json.loads((locate(composed(*overrides), "rl").root / "budget.json").read_text())
    said = re.search(r"memory: about ([\d.]+) (MiB|GiB)", result.stderr)
    expected = float(said[1]) * (2**30 if said[2] == "GiB" else 2**20)
    assert 0.75 < expected / budget["peak_memory_bytes"]["process"] < 1.25


LIMITED = """
import resource, sys
import psutil
from rlbench.running.cli import fail
from rlbench.running.runner import run
from tests.conftest import composed

allowed = psutil.Process().memory_info().vms + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
run(composed(*sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_run_without_memory_says_what_to_lower_and_that_helps(tmp_path):
    """With a real memory limit the run fails with a reason, and succeeds after lowering one setting."""
    overrides = [*SMALL, "+debug=smoke", "model.intermediate_size=1024", "generation.max_new_tokens=100"]
    overrides += ["trainer.rl.completions_per_update=128", "trainer.rl.updates=1", "trainer.rl.save_every=1"]
    overrides += ["evaluation.every=1", f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PYTHONPATH": str(CONF.parent)}

    def limited(megabytes: int, *more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", LIMITED, str(megabytes), *overrides, *more]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(CONF).parent)

    made = limited(100_000, "stage=sft")
    assert made.returncode == 0, made.stderr
    wide, narrow = "trainer.rl.micro_batch_size=128", "trainer.rl.micro_batch_size=4"
    short = limited(500, wide)
    target = locate(composed(*overrides, wide), "rl")
    assert short.returncode != 0 and target.status() == "failed", short.stderr
    assert "warning: this is more than is available" in short.stderr
    reason = target.reason()
    assert re.match(r"OutOfMemory: out of memory in the rl stage, phase (reference|update) \(", reason)
    assert "DefaultCPUAllocator" in reason and "\n" not in reason
    assert (
        "Lower these settings in this order: trainer.rl.micro_batch_size (now 128; " in reason and "Expected:" in reason
    )
    enough = limited(500, narrow)
    assert enough.returncode == 0, enough.stderr
    assert locate(composed(*overrides, narrow), "rl").status() == "done"
