"""A hundred thousand random completions through the whole chain, from token ids to advantages and metrics.

Half are random token ids; half are lists that were damaged, tokenised and cut. Nothing may crash and no invariant may
break. A failure names the completion and its batch, which can be drawn again.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from benchmarks import plain_lists as plain
from rlbench.lists import metrics, published
from rlbench.lists.catalog import Catalog
from rlbench.lists.entries import forget_lines, parse_line, read_line
from rlbench.lists.item_facts import ItemFacts
from rlbench.lists.reader import LAYOUTS, ListReader, TokenUnits, UnitLayout
from rlbench.lists.relevance import ABSENT, HIT, NO_ITEM, OUT_OF_CATALOG, VERDICTS, Judge, make_judge
from rlbench.objective import Objective, Rollout
from rlbench.objective.objective import RolloutTokens
from rlbench.rewards.combine import solve_rate
from rlbench.rewards.scorer import score
from rlbench.rewards.terms import of_lists_alone
from tests.conftest import CONF, composed
from tests.golden import oracles
from tests.properties.lists import FILMS, FORMS, NOISE
from tests.properties.tokenizers import KINDS, tokenizer_of

pytestmark = pytest.mark.slow

SOURCES = ("ids", "text")
BATCHES, LISTS, LARGE = 5, 3400, 16
PROMISED = 100_000
N = 6
GROUP = 8
CUTOFFS = (1, 4, N, N + 3)
LONGEST = 180  # tokens of an ordinary completion
SAMPLED = 100  # completions of a batch that are also read by the slow reference
LAYOUT = UnitLayout(N)
WORLD = FILMS[::30] + FILMS[-7:]  # few, so that lists have hits and repetitions
OPTIONS: dict[str, dict[str, Any]] = {
    "tokens": {"normaliser": 64.0},
    "soft_overlong": {"max_tokens": 100, "cache": 20},
    "novelty": {"among": "hits"},
    "value": {"alpha": 3.0, "of": "recency"},
}
ALGORITHMS = {
    "grpo": ["algorithm=grpo"],
    "rank_grpo": ["algorithm=rank_grpo"],
    "published": [
        "algorithm=rank_grpo",
        "algorithm.layout=published",
        "algorithm.missing_rank=excluded",
        "algorithm.length_shaping={rule: published, early_stop: -0.1, overflow: -0.1, exact: 0.1}",
    ],
}
REWARDS = sorted(path.stem for path in Path(CONF, "reward").glob("*.yaml"))
SHARES = ("in_catalog", "in_catalog_lax", "duplicates", "seen", "eos", "overflow", "exact_length", "parse_failures")


class Case(NamedTuple):
    """One completion, with the relevant films and the seen titles of its prompt."""

    ids: list[int]
    truth: list[tuple[str, int]]
    seen: list[str]


@dataclass(frozen=True)
class Outcome:
    """Results of the chain for B completions; `numbers` holds all arrays by name, with first axis B if any."""

    texts: list[str]
    ids: torch.Tensor
    mask: torch.Tensor
    lists: dict[str, Any]
    parsed: dict[str, Any]
    tokens: dict[tuple[str, str], TokenUnits]
    numbers: dict[str, np.ndarray]


# Random inputs

ODD = (
    *"\u200e\u200f\u202e\u2066\u2069\ufeff\u00a0\u2028\u2029\u3000\x00\x07\x0b\x0c\r\x1b\x1c\x7f\x85\u0301\u0336\u20dd",
    *"\U0001f3ac\U0001f468\U00020bb7\U000e0041\ufffd\ufffeﬁⅫ²٣５é",
    *("(", ")", "[", "]", "((", "))", "{", '"', "“", "”", "'", "`", "«", "*", "**", "__", "_", "#", ">", "- ", "• "),
    *(
        "(1979)",
        "[1979]",
        "( 1979 )",
        "(79)",
        "(19790)",
        "(١٩٧٩)",
        "7. ",
        "12) ",
        "#3 ",
        ":",
        ", the",
        "<end>",
        "<pad>",
    ),
    *("9" * 30, "(" + "1" * 4400 + ")", " " * 40, "\t", "\n", "\n\n", " \n \n", "\r\n", "e" + "\u0300" * 30),
)


def prompt(rng: random.Random) -> tuple[list[tuple[str, int]], list[str]]:
    """Relevant films (sometimes repeated or outside the catalogue), and seen titles."""
    truth = rng.choices(WORLD, k=rng.randint(1, 5)) + [("Gone", 1990)] * (rng.random() < 0.2)
    return truth, [title for title, _ in rng.choices(WORLD, k=rng.randint(0, 3))]


def line(rng: random.Random) -> str:
    if rng.random() < 0.15:
        return rng.choice(NOISE)
    title, year = rng.choice(WORLD)
    return rng.choice(FORMS).format(title=title, year=year + rng.choice((0,) * 8 + (1, -2)))


def damaged(rng: random.Random, text: str) -> str:
    """The text after one random change."""
    change, at = rng.randrange(7), rng.randint(0, len(text))
    lines = text.split("\n")
    some = rng.randrange(len(lines))
    if change <= 2:
        return text[:at] + rng.choice(ODD) + text[at:]
    if change == 3:
        return text[:at] + text[at + rng.randint(1, 6) :]
    if change == 4:
        return "\n".join([*lines[: some + 1], *lines[some:]])
    if change == 5:
        return "\n".join([*lines[:some], "".join(lines[some : some + 2]), *lines[some + 2 :]])
    return "\n".join([*lines[:some], lines[some][: rng.randint(0, len(lines[some]))], *lines[some + 1 :]])


def spoilt_list(rng: random.Random) -> str:
    text = "\n".join(line(rng) for _ in range(rng.choice((0, 1, 2, N - 1, N, N, N, N + 1, 2 * N))))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 8))):
        text = damaged(rng, text)
    return text


def large_text(rng: random.Random) -> str:
    """Thousands of lines, or a line of thousands of characters."""
    piece, times = (
        rng.choice((*ODD, *NOISE, "x", line(rng) + "\n", line(rng) + " ", "(1979) ")),
        rng.randint(1000, 4000),
    )
    return spoilt_list(rng) + (piece * times)[:60_000] + spoilt_list(rng)


def random_ids(rng: random.Random, tokenizer: Any, pieces: list[list[int]], longest: int) -> list[int]:
    """Ids of every kind: any of the vocabulary, special ones, some past the tokenizer, and pieces of entries."""
    ids: list[int] = []
    for _ in range(rng.randint(0, 24)):
        kind = rng.random()
        if kind < 0.4:
            ids += rng.choices(range(len(tokenizer)), k=rng.randint(1, 8))
        elif kind < 0.9:
            ids += rng.choice(pieces)
        elif kind < 0.94:
            ids.append(rng.choice(tokenizer.all_special_ids))
        else:
            ids.append(len(tokenizer) + rng.choice((0, 1, 63, 100_000)))
    return ids[:longest]


def with_ends(rng: random.Random, ids: list[int], end: int) -> list[int]:
    """With EOS at its place, nowhere, or anywhere."""
    kind = rng.random()
    if kind < 0.6:
        return [*ids, end]
    if kind < 0.7:
        at = rng.randint(0, len(ids))
        return [*ids[:at], end, *ids[at:]]
    return ids


def encoded(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def draw(rng: random.Random, tokenizer: Any, source: str, size: int, large: bool) -> list[Case]:
    """Completions, GROUP per prompt, next to each other."""
    if source == "ids":
        pieces = encoded(tokenizer, [*ODD, *(line(rng) for _ in range(60)), *(line(rng) + "\n" for _ in range(120))])
        drawn = [random_ids(rng, tokenizer, pieces, LONGEST) * (200 if large else 1) for _ in range(size)]
    else:
        texts = [large_text(rng) if large else spoilt_list(rng) for _ in range(size)]
        drawn = [ids[:20_000] if large else ids[:LONGEST] for ids in encoded(tokenizer, texts)]
        drawn = [ids[: rng.randint(0, len(ids))] if rng.random() < 0.4 else ids for ids in drawn]
    drawn = [with_ends(rng, ids, tokenizer.eos_token_id) for ids in drawn]
    prompts = [prompt(rng) for _ in range(size // GROUP)]
    return [Case(ids, *prompts[row // GROUP]) for row, ids in enumerate(drawn)]


# The chain


@cache
def reader_of(kind: str) -> ListReader:
    return ListReader(tokenizer_of(kind), N)


@cache
def configured() -> dict[tuple[str, str], Any]:
    """The config of every shipped reward under every algorithm of this test."""
    return {
        (algorithm, reward): composed(*overrides, f"reward={reward}", "generation.max_new_tokens=100")
        for algorithm, overrides in ALGORITHMS.items()
        for reward in REWARDS
    }


@cache
def published_matching() -> Any:
    return composed("matching=published").matching


def judges() -> dict[str, Judge]:
    """Two new judges, with empty caches."""
    catalog = Catalog([*WORLD[::2], *WORLD[::3], *FILMS[1::10]])  # some of the world twice, some of it not at all
    return {"ours": Judge(catalog, N), "published": make_judge(published_matching(), catalog, N)}


def facts_of(catalog: Catalog) -> ItemFacts:
    return ItemFacts(np.arange(len(catalog)) % 7, np.array([year for _, year in catalog.items]))


def padded(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows), default=0) + 1
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    return ids, (torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]).long()


def chain(reader: ListReader, asked: dict[str, Judge], cases: list[Case], group_size: int) -> Outcome:
    """From token ids to every number that training and evaluation derive from them."""
    rows, truths, seen = ([case[i] for case in cases] for i in range(3))
    texts = reader.decode(rows)
    finished, n_tokens = reader.is_finished(rows), [len(row) for row in rows]
    ids, mask = padded(rows, reader.tokenizer.pad_token_id)
    lists, parsed, tokens, numbers = {}, {}, {}, {}
    for rules, judge in asked.items():
        parsed[rules] = judge.read(texts)
        lists[rules] = judge(parsed[rules], truths, seen, n_tokens, finished)
        for layout in LAYOUTS:
            lines = [read.lines for read in parsed[rules]]
            tokens[rules, layout] = reader.segment(ids, mask, lines, layout)
        facts = facts_of(judge.catalog)
        for name, term in of_lists_alone().items():
            numbers[f"{rules}: term {name}"] = term.function(lists[rules], facts, **OPTIONS.get(name, {}))
        for (algorithm, reward), config in configured().items():
            name = f"{rules}: {algorithm}, {reward}"
            rewards = score(lists[rules], facts, config.reward)
            objective = Objective(config.algorithm, config.reward, N)
            of_layout = tokens[rules, config.algorithm.layout]
            zeros = torch.zeros(mask.shape)
            blocks = objective.token_units(of_layout)
            sampled = RolloutTokens(blocks.unit_ids, mask, zeros, zeros)
            rollout = Rollout.of_tokens(rewards, sampled, objective.units.count)
            of_units = objective.unit_advantages(rollout, group_size)
            numbers[f"{name}: units"] = of_units.numpy()
            spread = objective.spread_advantages(of_units, blocks.n_units)
            numbers[f"{name}: tokens"] = objective.token_advantages(spread, blocks).numpy()
            numbers[f"{name}: blocks"] = blocks.unit_ids.numpy()
            numbers[f"{name}: totals"] = rewards.totals.numpy()
            numbers[f"{name}: solved"] = solve_rate(rewards.success, group_size).numpy()
        numbers |= {f"{rules}: {name}": values for name, values in measured(lists[rules], facts).items()}
    entries = asked["ours"].published_entries(texts, parsed["ours"])
    for truncate_first in (False, True):
        table = published.ranking_metrics(entries, truths, seen, asked["ours"].exact, CUTOFFS, truncate_first)
        numbers |= {f"published {truncate_first}: {name}": values for name, values in table.items()}
    return Outcome(texts, ids, mask, lists, parsed, tokens, numbers)


def measured(lists: Any, facts: ItemFacts) -> dict[str, np.ndarray]:
    every = np.ones(len(lists), dtype=np.bool_)
    pool = metrics.pool_metrics(lists, len(facts.counts), facts.counts, every)
    tables = (metrics.ranking_metrics(lists.hits, lists.n_truth, CUTOFFS), metrics.list_metrics(lists))
    return tables[0] | tables[1] | {f"pool {name}": np.array(value) for name, value in pool.items()}


# Invariants


def check(reader: ListReader, asked: dict[str, Judge], cases: list[Case], group_size: int) -> None:
    outcome = chain(reader, asked, cases, group_size)
    check_numbers(outcome.numbers)
    check_advantages(outcome, group_size)
    newlines = torch.tensor(newlines_of(reader.tokenizer))[outcome.ids.clamp(max=len(reader.tokenizer))] * outcome.mask
    assert [text.count("\n") for text in outcome.texts] == newlines.sum(dim=1).tolist()
    line_of_token = (newlines.cumsum(dim=1) - newlines).numpy()
    for rules in asked:
        check_judged(outcome, rules, cases, len(asked[rules].catalog))
        check_units(outcome, rules, line_of_token, reader)
    check_against_plain(reader, asked["ours"].catalog, outcome, cases[:SAMPLED])
    check_lines_of_ranks(reader, outcome, cases[:SAMPLED])
    check_sameness(reader, asked, cases[: 4 * GROUP], group_size)


@cache
def newlines_of(tokenizer: Any) -> list[int]:
    """Newlines of every id as the published code counts them; the last entry is for all ids past the tokenizer."""
    decoded = [tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer))]
    return [*(text.count("\n") for text in decoded), 0]


def check_numbers(numbers: dict[str, np.ndarray]) -> None:
    for name, values in numbers.items():
        assert np.isfinite(values).all(), name
        metric = name.split(": ")[1]
        if "@" in name or metric in SHARES or metric in ("misaligned", "pool coverage", "pool gini", "pool popularity"):
            assert ((values >= 0) & (values <= 1)).all(), name


def check_judged(outcome: Outcome, rules: str, cases: list[Case], n_films: int) -> None:
    lists, parsed = outcome.lists[rules], outcome.parsed[rules]
    assert [len(read.items) for read in parsed] == lists.n_entries.tolist()
    assert np.isin(lists.verdicts, range(ABSENT, len(VERDICTS))).all()
    assert (lists.present == (np.arange(N) < lists.n_entries[:, None])).all()
    assert ((lists.items >= NO_ITEM) & (lists.items < n_films)).all()
    assert ((lists.items == NO_ITEM) == np.isin(lists.verdicts, (ABSENT, OUT_OF_CATALOG))).all()
    assert ((lists.truths >= 0) == (lists.verdicts == HIT)).all() and (lists.truths < lists.n_truth[:, None]).all()
    assert (lists.hits.sum(axis=1) <= lists.n_truth).all() and (lists.n_truth >= 1).all()
    assert (lists.n_entries <= lists.n_lines).all()
    assert (lists.n_lines <= [text.count("\n") + 1 for text in outcome.texts]).all()
    assert (lists.n_shifted <= lists.present.sum(axis=1)).all() and not (lists.lax & ~lists.present).any()
    assert lists.n_tokens.tolist() == [len(case.ids) for case in cases]
    for read in parsed:
        assert all(title.strip() and 0 <= year <= 9999 for title, year in read.items)
        assert list(read.lines) == sorted(set(read.lines))
    for name, term in of_lists_alone().items():
        values = outcome.numbers[f"{rules}: term {name}"]
        assert values.shape == ((len(cases), N) if term.scope == "rank" else (len(cases),)), name
        assert term.scope == "list" or not values[~lists.present].any(), name


def check_units(outcome: Outcome, rules: str, line_of_token: np.ndarray, reader: ListReader) -> None:
    kept, n_entries = outcome.mask.numpy() == 1, outcome.lists[rules].n_entries
    ends = kept & (outcome.ids.numpy() == reader.tokenizer.eos_token_id)
    for layout in LAYOUTS:
        tokens = outcome.tokens[rules, layout]
        units = tokens.unit_ids.numpy()
        assert ((units == LAYOUT.padding) == ~kept).all() and (units >= 0).all() and (units < LAYOUT.count).all()
        assert (tokens.is_eos.numpy() == ends).all()
    theirs = outcome.tokens[rules, "published"]
    assert (theirs.unit_ids.numpy() == np.where(kept, line_of_token.clip(max=N), LAYOUT.padding)).all()
    assert (theirs.n_units.numpy() == np.where(kept, line_of_token + 1, 0).max(axis=1)).all()
    aligned = outcome.tokens[rules, "aligned"]
    units, ranked = aligned.unit_ids.numpy(), aligned.unit_ids.numpy() < N
    assert (aligned.n_units.numpy() == n_entries).all() and ((units == LAYOUT.eos) == ends).all()
    assert (units < n_entries[:, None])[ranked].all()
    assert (n_entries > N)[np.any(units == LAYOUT.overflow, axis=1)].all()
    owning = [
        len(set(read.lines[:N]) & set(line_of_token[row, kept[row] & ~ends[row]].tolist()))
        for row, read in enumerate(outcome.parsed[rules])
    ]
    assert [len(set(units[row, ranked[row]].tolist())) for row in range(len(units))] == owning


def check_advantages(outcome: Outcome, group_size: int) -> None:
    kept = outcome.mask.numpy() == 1
    for (algorithm, reward), config in configured().items():
        for rules in outcome.lists:
            name = f"{rules}: {algorithm}, {reward}"
            tokens = outcome.tokens[rules, config.algorithm.layout]
            of_units, of_tokens, blocks = (outcome.numbers[f"{name}: {what}"] for what in ("units", "tokens", "blocks"))
            groups = of_units.reshape(-1, group_size, of_units.shape[1])
            assert np.abs(groups.mean(axis=1)).max() < 1e-3, name
            assert not of_tokens[~kept].any() and ((blocks == LAYOUT.padding) == ~kept).all(), name
            if config.algorithm.credit == "sequence":
                assert (of_tokens == np.where(kept, of_units, 0)).all(), name
                continue
            assert of_units.shape == (len(kept), N), name
            is_end = tokens.is_eos.numpy()
            of_rank = np.take_along_axis(of_units, blocks.clip(max=N - 1), axis=1)
            plain_rank = (blocks < N) & ~is_end
            assert (of_tokens == of_rank)[plain_rank].all(), name
            shaped = np.float32(config.algorithm.length_shaping.overflow)
            assert (of_tokens[blocks == LAYOUT.overflow] == shaped).all(), name
            assert not of_tokens[blocks == LAYOUT.other].any(), name
            absent = ~outcome.lists[rules].present
            if config.algorithm.missing_rank == "excluded":
                assert np.abs(of_units[absent]).max(initial=0) < 1e-3, name
            check_ends(config, tokens, of_tokens, of_units, blocks, name)


def check_ends(config: Any, tokens: Any, of_tokens: Any, of_units: Any, blocks: Any, name: str) -> None:
    """Each EOS gets the value that the rule gives for the list's number of units."""
    shaping, n_units, is_end = config.algorithm.length_shaping, tokens.n_units.numpy(), tokens.is_eos.numpy()
    complete = is_end & (n_units == N)[:, None]
    if shaping.rule == "paper":
        whole, long = of_units[:, N - 1], 0.0
        assert (blocks[complete] == N - 1).all(), name
    else:
        whole, long = shaping.exact, shaping.overflow
    worth = np.select([n_units < N, n_units == N], [shaping.early_stop, whole], long).astype(np.float32)
    assert (of_tokens == worth[:, None])[is_end].all(), name


def check_against_plain(reader: ListReader, catalog: Catalog, outcome: Outcome, cases: list[Case]) -> None:
    lists, index, titles = outcome.lists["ours"], plain.catalog_index(catalog), plain.lax_titles(catalog)
    entries = []
    for row, (case, text) in enumerate(zip(cases, outcome.texts, strict=False)):
        read, n_lines = plain.parse(text)
        assert outcome.parsed["ours"][row].entries == read and lists.n_lines[row] == n_lines
        assert all(parse_line(one) == read_line(one) for one in text.split("\n"))
        verdicts, films = plain.judge(read, case.truth, case.seen, index, N)
        assert [str(verdict) for verdict in lists.names(row)] == verdicts
        assert lists.items[row, : len(films)].tolist() == films
        lax, shifted = plain.form(read, titles, N)
        assert lists.lax[row, : len(lax)].tolist() == lax and lists.n_shifted[row] == shifted
        assert lists.n_truth[row] == len({(plain.normalise(title), year) for title, year in case.truth})
        hits = oracles.training_hits(published.parse_list(text), case.truth, case.seen, set(catalog.items), N)
        assert outcome.lists["published"].hits[row].tolist() == hits
        entries.append(read)
    ids, width = [case.ids for case in cases], outcome.ids.size(1)
    if width <= LONGEST + 2:
        wanted = plain.segment(reader.tokenizer, ids, entries, N, width)
        assert outcome.tokens["ours", "aligned"].unit_ids[: len(cases)].tolist() == wanted


def check_lines_of_ranks(reader: ListReader, outcome: Outcome, cases: list[Case]) -> None:
    """The tokens of rank k are the line of entry k, except for white space in the token of a newline."""
    for rules, parsed in outcome.parsed.items():
        units = outcome.tokens[rules, "aligned"].unit_ids
        for row, case in enumerate(cases):
            lines = outcome.texts[row].split("\n")
            ranks = range(min(len(parsed[row].lines), N))
            of_row = units[row, : len(case.ids)].tolist()
            written = [[i for i, unit in zip(case.ids, of_row, strict=True) if unit == rank] for rank in ranks]
            for rank, text in zip(ranks, reader.decode(written) if written else [], strict=True):
                assert text.strip() == lines[parsed[row].lines[rank]].strip(), (rules, rank)


def check_sameness(reader: ListReader, asked: dict[str, Judge], cases: list[Case], group_size: int) -> None:
    """Repeating gives the same result, also with empty caches of lines and titles."""
    first = chain(reader, asked, cases, group_size)
    forget_lines()
    again = chain(reader, judges(), cases, group_size)
    assert again.texts == first.texts and again.parsed == first.parsed
    for name, values in first.numbers.items():
        assert (again.numbers[name] == values).all(), name


# The test


def narrowed(checked: Callable[[list[Case]], None], cases: list[Case]) -> list[Case]:
    """The completion that fails alone; else its group, else its part of the batch."""

    def fails(part: list[Case]) -> bool:
        try:
            checked(part)
        except Exception:
            return True
        return False

    while len(cases) > GROUP:
        middle = len(cases) // GROUP // 2 * GROUP
        failing = [half for half in (cases[:middle], cases[middle:]) if fails(half)]
        if not failing:
            return cases
        cases = failing[0]
    return next(([case] for case in cases if fails([case] * GROUP)), cases)


def fail(seed: str, reader: ListReader, cases: list[Case], error: Exception) -> None:
    shown = "\n".join(
        f"ids {case.ids}\ntext {reader.tokenizer.decode(case.ids)!r}\nof {case[1:]}" for case in cases[:GROUP]
    )
    message = f"random.Random({seed!r}): {type(error).__name__} {error}, with {len(cases)} completions\n{shown}"
    raise AssertionError(message) from error


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", KINDS)
def test_random_completions(kind, source):
    reader, asked, done = reader_of(kind), judges(), 0
    for number in range(BATCHES + 1):
        seed = f"{kind}-{source}-{number}"
        large = number == BATCHES
        cases = draw(random.Random(seed), reader.tokenizer, source, LARGE if large else LISTS, large)
        group_size = GROUP if number % 2 else GROUP // 2

        def checked(part: list[Case], group_size: int = group_size) -> None:
            check(reader, asked, part, group_size)

        try:
            checked(cases)
        except Exception as error:
            fail(seed, reader, narrowed(checked, cases), error)
        done += len(cases)
    assert done * len(KINDS) * len(SOURCES) >= PROMISED


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_is_of_every_sort(kind, source):
    """The random cases include enough of each kind."""
    reader, asked = reader_of(kind), judges()
    cases = draw(random.Random(f"{kind}-{source}-0"), reader.tokenizer, source, LISTS, large=False)
    outcome = chain(reader, asked, cases, GROUP)
    units, theirs = (outcome.tokens["ours", layout].unit_ids for layout in ("aligned", "published"))
    ends = [
        case.ids.index(reader.tokenizer.eos_token_id) for case in cases if reader.tokenizer.eos_token_id in case.ids
    ]
    counts = {f"unit {code}": (units == code).sum() for code in range(LAYOUT.count)} | {
        "other units under the published layout": (theirs != units)[outcome.mask == 1].sum(),
        "no EOS": len(cases) - len(ends),
        "EOS before the end": sum(reader.tokenizer.eos_token_id in case.ids[:-1] for case in cases),
        "no token": sum(not case.ids for case in cases),
        "an id past the tokenizer": sum(max(case.ids, default=0) >= len(reader.tokenizer) for case in cases),
    }
    for rules, lists in outcome.lists.items():
        counts |= {f"{rules}: verdict {code}": (lists.verdicts == code).sum() for code in range(ABSENT, len(VERDICTS))}
        sizes = {"none": 0, "too few": N - 1, "N": N, "too many": N + 1}
        counts |= {f"{rules}: entries: {what}": (lists.n_entries == size).sum() for what, size in sizes.items()}
        counts[f"{rules}: shifted"] = (lists.n_shifted > 0).sum()
    if source == "text":
        del counts["an id past the tokenizer"]
    assert {what: int(count) for what, count in counts.items() if count < 20} == {}
