"""The estimate of a run's memory, and messages when memory runs out.

Real measurements: `pytest -m slow tests/unit/test_memory.py` (minutes).
"""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from rich.console import Console
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Qwen2Config,
    T5Config,
)
from trl.trainer.utils import add_fused_lm_head

from rlbench.base.errors import OutOfMemory
from rlbench.models import shared_prompt
from rlbench.models.adapters import lora_config
from rlbench.models.batches import Completions
from rlbench.models.loading import load_tokenizer
from rlbench.models.shared_prompt import prompt_rows, shared_scores
from rlbench.models.token_head import LogitRule
from rlbench.running import memory, shortage
from rlbench.running.cli import CONF
from rlbench.running.memory import _of_group, estimate, words
from rlbench.running.memory_shape import Shape, shape_of
from rlbench.running.memory_updates import (
    EIGHT_BIT_STATES,
    NF4,
    Pass,
    kept,
    of_plain_block,
    passes_of_updates,
    plain_pass,
)
from rlbench.running.shortage import is_out_of_memory, settings_to_lower
from rlbench.runs.budget import Ledger
from rlbench.runs.directory import locate
from rlbench.training.scoring import cuts_by_tokens
from tests.conftest import SMALL, composed

SHAPE = Shape(10**6, 4, 64, 128, 64, 32, 1000, shares_passes=True, shares_rollouts=True, held=math.inf)
LLAMA = LlamaConfig(
    vocab_size=1000,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=24,
    tie_word_embeddings=True,
)


def of(*overrides: str, on_gpu: bool = True, shape: Shape = SHAPE) -> memory.MemoryEstimate:
    """Return the estimate by the GPU's rules (no process memory, no heap), without needing a GPU."""
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
    assert (shape.attention, shape.key_value, shape.layers) == (192, 48, 2)
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
    assert tuple(asdict(shape).values())[1:7] == expected
    assert shape.parameters == sum(p.numel() for p in AutoModelForCausalLM.from_config(model).parameters())


def test_no_estimate_never_stops_a_run(mini, tiny_folder, tmp_path, monkeypatch):
    """For a model that is no decoder, or whose config has no heads, only the reason is printed."""
    config, tokenizer = composed(*SMALL), load_tokenizer(tiny_folder)
    for model, said in [(T5Config(d_model=32, num_layers=1), "ValueError: "), (MambaConfig(), "the memory of Mamba")]:
        folder = tmp_path / model.model_type
        model.save_pretrained(folder)
        expected = memory.estimate_or_reason(config, mini, str(folder), tokenizer)
        assert isinstance(expected, memory.NoEstimate) and expected.reason.startswith(said), expected
        console = Console(record=True, width=300)
        shortage.tell(config, expected, console)
        assert "memory: no estimate: " + said in console.export_text()
    ended = pytest.raises(OutOfMemory, match="Expected: no estimate: the memory of Mamba")
    with ended, shortage.explained(config, "rl", Ledger(), expected):
        raise MemoryError
    monkeypatch.setattr(memory, "estimate_or_reason", lambda *_: expected)
    console = Console(record=True, width=300)
    shortage.show([composed(*SMALL, f"cache_dir={tmp_path}")], 2, console)
    assert "memory: no estimate: the memory of Mamba" in console.export_text()


def test_few_long_prompts_are_no_reason_for_a_large_batch():
    config = composed(*SMALL, "generation.max_new_tokens=100")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "available_memory", lambda on_gpu: None)
        long = estimate(config, SHAPE, 30_000, 500, True).parts["evaluation"]
        short = estimate(config, SHAPE, 200, 500, True).parts["evaluation"]
    of_layer = 2 * 32 * 4 * 4  # of 4 rows: there is room for 131,072 tokens
    assert long["KV cache"] == 4 * of_layer * 30_100 + of_layer * 100
    assert short["logits"] == 4 * config.evaluation.batch_size * 1000 * 4


def saved_bytes(layers: int, bf16: bool, forward) -> int:
    """Bytes that a forward pass saves for its backward pass, counted with autograd's hooks. Parameters do not count."""
    model = LlamaForCausalLM(LlamaConfig(**{**LLAMA.to_dict(), "num_hidden_layers": layers}))
    seen, found = {p.untyped_storage()._cdata for p in model.parameters()}, []

    def pack(tensor):
        if tensor.untyped_storage()._cdata not in seen:
            seen.add(tensor.untyped_storage()._cdata)
            found.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        forward(model)
    return sum(tensor.untyped_storage().nbytes() for tensor in found)


def saved_by_a_block(bf16: bool, forward) -> float:
    """`saved_bytes` of a block: half the difference between four blocks and two, without autocast's weight copies."""
    copies = 2 * (3 * 256 * 704 + 2 * 256 * 192 + 2 * 256 * 48) if bf16 else 0
    return (saved_bytes(4, bf16, forward) - saved_bytes(2, bf16, forward)) / 2 - copies


@pytest.mark.parametrize("bf16", [False, True])
def test_what_a_block_keeps_is_what_torch_saves(bf16):
    def forward(model):
        ids, mask = torch.ones(16, 100, dtype=torch.long), torch.ones(16, 100, dtype=torch.long)
        mask[0, :3] = 0
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        model(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True)

    config = composed(*SMALL, f"trainer.bf16={str(bf16).lower()}")
    by_token = saved_by_a_block(bf16, forward) / 1600
    assert of_plain_block(config, shape_of(LLAMA), 100) == pytest.approx(by_token, rel=0.05)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize(("prompt", "completion"), [pytest.param(150, 60, marks=pytest.mark.slow), (20, 100)])
def test_what_a_shared_pass_keeps_is_what_torch_saves(prompt, completion, copied, bf16, monkeypatch):
    """With prompts held once, as on a CPU, and with copies of their keys and values, as on a GPU."""
    if copied:
        monkeypatch.setattr(shared_prompt, "can_attend", lambda *_: False)
    prompts = torch.arange(3)[:, None].expand(3, prompt + 1).repeat_interleave(8, 0).clone()
    mask, completions = torch.ones_like(prompts), torch.ones(24, completion, dtype=torch.long)
    mask[:8, :3] = 0

    def forward(model):
        rows = prompt_rows(prompts, mask, completions, torch.ones_like(completions))
        shared_scores(model, rows, LogitRule(), wants_entropy=True)

    config, one = composed(*SMALL, f"trainer.bf16={str(bf16).lower()}"), Pass(3, 24, 8, prompt, completion, True)
    shape = shape_of(LLAMA)
    two, four = (kept(config, replace(shape, layers=layers), one, copied) for layers in (2, 4))
    cache = 24 * (prompt + completion) * 2 * shape.key_value * 4 if copied else 0  # freed after the forward pass
    assert (four - two) / 2 - cache == pytest.approx(saved_by_a_block(bf16, forward), rel=0.05)


def test_parts_grow_with_what_makes_them():
    small, wide = of("trainer.rl.micro_batch_size=8"), of("trainer.rl.micro_batch_size=64")
    assert wide.parts["update"]["activations"] == 8 * small.parts["update"]["activations"]
    assert wide.parts["rollout"] == small.parts["rollout"]
    assert of("trainer.rl.micro_batch_size=64", "trainer.share_prompts=never").phase == "update"
    checkpointed = of("trainer.rl.micro_batch_size=64", "trainer.gradient_checkpointing=true")
    assert checkpointed.parts["update"]["activations"] < wide.parts["update"]["activations"] / 2
    plain, longer = (of("generation.prefill=repeated", f"generation.max_new_tokens={new}") for new in (100, 350))
    assert longer.parts["rollout"]["KV cache"] == 400 * plain.parts["rollout"]["KV cache"] // 150
    assert of("evaluation.batch_size=9").parts["evaluation"]["logits"] == 9 * 4 * 1000 * 4
    without = of("algorithm.kl.beta=0")
    assert without.parts["update"]["reference"] == 0 and small.parts["update"]["reference"] == 4 * 10**6
    assert set(of("stage=zero_shot").parts) == {"evaluation"} and "rollout" not in of("stage=sft").parts
    assert (
        small.parts["update"]["optimiser"] == 8 * 10**6 and of("model.dtype=bfloat16").parts["update"]["weights"] == 2e6
    )


def passes_of(*overrides: str, prompt: int = 300, shape: Shape = SHAPE, processes: int = 1) -> list[Pass]:
    """The passes of updates with groups of 8, and 100 new tokens."""
    config = composed(*SMALL, "trainer.rl.completions_per_update=64", "generation.max_new_tokens=100", *overrides)
    return passes_of_updates(config, shape, prompt, processes)


@pytest.mark.parametrize(
    ("overrides", "prompts", "rows"),
    [
        ([], 8, 64),
        (["trainer.rl.micro_batch_size=4"], 1, 4),
        (["trainer.rl.micro_batch_size=1"], 1, 1),
        (["trainer.rl.group_size=64", "trainer.rl.micro_batch_size=8"], 1, 8),
        (["trainer.rl.completions_per_update=48", "trainer.rl.micro_batch_size=12"], 2, 12),
        (["trainer.rl.shuffle=completions", "trainer.rl.micro_batch_size=32"], 8, 32),
        (["trainer.rl.shuffle=completions", "trainer.rl.micro_batch_size=8"], 8, 8),
        (["trainer.share_prompts=never"], 64, 64),
        (["trainer.rl.micro_batch_tokens=2400"], 2, 16),  # 3 * 300 + 17 * 100 is more
        (["trainer.rl.micro_batch_tokens=50"], 1, 1),
        (["trainer.rl.micro_batch_tokens=2400", "trainer.rl.shuffle=completions"], 6, 6),
        (["trainer.rl.micro_batch_tokens=2400", "trainer.share_prompts=never"], 16, 16),
    ],
)
def test_completions_are_forwarded_as_in_the_run(overrides, prompts, rows):
    (found,) = passes_of(*overrides)
    assert (found.prompts, found.rows) == (prompts, rows)
    assert found.own_head == ("trainer.share_prompts=never" not in overrides)


def test_cuts_by_tokens_are_those_of_the_run():
    (found,) = passes_of("trainer.rl.micro_batch_tokens=2400")
    prompts = torch.arange(8).repeat_interleave(8)[:, None].expand(64, 300)
    completions = torch.ones(64, 100, dtype=torch.long)
    cuts = cuts_by_tokens(Completions(prompts, torch.ones_like(prompts), completions, completions), 2400)
    assert found.rows == max(cut.stop - cut.start for cut in cuts)


def test_prompts_are_shared_only_where_the_run_shares_them():
    """A saving below 1.15, a model that cannot share, or weights that are sharded."""
    assert passes_of(prompt=17)[0].prompts == 64 and passes_of(prompt=18)[0].prompts == 8
    assert passes_of("trainer.share_prompts=always", prompt=17)[0].prompts == 8
    (without,) = passes_of(shape=replace(SHAPE, shares_passes=False))
    assert without.prompts == 64 and not without.own_head
    for sharded in (
        ["trainer.parallel.strategy=deepspeed", "trainer.parallel.zero_stage=3"],
        ["trainer.parallel.strategy=fsdp2", "trainer.gradient_checkpointing=true"],
    ):
        assert [passes_of(*sharded, processes=count)[0].own_head for count in (1, 2)] == [True, False]


def test_tuples_share_prompts():
    """But not where only the chosen lists are trained on."""
    tuples = ["algorithm=s_dpo", "algorithm.negatives=3", "trainer.rl.micro_batch_size=16"]
    assert [(one.prompts, one.rows) for one in passes_of(*tuples, "algorithm.sft_share=0")] == [(4, 16)]
    assert [(one.prompts, one.rows) for one in passes_of(*tuples, "algorithm.sft_share=0.5")] == [(4, 16), (16, 16)]


def test_sharing_saves_memory():
    shared = of()
    plain = of("trainer.share_prompts=never", "generation.prefill=repeated")
    assert shared.parts["update"]["activations"] < 0.8 * plain.parts["update"]["activations"]
    assert shared.parts["rollout"]["KV cache"] < 0.8 * plain.parts["rollout"]["KV cache"]
    cannot = replace(SHAPE, shares_passes=False, shares_rollouts=False)
    unshared = of(shape=cannot).parts
    assert unshared | {"SFT update": plain.parts["SFT update"]} == plain.parts
    assert unshared["SFT update"] == shared.parts["SFT update"]  # its head does not depend on sharing
    assert shared.parts["SFT update"]["logits"] < 0.8 * plain.parts["SFT update"]["logits"]
    # A GPU copies the prompts' keys and values. A CPU does so only for attention that is not known.
    held, copied = of(on_gpu=False), of(on_gpu=False, shape=replace(SHAPE, held=0))
    assert copied.parts["update"]["activations"] > 1.1 * held.parts["update"]["activations"]
    assert copied.parts["update"]["activations"] == shared.parts["update"]["activations"]


def test_what_a_model_can_share():
    shape = shape_of(LLAMA)
    assert (shape.shares_passes, shape.shares_rollouts, shape.held) == (True, True, math.inf)
    windowed = Qwen2Config(num_hidden_layers=1, use_sliding_window=True, sliding_window=64, max_window_layers=0)
    assert shape_of(windowed).held == 0
    mistral = MistralConfig(num_hidden_layers=1, hidden_size=64, num_attention_heads=4, sliding_window=64)
    assert shape_of(mistral).held == 64
    dropout = GPT2Config(n_embd=64, n_layer=1, n_head=4)  # p = .1, which RL turns off
    assert shape_of(dropout).shares_passes and shape_of(dropout).shares_rollouts and dropout.resid_pdrop == 0.1


def test_demonstrations_in_updates_are_counted():
    assert "demonstrations" not in of().parts["update"] and of("algorithm=uniapl").parts["update"]["demonstrations"] > 0


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


SAVING = ["trainer.bf16=true", "trainer.gradient_checkpointing=true", "trainer.share_prompts=never"]


def test_what_helps_the_phase_comes_first():
    config = composed(*SMALL, "trainer.rl.micro_batch_size=64")

    def keys(phase):
        return [re.split(r"[ =]", setting)[0] for setting in settings_to_lower(config, phase)]

    assert keys("update")[:3] == ["trainer.rl.micro_batch_size", "trainer.gradient_checkpointing", "trainer.bf16"]
    assert keys("evaluation")[0] == "evaluation.batch_size" and keys("rollout")[0] == "trainer.bf16"
    assert sorted(keys("rollout")) == sorted(keys("update")) == sorted(keys(None))
    paths = ["trainer.rl.micro_batch_tokens=900", "trainer.share_prompts=never", "generation.prefill=repeated"]
    config = composed(*SMALL, *paths)
    assert keys("update")[:2] == ["trainer.rl.micro_batch_tokens", "trainer.share_prompts"]
    assert keys("rollout")[:2] == ["trainer.bf16", "generation.prefill"]
    again = composed(*SMALL, "trainer.rl.micro_batch_size=1", "trainer.gradient_checkpointing=true")
    assert settings_to_lower(again, "update")[0] == "trainer.share_prompts=never"
    done = composed(*SMALL, "trainer.rl.micro_batch_size=1", *SAVING, "trainer.optimizer=adamw_8bit", "adapter=lora")
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
    place = [f"cache_dir={tmp_path}", "trainer.sft.micro_batch_size=4"]
    configs = [composed(*SMALL, *place, f"trainer.rl.micro_batch_size={size}") for size in (8, 64)]
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
]
MEDIUM = ["model.hidden_size=512", "model.intermediate_size=1408", "model.layers=16", "model.heads=8"]
"""52 million parameters."""


PLAIN = ["trainer.share_prompts=never", "generation.prefill=repeated"]
WITHOUT_GAPS = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Environment in which glibc gives the memory of a freed tensor back. Otherwise gaps in its heap double the memory of a
process that recomputes blocks with adapters, or that turns weights in 4 bits into numbers (docs/low-memory.md)."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "completions", "micro_batch", "new", "more"),
    [
        ([], 64, 64, 100, []),
        (MEDIUM, 8, 2, 40, []),
        (MEDIUM, 8, 8, 40, []),
        (MEDIUM, 32, 32, 40, []),
        (MEDIUM, 32, 32, 40, ["trainer.rl.micro_batch_tokens=2000"]),
        (MEDIUM, 32, 32, 40, ["trainer.gradient_checkpointing=true"]),
        (MEDIUM, 32, 32, 40, PLAIN),
        (MEDIUM, 32, 32, 40, ["algorithm=s_dpo", "algorithm.chosen=demonstration"]),  # sampled lists may all score 0
        (MEDIUM, 8, 8, 40, ["adapter=lora"]),
        (MEDIUM, 32, 32, 40, ["adapter=lora", "trainer.gradient_checkpointing=true", "trainer.share_prompts=never"]),
        (MEDIUM, 8, 8, 40, ["trainer.optimizer=adamw_8bit", "trainer.gradient_checkpointing=true"]),
        (MEDIUM, 8, 8, 40, ["adapter=qlora"]),
    ],
)
def test_the_estimate_is_near_what_is_measured(model, completions, micro_batch, new, more, tmp_path):
    """Within a quarter of the process's peak resident memory."""
    if {"adapter=qlora", "trainer.optimizer=adamw_8bit"} & set(more):
        pytest.importorskip("bitsandbytes", reason="pip install -r requirements-bitsandbytes.txt")
    batches = [f"trainer.rl.completions_per_update={completions}", f"trainer.rl.micro_batch_size={micro_batch}"]
    batches.append(f"generation.max_new_tokens={new}")
    overrides = [*SHORT, *model, *batches, *more, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if {"adapter=lora", "trainer.gradient_checkpointing=true"} <= set(more) or "adapter=qlora" in more:
        environment |= WITHOUT_GAPS
    for stage in ("sft", "rl"):  # each in its own process
        command = [sys.executable, str(CONF.parent / "run.py"), *overrides, f"stage={stage}"]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
    root = locate(composed(*overrides), "rl").root
    assert json.loads((root / "result.json").read_text())["stopped"] is None, "there were no updates to measure"
    budget = json.loads((root / "budget.json").read_text())
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


# Low memory

QWEN_05B = Qwen2Config(
    vocab_size=151936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
LLAMA_3B = LlamaConfig(
    vocab_size=128256,
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=28,
    num_attention_heads=24,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=True,
)
FITTING = [*SAVING, "trainer.rl.completions_per_update=64", "trainer.sft.micro_batch_size=4"]
LORA_3B = ["adapter=lora", "model.dtype=bfloat16", "evaluation.batch_size=32"]
"""The settings of docs/low-memory.md."""


@pytest.mark.parametrize(
    ("model", "card", "said", "overrides"),
    [
        (QWEN_05B, 16e9, 12.0, ["model=qwen2.5_0.5b", "trainer.optimizer=adamw_8bit"]),
        (
            LLAMA_3B,
            24e9,
            15.7,
            ["model=llama3.2_3b", "adapter=lora", "model.dtype=bfloat16", "evaluation.batch_size=32"],
        ),
    ],
)
def test_documented_settings_fit_a_card(model, card, said, overrides, monkeypatch):
    """Prompts of 1,000 tokens and groups of 8, with a tenth of the card left."""
    monkeypatch.setattr(memory, "available_memory", lambda on_gpu: int(0.9 * card))
    config = composed(*FITTING, *overrides)
    assert config.trainer.rl.group_size == 8 and config.generation.max_new_tokens == 1024
    expected = estimate(config, shape_of(model, config.adapter), 1000, 1000, True)
    assert expected.fits and expected.peak / 2**30 == pytest.approx(said, abs=0.06), str(expected)
    page = (CONF.parent / "docs/low-memory.md").read_text()
    assert f"{said:.1f} GiB" in page and all(text in page for text in (*FITTING, *overrides))


def test_an_adapter_leaves_little_to_train():
    plain, adapted = shape_of(LLAMA), shape_of(LLAMA, composed("adapter=lora", "adapter.rank=4").adapter)
    of_block = 4 * (2 * (256 + 192) + 2 * (256 + 48) + 3 * (256 + 704))
    assert (
        adapted.adapter == 2 * of_block and replace(adapted, adapter=0, adapted=0, inputs=0, ranks=0, linear=0) == plain
    )
    assert (adapted.ranks, adapted.inputs) == (7 * 4, 5 * 256 + 192 + 704)
    assert adapted.adapted == adapted.linear == 2 * (2 * 256 * 192 + 2 * 256 * 48 + 3 * 256 * 704)
    all_of, lora = of(shape=adapted), of("adapter=lora", shape=adapted)
    parts = lora.parts["update"]
    assert parts["adapter"] == parts["gradients"] == 4 * adapted.adapter
    assert parts["optimiser"] == 8 * adapted.adapter and parts["reference"] == 0 < all_of.parts["update"]["reference"]
    four_bits = of("adapter=qlora", shape=adapted)
    assert four_bits.parts["update"]["weights"] < 0.4 * parts["weights"]
    assert four_bits.parts["evaluation"]["weights"] == parts["weights"]  # of the untrained model
    on_cpu = of("adapter=lora", shape=adapted, on_gpu=False).parts["rollout"]
    assert on_cpu["merged copy"] == 4 * adapted.adapted and not lora.parts["rollout"]["merged copy"]


def test_states_of_optimisers():
    def states(name: str) -> int:
        return of(f"trainer.optimizer={name}", shape=replace(SHAPE, embeddings=64000)).parts["update"]["optimiser"]

    assert states("adamw") == 8 * 10**6 and states("paged_adamw") == 0
    assert states("adamw_8bit") == int(936000 * 2 * (1 + 4 / 256)) + 8 * 64000
    assert states("adafactor") < states("adamw") / 20


def optimiser_bytes(state) -> int:
    return sum(value.numel() * value.element_size() for value in state.values() if torch.is_tensor(value))


def test_states_of_8_bit_optimisers_are_what_bitsandbytes_keeps():
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="pip install -r requirements-bitsandbytes.txt")
    weight = torch.nn.Parameter(torch.randn(512, 256))
    optimiser = bitsandbytes.optim.AdamW8bit([weight])
    weight.square().sum().backward()
    optimiser.step()
    kept_here = optimiser_bytes(optimiser.state[weight]) - 2 * 256 * 4  # two tables, shared by all weights
    assert kept_here == pytest.approx(weight.numel() * EIGHT_BIT_STATES, rel=0.01)
    linear = bitsandbytes.nn.Linear4bit(256, 512, bias=False, quant_type="nf4", compress_statistics=True).to("cpu")
    state = linear.weight.quant_state
    size = linear.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert size == pytest.approx(256 * 512 * NF4, rel=0.01)


@pytest.mark.parametrize("bf16", [False, True])
def test_what_an_adapted_block_keeps_is_what_torch_saves(bf16):
    """A block of a plain pass. Frozen weights need no inputs, but the adapter beside them does."""
    config = composed(*SMALL, "adapter=lora", f"trainer.bf16={str(bf16).lower()}")

    def forward(model):
        wrapped = get_peft_model(model, lora_config(config.adapter))
        model.enable_input_require_grads()
        ids = torch.ones(16, 100, dtype=torch.long)
        mask = torch.ones_like(ids)
        mask[0, :3] = 0
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        wrapped(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True)

    shape = shape_of(LLAMA, config.adapter)
    two, four = (kept(config, replace(shape, layers=layers), plain_pass(16, 99, 1), False, True) for layers in (2, 4))
    weights = shape.adapter * 2 // 2 if bf16 else 0  # copies of a block's own weights
    assert (four - two) / 2 + weights == pytest.approx(saved_by_a_block(bf16, forward), rel=0.05)
