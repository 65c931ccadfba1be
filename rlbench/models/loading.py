"""Finds the folder or hub id of a configured model, and loads its weights and tokenizer."""

import inspect
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.modeling_utils import load_state_dict
from transformers.utils import logging

from rlbench.base.content import combined, remembered_digest
from rlbench.base.digests import LIST_FILE
from rlbench.base.digests import check_model as check_model_files
from rlbench.base.errors import BadInput
from rlbench.base.user_files import read_user_json
from rlbench.config.adapters import NONE
from rlbench.config.bounds import COUNT, Bound, number_problem
from rlbench.config.models import MODELS
from rlbench.config.schema import TEMPLATE_DATE, FileModelConfig, ModelConfig
from rlbench.data.record import RankedListDataset
from rlbench.models.adapters import base_of, keep_scales, quantization_config, with_adapter
from rlbench.models.generation import forget_decoding
from rlbench.models.prompt_form import BEGIN, MERGE, PLAIN, given_template, merged_system
from rlbench.models.shared_prompt import has_relative_positions
from rlbench.models.sources import (
    ADAPTER_CONFIG,
    BESIDE_WEIGHTS,
    TEMPLATES,
    damaged_weights,
    is_local,
    listed,
    no_model_in,
    weight_files,
)
from rlbench.models.templates import pin_date, random_parts


def check_model(config: ModelConfig) -> list[str]:
    """Problems of a model's path and template that can be found without loading the model. A hub id passes."""
    if not isinstance(config, FileModelConfig):
        return []
    problems = []
    try:
        given_template(config)
    except BadInput as error:
        problems += error.problems
    if config.path is not None and is_local(config.path):
        problems += no_model_in(Path(config.path).expanduser(), config.path)
    return problems


def locate_model(config: ModelConfig, dataset: RankedListDataset, cache_dir: Path) -> str:
    """The folder that the model is loaded from. It is built or downloaded, and cached, if necessary.

    Raises:
        BadInput: the model is not available, or its cached files are damaged.
    """
    return str(MODELS[config.kind].folder(config, dataset, cache_dir))


def load_tokenizer(
    source: str | Path, template_date: str = TEMPLATE_DATE, config: ModelConfig | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, padding on the left. Its chat template writes the same prompt on every day.

    A tokenizer without a chat template writes the plain prompt form. One without EOS or padding gets a token by the
    rules of docs/models.md.

    Args:
        source: a folder or hub id.
        template_date: the date, YYYY-MM-DD, that the template gets when it asks for the current date.
        config: the model's settings, which may replace the template; None for a model's folder as it is.

    Raises:
        BadInput: its template is random or cannot be read, it has no EOS token, its tokens do not fit the model or
            write no newline, or a hub id cannot be reached.
    """
    check_model_files(Path(source))
    _check_tokenizer_files(Path(source))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), padding_side="left")
        tokenizer(TWO_LINES)  # some values are first used here
    except Exception as error:  # `tokenizers` raises bare ones; transformers raises whatever a wrong value leads to
        if Path(source).is_dir():
            _load_config(source)
            require_vocabulary(Path(source))
        elif isinstance(error, OSError):  # an unknown or unreachable hub id
            raise BadInput(
                f"model.path = '{source}' cannot be loaded: {str(error).splitlines()[0]} "
                "Give a local folder with model.path=FOLDER, or go online and log in to the hub."
            ) from error
        raise BadInput(_wrong_tokenizer_file(Path(source), error)) from error
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = _declared_end(tokenizer, Path(source))
    template = None if config is None else given_template(config)
    if template is not None or tokenizer.chat_template is None:
        tokenizer.chat_template = template or PLAIN
    if tokenizer.chat_template == PLAIN and _begins_with_bos(tokenizer):
        tokenizer.chat_template = BEGIN + PLAIN
    merges = isinstance(config, FileModelConfig) and config.system_role == MERGE
    _fix_templates(tokenizer, source, template_date, merges)
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = _spare_token(tokenizer)
    _check_tokens(tokenizer, Path(source))
    return tokenizer


TWO_LINES = "Heat (1995)\nAlien (1979)"


def _declared_end(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    """EOS of a tokenizer that names none: the first `eos_token_id` in generation_config.json, or else in config.json.

    Raises:
        BadInput: neither file names a token of the tokenizer.
    """
    for file in (folder / "generation_config.json", folder / "config.json"):
        values = read_user_json(file) if file.is_file() else {}
        ids = values.get("eos_token_id") if isinstance(values, dict) else None
        first = ids[0] if isinstance(ids, list) and ids else ids
        if isinstance(first, int) and 0 <= first < len(tokenizer):
            return str(tokenizer.convert_ids_to_tokens(first))
    raise BadInput(
        f"the tokenizer of '{folder}' has no EOS token, so lists could not end; set eos_token in its "
        "tokenizer_config.json, or eos_token_id in its config.json"
    )


def _begins_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer begins its texts with BOS."""
    begin = tokenizer.bos_token_id
    return begin is not None and tokenizer(TWO_LINES)["input_ids"][:1] == [begin]


def _check_tokens(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Refuse tokens that the model does not have, and tokenizers that write no newline.

    transformers makes an empty tokenizer of the model's kind where its files are missing. It writes nothing.

    Raises:
        BadInput: in these cases.
    """
    ids = tokenizer(TWO_LINES, add_special_tokens=False)["input_ids"]
    if "\n" not in tokenizer.decode(ids):
        require_vocabulary(folder)
        raise BadInput(
            f"the tokenizer of '{folder}' cannot write a newline, so the ranks of a list could not be told apart; use "
            "another model"
        )
    file = folder / "config.json"
    values = read_user_json(file) if file.is_file() else {}
    size = values.get("vocab_size") if isinstance(values, dict) else None
    if not isinstance(size, int) or size < 1:
        return
    used = {"eos_token": tokenizer.eos_token_id, "pad_token": tokenizer.pad_token_id}
    used["the vocabulary"] = tokenizer.vocab_size - 1
    beyond = [f"{name} has the id {token}" for name, token in used.items() if token >= size]
    if beyond:
        raise BadInput(
            f"the tokenizer of '{folder}' does not fit its model: vocab_size in config.json is {size}, but "
            f"{', '.join(beyond)}; use the model's own tokenizer"
        )


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 (hex) of what decides how a tokenizer writes chats as ids: files, template, and versions of libraries.

    Args:
        tokenizer: loaded from a folder by `load_tokenizer`.
    """
    folder = Path(tokenizer.name_or_path)
    places = [*folder.iterdir(), *(folder / TEMPLATES).glob("*")]
    files = [file for file in sorted(places) if file.suffix in BESIDE_WEIGHTS and not file.name.endswith(".index.json")]
    libraries = {name: version(name) for name in ("transformers", "tokenizers", "jinja2", "trl")}
    parts = {file.relative_to(folder).as_posix(): remembered_digest(file) for file in files}
    return combined({"files": parts, "template": tokenizer.chat_template, "libraries": libraries})


VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json", "*.model", "*.tiktoken")
"""Files of which a tokenizer has at least one. Those of bytes have none, but write newlines."""


def require_vocabulary(folder: Path) -> None:
    """Refuse a folder without the tokenizer of its model.

    Raises:
        BadInput: if there is none.
    """
    if folder.is_dir() and not any(file for pattern in VOCABULARIES for file in folder.glob(pattern)):
        raise BadInput(
            f"'{folder}' has no tokenizer files, such as tokenizer.json and tokenizer_config.json; copy them from the "
            "model that this one was trained from, or save its tokenizer there with save_pretrained"
        )


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def _check_tokenizer_files(folder: Path) -> None:
    """Refuse unreadable JSON files of a tokenizer in a local folder. transformers' own errors do not name the file.

    Raises:
        BadInput: names every such file.
    """
    problems = []
    for file in (folder / name for name in TOKENIZER_FILES):
        try:
            if file.is_file() and not isinstance(read_user_json(file), dict):
                problems.append(f"{file} is not a JSON object")
        except BadInput as error:
            problems += error.problems
    if problems:
        raise BadInput(*(f"{problem}; download the model again" for problem in problems))


def _wrong_tokenizer_file(folder: Path, error: Exception) -> str:
    """Which file of a tokenizer that could not be loaded is wrong: its vocabulary, or else what says how to use it."""
    named, reason = f"{folder / 'tokenizer.json'}", error
    try:
        Tokenizer.from_file(named)
    except Exception as own:  # see `load_tokenizer`
        reason = own
    else:
        named = f"{folder / 'tokenizer_config.json'} and tokenizer.json"
    return f"{named}: cannot build the tokenizer: {_one_line(reason)}; download the model again"


def _fix_templates(tokenizer: PreTrainedTokenizerBase, source: str | Path, date: str, merges: bool) -> None:
    """Pin the date in a tokenizer's template, or in each of its named templates.

    Args:
        merges: whether system messages become part of the first user message.

    Raises:
        BadInput: a template is random, or cannot be read.
    """
    several = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {"": tokenizer.chat_template}
    for template in several.values():
        try:
            drawn = random_parts(template)
        except jinja2.TemplateSyntaxError as error:
            raise BadInput(f"the chat template of '{source}' cannot be read: {error} (line {error.lineno})") from error
        if drawn:
            raise BadInput(
                f"the chat template of '{source}' produces a different prompt each time, because it uses "
                f"{' and '.join(drawn)}, so no run could be repeated. Remove that from its chat_template, or use "
                "another model"
            )
    if merges:
        several = {name: merged_system(template) for name, template in several.items()}
    pinned = {name: pin_date(template, date) for name, template in several.items()}
    tokenizer.chat_template = pinned if isinstance(tokenizer.chat_template, dict) else pinned[""]


def _spare_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """The padding of a tokenizer that has none: a special token beside EOS and BOS, e.g. <|finetune_right_pad_id|>.

    Without one it is EOS, as in TRL. Padding is masked by its place, never by its id, so EOS is still learnt.
    """
    taken = {tokenizer.eos_token, tokenizer.bos_token}
    spare = [token for token in tokenizer.all_special_tokens if token not in taken]
    added = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special and t.content not in taken]
    candidates = sorted([*spare, *added], key=lambda token: ("pad" not in token, "reserved" not in token))
    return candidates[0] if candidates else str(tokenizer.eos_token)


def _one_line(error: Exception) -> str:
    """An error's first line, plus the next line if the first ends in a colon."""
    first, *others = str(error).splitlines() or [type(error).__name__]
    return f"{first} {others[0].strip()}" if first.endswith(":") and others else first


def max_positions(source: str | Path) -> int | None:
    """Number of tokens, prompt plus completion, that the model can read; None if its config sets no limit.

    Raises:
        BadInput: the config cannot be used, is not of a causal language model, or its limit is not a whole number.
    """
    config = _load_config(source)
    if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise BadInput(
            f"'{source}' is a {config.model_type} model, not a causal language model, so it cannot continue a "
            "prompt; give another model.path"
        )
    # ALiBi and recurrent models have no limit. Multimodal models keep it in their text_config.
    text = config.get_text_config()
    limit = None if getattr(text, "alibi", False) else getattr(text, "max_position_embeddings", None)
    if limit is not None and number_problem(limit, COUNT):
        raise BadInput(
            f"the config.json of '{source}' has max_position_embeddings = {limit!r}, but it must be a whole number "
            "of at least 1; restore the file as published"
        )
    return limit


LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""What configs call the number of layers; they list something for each, so that a huge number fills the memory."""
MOST_LAYERS = 10_000
BROKEN_CONFIG = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError),
    *(IndexError, ArithmeticError, AssertionError, RecursionError),
)
"""What transformers raises, beside its own errors, on a config.json that is missing, no JSON, or of wrong values."""


def _load_config(source: str | Path) -> PretrainedConfig:
    """The config of a model.

    Raises:
        BadInput: where its config.json cannot be used.
    """
    file = Path(source) / "config.json"
    if file.is_file():
        values = read_user_json(file)
        if not isinstance(values, dict):
            raise BadInput(f"{file} is not a JSON object; download the model again")
        for key in LAYERS:
            if values.get(key) is not None and (wrong := number_problem(values[key], Bound(1, MOST_LAYERS))):
                raise BadInput(f"the config.json of '{source}' has {key} = {values[key]!r}, which {wrong}")
    try:
        return AutoConfig.from_pretrained(str(source))
    except (*BROKEN_CONFIG, StrictDataclassError) as error:
        raise BadInput(f"the config.json of '{source}' cannot be used: {_one_line(error)}") from error


def load_model(source: str | Path, dtype: str, quantization: str = NONE) -> PreTrainedModel:
    """All weights in the given dtype, without the decoding settings of the model's own files.

    float32 master weights are the default: in bfloat16, steps of 1e-6 round to nothing. A saved adapter is loaded with
    its base (`rlbench.models.adapters.with_adapter`).

    Args:
        source: folder of a model or of a saved adapter.
        dtype: type of the weights.
        quantization: how the weights of linear layers are stored instead: none, or nf4. A saved adapter knows it.

    Raises:
        BadInput: the files of a model that rlbench has saved are damaged, or no model can be made of the files, or they
            lack a weight; or an adapter's base is missing or another model.
    """
    check_model_files(Path(source))
    if (Path(source) / ADAPTER_CONFIG).is_file():
        base, stored = base_of(Path(source))
        plain = load_model(base, dtype, stored)
        with _building(source):
            return with_adapter(plain, Path(source))
    config = _load_config(source)
    unset_hf_deepspeed_config()  # with an earlier stage's setting, the weights would be sharded while loading
    with _building(source):
        model, found = AutoModelForCausalLM.from_pretrained(
            str(source),
            config=config,
            dtype=getattr(torch, dtype),
            quantization_config=quantization_config(quantization),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
        )
    _refuse_other_weights(source, found)
    forget_decoding(model)
    fix_positions(model)
    keep_scales(model)
    return model


def without_weights(source: str | Path) -> PreTrainedModel:
    """The model of a config.json on the meta device, to see what it can do before it is loaded.

    Raises:
        BadInput: no model can be made of the config.json.
    """
    config = _load_config(source)
    with _building(source), torch.device("meta"):
        made: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        return made


def check_weights(source: str | Path) -> None:
    """Compare names and shapes of a model's weights with its config.json, before they are loaded.

    Only headers are read, so this takes no memory. A folder that rlbench has saved passes: its digests are compared
    instead. Weights that are stored in fewer bits pass too; only their library knows what belongs to them.

    Args:
        source: folder of a model.

    Raises:
        BadInput: a file is damaged, or the weights do not fit the config.json.
    """
    folder = Path(source)
    if (folder / LIST_FILE).exists() or not folder.is_dir():
        return
    made = without_weights(source)
    if getattr(made.config, "quantization_config", None) is not None:
        return
    stored: dict[str, torch.Tensor] = {}
    said = logging.get_verbosity()
    logging.set_verbosity_error()  # transformers would print a table of what the error says
    try:
        with _building(source):
            for name in weight_files(folder, str(source)):
                if not name.endswith(".json"):
                    stored |= load_state_dict(folder / name, map_location="meta")
            _, found = type(made).from_pretrained(
                None,
                config=made.config,
                state_dict=stored,
                device_map={"": "meta"},
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    finally:
        logging.set_verbosity(said)
    _refuse_other_weights(source, found)


def _refuse_other_weights(source: str | Path, found: Mapping[str, Iterable[Any]]) -> None:
    """Refuse weights that transformers would replace by random numbers. Tied weights are not among them.

    Args:
        source: the folder.
        found: what transformers says of the loaded weights.

    Raises:
        BadInput: weights are missing, or have another shape.
    """
    missing, unknown = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    odd = [f"{name} is {_shape(own)} instead of {_shape(wanted)}" for name, own, wanted in found["mismatched_keys"]]
    parts = []
    if missing:
        beside = f", and have {listed(unknown)}, which it does not know" if unknown else ""
        parts.append(f"the weights lack {listed(missing)}{beside}")
    if odd:
        parts.append(listed(sorted(odd)))
    if parts:
        raise BadInput(
            f"cannot build a model from the config.json and the weights of '{source}': {'; '.join(parts)}; download "
            "the model again, or restore the config.json that belongs to the weights"
        )


def _shape(sizes: Iterable[int]) -> str:
    return f"({', '.join(map(str, sizes))})"


BROKEN_WEIGHTS = (SafetensorError, pickle.UnpicklingError, EOFError)
"""What safetensors and torch raise, beside RuntimeError, on a damaged file."""


@contextmanager
def _building(source: str | Path) -> Iterator[None]:
    """Make one error of those that transformers raises while it builds a model.

    Raises:
        BadInput: no model can be made of the files.
    """
    try:
        yield
    except (BadInput, torch.OutOfMemoryError):
        raise
    except (*BROKEN_CONFIG, *BROKEN_WEIGHTS, StrictDataclassError, RuntimeError) as error:
        if damaged := damaged_weights([file for file in sorted(Path(source).glob("*")) if file.is_file()]):
            raise BadInput(*damaged) from error
        raise BadInput(
            f"cannot build a model from the config.json and the weights of '{source}': {_one_line(error)}"
        ) from error


def fix_positions(model: PreTrainedModel) -> None:
    """Make a model with absolute positions count them from each row's first token, whatever padding is before it."""
    if not has_relative_positions(model):
        model.base_model.register_forward_pre_hook(_count_from_first_token, with_kwargs=True)


def _count_from_first_token(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Give a backbone the positions of its tokens, counted from each row's first token.

    GPT-2 and its like count the padding before a prompt if nobody gives positions. The log-probabilities of a list
    would then depend on the other prompts of its batch, and differ from those that it was sampled with.
    """
    ids, mask = kwargs.get("input_ids", args[0] if args else None), kwargs.get("attention_mask")
    takes = "position_ids" in inspect.signature(type(module).forward).parameters
    if not takes or ids is None or mask is None or mask.dim() != 2 or kwargs.get("position_ids") is not None:
        return None
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.size(1) :]
    return args, kwargs | {"position_ids": positions}
