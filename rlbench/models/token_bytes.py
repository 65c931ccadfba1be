"""The text that each token of a vocabulary stands for, as bytes.

Byte-level tokenizers (GPT-2, Llama 3, Qwen, SmolLM2) write bytes as visible letters. SentencePiece tokenizers (Llama 2,
Mistral, Gemma) write spaces as "▁" and have tokens for single bytes. In both, the bytes of a text are those of its
tokens, joined. The exception is that some SentencePiece tokenizers drop the first space of a text.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlbench.base.errors import BadInput
from rlbench.lists.held import shown
from rlbench.lists.items import plural

_SPACE = "▁"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class TokenBytes:
    """What tokens stand for.

    Attributes:
        of_token: text of each of the V tokens; None for special tokens, and for tokens whose text depends on their
            neighbours.
        drops_first_space: whether decoding drops a space at the beginning of the first token.
    """

    of_token: list[bytes | None]
    drops_first_space: bool


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> TokenBytes:
    """The bytes of a tokenizer's tokens. Each token's text is compared with what the tokenizer decodes.

    Raises:
        BadInput: the tokenizer is neither byte-level nor like SentencePiece.
    """
    name = type(tokenizer).__name__
    kinds = _decoders(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]) if tokenizer.is_fast else set()
    by_byte = "ByteLevel" in kinds
    if not by_byte and not kinds & {"ByteFallback", "Metaspace"}:
        raise BadInput(
            f"lists cannot be held to the catalogue: {name} is neither a byte-level nor a SentencePiece tokenizer, so "
            "the text of a token depends on its neighbours; use generation.constraint=none and evaluation.constraint="
            "none"
        )
    size, special = len(tokenizer), set(tokenizer.all_special_ids)
    written = {token: str(added) for token, added in tokenizer.added_tokens_decoder.items()}
    of_token: list[bytes | None] = [None] * size
    for token, piece in enumerate(tokenizer.convert_ids_to_tokens(list(range(size)))):
        if token not in special and piece is not None:
            of_token[token] = written[token].encode() if token in written else _bytes_of(piece, by_byte)
    anchor = next(token for token, found in enumerate(of_token) if found == b"a")
    decode = partial(tokenizer.batch_decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    known = [token for token, found in enumerate(of_token) if found]
    for token, text in zip(known, decode([[anchor, token] for token in known]), strict=True):
        found = of_token[token]
        assert found is not None
        try:
            agrees = text == "a" + found.decode()
        except UnicodeDecodeError:  # a part of a character has no text of its own
            agrees = "�" in text
        if not agrees:
            of_token[token] = None
    spaced = next((token for token in known if (of_token[token] or b"").startswith(b" ")), None)
    first = None if spaced is None else decode([[spaced]])[0]
    return TokenBytes([found or None for found in of_token], first is not None and not first.startswith(" "))


def special_lines(lines: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The lines that contain the text of a special token, as the tokenizer reads them.

    No list can have them: decoding drops special tokens, and EOS ends the list.
    """
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special |= set(tokenizer.all_special_ids)
    whole = "\n".join(lines)
    texts = [text for text in tokenizer.convert_ids_to_tokens(sorted(special)) if text and text in whole]
    suspects = [line for line in lines if any(text in line for text in texts)]
    if not suspects:
        return []
    read = tokenizer(suspects, add_special_tokens=False)["input_ids"]
    return [line for line, tokens in zip(suspects, read, strict=True) if not special.isdisjoint(tokens)]


def special_words(lines: Sequence[str], noun: str) -> str:
    """The notice about `special_lines` of a catalogue. `noun` is what an item is."""
    return (
        f"{len(lines)} {plural(noun)} of the catalogue cannot be in a list, because their lines contain the text of a "
        f"special token of the tokenizer: {shown(lines)}. They count as misses wherever they are a truth"
    )


def _decoders(decoder: Any) -> set[str]:
    """The kinds of a tokenizer's decoders."""
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*(_decoders(one) for one in decoder.get("decoders", ())))


def _bytes_of(piece: str, by_byte: bool) -> bytes | None:
    """The bytes of a piece of the vocabulary; None if it has letters that stand for no byte."""
    if by_byte:
        letters = _bytes_of_letters()
        return bytes(letters[letter] for letter in piece) if all(letter in letters for letter in piece) else None
    single = _BYTE.fullmatch(piece)
    return bytes([int(single[1], 16)]) if single else piece.replace(_SPACE, " ").encode()


@cache
def _bytes_of_letters() -> dict[str, int]:
    """GPT-2's letters for bytes: printable Latin-1 letters stand for themselves, and the others follow from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
