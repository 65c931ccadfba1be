"""Lists held to a catalogue: allowed tokens are those of a slow search over texts, for all kinds of tokenizers."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from rlbench.base.errors import BadInput
from rlbench.config.schema import MatchingConfig
from rlbench.lists.catalog import Catalog
from rlbench.lists.held import HeldLines
from rlbench.lists.items import Item, line_of
from rlbench.lists.relevance import Judge, make_judge
from rlbench.models.constraint import Constraint, _made, options_of
from rlbench.models.token_bytes import TokenBytes, special_lines, special_words, token_bytes
from tests.properties.tokenizers import KINDS, tokenizer_of

FILMS: list[Item] = [
    ("Alien", 1979),
    ("Aliens", 1986),
    ("Amélie", 2001),
    ("七人の侍", 1954),
    ("Alien", 1997),
    ("Heat", 1995),
]


def judge_of(films: list[Item]) -> Judge:
    return make_judge(MatchingConfig("ours", "ours", ["casefold"], 0, None), Catalog(films), 10)


@cache
def valid_lists(lines: tuple[bytes, ...], items: tuple[int, ...], n: int, repeats: bool, closed: tuple[int, ...]):
    """All texts of valid lists, by trying all of them."""
    left = [line for line in range(len(lines)) if line not in closed]
    found = []
    available = len({items[line] for line in left})
    size = min(n, available) if repeats else (n if left else 0)
    for chosen in itertools.product(left, repeat=size):
        if not repeats or len({items[line] for line in chosen}) == size:
            found.append(b"\n".join(lines[line] for line in chosen))
    return tuple(found)


@cache
def beginnings_of(texts: tuple[bytes, ...]) -> frozenset[bytes]:
    return frozenset(text[:length] for text in texts for length in range(len(text) + 1))


def slow_allowed(texts: tuple[bytes, ...], so_far: bytes, tokens: TokenBytes, ends: list[int]) -> set[int]:
    """The allowed tokens, by comparing texts."""
    beginnings = beginnings_of(texts)
    allowed = {end for end in ends if so_far in texts}
    for token, text in enumerate(tokens.of_token):
        if text is None or text.count(b"\n") > 1:
            continue
        if not so_far and tokens.drops_first_space:
            text = text.removeprefix(b" ")
        if text and so_far + text in beginnings:
            allowed.add(token)
    return allowed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("repeats", [False, True], ids=["repeats", "no repeats"])
def test_allowed_tokens_are_those_of_a_slow_search(kind: str, repeats: bool) -> None:
    tokenizer = tokenizer_of(kind)
    tokens, ends = token_bytes(tokenizer), [tokenizer.eos_token_id]
    held = HeldLines.of(judge_of(FILMS))
    n, rows = 3, 6
    constraint = Constraint(held, options_of(held, tokens, ends), n, ["repeats"] if repeats else [])
    excluded = np.zeros((rows, len(held.lines)), dtype=np.bool_)
    excluded[1, [0, 2]] = True
    excluded[2] = True
    excluded[3, 1:] = True
    excluded[4, [1, 3, 4, 5]] = True
    texts = [
        valid_lists(tuple(held.lines), tuple(held.items), n, repeats, tuple(np.flatnonzero(row))) for row in excluded
    ]
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        walk, so_far, ids = constraint.start(rows, excluded, "cpu"), [b""] * rows, [[] for _ in range(rows)]
        over = [False] * rows
        while not all(over):
            mask = walk.allowed(len(tokenizer))
            for row in range(rows):
                if not over[row]:
                    assert set(mask[row].nonzero().squeeze(1).tolist()) == slow_allowed(
                        texts[row], so_far[row], tokens, ends
                    )
            chosen = torch.multinomial(mask.float(), 1, generator=generator).squeeze(1)
            walk.advance(chosen)
            for row, token in enumerate(chosen.tolist()):
                if over[row]:
                    continue
                over[row] = token in ends
                ids[row].append(token)
                text = tokens.of_token[token]
                if text is not None:
                    so_far[row] += text.removeprefix(b" ") if tokens.drops_first_space and not so_far[row] else text
        decoded = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert [text.encode() for text in decoded] == so_far
        assert all(text in possible for text, possible in zip(so_far, texts, strict=True))
        check_followed(constraint, ids, excluded, tokenizer, tokens, texts)


def check_followed(
    constraint: Constraint,
    ids: list[list[int]],
    excluded: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    tokens: TokenBytes,
    texts: list[tuple[bytes, ...]],
) -> None:
    """The masks at all positions of finished lists are those of the slow search, too."""
    width = max(map(len, ids))
    padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    allowed = constraint.followed(padded, mask, excluded)[mask.bool()].mask(len(tokenizer) + 3)
    position = 0
    for row, of_row in enumerate(ids):
        so_far = b""
        for token in of_row:
            expected = slow_allowed(texts[row], so_far, tokens, constraint.options.ends)
            assert set(allowed[position].nonzero().squeeze(1).tolist()) == expected
            text = tokens.of_token[token] or b""
            so_far += text.removeprefix(b" ") if tokens.drops_first_space and not so_far else text
            position += 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_usual_tokenisation_of_a_list_is_allowed(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    held = HeldLines.of(judge_of(FILMS))
    constraint = Constraint(held, options_of(held, token_bytes(tokenizer), [tokenizer.eos_token_id]), 3, ["repeats"])
    text = "\n".join(line_of(*film) for film in (FILMS[3], FILMS[2], FILMS[1]))
    ids = torch.tensor([[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]])
    constraint.followed(ids, torch.ones_like(ids), None)
    again = torch.tensor([tokenizer("\n".join([line_of(*FILMS[0])] * 2), add_special_tokens=False)["input_ids"]])
    with pytest.raises(ValueError, match="does not continue a list of the catalogue"):
        constraint.followed(again, torch.ones_like(again), None)


def test_a_complete_title_may_go_on() -> None:
    """Without years, "Alien" is a line and the beginning of another."""
    tokenizer = tokenizer_of("gpt2")
    tokens, end = token_bytes(tokenizer), tokenizer.eos_token_id
    held = HeldLines.of(judge_of([(title, None) for title, _ in FILMS]))
    assert [line.decode() for line in held.lines] == ["Alien", "Aliens", "Amélie", "Heat", "七人の侍"]
    walk = Constraint(held, options_of(held, tokens, [end]), 1).start(1, None, "cpu")
    for letter in b"Alien":
        walk.advance(torch.tensor([tokens.of_token.index(bytes([letter]))]))
    allowed = {token for token in walk.allowed(len(tokenizer))[0].nonzero().squeeze(1).tolist()}
    assert allowed == {end, tokens.of_token.index(b"s")}


def test_lines_that_no_judge_reads_are_left_out() -> None:
    held = HeldLines.of(judge_of([*FILMS, ("Two\nLines", 1990), ("", 1991)]))
    assert held.left_out == ["Two\nLines (1990)", " (1991)"] and len(held.lines) == len(FILMS)
    with pytest.raises(BadInput, match="no line of it reads as an item"):
        options_of(HeldLines.of(judge_of([("", 1991)])), token_bytes(tokenizer_of("gpt2")), [0])


def test_two_spellings_of_an_item_are_one_item() -> None:
    """Under the matching policy both lines name the same item, so without repeats only one of them may occur."""
    tokenizer = tokenizer_of("gpt2")
    held = HeldLines.of(judge_of([("Heat", 1995), ("HEAT", 1995), ("Alien", 1979)]))
    constraint = Constraint(held, options_of(held, token_bytes(tokenizer), [tokenizer.eos_token_id]), 3, ["repeats"])
    ids = tokenizer("HEAT (1995)\nAlien (1979)", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    constraint.followed(torch.tensor([ids]), torch.ones(1, len(ids)), None)
    ids = tokenizer("HEAT (1995)\nHeat (1995)", add_special_tokens=False)["input_ids"]
    with pytest.raises(ValueError, match="does not continue"):
        constraint.followed(torch.tensor([ids]), torch.ones(1, len(ids)), None)


def test_a_vocabulary_that_cannot_write_a_title_is_refused() -> None:
    held = HeldLines.of(judge_of(FILMS))
    letters = [bytes([byte]) for byte in range(128)]
    with pytest.raises(BadInput, match="no tokens for 'é', 'の', '七'"):
        options_of(held, TokenBytes(letters, False), [0])


@pytest.mark.parametrize("kind", KINDS)
def test_lines_with_special_tokens_are_left_out_and_counted(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    end = tokenizer.eos_token
    films = [*FILMS, (end, 2000), (f"The {end} of It", 2001), (f"{end[:-1]}", 2002)]
    judge = judge_of(films)
    special = special_lines(judge.catalog.lines(), tokenizer)
    assert special == [f"{end} (2000)", f"The {end} of It (2001)"]
    assert "2 books of the catalogue cannot be in a list" in special_words(special, "book")
    held = _made(tokenizer, judge, (tokenizer.eos_token_id,))[0]
    assert not set(special) & {line.decode() for line in held.lines} and set(special) <= set(held.left_out)
    assert special_lines(judge_of(FILMS).catalog.lines(), tokenizer) == []
