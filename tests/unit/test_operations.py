"""Operations that a model needs, against torch's own counter and against counts by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from rlbench.models.operations import ModelShape
from rlbench.runs import peak


def small_llama(**changes) -> LlamaForCausalLM:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=50, num_key_value_heads=2, head_dim=6, **sizes, **changes)
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("before", [0, 1, 5])
def test_one_token_after_others_as_torch_counts_it(tied, before):
    """torch counts attention to future positions too, so the comparison forwards one token at a time."""
    model, rows = small_llama(tie_word_embeddings=tied), 3
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        if before:
            model(torch.ones(rows, before, dtype=torch.long), past_key_values=cache, use_cache=True)
        with FlopCounterMode(display=False) as counter:
            model(torch.ones(rows, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
    rotary = counter.get_flop_counts().get("LlamaForCausalLM.model.rotary_emb", {})
    counted = counter.get_total_flops() - sum(rotary.values())
    assert ModelShape.of(model).forward([before] * rows, [1] * rows, rows) == counted


def test_pairs_of_a_sequence_and_of_a_window():
    whole, near = ModelShape(0, 0, 1, (None,)), ModelShape(0, 0, 1, (3,))
    # positions 0 to 4 see 1, 2, 3, 4, 5 tokens, or at most 3
    assert whole.forward([0], [5], 0) == 4 * (1 + 2 + 3 + 4 + 5)
    assert near.forward([0], [5], 0) == 4 * (1 + 2 + 3 + 3 + 3)
    assert near.forward([2], [2], 0) == 4 * (3 + 3)
    assert near.forward([9], [2], 0) == 4 * (3 + 3)
    assert ModelShape(0, 0, 1, (3, None)).forward([0], [5], 0) == 4 * (15 + 12)


def test_completions_forward_each_prompt_once():
    shape = ModelShape(linear=100, head=1000, attention=10, windows=(None,))
    # 3 tokens of the first prompt, 1 of the second; then the last prompt token and all tokens but the last of each list
    tokens = 3 + 1 + (2 + 3) + 4
    pairs = (1 + 2 + 3) + 1 + (4 + 5) + (4 + 5 + 6) + (2 + 3 + 4 + 5)
    found = shape.completions([4, 2], [4, 4, 2], [2, 3, 4])
    assert found == 2 * 100 * tokens + 4 * 10 * pairs + 2 * 1000 * 9


def test_only_used_experts_count():
    config = Qwen2MoeConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=6,
        num_experts_per_tok=2,
    )
    shape = ModelShape.of(Qwen2MoeForCausalLM(config))
    attention, shared, routed, gates = 4 * 16 * 16, 3 * 16 * 8, 2 * 3 * 16 * 8, 16 * 6 + 16
    assert shape.linear == attention + shared + routed + gates


def test_gpt2_has_matrices_of_another_class():
    config = GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    shape = ModelShape.of(GPT2LMHeadModel(config))
    assert (shape.linear, shape.head, shape.attention) == (2 * 12 * 8 * 8, 50 * 8, 8)


def test_matmul_rate_is_a_rate_and_leaves_random_numbers_alone():
    before = torch.get_rng_state()
    assert 1e7 < peak.matmul_rate("cpu", torch.float32, sizes=(64,), seconds=0.001) < 1e15
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA B200", 2250e12),
    ],
)
def test_documented_peaks(name, rate):
    assert peak.peak_of(name, 1) == peak.Peak(rate, "documented")


def test_a_device_without_a_documented_peak_is_measured(monkeypatch):
    monkeypatch.setattr(peak, "matmul_rate", lambda device, dtype, **_: 7.0 if dtype is torch.bfloat16 else 3.0)
    peak.peak_of.cache_clear()
    assert peak.peak_of("NVIDIA GeForce GT 710", 1) == peak.Peak(7.0, "measured")
    assert peak.peak_of(None, 1) == peak.Peak(3.0, "measured")
    peak.peak_of.cache_clear()
