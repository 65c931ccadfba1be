"""Lists without years: how lines are read, matched and judged, and datasets whose years are left out."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rlbench.base.errors import BadInput
from rlbench.config.schema import MatchingConfig
from rlbench.data import load_dataset
from rlbench.data.checks import check_dataset
from rlbench.data.line_format import without_years
from rlbench.data.record import RankedListDataset, Record
from rlbench.evaluation.judging import Answer, judge_answers, make_criteria
from rlbench.lists.catalog import LOOSE, Catalog
from rlbench.lists.exact import CatalogReader
from rlbench.lists.held import HeldLines
from rlbench.lists.items import LINE_FORMATS, TITLES, WITH_YEARS, line_of, plural
from rlbench.lists.relevance import make_judge
from rlbench.lists.titles import parse_titles, read_title
from rlbench.running.checks import check_values
from rlbench.runs.identity import config_hash, stage_settings
from rlbench.teacher.reading import Form
from tests.conftest import composed

MATCHING = MatchingConfig("casefold", "ours", ["nfkc", "spaces", "casefold"], 0, None)
BOOKS = [("Dune", None), ("Emma", None), ("1984", None), ("It", None), ("Catch-22", None)]


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("Dune", "Dune"),
        ("1984", "1984"),
        ("Catch-22", "Catch-22"),
        ("11/22/63", "11/22/63"),
        ("If You Tell", "If You Tell"),
        ("I Hope They Serve Beer in Hell", "I Hope They Serve Beer in Hell"),
        ("2001: A Space Odyssey", "2001: A Space Odyssey"),
        ("Who's Afraid of Virginia Woolf?", "Who's Afraid of Virginia Woolf?"),
        ("  Dune  ", "Dune"),
        ("1. Dune", "Dune"),
        ("3) 1984", "1984"),
        ("- Dune", "Dune"),
        ("• Dune", "Dune"),
        ("## Dune", "Dune"),
        ("1. **Dune**", "Dune"),
        ("**1. Dune**", "Dune"),
        ("*Dune*", "Dune"),
        ('"Dune"', "Dune"),
        ("“Dune”", "Dune"),
        ("2. *“Dune”*", "Dune"),
        ("1. **Dune** by Frank Herbert", "Dune"),
        ("1. **Dune**: a classic", "Dune"),
        ('"Dune" by Frank Herbert', "Dune"),
        ('"Dune" - a classic', "Dune"),
        ("Dune by Frank Herbert", "Dune by Frank Herbert"),
        ('"Dune",', "Dune"),
        ('["Dune", "Emma"]', "Dune"),
        ('{"title": "Dune", "author": "Frank Herbert"}', "Dune"),
        ("[Dune](https://example.org/dune)", "Dune"),
        ("<li>Dune</li>", "Dune"),
        ("Romeo &amp; Juliet", "Romeo & Juliet"),
        ("| 1 | Dune | Frank Herbert |", "Dune"),
        ("'Salem's Lot", "'Salem's Lot"),
        ("M*A*S*H", "M*A*S*H"),
        ("1. I hope you enjoy these!", "I hope you enjoy these!"),
        ("| Rank | Title |", None),
        ("|---|---|", None),
        ("", None),
        ("---", None),
        ("\x02", None),
        ("\u200f \u200b", None),
        ("```json", None),
        ("[", None),
        ("],", None),
        ('"author": "Frank Herbert"', None),
        ("Here are ten books:", None),
        ("**Books:**", None),
        ("Sure!", None),
        ("Certainly! Based on your taste I suggest these.", None),
        ("I hope you enjoy these!", None),
        ("Let me know if you want more.", None),
    ],
)
def test_lines(line, title):
    assert read_title(line) == (None if title is None else (title, None))


def test_ranks_are_the_lines_that_are_entries():
    parsed = parse_titles("Here are some books:\n\n1. Dune\n2. *Emma*\n\nEnjoy these books!")
    assert list(parsed.items) == [("Dune", None), ("Emma", None)]
    assert list(parsed.lines) == [2, 3] and parsed.n_lines == 4


@pytest.mark.parametrize("piece", ["*", '"', "**a", "<b>", "(", "“", "- "])
def test_long_lines_are_read_in_linear_time(piece):
    read_title("x" + piece * 20_000)
    read_title(piece * 20_000 + "x")


def test_a_catalogue_without_years():
    catalog = Catalog([*BOOKS, ("emma", None)], LOOSE)
    assert not catalog.has_years
    assert catalog.find("EMMA", None) == 1 and catalog.find("Emma", 1815) == -1 and catalog.has_lax("dune", None)
    assert Catalog(BOOKS, replace(LOOSE, fuzzy_threshold=70)).find("Dunes", None) == 0
    assert catalog.report("book") == [
        "1 books equal an earlier book under the matching policy, so they can never be matched: emma = Emma"
    ]


def test_judging_without_years():
    record = Record([{"role": "user", "content": "books?"}], [("Dune", None), ("It", None)], ["Emma"], "a")
    dataset = RankedListDataset("books", Catalog(BOOKS), {"train": [record]}, item="book")
    criteria = make_criteria(MATCHING, dataset, 5)
    text = "Some books:\nit\nNo Such Book\nEmma\nIT\n1984"
    answer = Answer(text, criteria.judge.parse(text), True, 9, np.full(5, np.nan))
    table, means = judge_answers([record], {"a": answer}, criteria, [5])
    assert list(table["verdicts"][0]) == ["hit", "out_of_catalog", "seen", "duplicate", "miss"]
    assert means["recall@5"] == 0.5 and means["parse_failures"] == pytest.approx(1 / 6)
    assert not any(name.startswith("published") for name in means), "the published rules need years"
    assert list(table["years"][0]) == [None] * 5


def test_years_are_left_out_and_items_that_become_equal_are_counted():
    prompt = [{"role": "user", "content": "films?"}]
    shown = [{"role": "assistant", "content": "Heat (1995)\nThe Thing (1982)\nThe Thing (2011)"}]
    record = Record(prompt, [("The Thing", 1982), ("The Thing", 2011), ("Heat", 1995)], [], "a", shown)
    films = Catalog([("Heat", 1995), ("The Thing", 1982), ("The Thing", 2011)])
    found = without_years(RankedListDataset("films", films, {"sft": [record]}, {"a": [("Heat", 1995)]}))
    assert found.catalog.items == [("Heat", None), ("The Thing", None)] and not found.catalog.has_years
    assert found.splits["sft"][0].ground_truth == [("The Thing", None), ("Heat", None)]
    assert found.splits["sft"][0].completion == [{"role": "assistant", "content": "Heat\nThe Thing"}]
    assert found.oracle == {"a": [("Heat", None)]}
    assert found.notices == [
        "without years, 1 films of the catalogue and 1 of the truths equal another one of the same title and were "
        "merged with it"
    ]


@pytest.fixture(scope="module")
def smoke():
    return composed("+debug=smoke", 'dataset.line_format="{title}"')


@pytest.mark.slow
def test_mini_without_years(smoke):
    dataset = load_dataset(smoke.dataset)
    assert check_dataset(dataset, smoke.dataset.list_length) == []
    assert "(" not in dataset.splits["sft"][0].completion[0]["content"]


def test_the_line_format_is_part_of_a_run_only_if_it_is_not_the_usual_one(smoke):
    usual = composed("+debug=smoke")
    assert usual.dataset.line_format == WITH_YEARS and LINE_FORMATS == (WITH_YEARS, TITLES)
    assert not {"line_format", "item"} & stage_settings(usual, "rl")["dataset"].keys()
    assert stage_settings(smoke, "rl")["dataset"]["line_format"] == TITLES
    assert config_hash(stage_settings(usual, "sft")) != config_hash(stage_settings(smoke, "sft"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["matching=published"], "matching.rules = 'published' reads only lines with a year"),
        (["reward=value_rarity", "reward.terms.value.of=recency"], "reward.terms.value.of = 'recency' needs them"),
        (["dataset.item='9 {'"], "dataset.item = '9 {' must be a noun"),
    ],
)
def test_what_needs_years_is_refused(changes, words):
    problems = check_values(composed("+debug=smoke", 'dataset.line_format="{title}"', *changes))
    assert any(words in problem for problem in problems), json.dumps(problems)


def test_the_published_rules_are_refused_for_stored_lists_too():
    with pytest.raises(BadInput, match="reads only lines with a year, but the catalogue has no years"):
        make_judge(MatchingConfig("published", "published", [], 0, None), Catalog(BOOKS), 3)


ODD = [
    "2. Fast", "- minus", "#9 Dream", "Movie: The Movie", "a) first", "| pipe", "<b>Bold</b>", "* Star *",
    "q & a &amp; b", "Hello", "Yes", "The End:", "***", "12) twelve",
]  # fmt: skip


@pytest.mark.parametrize("year", [None, 1999])
def test_titles_that_look_like_layout_are_named_by_exactly_their_line(year):
    items = [(title, year) for title in [*ODD, "Dune"]] + [("Title (2001)", year)]
    judge = make_judge(MATCHING, Catalog(items), 20)
    lines = [line_of(*item) for item in items]
    for form in ("{}", "  {} ", "7. {}", "- {}"):
        parsed = judge.parse("\n".join(map(form.format, lines)))
        assert (parsed.items, list(parsed.lines)) == (items, list(range(len(items))))
    assert HeldLines.of(judge).left_out == []
    assert Form.of(judge.catalog).line("2. " + lines[0]) == items[0]


def test_an_exact_line_counts_only_where_the_rules_read_another_item():
    reader = CatalogReader(
        Catalog([("2. Fast", None), ("Fast", None), ("Emma", None), ("\u200b", None), ("a\nb", None)])
    )
    assert list(reader.exact) == ["2. Fast"]
    assert list(reader.text("2. Fast\n1. Fast\n2. fast\n2. 2. Fast\nHello").items) == [
        ("2. Fast", None), ("Fast", None), ("fast", None), ("2. Fast", None),
    ]  # fmt: skip
    assert CatalogReader(Catalog([("Dune", None), ("The Wall", None)])).exact == {}
    assert CatalogReader(Catalog([("The Wall", 201), ("Heat", 1995)])).exact == {}


def test_plurals():
    assert list(map(plural, ["film", "book", "story", "box", "dish", "play"])) == [
        "films", "books", "stories", "boxes", "dishes", "plays",
    ]  # fmt: skip
