"""transformers' `GenerationConfig` of a run, and the decoding settings in a model's own file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig as HFGenerationConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlbench.base.errors import BadInput
from rlbench.base.user_files import read_user_json
from rlbench.config.bounds import COUNT_OR_NONE, number_problem
from rlbench.config.decoding import ABSENT, DECODING, NEUTRAL, TOKENS, decoding_fields
from rlbench.config.schema import GenerationConfig

_SAID_OF_ABSENT = "not used"
_CLOCK_AND_CACHE = ("use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size")
"""Fields that only affect time. No notice mentions them."""


def generation_config(
    generation: GenerationConfig,
    tokenizer: PreTrainedTokenizerBase,
    eos_token_ids: Sequence[int],
    *,
    sampled: bool,
    **more: Any,
) -> HFGenerationConfig:
    """The configuration of plain generate, for a model after `forget_decoding`.

    Args:
        generation: the run's settings.
        tokenizer: gives the ids of padding and BOS.
        eos_token_ids: every id that ends a list.
        sampled: whether lists are sampled instead of greedy.
        **more: additional fields, such as the number of lists per prompt.
    """
    fields = decoding_fields(generation, sampled=sampled) | more
    return HFGenerationConfig(
        eos_token_id=list(eos_token_ids),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **fields,
    )


def shares(generation: GenerationConfig) -> bool:
    """Whether each prompt is forwarded once for all of its lists, as far as the model allows it."""
    return generation.prefill == "shared"


def forget_decoding(model: PreTrainedModel) -> None:
    """Remove everything from the model's own generation config except the ids of its special tokens.

    transformers fills unset fields from it, and some fields have no effect only if they are unset (`ABSENT`).
    """
    own = model.generation_config
    model.generation_config = HFGenerationConfig(**{name: getattr(own, name) for name in TOKENS})


def requested(source: str | Path) -> dict[str, Any]:
    """The decoding settings in a model's folder or hub repository that would change a list.

    transformers reads them from `generation_config.json`, or without that file from `config.json`.

    Raises:
        BadInput: the file is not a JSON object, or EOS ids that are no whole numbers.
    """
    file = Path(source) / "generation_config.json"
    if file.is_file():
        _check_file(file)
    try:
        found = HFGenerationConfig.from_pretrained(str(source))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise BadInput(f"transformers cannot use {file}: {error}; download the model again") from error
    except OSError:
        found = HFGenerationConfig.from_pretrained(str(source), config_file_name="config.json", _from_model_config=True)
    given = {key: getattr(found, key) for key in (*DECODING, *NEUTRAL, *ABSENT) if key not in _CLOCK_AND_CACHE}
    return {key: value for key, value in given.items() if value is not None and value != NEUTRAL.get(key)}


def _check_file(file: Path) -> None:
    """Refuse a file that is not a JSON object, or ids of EOS that are no whole numbers."""
    values = read_user_json(file)
    if not isinstance(values, dict):
        raise BadInput(f"{file} is not a JSON object; download the model again")
    ids = values.get("eos_token_id")
    for one in ids if isinstance(ids, list) else [ids]:
        if one is not None and number_problem(one, COUNT_OR_NONE):
            raise BadInput(f"{file}: eos_token_id = {ids!r} must be a token id; download the model again")


def notices(source: str | Path, generation: GenerationConfig) -> list[str]:
    """One sentence if a model's file asks for other decoding than the run's. It names the fields and both values."""
    return describe(source, requested(source), generation)


def describe(source: str | Path, asked: Mapping[str, Any], generation: GenerationConfig) -> list[str]:
    """`notices`, from the settings in the file."""
    said = []
    for key, value in asked.items():
        if key not in DECODING:
            said.append(f"{key} = {value!r} ({NEUTRAL.get(key, _SAID_OF_ABSENT)} here)")
        elif value != getattr(generation, key):
            said.append(f"{key} = {value!r} ({getattr(generation, key)} here, generation.{key})")
    if not said:
        return []
    return [
        f"the generation config of {source} sets {'; '.join(said)}. These are ignored: training and evaluation "
        "decode with the run's own settings, and evaluation is greedy (docs/generation.md)"
    ]
