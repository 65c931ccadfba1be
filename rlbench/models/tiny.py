"""A Llama with some hundred thousand parameters, made from scratch, with a tokenizer trained on the dataset."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlbench.base.digests import check_cached, seal
from rlbench.config.schema import TinyModelConfig
from rlbench.data.record import RankedListDataset
from rlbench.models.sources import texts_digest, tokenizer_texts

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
_CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WORDS = r"\n"
"""Only a newline is split off here; GPT-2's rule then separates words, numbers and punctuation."""
TITLES = r"\n| \([0-9]{4}\)|[A-Z0-9][^\n()]*?(?= \([0-9]{4}\))| ?[^\s()?,.]+"
"""A newline, a year in brackets, a title before such a year (it starts with a capital letter or a digit), a word."""
CACHED = 2
"""Version of a cached folder's content. Version 2 has a list of its files."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, pieces: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which a newline is always a separate token.

    Args:
        texts: what the merges are learnt on.
        vocab_size: largest number of tokens.
        pieces: parts of a text that no merge crosses. `words`: words, numbers and punctuation, as in GPT-2. `titles`:
            also a whole title, and a year with its brackets; with enough vocabulary, an entry takes three tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    pattern, by_gpt2 = (WORDS, True) if pieces == "words" else (TITLES, False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=by_gpt2),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def build(config: TinyModelConfig, dataset: RankedListDataset, cache_dir: Path) -> Path:
    """Make the tokenizer and the randomly initialised model once, and return their folder.

    The folder's name contains a hash of the settings and of the tokenizer's training texts, so a stale folder is never
    used. The folder is written under a temporary name and renamed.

    Raises:
        BadInput: the cached folder is damaged.
    """
    key = json.dumps([vars(config), texts_digest(dataset), CACHED], sort_keys=True)
    folder = cache_dir / f"tiny-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if folder.exists():
        check_cached(folder)
        return folder
    tokenizer = train_tokenizer(tokenizer_texts(dataset), config.vocab_size, config.pieces)
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.max_positions,
            initializer_range=config.initializer_range,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    cache_dir.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".tiny-", dir=cache_dir))
    tokenizer.save_pretrained(beside)
    model.save_pretrained(beside)
    seal(beside)
    try:
        beside.rename(folder)
    except OSError:  # another process was first; its folder holds the same
        shutil.rmtree(beside)
    return folder
