"""ReDial in its authors' form: small hand-made files, and the real files with CRSLab's test split."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlbench.config.datasets import DATASETS
from rlbench.config.schema import Config, RedialOfficialConfig
from rlbench.data import load_dataset
from rlbench.data.checks import check_dataset, share_outside_catalog
from rlbench.data.record import RankedListDataset
from rlbench.lists.catalog import normalise
from tests.helpers import shared_data
from tests.helpers_inputs import loader, refuser, write_lines
from tests.unit.test_data_redial import DIALOGUE as CRSLAB_DIALOGUE

TEMPLATE = "Name {n} films.\n{conversation}"
SEEKER, RECOMMENDER = 5, 8
FILMS = {"1": "Alien  (1979)", "2": "Jaws (1975)", "3": "Heat (1995)", "4": "Up (2009)", "5": "Big (1988)"}


def dialogue(name: str, *messages: tuple[int, str], films: Any = None, **changes: Any) -> dict:
    """A line of a file. Messages are (sender, text)."""
    return {
        "conversationId": name,
        "initiatorWorkerId": SEEKER,
        "respondentWorkerId": RECOMMENDER,
        "movieMentions": FILMS if films is None else films,
        "messages": [{"senderWorkerId": who, "text": text, "messageId": 1, "timeOffset": 0} for who, text in messages],
        "initiatorQuestions": {"2": {"suggested": 1, "seen": 0, "liked": 1}},
        "respondentQuestions": [],
        **changes,
    }


TALK = dialogue(
    "100",
    (RECOMMENDER, "Hello!"),
    (SEEKER, "Hi."),
    (SEEKER, "I liked  @1, any {n}?"),
    (RECOMMENDER, "Try @2 or @1"),
    (RECOMMENDER, "and @3!"),
    (SEEKER, "  "),
    (SEEKER, "Seen @2."),
    (RECOMMENDER, "Bye"),
)
ASKED = [
    dialogue(
        f"{n}", (SEEKER, "I like @1"), (RECOMMENDER, "Try @2 and @4"), (SEEKER, "I like @5, too"), (RECOMMENDER, "Bye")
    )
    for n in range(20)
]


def write(folder: Path, train: list[dict], test: list[dict] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("train_data", train), ("test_data", test)):
        if rows is not None:
            write_lines(folder / f"{name}.jsonl", rows)
    return folder


load = loader(
    RedialOfficialConfig,
    name="redial_official",
    cutoffs=[],
    list_length=3,
    test=None,
    prompt_template=TEMPLATE,
    validation_fraction=0.25,
    seed=0,
    max_conversation_chars=None,
)
refusal = refuser(load)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "redial", ASKED, [TALK])


def test_the_record_of_an_answer(folder: Path) -> None:
    data = load(folder)
    (record,) = data.splits["test"]
    assert record.prompt == [
        {
            "role": "user",
            "content": "Name 3 films.\nSystem: Hello!\nUser: Hi. I liked Alien (1979), any {n}?",
        }
    ], "messages of one speaker are one turn, and a mention is the film's name"
    assert record.ground_truth == [("Jaws", 1975), ("Heat", 1995)], "Alien was named before"
    assert record.seen_titles == ["Alien"]
    assert record.cluster_id == "100" and record.context_id.startswith("100-")
    assert record.completion is None
    assert check_dataset(data, 3) == []


def test_the_initiator_is_the_seeker_whoever_opens(tmp_path: Path) -> None:
    swapped = dialogue(
        "100",
        (SEEKER, "Try @2"),
        (RECOMMENDER, "I like @1"),
        (SEEKER, "Then @3"),
        initiatorWorkerId=RECOMMENDER,
        respondentWorkerId=SEEKER,
    )
    (record,) = load(write(tmp_path, ASKED, [swapped])).splits["test"]
    assert record.prompt[0]["content"].endswith("System: Try Jaws (1975)\nUser: I like Alien (1979)")
    assert record.ground_truth == [("Heat", 1995)]


def test_train_dialogues_are_divided_by_seed_and_id(folder: Path) -> None:
    data = load(folder)
    where = {split: {record.cluster_id for record in data.splits[split]} for split in ("train", "validation")}
    assert not where["train"] & where["validation"]
    assert where["train"] | where["validation"] == {f"{n}" for n in range(20)}
    assert 2 <= len(where["validation"]) <= 8
    assert data.fingerprint == load(folder).fingerprint != load(folder, seed=1).fingerprint
    assert data.notices[0] == "train_data.jsonl was split into train and validation by dialogue, with seed 0"
    assert data.splits["sft"][0].completion == [{"role": "assistant", "content": "Jaws (1975)\nUp (2009)\nBig (1988)"}]


def test_a_film_without_a_year_gets_that_of_the_only_film_of_its_title(tmp_path: Path) -> None:
    films = {
        "1": "alien ",
        "2": "Jumanji",
        "3": "Jumanji (1995)",
        "4": "Jumanji (2017)",
        "5": "Taboo",
        "6": "Up (2009)",
    }
    asked = dialogue("100", (SEEKER, "I like @5"), (RECOMMENDER, "Try @1, @2 and @6"), films=films)
    later = dialogue("101", (SEEKER, "I like @1 and @2"), (RECOMMENDER, "Try @4 and @6"), films=films)
    data = load(write(tmp_path, ASKED, [asked, later]))
    first, second = data.splits["test"]
    assert first.ground_truth == [("Alien", 1979), ("Up", 2009)]
    assert first.seen_titles == ["Taboo"], "a title without a year is seen"
    assert second.seen_titles == ["Alien", "Jumanji"] and second.ground_truth == [("Up", 2009)]
    assert second.prompt[0]["content"].endswith("User: I like alien and Jumanji"), "the text is the authors'"
    assert (
        "6 entries of movieMentions have no year: 2 have the title of one film and got its year, 2 have that of "
        "several films, 2 that of none" in data.notices
    )


def test_an_id_without_a_name_is_removed_and_counted(tmp_path: Path) -> None:
    asked = dialogue(
        "100",
        (SEEKER, "I like @9 and @1"),
        (RECOMMENDER, "So @7"),
        (SEEKER, "?"),
        (RECOMMENDER, "Try @2"),
        films={**FILMS, "9": None},
    )
    data = load(write(tmp_path, ASKED, [asked]))
    (record,) = data.splits["test"]
    assert record.prompt[0]["content"].endswith(".\nUser: I like and Alien (1979)\nSystem: So\nUser: ?")
    assert record.seen_titles == ["Alien"]
    assert "2 mentions have an id without a name in movieMentions and were removed" in data.notices


def test_what_seekers_say_changes_no_target_and_is_counted(tmp_path: Path) -> None:
    disliked = {"2": {"suggested": 0, "seen": 1, "liked": 0}, "1": {"suggested": 0, "seen": 0, "liked": 0}}
    data = load(write(tmp_path, ASKED, [{**TALK, "initiatorQuestions": disliked}]))
    assert data.splits["test"] == load(write(tmp_path / "plain", ASKED, [TALK])).splits["test"]
    assert any(
        notice.startswith("of 21 films that recommenders name first")
        and "1 were not suggested, 1 they had seen" in notice
        for notice in data.notices
    )


def test_a_year_that_only_the_test_file_knows_does_not_reach_train(tmp_path: Path) -> None:
    films = {**FILMS, "6": "Taboo"}
    train = [
        *ASKED,
        *(dialogue(f"t{n}", (SEEKER, "I like @1"), (RECOMMENDER, "@2 or @6"), films=films) for n in range(9)),
    ]
    test = [dialogue("100", (SEEKER, "I like @6"), (RECOMMENDER, "@2"), films={**FILMS, "6": "Taboo (1999)"})]
    data = load(write(tmp_path, train, test))
    assert ("Taboo", 1999) in data.catalog and data.splits["test"][0].seen_titles == ["Taboo"]
    assert ("Taboo", 1999) not in {film for record in data.splits["train"] for film in record.ground_truth}
    assert ("Taboo", 1999) in {film for record in data.splits["validation"] for film in record.ground_truth}


def test_the_test_file_may_have_crslabs_form(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in CRSLAB_DIALOGUE))
    data = load(folder, test=str(file))
    assert [record.ground_truth for record in data.splits["test"]] == [[("Jaws", 1975), ("Heat", 1995)], [("Up", 2009)]]
    for split in ("sft", "train", "validation"):
        assert data.splits[split] == load(folder).splits[split], "the test file changes no other split"
    assert check_dataset(data, 3) == []


def test_the_shipped_config_loads_it(folder: Path, config: Callable[..., Config]) -> None:
    settings = config("dataset=redial_official", f"dataset.path={folder}", "dataset.list_length=3").dataset
    assert load_dataset(settings).splits["test"][0].prompt[0]["content"].endswith("any {n}?")
    assert list(DATASETS["redial_official"].sources(settings)) == ["train train_data.jsonl", "test test_data.jsonl"]


# --- refusals ---


def test_missing_files_are_refused_together(tmp_path: Path) -> None:
    assert "dataset.path=FOLDER" in refusal(None)[0]
    assert (
        "nowhere: there is no such folder; expected a folder with train_data.jsonl" in refusal(tmp_path / "nowhere")[0]
    )
    train, test = refusal(tmp_path)
    assert "train_data.jsonl: there is no such file; expected a folder" in train
    assert "test_data.jsonl: there is no such file; dataset.test=FILE names another" in test


def test_options_and_lines_are_refused_together(folder: Path) -> None:
    bad = [
        "{broken",
        "[]",
        json.dumps({**TALK, "conversationId": None, "movieMentions": ["x"]}),
        json.dumps({**TALK, "messages": [{"text": "hi", "senderWorkerId": 3}]}),
        json.dumps({**TALK, "messages": [{"text": None, "senderWorkerId": SEEKER}]}),
        json.dumps({**TALK, "initiatorQuestions": {"2": {"suggested": 5, "seen": 0, "liked": 1}}}),
        json.dumps({**TALK, "respondentWorkerId": SEEKER}),
        json.dumps({**TALK, "movieMentions": {"1": "\ud800"}}),
        json.dumps(TALK),
    ]
    file = folder / "test_data.jsonl"
    file.write_text("\n".join([json.dumps(TALK), *bad]))
    problems = refusal(folder, prompt_template="Name films", validation_fraction=1.0)
    text = "\n".join(problems)
    assert "dataset.prompt_template has no {conversation}" in text
    assert "dataset.validation_fraction = 1.0 must lie in (0, 1)" in text
    for line, words in [
        (2, "not JSON: "),
        (3, "not a JSON object: []"),
        (4, "conversationId must be a str or int: None"),
        (4, "movieMentions must be an object of id to name, or an empty list: ['x']"),
        (5, "senderWorkerId is neither initiatorWorkerId nor respondentWorkerId: 3"),
        (6, "messages must be a list of {text: str, senderWorkerId}"),
        (7, "initiatorQuestions must be an object of id to suggested, seen and liked (0, 1 or 2)"),
        (8, "initiatorWorkerId and respondentWorkerId are equal, so nobody is the recommender: 5"),
        (9, "a text contains half a character (a lone surrogate)"),
        (10, "conversationId is that of an earlier line: 100"),
    ]:
        assert f"{file}, line {line}: {words}" in text


LONG = "Hi, I am looking for something exciting to see with my two sisters tonight, like @1, please"


def test_a_dialogue_in_both_files_is_refused(tmp_path: Path) -> None:
    both = dialogue("100", (SEEKER, LONG), (RECOMMENDER, "Try @2"))
    (problem,) = refusal(write(tmp_path / "one", [*ASKED, both], [both]))
    assert "train_data.jsonl and test_data.jsonl: 1 dialogues are in both, for example dialog_id 100" in problem
    file = tmp_path / "test.jsonl"
    row = {
        "context": ["", LONG.replace("@1", "Alien (1979)")],
        "resp": "Try Jaws (1975)",
        "entity_name": ["Jaws (1975)"],
        "dialog_id": "test_100",
        "is_user": 0,
    }
    file.write_text(json.dumps(row))
    assert "dialog_id 100" in refusal(tmp_path / "one", test=str(file))[0], "CRSLab writes another id"


def test_a_split_without_a_target_says_so(tmp_path: Path) -> None:
    problems = refusal(write(tmp_path, ASKED, [dialogue("100", (SEEKER, "I like @1"), (RECOMMENDER, "@1 is good"))]))
    assert problems == [
        f"{tmp_path / 'test_data.jsonl'}: none of the 1 answers of 'test' has a target: a target is a film with a year "
        "that the answer names and no earlier turn does"
    ]


def test_an_empty_file_is_refused(folder: Path) -> None:
    (folder / "test_data.jsonl").write_text("\n")
    assert refusal(folder) == [f"{folder / 'test_data.jsonl'} has no dialogue"]


# --- the real files ---


@pytest.fixture(scope="module")
def real() -> RankedListDataset:
    path, test = shared_data("redial_official", "train_data.jsonl"), shared_data("redial", "test.jsonl")
    return load(path.parent, test=str(test), list_length=20, validation_fraction=0.1)


def test_real_protocol(real: RankedListDataset) -> None:
    assert check_dataset(real, 20) == []
    assert {split: len(records) for split, records in real.splits.items()} == {
        "sft": 2362,
        "train": 2362,
        "validation": 232,
        "test": 3122,
    }
    assert len(real.catalog) == 2792
    assert all(share_outside_catalog(records, real.catalog) == 0 for records in real.splits.values())
    for record in (record for records in real.splits.values() for record in records):
        assert not set(map(normalise, record.seen_titles)) & {normalise(title) for title, _ in record.ground_truth}
        assert record.prompt[0]["content"].rsplit("\n", 1)[-1].startswith("User: ")


def test_real_test_records_are_those_of_crslabs_split(real: RankedListDataset) -> None:
    truths = [r.ground_truth for r in real.splits["test"] if r.cluster_id == "test_20001"]
    assert truths == [
        [("Police Academy", 1984)],
        [("Police Academy 2: Their First Assignment", 1985)],
        [("Lethal Weapon", 1987)],
        [("Beverly Hills Cop", 1984)],
        [("48 Hrs.", 1982)],
    ]
