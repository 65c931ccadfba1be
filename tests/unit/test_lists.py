"""Entries and token units of a completion are aligned."""

import pytest
import torch

from rlbench.lists.reader import LAYOUTS, ListReader, UnitLayout, parse_line, parse_list, parse_text
from rlbench.models.loading import load_tokenizer
from rlbench.models.tiny import train_tokenizer

N = 3


@pytest.fixture(scope="module")
def reader(tiny_folder):
    return ListReader(load_tokenizer(tiny_folder), N)


@pytest.mark.parametrize(
    ("line", "film"),
    [
        ("Alien (1979)", ("Alien", 1979)),
        ("1. Alien (1979)", ("Alien", 1979)),
        ("12) Alien (1979)", ("Alien", 1979)),
        ("- **Alien** (1979)", ("Alien", 1979)),
        ("* *Alien* (1979) - a classic", ("Alien", 1979)),
        ("**Alien (1979)**", ("Alien", 1979)),
        ('"Alien" (1979)', ("Alien", 1979)),
        ('"Alien (1979)"', ("Alien", 1979)),
        ("“Alien” (1979)", ("Alien", 1979)),
        ("Alien [1979]", ("Alien", 1979)),
        ("12 Angry Men (1957)", ("12 Angry Men", 1957)),
        ("2001: A Space Odyssey (1968)", ("2001: A Space Odyssey", 1968)),
        ("300: Rise of an Empire (2014)", ("300: Rise of an Empire", 2014)),
        ("1917 (2019)", ("1917", 2019)),
        ("Birdman or (The Virtue of Ignorance) (2014)", ("Birdman or (The Virtue of Ignorance)", 2014)),
        ("Amélie (2001)\r", ("Amélie", 2001)),
        ("Here are some films:", None),
        ("", None),
        ("   ", None),
        ("(1979)", None),
        ("Alien", None),
        ("Alien (79)", None),
        ("Alien (19790)", None),
    ],
)
def test_lines(line, film):
    assert parse_line(line) == film


def test_every_film_of_the_catalogue_survives_the_round_trip(mini):
    for title, year in mini.catalog.items:
        assert parse_line(f"{title} ({year})") == (title, year)


def test_entries_know_their_line():
    entries = parse_list("Sure!\n\nAlien (1979)\nhm\nHeat (1995)")
    assert [(e.title, e.year, e.line) for e in entries] == [("Alien", 1979, 2), ("Heat", 1995, 4)]


def segment(reader, text, *, eos=True, padding=2):
    """Return the units of a completion's tokens, and the tokens."""
    ids = reader.tokenizer(text, add_special_tokens=False)["input_ids"] + [reader.tokenizer.eos_token_id] * eos
    row = torch.tensor([ids + [reader.tokenizer.pad_token_id] * padding])
    mask = torch.tensor([[1] * len(ids) + [0] * padding])
    units = reader.segment(row, mask, [parse_text(text).lines]).unit_ids[0].tolist()
    return ids, units


def text_of(reader, ids, units, unit):
    return reader.tokenizer.decode([i for i, u in zip(ids, units, strict=False) if u == unit])


def test_newline_belongs_to_the_line_it_ends(reader):
    ids, units = segment(reader, "Alien (1979)\nHeat (1995)\nTaken (2008)")
    assert text_of(reader, ids, units, 0) == "Alien (1979)\n"
    assert text_of(reader, ids, units, 1) == "Heat (1995)\n"
    assert text_of(reader, ids, units, 2) == "Taken (2008)"
    layout = UnitLayout(N)
    assert units[len(ids) - 1] == layout.eos
    assert units[len(ids) :] == [layout.padding] * 2


def test_lines_that_are_no_entry_shift_nothing(reader):
    layout = UnitLayout(N)
    ids, units = segment(reader, "Sure, here:\n\nAlien (1979)\n\nHeat (1995)\n")
    assert text_of(reader, ids, units, 0) == "Alien (1979)\n"
    assert text_of(reader, ids, units, 1) == "Heat (1995)\n"
    assert text_of(reader, ids, units, layout.other) == "Sure, here:\n\n\n"


def test_overflow_is_one_block_and_ranks_stop_at_n(reader):
    layout = UnitLayout(N)
    lines = ["Alien (1979)", "Heat (1995)", "Taken (2008)", "Jaws (1975)", "Rocky (1976)"]
    ids, units = segment(reader, "\n".join(lines))
    assert text_of(reader, ids, units, 2) == "Taken (2008)\n"
    assert text_of(reader, ids, units, layout.overflow) == "Jaws (1975)\nRocky (1976)"


def test_fused_newlines_belong_to_one_unit():
    """Some tokenizers, such as the cl100k family, have tokens for ")\\n" and "\\n\\n"."""
    tokenizer = train_tokenizer(["Heat (1995)\n\n"], 300, "words")
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_tokens([")\n", ")\n\n"])
    reader = ListReader(tokenizer, N)
    text = "Alien (1979)\n\nHeat (1995)\nTaken (2008)"
    ids, units = segment(reader, text)
    assert any(tokenizer.decode([i]) == ")\n\n" for i in ids)
    assert [text_of(reader, ids, units, k) for k in range(3)] == ["Alien (1979)\n\n", "Heat (1995)\n", "Taken (2008)"]


def test_a_title_can_be_one_token_and_a_wrong_year_is_still_possible():
    entries = ["Heat (1995)\n", "Mission: Impossible (1996)\n", "12 Angry Men (1957)\n"]
    requests = ["any good films? i liked Mission: Impossible (1996) and Heat (1995)"]
    tokenizer = train_tokenizer(entries * 8 + requests, 500, "titles")
    assert [len(tokenizer(entry)["input_ids"]) for entry in entries] == [3, 3, 3]
    assert len(tokenizer("Heat (1957)\n")["input_ids"]) == 3
    for text in (*requests, "Héat (1995)\n\nan Unknown film (12) (1999)\n", "(1995)"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_non_ascii_title_cut_inside_a_character(reader):
    ids = reader.tokenizer("Heat (1995)\nAmé", add_special_tokens=False)["input_ids"]
    row = torch.tensor([ids[:-1]])
    texts = reader.decode(row.tolist())
    units = reader.segment(row, torch.ones_like(row), [parse_text(texts[0]).lines]).unit_ids[0].tolist()
    assert set(units) == {0, UnitLayout(N).other}


def test_finished_means_eos_at_the_end(reader):
    eos = reader.tokenizer.eos_token_id
    assert reader.is_finished([[5, eos], [5, 6], []]) == [True, False, False]


def test_list_length_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        UnitLayout(0)


@pytest.mark.parametrize(
    ("text", "eos", "segments", "units_of_eos"),
    [
        ("Alien (1979)\nHeat (1995)\nTaken (2008)", True, 3, 2),
        ("Alien (1979)\nHeat (1995)\nTaken (2008)\n", True, 4, N),  # a complete list with a final newline: overflow
        ("Alien (1979)\nHeat (1995)\n", True, 3, 2),  # one film too few, with a final newline: counts as complete
        ("Alien (1979)\nHeat (1995)", True, 2, 1),
        ("Sure:\n\nAlien (1979)", True, 3, 2),
        ("Alien (1979)\nHeat", False, 2, None),
        ("", True, 1, 0),
    ],
)
def test_the_published_layout_counts_newlines_and_eos_with_them(reader, text, eos, segments, units_of_eos):
    """Facts 1.7: EOS belongs to the segment of its line, and each extra newline adds a segment."""
    ids = reader.tokenizer(text, add_special_tokens=False)["input_ids"] + [reader.tokenizer.eos_token_id] * eos
    tokens = reader.segment(torch.tensor([ids]), torch.ones(1, len(ids)), [parse_text(text).lines], "published")
    assert tokens.n_units.tolist() == [segments]
    assert tokens.is_eos[0].tolist() == [False] * (len(ids) - eos) + [True] * eos
    if eos:
        assert tokens.unit_ids[0, -1] == units_of_eos


def test_a_preamble_shifts_the_published_layout_and_not_the_aligned_one(reader):
    text = "Sure:\nAlien (1979)\nHeat (1995)"
    ids = reader.tokenizer(text, add_special_tokens=False)["input_ids"]
    lines = [parse_text(text).lines]
    batch, mask = torch.tensor([ids]), torch.ones(1, len(ids))
    aligned, published = (reader.segment(batch, mask, lines, layout).unit_ids[0].tolist() for layout in LAYOUTS)
    assert text_of(reader, ids, aligned, 0) == "Alien (1979)\n"
    assert text_of(reader, ids, published, 0) == "Sure:\n"
    assert text_of(reader, ids, published, 1) == "Alien (1979)\n"
