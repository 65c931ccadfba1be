"""ReDial: films in free text, small hand-made files, and the real file."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from rlbench.config.schema import Config, RedialConfig
from rlbench.data import load_dataset
from rlbench.data.checks import check_dataset, share_outside_catalog
from rlbench.data.film_names import learn_film_names, split_film
from rlbench.data.record import RankedListDataset, Record
from rlbench.lists.catalog import normalise
from rlbench.lists.reader import parse_line, parse_list
from tests.helpers import shared_data
from tests.helpers_inputs import loader, refuser, write_lines

TEMPLATE = "Name {n} films.\n{conversation}"


# --- films in free text ---


@pytest.mark.parametrize(
    ("name", "film"),
    [
        ("Heat (1995)", ("Heat", 1995)),
        ("'71 (2014)", ("'71", 2014)),
        ("O (2001)", ("O", 2001)),
        ("Blade Runner (The Final Cut) (1982)", ("Blade Runner (The Final Cut)", 1982)),
        ("The Big Lebowski", None),
        ("You", None),
        ("(1995)", None),
        ("Heat (95)", None),
        ("Heat (1995) too", None),
    ],
)
def test_names_with_a_year_are_films(name: str, film: tuple[str, int] | None) -> None:
    assert split_film(name) == film


KNOWN = [
    "Police Academy (1984)",
    "It (2017)",
    "Bring It On (2000)",
    "Saw (2004)",
    "Evil Dead II (1987)",
    "II (1987)",
    "You",
    "Spider-Man (2002)",
    "When Harry Met Sally... (1989)",
    "No Country for Old Men (2007)",
]


@pytest.mark.parametrize(
    ("text", "films"),
    [
        ("You should watch Police Academy (1984)", ["Police Academy (1984)"]),
        ("you should watch police academy (1984)!", ["Police Academy (1984)"]),
        ("Police Academy (1984)It (2017), saw Saw (2004)", ["Police Academy (1984)", "It (2017)", "Saw (2004)"]),
        ("Did you like Evil Dead or Evil Dead II (1987) ?", ["Evil Dead II (1987)"]),
        ('the "It (2017)" remake', ["It (2017)"]),
        ("No Country for Old Men (2007)", ["No Country for Old Men (2007)"]),
        (
            "When Harry Met Sally... (1989) , It (2017) and It (2017)",
            ["When Harry Met Sally... (1989)", *KNOWN[1:2] * 2],
        ),
        ("Police Academy", []),
        ("it came out in (2017)", []),
        ("", []),
    ],
)
def test_known_films_are_found_by_the_longest_match(text: str, films: list[str]) -> None:
    found = learn_film_names(KNOWN, [text]).find(text)
    assert [f"{title} ({year})" for title, year in found] == films


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("I loved Black Hawk Down (2001)", "Black Hawk Down"),
        ("Or Popcorn (2001)", "Popcorn"),
        ("Yes, Penguins of Madagascar (2001)", "Penguins of Madagascar"),
        ("Hello! It was good. The The Other (2001)", "The Other"),
        ("did you see House of 1000 Corpses (2001)", "House of 1000 Corpses"),
        ("i like mr. Mr. Holland's Opus (2001)", "Mr. Holland's Opus"),
        ("La La Land (2001)", "La La Land"),
        ("Yes Man (2001)", "Yes Man"),
        ("what about 2012 (2001)", "2012"),
        ('watch "Ex Machina (2001)', "Ex Machina"),
    ],
)
def test_unknown_films_are_read_off_the_text(text: str, title: str) -> None:
    names = learn_film_names([], [text])
    assert names.find(text) == [(title, 2001)]
    assert (names.known, names.read, names.unread) == (0, 1, 0)


def test_a_reading_that_lengthens_a_more_frequent_one_adds_no_film() -> None:
    texts = ["Hmmm Black Hawk Down (2001)", "i saw Black Hawk Down (2001)", "with Black Hawk Down (2001)"]
    names = learn_film_names([], texts)
    assert names.films == [("Black Hawk Down", 2001)]
    assert [names.find(text) for text in texts] == [[("Black Hawk Down", 2001)]] * 3


FILMS_AND_NAMES = [
    "Uncle Buck",
    "Evil Dead (2013)",
    "Beauty and the Beast (1991)",
    "Hell or High Water",
    "The King (2005)",
    "New York",
    "Love (2011)",
]


@pytest.mark.parametrize(
    ("texts", "title"),
    [
        # Text before or after the joining word is a film by itself.
        (["films like Uncle Buck or The Great Outdoors (2001)"], "The Great Outdoors"),
        (["I like Uncle Buck and The Great Outdoors (2001)"], "The Great Outdoors"),
        (["I like Uncle Buck, The Great Outdoors (2001)"], "The Great Outdoors"),
        (["Have you seen Evil Dead or Evil Dead II (2001)?"], "Evil Dead II"),
        (["like The Fifth Element and John Carter (2001)", "people like John Carter (2001)"], "John Carter"),
        (["like Ice Age and Love Actually (2001)", "I saw Love Actually (2005)"], "Love Actually"),
        (
            ["I love johnny Depp in Alice in Wonderland (2001)", "I saw Alice in Wonderland (1951)"],
            "Alice in Wonderland",
        ),
        # The longer title is in a list of names, even with another year or none, or is used more often.
        (["I like Beauty and the Beast (2001)"], "Beauty and the Beast"),
        (["I like Hell or High Water (2001)", "High Water (1999)"], "Hell or High Water"),
        (
            ["see Big Deal and Old Lace (2001)", "a Big Deal and Old Lace (2001)", "Old Lace (1944)"],
            "Big Deal and Old Lace",
        ),
        # There is no evidence for the shorter title.
        (["I like Arsenic and Old Lace (2001)"], "Arsenic and Old Lace"),
        (["I like Butch Cassidy and the Sundance Kid (2001)"], "Butch Cassidy and the Sundance Kid"),
        (["I like The King and I (2001)"], "The King and I"),
        (["I like Shakespeare in Love (2001)"], "Shakespeare in Love"),
        (["I like Escape from New York (2001)"], "Escape from New York"),
        (["I like Lock, Stock and Two Smoking Barrels (2001)"], "Lock, Stock and Two Smoking Barrels"),
        # Words before a title that do not join two titles.
        (
            ["It The Americanization of Emily (2001)", "saw The Americanization of Emily (2001)"],
            "The Americanization of Emily",
        ),
        (["about Mars 2036 Origin Unknown (2001)", "good. In 2036 Origin Unknown (2001)"], "2036 Origin Unknown"),
        (["I like The Good Woman (2001)", "I like My Good Woman (2001)"], "The Good Woman"),
        (["No. It's Hello, Dolly! (2001)"], "Hello, Dolly!"),
        (["It's a Wonderful Life (2001)"], "It's a Wonderful Life"),
        (["Or I Curious George 2: Follow That Monkey! (2001)"], "Curious George 2: Follow That Monkey!"),
        (["or I Am Legend (2001)"], "I Am Legend"),
        (["I Can't Think Straight (2001)"], "I Can't Think Straight"),
    ],
)
def test_what_joins_two_films_or_stands_before_one_is_no_part_of_a_title(texts: list[str], title: str) -> None:
    names = learn_film_names(FILMS_AND_NAMES, texts)
    assert names.find(texts[0]) == [(title, 2001)]
    assert (title, 2001) in names.films


def test_a_film_gets_its_most_frequent_spelling() -> None:
    names = learn_film_names(["isle of dogs (2018)", "Isle of Dogs (2018)", "Isle of Dogs (2018)"], [])
    assert names.films == [("Isle of Dogs", 2018)]
    assert names.find("ISLE OF  DOGS (2018)") == [("Isle of Dogs", 2018)]


def test_mentions_are_counted() -> None:
    names = learn_film_names(
        ["Heat (1995)"], ["Heat (1995) or Alien (1979)", "(1999)", "back in (1999)", "Also and (1999)"]
    )
    assert (names.known, names.read, names.unread) == (1, 1, 3)


# --- hand-made files ---


def line(dialogue: str, context: list[str], answer: str, names: list[str], **changes: Any) -> dict:
    return {
        "context": ["", *context],
        "resp": answer,
        "rec": [1],
        "entity": [1],
        "prev_entity": [],
        "dialog_id": dialogue,
        "turn_id": 7,
        "is_user": 0,
        "entity_name": names,
        "input": "not used",
        **changes,
    }


OPENING = ["Hi, I liked Alien (1979)", "Seen Jaws (1975) or Heat (1995)?", "Only Jaws (1975). Any {n}?"]
DIALOGUE = [
    line("d1", OPENING[:1], OPENING[1], ["Jaws (1975)", "Heat (1995)"]),
    line("d1", OPENING, "Then Up (2009), Jaws (1975) and Up (2009)!", ["Up (2009)", "Then"]),
    line("d1", [*OPENING, "Then Up (2009), Jaws (1975) and Up (2009)!", "thanks"], "bye", ["bye"]),
    line("d1", OPENING, "You would like Big (1988)", ["Big (1988)"], is_user=1),
]
OTHERS = {
    "train": [
        line("t1", ["i like Alien (1979)"], "Try Big (1988), Jaws (1975)", ["Big (1988)", "Jaws (1975)"]),
        line("t2", ["i like Alien (1979)"], "Try Jaws (1975)", ["Jaws (1975)"]),
        line("t3", ["hi"], "Cars (2006)", ["Cars (2006)"]),
        line("t4", ["hi"], "Cars (2006)", ["Cars (2006)"]),
        line("t5", ["hi"], "Cars (2006)", ["Cars (2006)"]),
    ],
    "valid": [line("v1", ["hi"], "Heat (1995)", ["Heat (1995)"])],
}


def write(folder: Path, **files: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        write_lines(folder / f"{name}.jsonl", rows)
    return folder


load = loader(
    RedialConfig,
    name="redial",
    cutoffs=[],
    list_length=3,
    prompt_template=TEMPLATE,
    validation_fraction=0.25,
    test_fraction=0.25,
    seed=0,
    max_conversation_chars=None,
    demonstrations_from=None,
)
refusal = refuser(load)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "redial", test=DIALOGUE, **OTHERS)


def test_shipped_splits_are_used_as_they_are(folder: Path) -> None:
    data = load(folder)
    assert {split: len(records) for split, records in data.splits.items()} == {
        "sft": 5,
        "train": 5,
        "validation": 1,
        "test": 2,
    }
    assert check_dataset(data, 3) == []
    assert data.oracle is None


def test_the_record_of_an_answer(folder: Path) -> None:
    first, second = load(folder).splits["test"]
    assert first.ground_truth == [("Jaws", 1975), ("Heat", 1995)]
    assert first.seen_titles == ["Alien"]
    assert first.completion is None
    assert second.ground_truth == [("Up", 2009)], "named once, and Jaws was named before"
    assert second.seen_titles == ["Alien", "Jaws", "Heat"]
    assert first.context_id != second.context_id
    assert first.context_id.startswith("d1-")
    assert first.cluster_id == second.cluster_id == "d1", "turns of one dialogue are not independent"


def test_a_title_that_was_named_before_in_other_letters_is_no_target(tmp_path: Path) -> None:
    """The year distinguishes films with the same title; a title already named in the dialogue is no target."""
    names = ["HEAT (1986)", "Heat (1995)", "Up (2009)"]
    rows = [line("d", ["i like HEAT (1986)"], "Heat (1995) and Up (2009)", names)]
    (record,) = load(write(tmp_path, test=rows, **OTHERS)).splits["test"]
    assert record.seen_titles == ["HEAT"] and record.ground_truth == [("Up", 2009)]


def test_the_last_turn_is_the_seekers_and_braces_of_the_text_stay(folder: Path) -> None:
    first, second = load(folder).splits["test"]
    assert first.prompt == [{"role": "user", "content": f"Name 3 films.\nUser: {OPENING[0]}"}]
    assert second.prompt[0]["content"] == (
        f"Name 3 films.\nUser: {OPENING[0]}\nSystem: {OPENING[1]}\nUser: Only Jaws (1975). Any {{n}}?"
    )


def test_where_the_recommender_opened_he_is_still_the_system(tmp_path: Path) -> None:
    rows = [line("d", ["Hello!", "i like Alien (1979)"], "Heat (1995)", ["Heat (1995)"])]
    (record,) = load(write(tmp_path, test=rows, **OTHERS)).splits["test"]
    assert record.prompt[0]["content"].endswith("System: Hello!\nUser: i like Alien (1979)")


def test_samples_of_one_context_share_its_id_and_dialogues_do_not(tmp_path: Path) -> None:
    rows = [
        line("d1", ["hi"], "Heat (1995)", ["Heat (1995)"]),
        line("d1", ["hi"], "Alien (1979)", ["Alien (1979)"]),
        line("d2", ["hi"], "Heat (1995)", ["Heat (1995)"]),
    ]
    first, second, third = load(write(tmp_path, test=rows, **OTHERS)).splits["test"]
    assert first.context_id == second.context_id != third.context_id
    assert first.cluster_id == second.cluster_id == "d1" and third.cluster_id == "d2"


def test_a_remake_of_a_film_named_before_is_no_target(tmp_path: Path) -> None:
    rows = [line("d", ["Jumanji (1995)?"], "The new Jumanji (2017), Heat (1995)", ["Jumanji (2017)", "Heat (1995)"])]
    data = load(write(tmp_path, test=rows, **OTHERS))
    assert data.splits["test"][0].ground_truth == [("Heat", 1995)]
    assert ("Jumanji", 2017) in data.catalog


def test_what_is_left_out_is_counted(folder: Path, tmp_path: Path) -> None:
    notices = load(folder).notices
    assert any(
        n.startswith("left out: 1 answers without a target, 0 answers without an earlier turn, and 1 answers of")
        for n in notices
    )
    rows = [line("d", [], "Have you seen Heat (1995)?", ["Heat (1995)"]), *DIALOGUE]
    data = load(write(tmp_path / "opened", test=rows, **OTHERS))
    assert len(data.splits["test"]) == 2
    assert any("1 answers without an earlier turn" in notice for notice in data.notices)


def test_the_catalogue_is_the_films_of_all_files(folder: Path) -> None:
    films = load(folder).catalog.items
    assert films == sorted(films)
    assert {title for title, _ in films} == {"Alien", "Big", "Cars", "Heat", "Jaws", "Up"}


def test_percent_escapes_are_decoded_and_counted(tmp_path: Path) -> None:
    rows = [line("d", ["100% sure?"], "What About Bob%3F (1991)", ["What About Bob%3F (1991)"])]
    data = load(write(tmp_path, test=rows, **OTHERS))
    assert data.splits["test"][0].ground_truth == [("What About Bob?", 1991)]
    assert "100% sure?" in data.splits["test"][0].prompt[0]["content"]
    assert any(notice.endswith("were decoded in 2 turns and names") for notice in data.notices)


def test_long_conversations_lose_their_oldest_turns(folder: Path) -> None:
    short = load(folder, max_conversation_chars=len(OPENING[1]) + len(OPENING[2]))
    assert short.splits["test"][1].prompt[0]["content"].startswith(f"Name 3 films.\nSystem: {OPENING[1]}\nUser:")
    assert short.splits["test"][1].seen_titles == ["Alien", "Jaws", "Heat"]
    shortest = load(folder, max_conversation_chars=1)
    assert shortest.splits["test"][1].prompt[0]["content"] == f"Name 3 films.\nUser: {OPENING[2]}"
    still = "are still longer, because the last turn is always kept"
    assert [notice.split(" (dataset.")[0] for notice in shortest.notices if "than 1 characters" in notice] == [
        f"{split}: {count} conversations longer than 1 characters {what}"
        for split, count, what in [
            ("train", 5, still),
            ("validation", 1, still),
            ("test", 2, still),
            ("test", 1, "lost their oldest turns"),
        ]
    ]
    left = load(folder, max_conversation_chars=len(OPENING[0]), long_prompts="drop_sample").splits
    assert left["test"] == load(folder).splits["test"][:1]
    assert [r.context_id for r in short.splits["test"]] == [r.context_id for r in load(folder).splits["test"]]


def test_demonstrations_put_the_truth_first_then_cooccurrence_then_popularity(folder: Path) -> None:
    completions = [record.completion for record in load(folder).splits["sft"]]
    texts = [completion[0]["content"].split("\n") for completion in completions if completion]
    assert texts[0] == ["Big (1988)", "Jaws (1975)", "Cars (2006)"]
    assert texts[1] == ["Jaws (1975)", "Big (1988)", "Cars (2006)"], "Big goes with Alien, Cars is more popular"
    assert texts[2] == ["Cars (2006)", "Alien (1979)", "Jaws (1975)"], "nothing seen: by popularity, then by title"
    assert len(texts) == 5
    assert {record.cluster_id for record in load(folder).splits["sft"]} == {
        record.cluster_id for record in load(folder).splits["train"]
    }


def test_cooccurrence_counts_before_popularity(tmp_path: Path) -> None:
    together = [("a1", "Big"), ("a2", "Big"), ("a3", "Cars")]
    rows = [line(i, ["i like Alien (1979)"], f"Try {title} (1988)", [f"{title} (1988)"]) for i, title in together]
    rows += [line(f"b{i}", ["hi"], "Try Cars (1988)", ["Cars (1988)"]) for i in range(3)]
    asked = line("a4", ["i like Alien (1979)"], "Try Jaws (1975)", ["Jaws (1975)"])
    data = load(write(tmp_path, train=[*rows, asked], valid=OTHERS["valid"], test=DIALOGUE))
    assert data.splits["sft"][-1].completion == [
        {"role": "assistant", "content": "Jaws (1975)\nBig (1988)\nCars (1988)"}
    ]


def test_one_file_is_split_by_dialogue(tmp_path: Path) -> None:
    rows = [
        line(f"d{i}", context, "Up (2009) Big (1988) Cars (2006)", ["Up (2009)", "Big (1988)", "Cars (2006)"])
        for i in range(400)
        for context in (["hi"], ["hi", "hello", "Heat (1995)"])
    ]
    path = write(tmp_path / "one", train=rows)
    data = load(path)
    where = {
        split: {r.context_id.split("-")[0] for r in data.splits[split]} for split in ("train", "validation", "test")
    }
    assert (
        not where["train"] & where["validation"] | where["train"] & where["test"] | where["validation"] & where["test"]
    )
    assert sum(map(len, where.values())) == 400
    assert 170 < len(where["train"]) < 230
    assert 70 < len(where["validation"]) < 130
    assert data.splits == load(path / "train.jsonl").splits == load(write(tmp_path / "two", valid=rows)).splits
    assert data.fingerprint == load(path).fingerprint
    assert data.splits != load(path, seed=1).splits
    assert (
        "train.jsonl is the only file; its dialogues were split into train, validation and test with seed 0"
        in data.notices
    )


def test_demonstrations_know_nothing_of_the_other_splits(folder: Path, tmp_path: Path) -> None:
    more = [line(f"x{i}", ["i like Alien (1979)"], "Try Up (2009)", ["Up (2009)"]) for i in range(9)]
    other = load(write(tmp_path / "more", train=OTHERS["train"], valid=[*OTHERS["valid"], *more], test=DIALOGUE))
    assert other.splits["sft"] == load(folder).splits["sft"]


def test_the_shipped_config_loads_it(folder: Path, config: Callable[..., Config]) -> None:
    data = load_dataset(config("dataset=redial", f"dataset.path={folder}", "dataset.list_length=3").dataset)
    prompt = data.splits["test"][0].prompt[0]["content"]
    assert "3 films" in prompt
    assert prompt.endswith(f"\nUser: {OPENING[0]}")


# --- refusals ---


def test_no_path_missing_folder_and_empty_folder(tmp_path: Path) -> None:
    assert "dataset.path=FOLDER" in refusal(None)[0]
    assert "nowhere: there is no such folder; expected a folder with train.jsonl" in refusal(tmp_path / "nowhere")[0]
    assert "none of the files" in refusal(tmp_path)[0]


def test_two_of_three_files_are_refused(tmp_path: Path) -> None:
    (problem,) = refusal(write(tmp_path, test=DIALOGUE, train=OTHERS["train"]))
    assert "found train.jsonl and test.jsonl" in problem


LONG = [
    "Hi, I am looking for something exciting to see with my two sisters tonight",
    "What about Heat (1995)? It has a chase and a robbery",
    "Seen it, thanks",
]


def test_a_dialogue_in_two_files_is_refused(tmp_path: Path) -> None:
    """Splitting by answers causes this: the test answer continues after an answer of the train file."""
    train = [*OTHERS["train"], line("d7", LONG[:1], LONG[1], ["Heat (1995)"])]
    test = [*DIALOGUE, line("d7", LONG, "Then Jaws (1975)", ["Jaws (1975)"])]
    (problem,) = refusal(write(tmp_path, train=train, valid=OTHERS["valid"], test=test))
    assert problem == (
        f"{tmp_path / 'train.jsonl'} and test.jsonl: 1 dialogues are in both, for example dialog_id d7, so 'train' "
        "and "
        "'test' would not be independent; keep each dialogue in one file"
    )


def test_files_may_each_number_their_dialogues_from_the_start(tmp_path: Path) -> None:
    train = [*OTHERS["train"], line("d7", LONG[:1], LONG[1], ["Heat (1995)"])]
    other = ["Hi, I am looking for a quiet drama, please, nothing with cars", *LONG[1:]]
    test = [*DIALOGUE, line("d7", other, "Then Jaws (1975)", ["Jaws (1975)"])]
    greeting = [line("t3", ["hi"], "Heat (1995)", ["Heat (1995)"])]
    data = load(write(tmp_path, train=train, valid=[*OTHERS["valid"], *greeting], test=test))
    assert len(data.splits["test"]) == 3 and len(data.splits["validation"]) == 2


def test_options_and_lines_are_refused_together(folder: Path) -> None:
    rows = [json.dumps(row) for row in DIALOGUE]
    bad = [
        "{broken",
        '["no object"]',
        json.dumps({**DIALOGUE[0], "context": "text", "resp": None}),
        json.dumps({key: value for key, value in DIALOGUE[0].items() if key != "entity_name"}),
        json.dumps({**DIALOGUE[0], "is_user": "no"}),
    ]
    (folder / "test.jsonl").write_text("\n".join([rows[0], *bad]))
    (folder / "valid.jsonl").write_bytes(b"\xff\n")
    problems = refusal(folder, prompt_template="Name films", validation_fraction=0.0)
    text = "\n".join(problems)
    assert "dataset.prompt_template has no {conversation}" in text
    assert "dataset.validation_fraction = 0.0" in text
    assert f"{folder / 'valid.jsonl'}, line 1: not JSON" in text
    file = folder / "test.jsonl"
    assert f"{file}, line 2: not JSON: " in text
    assert f"{file}, line 3: not a JSON object" in text
    assert f"{file}, line 4: context must be a list of str: 'text'" in text
    assert f"{file}, line 4: resp must be a str: None" in text
    assert f"{file}, line 5: entity_name must be a list of str: missing" in text
    assert f"{file}, line 6: is_user must be 0 or 1: 'no'" in text
    assert len(problems) == 9


def test_a_file_without_answers_is_refused(folder: Path) -> None:
    (folder / "test.jsonl").write_text("\n")
    assert refusal(folder) == [f"{folder / 'test.jsonl'} has no answer of the recommender"]


def test_fractions_must_leave_a_train_split(folder: Path) -> None:
    assert "leaves nothing for the train split" in refusal(folder, validation_fraction=0.5, test_fraction=0.5)[0]


def test_lists_longer_than_the_train_films_are_refused(folder: Path) -> None:
    (problem,) = refusal(folder, list_length=5)
    assert "only 4 films, too few" in problem


def test_names_without_years_are_said_to_have_none(tmp_path: Path) -> None:
    rows = [line(f"d{i}", ["I liked Alien"], "Then Jaws!", ["Jaws", "Heat"]) for i in range(9)]
    (problem,) = refusal(write(tmp_path / "one", test=rows))
    file = tmp_path / "one" / "test.jsonl"
    assert problem == (
        f"{file}: no film has a year (entity_name has 'Jaws', 'Heat'), but films are recognised only as "
        '"Title '
        '(Year)"; add the year to every film in context, resp and entity_name'
    )
    (problem,) = refusal(write(tmp_path / "three", train=rows, valid=OTHERS["valid"], test=DIALOGUE))
    assert problem == (
        f"{tmp_path / 'three' / 'train.jsonl'}: none of the 9 answers of 'train' names a film as \"Title (Year)\""
    )
    seen = [line("d", ["I liked Alien (1979)"], "Alien (1979)?", ["Alien (1979)"])]
    (problem,) = refusal(write(tmp_path / "seen", train=seen, valid=OTHERS["valid"], test=DIALOGUE))
    assert problem.endswith(
        "train.jsonl: none of the 1 answers of 'train' has a target: a target is a film that the answer names and no "
        "earlier turn does"
    )


# --- the real file ---


@pytest.fixture(scope="module")
def real() -> RankedListDataset:
    path = shared_data("redial", "test.jsonl")
    return load(path, list_length=20, validation_fraction=0.1, test_fraction=0.2)


def everything(data: RankedListDataset) -> list[Record]:
    return [record for split in ("train", "validation", "test") for record in data.splits[split]]


def test_real_records_are_sound(real: RankedListDataset) -> None:
    assert check_dataset(real, 20) == []
    assert all(share_outside_catalog(records, real.catalog) == 0 for records in real.splits.values())
    for record in everything(real):
        seen = set(map(normalise, record.seen_titles))
        assert not seen & {normalise(title) for title, _ in record.ground_truth}
        assert record.prompt[0]["content"].rsplit("\n", 1)[-1].startswith("User: ")


def test_real_counts(real: RankedListDataset) -> None:
    records = everything(real)
    assert len(shared_data("redial", "test.jsonl").read_bytes().splitlines()) == 3552
    assert len(records) == 3122
    assert len({record.context_id for record in records}) == len(records)
    assert len(real.catalog) == 1802
    assert len(real.splits["train"]) / len(records) == pytest.approx(0.7, abs=0.03)


def test_real_first_dialogue(real: RankedListDataset) -> None:
    truths = [r.ground_truth for r in everything(real) if r.context_id.startswith("test_20001-")]
    assert truths == [
        [("Police Academy", 1984)],
        [("Police Academy 2: Their First Assignment", 1985)],
        [("Lethal Weapon", 1987)],
        [("Beverly Hills Cop", 1984)],
        [("48 Hrs.", 1982)],
    ]


def test_real_films_can_be_written_and_read_back(real: RankedListDataset) -> None:
    assert [parse_line(f"{title} ({year})") for title, year in real.catalog.items] == real.catalog.items


def test_real_demonstrations_are_full_lists_without_repeats(real: RankedListDataset) -> None:
    for record in real.splits["sft"]:
        assert record.completion is not None
        films = [(entry.title, entry.year) for entry in parse_list(record.completion[0]["content"])]
        assert len(set(films)) == 20
        assert films[: len(record.ground_truth)] == record.ground_truth
        assert all(film in real.catalog for film in films)
        assert not {normalise(title) for title, _ in films} & set(map(normalise, record.seen_titles))


def test_most_real_films_are_read_right_without_the_list_of_names() -> None:
    rows = [json.loads(text) for text in shared_data("redial", "test.jsonl").read_bytes().splitlines()]
    texts = dict.fromkeys(text for row in rows for text in (*row["context"], row["resp"]) if text)
    by_list = learn_film_names((name for row in rows for name in row["entity_name"]), texts)
    by_reading = learn_film_names([], texts)
    found = [(text, film) for text in texts for film in by_list.find(text)]
    same = [film in by_reading.find(text) for text, film in found]
    assert sum(same) / len(same) > 0.97


# Independent audit. The title before a year is the longest run of words that another source lists as a title (DBpedia's
# names, and the films of ReDial's train split). The loader reads neither source.

UNLISTED = {
    "2036 Origin Unknown", "After the Silence", "B*A*P*S", "Batman Revealed", "Battlefield Earth", "Colossal",
    "Curse of the Blue Lights", "Express", "Fellowship of the Ring", "Frost/Nixon", "Funny Things Happen Down Under",
    "Highlander III: The Sorcerer", "Highlander: The Source", "Horrorween", "Jungle Book",
    "Killer Clowns from Outer Space", "MASH", "Oklahoma", "Pigeon", "REC", "Reefer Madness", "S", "Shreck",
    "Six Reasons Why", "Star!", "The Amityville Curse", "The Hatching", "The Jailhouse", "The Pool Boys",
    "Toy Story 2", "Toy Story 4", "Up Close and Personal", "Up Denali 3D", "Zathura",
}  # fmt: skip
"""Titles found by reading the text. Neither source lists them."""
LISTED_WITHOUT_ARTICLE = {
    1991: {"godfather"},
    1996: {"scream"},
    2005: {"descent", "room"},
    2006: {"notebook"},
    2010: {"hangover"},
    2014: {"hangover"},
    2018: {"black panther"},
}
"""Films by year that ReDial's own list gives without an article; the other sources list a film with one."""
NO_FILM = {"was good and action", "infinity war"}
"""Text before a year that is not a film title."""


def plain(title: str) -> str:
    """Return the words in lower case without most punctuation."""
    return re.sub(r"[^\w!&$½²+*\[\]#@%–-]+", " ", title.casefold()).strip() or title.casefold()


def titles_of_other_sources() -> set[str]:
    resource = "<http://dbpedia.org/resource/"
    names = [
        unquote(name[len(resource) : -1]).replace("_", " ")
        for name in json.loads(shared_data("redial", "entity2id.json").read_text(encoding="utf-8"))
    ]
    for dialogue in shared_data("redial_official", "train_data.jsonl").read_text(encoding="utf-8").splitlines():
        names += filter(None, dict(json.loads(dialogue)["movieMentions"]).values())
    return {plain(form) for name in names for form in (name, re.sub(r" *\([^()]*\) *$", "", name))}


def audited(text: str, listed: set[str]) -> list[tuple[str, int]]:
    """Return (plain title, year) of each mention in a text."""
    films = []
    parts = re.split(r"\(\s*([0-9]{4})\s*\)", " ".join(unquote(text).split()))
    for before, year in zip(parts[0::2], parts[1::2], strict=False):
        words = before.split()
        endings = [" ".join(words[start:]).lstrip("\"'“‘(.,!?;/¡¿") for start in range(len(words))]
        longest = next((plain(ending) for ending in endings if ending and plain(ending) in listed), None)
        by_eye = max((title for title in UNLISTED if before.strip().endswith(title)), key=len, default="")
        if by_eye and len(plain(by_eye)) > len(longest or ""):
            longest = plain(by_eye)
        if (longest or "").removeprefix("the ") in LISTED_WITHOUT_ARTICLE.get(int(year), ()):
            longest = (longest or "").removeprefix("the ")
        if longest and before.strip().split(". ")[-1] not in NO_FILM:
            films.append((longest, int(year)))
    return films


@pytest.fixture(scope="module")
def listed() -> set[str]:
    return titles_of_other_sources()


def test_targets_and_seen_titles_of_the_whole_file_agree_with_the_audit(
    real: RankedListDataset, listed: set[str]
) -> None:
    expected = Counter()
    for row in map(json.loads, shared_data("redial", "test.jsonl").read_text(encoding="utf-8").splitlines()):
        turns = [turn for turn in row["context"] if turn.strip()]
        seen = {title for turn in turns for title, _ in audited(turn, listed)}
        truth = {film for film in audited(row["resp"], listed) if film[0] not in seen}
        if turns and truth:
            expected[str(row["dialog_id"]), frozenset(truth), frozenset(seen)] += 1
    found = Counter(
        (
            record.context_id.rpartition("-")[0],
            frozenset((plain(title), year) for title, year in record.ground_truth),
            frozenset(map(plain, record.seen_titles)),
        )
        for record in everything(real)
    )
    assert found == expected
    assert found.total() == 3122


def test_every_film_of_the_catalogue_is_one_that_the_audit_knows(real: RankedListDataset, listed: set[str]) -> None:
    known = listed | set(map(plain, UNLISTED))
    assert [film for film in real.catalog.items if plain(film[0]) not in known] == []


def test_prompts_that_stand_in_training_word_for_word_are_counted(tmp_path: Path) -> None:
    """Copies of a dialogue with other ids are separate dialogues; a notice counts those that are also in training."""
    train = [*OTHERS["train"], line("d7", LONG[:1], LONG[1], ["Heat (1995)"])]
    test = [*DIALOGUE, line("d8", LONG[:1], LONG[1], ["Heat (1995)"])]
    data = load(write(tmp_path, train=train, valid=OTHERS["valid"], test=test))
    said = [notice for notice in data.notices if "word for word" in notice]
    rest = "1 prompts also occur word for word in the training data"
    assert said == [f"validation: {rest}", f"test: {rest}"]
