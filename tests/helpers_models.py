"""Small models of many families, with random weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

VOCABULARY, HIDDEN = 61, 32
SIZES = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": 3, "num_attention_heads": 4}
GATED = SIZES | {"num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128}
FAMILIES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", GATED),
    "qwen2": ("qwen2", GATED),
    "qwen2_sliding": ("qwen2", GATED | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", GATED | {"head_dim": 8}),
    "mistral_sliding": ("mistral", GATED | {"sliding_window": 5}),
    "gemma": ("gemma", GATED | {"head_dim": 8}),
    "gemma2": ("gemma2", GATED | {"head_dim": 8, "sliding_window": 5}),
    "gemma3": ("gemma3_text", GATED | {"head_dim": 8, "sliding_window": 5}),
    "phi": ("phi", GATED | {"num_key_value_heads": 4}),
    "phi3": ("phi3", GATED | {"pad_token_id": 0}),
    "gpt2": ("gpt2", {"vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": 3, "n_head": 4, "n_positions": 128}),
    "gpt_neox": ("gpt_neox", SIZES | {"intermediate_size": 48}),
    "opt": ("opt", SIZES | {"ffn_dim": 48, "max_position_embeddings": 128, "word_embed_proj_dim": HIDDEN}),
    "bloom": ("bloom", {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "n_layer": 3, "n_head": 4}),
    "falcon": ("falcon", SIZES),
    "falcon_alibi": ("falcon", SIZES | {"alibi": True}),
    "falcon_groups": ("falcon", SIZES | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "granite": ("granite", GATED | {"logits_scaling": 4.0}),
    "cohere": ("cohere", GATED | {"logit_scale": 0.25}),
}
RECURRENT: dict[str, tuple[str, Mapping[str, Any]]] = {
    "mamba": ("mamba", {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": 2, "state_size": 8}),
}
"""Families that cannot share prompts."""
EAGER = {"bloom", "gemma2", "mamba"}
"""Families whose attention has parts that SDPA does not know, or that have none."""
WITHOUT_DROPOUT = {
    name: 0.0
    for name in (
        "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout", "resid_dropout",
        "embd_dropout", "classifier_dropout",
    )
}  # fmt: skip


def tiny_model(family: str, dtype: torch.dtype = torch.float64, **changes: Any) -> PreTrainedModel:
    kind, settings = (FAMILIES | RECURRENT)[family]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**WITHOUT_DROPOUT, **settings, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager" if family in EAGER else "sdpa").to(
        dtype
    )
    for parameter in model.parameters():  # initial biases are 0 and would not show
        parameter.data.normal_(0, 0.2)
    return model.train()


def save_model(folder: Path, family: str, tokenizer: PreTrainedTokenizerBase, **changes: Any) -> Path:
    """A folder as transformers saves it, with room for 300 tokens. The model has more tokens than the tokenizer.

    Args:
        folder: created here.
        family: of `FAMILIES` or `RECURRENT`.
        tokenizer: saved with the model.
        **changes: of the config.
    """
    kind, settings = (FAMILIES | RECURRENT)[family]
    room = {name: 300 for name in ("max_position_embeddings", "n_positions") if name in settings}
    special = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
    sizes = {"vocab_size": len(tokenizer) + 7, **room, **special}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**WITHOUT_DROPOUT, **settings, **sizes, **changes})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def double_precision() -> Iterator[None]:
    """In this block new tensors are in float64 by default."""
    single = torch.float32  # `only_float64` replaces the name
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(single)


def only_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models take norms, rotary angles and some softmaxes in float32, whatever their dtype. From now on in float64.

    Weights cannot be loaded afterwards.
    """
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
