"""transformers' `GenerationConfig` of a run, and what a model's own file asks for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig as HFGenerationConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlbench.config import GenerationConfig
from rlbench.decoding import ABSENT, DECODING, NEUTRAL, TOKENS, decoding_fields

_SAID_OF_ABSENT = "not used"
_CLOCK_AND_CACHE = ("use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size")
"""Fields that cost or save time; nothing is said of them."""


def generation_config(
    generation: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    eos_token_ids: Sequence[int],
    *,
    sampled: bool,
    **more: Any,
) -> HFGenerationConfig:
    """The configuration of plain generate, for a model that `forget_decoding` has been applied to.

    Args:
        generation: the run's settings.
        tokenizer: names padding and BOS.
        eos_token_ids: every id that ends a list.
        sampled: whether lists are sampled, or greedy.
        **more: further fields, such as how many lists a prompt gets.
    """
    fields = decoding_fields(generation, sampled=sampled) | more
    return HFGenerationConfig(
        eos_token_id=list(eos_token_ids),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **fields,
    )


def forget_decoding(model: PreTrainedModel) -> None:
    """Leave of the model's own generation config nothing but the ids of its special tokens.

    transformers fills unset fields from it, and some fields do nothing only where they are unset (`ABSENT`).
    """
    own = model.generation_config
    model.generation_config = HFGenerationConfig(**{name: getattr(own, name) for name in TOKENS})


def requested(source: str | Path) -> dict[str, Any]:
    """The decoding settings that a model's folder or hub id asks for, where they would change a list.

    transformers reads them from `generation_config.json`, and without that file from `config.json`.
    """
    try:
        found = HFGenerationConfig.from_pretrained(str(source))
    except OSError:
        found = HFGenerationConfig.from_pretrained(str(source), config_file_name="config.json", _from_model_config=True)
    given = {key: getattr(found, key) for key in (*DECODING, *NEUTRAL, *ABSENT) if key not in _CLOCK_AND_CACHE}
    return {key: value for key, value in given.items() if value is not None and value != NEUTRAL.get(key)}


def notices(source: str | Path, generation: GenerationConfig) -> list[str]:
    """One sentence where a model's file asks for other decoding than the run's; it names fields and both values."""
    return describe(source, requested(source), generation)


def describe(source: str | Path, asked: Mapping[str, Any], generation: GenerationConfig) -> list[str]:
    """`notices`, from what the file asks for."""
    said = []
    for key, value in asked.items():
        if key not in DECODING:
            said.append(f"{key} = {value!r} ({NEUTRAL.get(key, _SAID_OF_ABSENT)} here)")
        elif value != getattr(generation, key):
            said.append(f"{key} = {value!r} ({getattr(generation, key)} here, generation.{key})")
    if not said:
        return []
    return [
        f"the generation config of {source} asks for {'; '.join(said)}. A run decodes by its own settings, in training "
        "and evaluation alike, and greedily in evaluation (docs/generation.md)"
    ]
