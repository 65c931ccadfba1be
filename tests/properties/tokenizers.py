"""Tokenizers of the usual kinds, trained here on film lists. They differ in how they treat newlines."""

import json
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rlbench.data.mini import read_films
from rlbench.models.tiny import train_tokenizer

SPECIAL = ["<pad>", "<end>"]
VOCABULARY = 900


def _corpus() -> list[str]:
    lines = [f"{title} ({year})" for title, year, _ in read_films()]
    lists = ["\n".join(lines[i : i + 8]) + "\n" for i in range(0, len(lines), 4)]
    return lists + [text.replace("\n", "\n\n") for text in lists] + ["Amélie, œuvre, 七人の侍, Брат\n\n"] * 4


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")


def gpt2_like() -> PreTrainedTokenizerFast:
    """Byte-level BPE under GPT-2's pattern: white space before a word, newlines alone (SmolLM2, and `tiny`)."""
    return train_tokenizer(_corpus(), VOCABULARY, "words")


def titles_of_tiny() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose tokens may be whole titles, and years with their brackets (`model.pieces=titles`)."""
    return train_tokenizer(_corpus(), VOCABULARY, "titles")


def cl100k_like() -> PreTrainedTokenizerFast:
    r"""Byte-level BPE whose pattern joins punctuation with the newlines after it: ")\n" and ")\n\n" are one token."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return _wrapped(tokenizer)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Spaces are visible pieces. Text outside the vocabulary falls back to bytes, also the newline (Llama 2)."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, show_progress=False)
    learner.train_from_iterator([line.replace(" ", "▁") for text in _corpus() for line in text.split("\n")], trainer)
    learned = json.loads(learner.to_str())["model"]
    pieces = [*SPECIAL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrapped(tokenizer)


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    makers = [gpt2_like, titles_of_tiny, cl100k_like, sentencepiece_like]
    return dict(zip(KINDS, makers, strict=True))[kind]()


KINDS = ("gpt2", "titles", "cl100k", "sentencepiece")


def unigram_like() -> PreTrainedTokenizerFast:
    """SentencePiece's Unigram with byte fallback, which begins its texts with BOS and has no padding (T5, Gemma)."""
    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.UnigramTrainer(vocab_size=VOCABULARY, show_progress=False, unk_token="<unk>")
    learner.train_from_iterator([line for text in _corpus() for line in text.split("\n")], trainer)
    learned = [piece for piece in json.loads(learner.to_str())["model"]["vocab"] if piece[0] != "<unk>"]
    pieces = [(piece, 0.0) for piece in ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)))]
    tokenizer = Tokenizer(models.Unigram([*pieces, *map(tuple, learned)], unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def end_alone() -> PreTrainedTokenizerFast:
    """GPT-2's own: one special token, which is BOS, EOS and unknown, and no padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)
