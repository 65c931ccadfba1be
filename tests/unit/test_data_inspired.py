"""INSPIRED: titles in utterances, small hand-made files, and the real file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlbench.config.datasets import DATASETS
from rlbench.config.schema import Config, InspiredConfig
from rlbench.data import load_dataset
from rlbench.data.checks import check_dataset
from rlbench.data.record import RankedListDataset
from rlbench.data.said import named_titles, title_key
from rlbench.lists.catalog import normalise
from tests.helpers import shared_data
from tests.helpers_inputs import loader, refuser

TEMPLATE = "Name {n} films.\n{conversation}"


# --- titles in utterances ---


def named(text: str, annotated: list[str], elsewhere: list[str] | None = None, known: list[str] | None = None) -> list:
    keys = {title_key(title): title for title in [*annotated, *(elsewhere or []), *(known or [])]}
    sets = [{title_key(title) for title in titles or []} for titles in (annotated, elsewhere, known)]
    return [keys[key] for key in named_titles(text, *sets)]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Have you seen The Purge?", "The Purge"),
        ("have you seen airplane?", "Airplane!"),
        ("I recommend Avengers End Game.", "Avengers: Endgame"),
        ("did you see IT Chapter 2?", "It Chapter Two"),
        ("How to lose a guy in ten days", "How to Lose a Guy in 10 Days"),
        ("The first movie that came to mind is Joker.", "Joker"),
        ("Neighbors!", "Neighbors"),
        ("Parasite is great", "Parasite"),
        ("also Heat, Braveheart", "Heat"),
        ("how about the movie knives out", "Knives Out"),
        ("the lion king was good", "The Lion King"),
        ("the new X-Men movie", "X-Men"),
        ("Ford V Ferrari is new", "Ford v Ferrari"),
        ("so It movie fans", "It"),
    ],
)
def test_an_annotated_title_that_an_utterance_names(text: str, title: str) -> None:
    assert named(text, [title]) == [title]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("It stars Bill Murray", "It"),
        ("It stars Bill Murray", "Murray"),
        ("a role for Emma Thompson", "Emma"),
        ("released on November 1, 2019", "November"),
        ("Have you seen Frozen 2?", "Frozen"),
        ("watch John Wick 3", "John Wick"),
        ("Happy watching!", "Happy"),
        ("Alright!", "Alright"),
        ("it is my home town", "Home Town"),
        ("I saw it this Friday", "Friday"),
        ("it won an Oscar", "Oscar"),
        ("have you seen the trailer?", "The Trailer"),
        ("I just saw a great film", "Us"),
        ("banana", "Anna"),
    ],
)
def test_an_annotated_title_that_an_utterance_does_not_name(text: str, title: str) -> None:
    assert named(text, [title]) == []


def test_titles_named_elsewhere_in_the_dialogue_and_titles_of_the_catalogue() -> None:
    assert named("i believe inception", [], ["Inception"]) == ["Inception"]
    assert named("it is great", [], ["It"]) == []
    assert named("it is a murder mystery", [], ["Murder Mystery"]) == []
    known = ["A Clockwork Orange", "Clueless", "Beauty and the Beast", "Good Time", "Toy Story", "Toy Story 4"]
    assert named("A Clockwork Orange, I think", [], [], known) == ["A Clockwork Orange"]
    assert named("a classic called Clueless", [], [], known) == ["Clueless"]
    assert named("Clueless as ever", [], [], known) == []
    assert named("we had a good time at beauty and the beast", [], [], known) == ["Beauty and the Beast"]
    assert named("Toy Story 4, Toy Story and Toy Story 9", [], [], known) == ["Toy Story 4", "Toy Story"]


# --- hand-made files ---

Row = tuple[str, str, str, str]
COLUMNS = ("dialog_id", "utt_id", "speaker", "text", "movies")


def row(dialogue: str, speaker: str, text: str, movies: str = "") -> Row:
    return dialogue, {"R": "RECOMMENDER", "S": "SEEKER"}[speaker], text, movies


TALK = [
    row("d1", "R", "Hello!"),
    row("d1", "S", "I liked QUOTATION_MARKAlienQUOTATION_MARK", "Alien (1979)"),
    row("d1", "S", "and Up. Any {n}?", "Up (2009)"),
    row("d1", "R", "Try Heat. It stars Al Pacino", "Heat (1995); It (1990)"),
    row("d1", "R", "or Up, or Jaws.", "Up (2009); Jaws (1976)"),
    row("d1", "S", "ok"),
    row("d1", "R", "Have you seen Taboo?", "Taboo ()"),
    row("d1", "S", "ok"),
    row("d1", "R", "Have you seen Heat?", "Heat (1995)"),
]


def asked(name: str, title: str = "Big (1988)") -> list[Row]:
    films = f"{title}; Cars (2006)"
    return [row(name, "S", "I saw Alien", "Alien (1979)"), row(name, "R", f"Try {title[:-7]}, or Cars.", films)]


CATALOG = [["Alien", 1979], ["Up", 2009], ["Heat", 1995], ["Heat", 1986], ["Jaws", 1975], ["Big", 1988], ["Cars", 2006]]
TRAIN = [line for number in range(6) for line in asked(f"t{number}")]


def write(folder: Path, **files: list[Row]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        lines = ["\t".join(COLUMNS)]
        lines += [
            "\t".join((who, str(n), speaker, text, movies)) for n, (who, speaker, text, movies) in enumerate(rows)
        ]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "catalog.json").write_text(json.dumps(CATALOG))
    return folder


_load = loader(
    InspiredConfig,
    name="inspired",
    cutoffs=[],
    list_length=2,
    prompt_template=TEMPLATE,
    validation_fraction=0.25,
    test_fraction=0.25,
    seed=0,
)


def load(path: Path | None, **options: Any) -> RankedListDataset:
    catalog = str(path / "catalog.json") if path and path.is_dir() else None
    return _load(path, **{"catalog": catalog, **options})


refusal = refuser(load)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "inspired", train=TRAIN, dev=asked("v"), test=TALK)


def test_the_record_of_a_turn(folder: Path) -> None:
    data = load(folder)
    (record,) = data.splits["test"]
    assert record.prompt[0]["content"] == 'Name 2 films.\nSystem: Hello!\nUser: I liked "Alien" and Up. Any {n}?'
    assert record.ground_truth == [("Heat", 1995), ("Jaws", 1975)], "the catalogue's year; Up was named, It is no film"
    assert record.seen_titles == ["Alien", "Up"]
    assert record.cluster_id == "d1"
    assert check_dataset(data, 2) == []
    assert len(data.catalog) == len(CATALOG)
    assert data.splits["sft"][0].completion is not None


def test_annotations_and_titles_are_counted(folder: Path) -> None:
    notices = load(folder).notices
    assert "29 annotated films: 1 are not named by the utterance; 0 titles were named without an annotation" in notices
    assert (
        "27 mentions were found in the catalogue, 0 have the title of several films, and 1 are not in the catalogue, "
        "of which 1 have one word and were ignored" in notices
    )


@pytest.mark.parametrize(
    ("text", "movies", "truth"),
    [
        ("the 1986 movie Heat", "Heat (1995)", [("Heat", 1986)]),
        ("the movie Heat", "Heat (1994)", [("Heat", 1995)]),
        ("the movie Heat", "Heat (2005)", []),
        ("the movie Heat", "Heat", []),
        ("the movie Jaws", "Jaws", [("Jaws", 1975)]),
    ],
)
def test_the_year_decides_between_films_of_one_title(tmp_path: Path, text: str, movies: str, truth: list) -> None:
    rows = [row("d", "S", "Hi"), row("d", "R", text, movies), row("d", "S", "ok"), row("d", "R", "Up!", "Up (2009)")]
    records = load(write(tmp_path, train=TRAIN, dev=asked("v"), test=rows)).splits["test"]
    assert [film for record in records[:-1] for film in record.ground_truth] == truth
    assert records[-1].seen_titles == [movies[:4]], "an unresolved title is seen"


def test_without_a_catalogue_the_films_of_the_files_are_it(folder: Path) -> None:
    data = load(folder, catalog=None)
    assert {title for title, _ in data.catalog.items} == {"Alien", "Up", "Heat", "Jaws", "Big", "Cars"}
    assert data.splits["test"][0].ground_truth == [("Heat", 1995), ("Jaws", 1976)]


def test_one_file_is_split_by_dialogue(tmp_path: Path) -> None:
    rows = [line for number in range(60) for line in asked(f"d{number}", ["Big (1988)", "Heat (1995)"][number % 2])]
    data = load(write(tmp_path, dev=rows))
    where = {split: {record.cluster_id for record in data.splits[split]} for split in ("train", "validation", "test")}
    assert sum(map(len, where.values())) == 60 and all(len(names) > 5 for names in where.values())
    assert (
        "dev.tsv is the only file; its dialogues were split into train, validation and test with seed 0" in data.notices
    )


def test_the_shipped_config_loads_it(folder: Path, config: Callable[..., Config]) -> None:
    options = [f"dataset.path={folder}", f"dataset.catalog={folder / 'catalog.json'}", "dataset.list_length=2"]
    settings = config("dataset=inspired", *options).dataset
    assert load_dataset(settings).splits["test"][0].prompt[0]["content"].endswith("Any {n}?")
    assert list(DATASETS["inspired"].sources(settings)) == [
        "train.tsv",
        "dev.tsv",
        "test.tsv",
        "catalogue catalog.json",
    ]


def test_problems_are_refused_together(folder: Path) -> None:
    file = folder / "test.tsv"
    lines = file.read_text().splitlines()
    lines[2] = lines[2].replace("SEEKER", "USER")
    lines[3] = "d1\t1\tSEEKER"
    lines[4] = lines[4][2:]
    file.write_text("\n".join(lines))
    (folder / "dev.tsv").write_text("dialog_id\ttext\na\tb\n")
    (folder / "train.tsv").write_text("\t".join(COLUMNS))
    text = "\n".join(refusal(folder, prompt_template="x", catalog=str(folder / "none.json")))
    assert "dataset.prompt_template has no {conversation}" in text
    assert f"{file}, line 3: speaker must be RECOMMENDER or SEEKER: 'USER'" in text
    assert f"{file}, line 4: the number of columns differs from that of the first line" in text
    assert f"{file}, line 5: dialog_id is empty" in text
    assert f"{folder / 'dev.tsv'}: column speaker, movies is missing" in text
    assert f"{folder / 'train.tsv'} has no rows" in text
    assert f"catalogue {folder / 'none.json'}: there is no such file" in text


def test_a_split_without_a_target_says_so(tmp_path: Path) -> None:
    rows = [row("d", "S", "I saw Up", "Up (2009)"), row("d", "R", "Up is good", "Up (2009)")]
    (problem,) = refusal(write(tmp_path, train=TRAIN, dev=asked("v"), test=rows))
    assert problem.startswith(f"{tmp_path / 'test.tsv'}: none of the 1 answers of 'test' has a target")


# --- the real file ---


def test_the_real_file() -> None:
    file, catalog = shared_data("inspired", "dev.tsv"), shared_data("reddit_v2", "gt_catalog.pkl")
    data = load(file, catalog=str(catalog), list_length=10)
    assert check_dataset(data, 10) == []
    records = [record for split in ("train", "validation", "test") for record in data.splits[split]]
    assert len(records) == 166 and len({record.cluster_id for record in records}) == 87
    for record in records:
        assert not set(map(normalise, record.seen_titles)) & {normalise(title) for title, _ in record.ground_truth}
        assert all(film in data.catalog for film in record.ground_truth)
