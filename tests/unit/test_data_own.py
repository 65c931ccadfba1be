"""A user's own data, `dataset=jsonl` and `dataset=hf`: what is read, what is drawn, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from rlbench.base.cache import Cache
from rlbench.base.errors import BadInput
from rlbench.config.schema import OwnConfig
from rlbench.data import load_dataset
from rlbench.data.cached import open_dataset
from rlbench.data.catalog_files import read_catalog
from rlbench.data.checks import check_dataset
from rlbench.data.record import RankedListDataset
from rlbench.running.session import prepare
from rlbench.runs import inputs
from tests.conftest import SMALL, composed

OF_BOOKS = ('dataset.line_format="{title}"', "dataset.item=book", "dataset.list_length=3")
BOOKS = ["Dune", "Emma", "Ulysses", "Beloved", "Rebecca", "Middlemarch", "Persuasion", "Solaris"]


@pytest.fixture(scope="module")
def plain() -> OwnConfig:
    return composed(
        "dataset=jsonl", 'dataset.line_format="{title}"', "dataset.item=book", "dataset.list_length=3"
    ).dataset


def record(number: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"Book number {number}?", "ground_truth": [BOOKS[number % 8]], **more}


def write(file: Path, rows: list[Any]) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three splits and a catalogue."""
    for split, numbers in (("train", range(6)), ("valid", range(6, 8)), ("test", range(8, 10))):
        write(tmp_path / "data" / f"{split}.jsonl", [record(number) for number in numbers])
    (tmp_path / "data" / "catalog.txt").write_text("\n".join(BOOKS) + "\n\n")
    return tmp_path / "data"


@pytest.fixture
def load(plain: OwnConfig, folder: Path) -> Callable[..., RankedListDataset]:
    def load(**changes: Any) -> RankedListDataset:
        return load_dataset(replace(plain, **{"path": str(folder), **changes}))

    return load


@pytest.fixture
def refused(load: Callable[..., RankedListDataset]) -> Callable[..., list[str]]:
    def refused(**changes: Any) -> list[str]:
        with pytest.raises(BadInput) as error:
            load(**changes)
        return error.value.problems

    return refused


def test_a_folder_with_a_file_per_split(load, folder):
    dataset = load()
    assert {split: len(records) for split, records in dataset.splits.items()} == {
        "train": 6,
        "validation": 2,
        "test": 2,
    }
    assert dataset.catalog.items == [(book, None) for book in BOOKS] and dataset.item == "book"
    first = dataset.splits["train"][0]
    assert first.prompt == [{"role": "user", "content": "Book number 0?"}] and first.ground_truth == [("Dune", None)]
    assert first.seen_titles == [] and first.gains is None and first.cluster_id == first.context_id != ""
    assert check_dataset(dataset, 3) == []
    (notice,) = dataset.notices
    assert notice.startswith("there are no demonstrations, so stage=sft has nothing to learn from")


def test_every_field(load, folder):
    rows = [
        {
            "prompt": [{"role": "system", "content": "Short."}, {"role": "user", "content": "Space?"}],
            "ground_truth": [{"title": "Dune", "year": 1965, "relevance": 3}, {"title": "Solaris", "relevance": 0.5}],
            "seen": ["Emma", {"title": "Ulysses"}],
            "context_id": 7,
            "cluster_id": "user 1",
            "completion": ["Dune", {"title": "Solaris"}, "Emma"],
            "note": "mine",
        },
        record(
            1,
            ground_truth=[{"title": "Dune", "relevance": 1}, {"title": "Emma", "relevance": 0}],
            completion="Dune\nEmma",
        ),
    ]
    write(folder / "train.jsonl", rows)
    dataset = load()
    one, two = dataset.splits["train"]
    assert one.prompt[0] == {"role": "system", "content": "Short."}
    assert one.ground_truth == [("Dune", None), ("Solaris", None)] and one.gains == (3.0, 0.5)
    assert (one.seen_titles, one.context_id, one.cluster_id) == (["Emma", "Ulysses"], "7", "user 1")
    assert two.ground_truth == [("Dune", None)] and two.gains == (1.0,)
    assert [record.completion[0]["content"] for record in dataset.splits["sft"]] == [
        "Dune\nSolaris\nEmma",
        "Dune\nEmma",
    ]
    assert one.completion is None, "train records have no demonstration"
    assert "1 field 'note' is not read" in dataset.notices
    assert "1 years are left out, since dataset.line_format has none" in dataset.notices
    assert "1 entries of relevance 0 in ground_truth are left out" in dataset.notices


def test_a_template(load):
    prompt = load(prompt_template="List {n} {items}, one {item} a line.\n{conversation}").splits["test"][0].prompt
    assert prompt[0]["content"] == "List 3 books, one book a line.\nBook number 8?"


def test_years(load, folder):
    films = [
        {
            "prompt": "?",
            "ground_truth": ["Heat (1995)", {"title": "Alien", "year": "1979"}, ["Jaws", 1975]],
            "seen": ["Up (2009)"],
        }
    ]
    for split in ("train", "valid", "test"):
        write(folder / f"{split}.jsonl", [film | {"prompt": split} for film in films])
    (folder / "catalog.txt").write_text("Heat (1995)\nAlien (1979)\nJaws (1975)\n")
    dataset = load(line_format="{title} ({year})", item="film")
    assert dataset.splits["train"][0].ground_truth == [("Heat", 1995), ("Alien", 1979), ("Jaws", 1975)]
    assert dataset.splits["train"][0].seen_titles == ["Up"] and dataset.catalog.has_years
    assert "3 years given as strings were converted" in dataset.notices


def test_missing_years_are_named_with_what_to_do(refused):
    problems = refused(line_format="{title} ({year})")
    assert any(
        "train.jsonl, line 1: ground_truth has a name without a year; write Title (Year), give year as a whole "
        "number, or set "
        "'dataset.line_format=\"{title}\"' if there are no years: entry 0 is 'Dune'" in problem
        for problem in problems
    )
    assert any(
        "catalog.txt, line 1: the year is not an integer, but missing; add it, or set" in problem
        for problem in problems
    )
    assert any("train.jsonl: 1 more: ground_truth has a name without a year" in problem for problem in problems)


def test_one_file_is_divided_by_cluster(load, tmp_path):
    rows = [record(number, context_id=f"c{number}", cluster_id=f"u{number // 4}") for number in range(200)]
    file = write(tmp_path / "all.jsonl", rows)
    dataset = load(path=str(file), validation_fraction=0.2, test_fraction=0.3)
    users = {split: {r.cluster_id for r in records} for split, records in dataset.splits.items()}
    assert sum(map(len, users.values())) == 50, "no user in two splits"
    assert 3 <= len(users["validation"]) <= 18 and 7 <= len(users["test"]) <= 24
    assert check_dataset(dataset, 3) == []
    assert dataset.notices[0].startswith(
        "the files have no validation and no test split; records were divided by cluster"
    )
    other = load(path=str(file), validation_fraction=0.2, test_fraction=0.3, seed=1)
    assert {r.cluster_id for r in other.splits["test"]} != users["test"]


def test_only_a_missing_split_is_drawn_from_train_and_demonstrations_stay_out_of_it(load, folder):
    write(folder / "train.jsonl", [record(number, context_id=f"c{number}") for number in range(50)])
    write(folder / "sft.jsonl", [record(n, context_id=f"c{n}", completion="Dune\nEmma\nUlysses") for n in range(50)])
    (folder / "valid.jsonl").unlink()
    dataset = load(validation_fraction=0.3)
    contexts = {split: {r.context_id for r in records} for split, records in dataset.splits.items()}
    assert contexts["sft"] == contexts["train"] and not contexts["train"] & contexts["validation"]
    assert len(contexts["train"]) + len(contexts["validation"]) == 50 and len(contexts["test"]) == 2


def test_splits_in_a_field(load, tmp_path):
    splits = ["train", "train", "VAL", "test", "sft"]
    rows = [record(n, split=split, completion="Dune" if split == "sft" else None) for n, split in enumerate(splits)]
    dataset = load(path=str(write(tmp_path / "all.jsonl", rows)))
    assert {split: len(records) for split, records in dataset.splits.items()} == {
        "sft": 1, "train": 2, "validation": 1, "test": 1,
    }  # fmt: skip
    assert any(
        notice.startswith("dataset.catalog is not set, so the catalogue holds the 5 books")
        for notice in dataset.notices
    )


def test_demonstrations_by_a_rule(load, folder):
    write(
        folder / "train.jsonl",
        [
            {"prompt": "a", "ground_truth": [{"title": "Emma", "relevance": 1}, {"title": "Dune", "relevance": 2}]},
            {"prompt": "b", "ground_truth": ["Rebecca"], "seen": ["dune"]},
            {"prompt": "c", "ground_truth": ["Rebecca"]},
        ],
    )
    lists = [r.completion[0]["content"].split("\n") for r in load(demonstrations="truth_then_popular").splits["sft"]]
    assert lists == [["Dune", "Emma", "Rebecca"], ["Rebecca", "Emma", "Ulysses"], ["Rebecca", "Emma", "Dune"]]


NAME = "ground_truth must hold names, or objects with a title that is text"
GAIN = "ground_truth has a relevance that is not a finite number from 0 on: entry 0 is"
BAD: list[tuple[Any, str]] = [
    ({"ground_truth": ["Dune"]}, "prompt is missing; give a text, or a list of messages with role and content"),
    (record(1, prompt="  "), "prompt is empty; give a text, or remove the record: '  '"),
    (record(1, prompt=["a"]), "prompt must be a text, or a list of messages with role and content: ['a']"),
    (record(1, prompt=[{"role": "assistant", "content": "a"}]), "prompt has no message of the role user with text"),
    ({"prompt": "?"}, "ground_truth is missing; name at least one book"),
    (record(1, ground_truth=[]), "ground_truth is empty; name at least one book"),
    (record(1, ground_truth="Dune"), "ground_truth must be a list of names or of objects with title: 'Dune'"),
    (record(1, ground_truth=[["Dune", "Emma", "It"]]), NAME),
    (record(1, ground_truth=["Dune", 3]), f"{NAME}: entry 1 is 3"),
    (record(1, ground_truth=[{"title": ["Dune"]}]), NAME),
    (record(1, ground_truth=[{"name": "Dune"}]), NAME),
    (record(1, ground_truth=[{"title": "Dune", "relevance": float("nan")}]), f"{GAIN} nan"),
    (record(1, ground_truth=[{"title": "Dune", "relevance": "high"}]), f"{GAIN} 'high'"),
    (record(1, ground_truth=[{"title": "Dune", "relevance": -1}]), f"{GAIN} -1"),
    (record(1, ground_truth=[{"title": "Dune", "relevance": 0}]), "ground_truth has only entries of relevance 0"),
    (record(1, seen="Emma"), "seen must be a list of names: 'Emma'"),
    (record(1, seen=["Emma", None]), "seen must hold names: entry 1 is None"),
    (record(1, completion=3), "completion must be a text with one line a rank, a list of names, or messages: 3"),
    (record(1, completion=""), "completion must be a text with one line a rank, a list of names, or messages: ''"),
    (record(1, split="holdout"), "split must be one of sft, train, validation, test: 'holdout'"),
    (record(1, split="test"), "split is not that of its file, which is for train"),
    (record(1, context_id=1.5), "context_id must be a text or a whole number: 1.5"),
    (record(0, context_id="x"), ""),
    (record(2, context_id="x"), "context_id is that of another prompt (line 23); give each prompt its own: 'x'"),
    (record(1, prompt="half \ud800"), "a text holds half a character (a lone surrogate); write the whole character"),
    (["a", "list"], "a record must be an object with fields, such as prompt and ground_truth: ['a', 'list']"),
]  # fmt: skip


def test_every_problem_at_once_with_its_line(refused, folder):
    write(folder / "train.jsonl", [row for row, _ in BAD])
    with (folder / "train.jsonl").open("ab") as file:
        file.write('{"prompt": "Amélie", "ground'.encode("latin-1") + b"\n" + b'{"prompt": "cut of')
    (folder / "test.jsonl").write_bytes(b"\x1f\x8b..")
    (folder / "catalog.txt").write_text("\n")
    problems = refused()
    for line, (_, said) in enumerate(BAD, start=1):
        assert not said or any(f"train.jsonl, line {line}: {said}" in problem for problem in problems), said
    for line in (len(BAD) + 1, len(BAD) + 2):
        assert any(f"line {line}: not a JSON object; the line may be cut off, or not be UTF-8" in p for p in problems)
    assert any("test.jsonl is compressed with gzip; unpack it" in problem for problem in problems)
    assert any("catalog.txt: the catalogue is empty" in problem for problem in problems)


def test_what_is_odd_but_no_problem_is_counted(load, folder):
    truth = [f"Book {i}" for i in range(65)]
    (folder / "catalog.txt").write_text("\n".join([*truth, "book 0"]) + "\n")
    rows = [
        record(0, ground_truth=truth),
        record(1, ground_truth=["Book 1", "Book 1"]),
        record(2, ground_truth=["Lost"]),
    ]
    write(folder / "train.jsonl", [*rows, rows[2]])
    for name in ("valid", "test"):
        write(folder / f"{name}.jsonl", [record(0, prompt=name, ground_truth=["BOOK 3"])])
    dataset = load(list_length=5)
    assert len(dataset.splits["train"][0].ground_truth) == 65 and check_dataset(dataset, 5) == []
    text = "\n".join(dataset.notices)
    assert "1 books equal an earlier book under the matching policy" in text and "book 0 = Book 0" in text
    assert "1 names stand twice in one ground_truth" in text
    assert "train: 1 records repeat another one's context and truth; each counts as an answer" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"path": None}, "dataset.path is not set: give dataset.path=PLACE"),
        ({"path": "nowhere"}, "dataset.path = nowhere: there is no such file or folder"),
        ({"catalog": "none.csv"}, "catalogue none.csv: there is no such file"),
        ({"catalog": "none.xml"}, "the file name must end in one of .pkl, .json, .csv, .txt, .jsonl, .parquet"),
        ({"prompt_template": "books"}, "dataset.prompt_template has no {conversation}"),
        ({"validation_fraction": 0.0}, "dataset.validation_fraction = 0.0 must lie in (0, 1)"),
        ({"demonstrations": "some"}, "dataset.demonstrations = 'some' is unknown; known: given, truth_then_popular"),
        ({"demonstrations_from": "none.jsonl"}, "none.jsonl: there is no such file"),
    ],
)
def test_settings(refused, changes, said):
    assert any(said in problem for problem in refused(**changes)), said


def test_files_of_a_folder(refused, folder):
    write(folder / "val.jsonl", [record(6)])
    (problem,) = refused()
    assert "val.jsonl and valid.jsonl are for the same split; join them" in problem
    for file in folder.glob("*.jsonl"):
        file.unlink()
    assert "found no file that ends in .jsonl; expected" in refused()[0]
    write(folder / "test.jsonl", [record(1)])
    assert "there are no train records, which RL takes its prompts from" in refused()[0]
    (folder / "train.jsonl").write_text(json.dumps([record(1)], indent=1))
    assert "train.jsonl is one JSON list; write one JSON object per line" in refused()[0]
    write(folder / "train.jsonl", [])
    assert "train.jsonl has no records; write one JSON object per line" in refused()[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.txt", "\n".join(BOOKS)),
        ("c.csv", "year,title\n" + "\n".join(f"1999,{book}" for book in BOOKS)),
        ("c.csv", "title\n" + "\n".join(BOOKS)),
        ("c.json", json.dumps(BOOKS)),
        ("c.json", json.dumps([[book, 1999] for book in BOOKS])),
        ("c.jsonl", "\n".join(json.dumps({"title": book}) for book in BOOKS)),
        ("c.jsonl", "\n".join(json.dumps(book) for book in BOOKS)),
    ],
)
def test_catalogues_without_years(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    catalog, notices = read_catalog(tmp_path / name, with_years=False, noun="book")
    assert catalog.items == [(book, None) for book in BOOKS] and notices == []


def test_catalogues_in_parquet(tmp_path):
    pd.DataFrame({"title": ["Heat", "Heat", "Alien"], "year": [1995, 1986, 1979]}).to_parquet(tmp_path / "c.parquet")
    assert read_catalog(tmp_path / "c.parquet")[0].items == [("Heat", 1995), ("Heat", 1986), ("Alien", 1979)]
    catalog, notices = read_catalog(tmp_path / "c.parquet", with_years=False)
    assert catalog.items == [("Heat", None), ("Alien", None)]
    assert notices == ["catalogue c.parquet: 1 films equal an earlier one without their years, and were merged with it"]
    (tmp_path / "d.parquet").write_text("x")
    with pytest.raises(BadInput, match="d.parquet is not parquet"):
        read_catalog(tmp_path / "d.parquet")
    pd.DataFrame({"name": ["Heat"]}).to_parquet(tmp_path / "e.parquet")
    with pytest.raises(BadInput, match="column title and year is missing"):
        read_catalog(tmp_path / "e.parquet")


# dataset=hf


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder written by save_to_disk, with columns and splits of other names."""
    of = {
        split: datasets.Dataset.from_list(
            [
                {
                    "question": f"{split} {n}?",
                    "answers": [{"title": BOOKS[n], "relevance": 2.0}, {"title": BOOKS[n + 1], "relevance": 1.0}],
                    "reply": f"{BOOKS[n]}\n{BOOKS[n + 1]}\n{BOOKS[n + 2]}",
                }
                for n in range(4)
            ]
        )
        for split in ("learn", "check", "final")
    }
    datasets.DatasetDict(of).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def hub(saved: Path) -> OwnConfig:
    config = composed(
        "dataset=hf", 'dataset.line_format="{title}"', "dataset.item=book", "dataset.list_length=3"
    ).dataset
    columns = {"prompt": "question", "ground_truth": "answers", "completion": "reply"}
    splits = {"train": "learn", "validation": "check", "test": "final"}
    return replace(config, path=str(saved), columns=columns, splits=splits)


def test_a_folder_of_datasets(hub, tmp_path):
    dataset = load_dataset(hub)
    assert {split: len(records) for split, records in dataset.splits.items()} == {
        "sft": 4, "train": 4, "validation": 4, "test": 4,
    }  # fmt: skip
    assert dataset.splits["train"][1].ground_truth == [("Emma", None), ("Ulysses", None)]
    assert dataset.splits["train"][1].gains == (2.0, 1.0) and check_dataset(dataset, 3) == []
    cache = Cache(tmp_path / "cache", print)
    assert list(open_dataset(hub, cache).splits["test"]) == list(dataset.splits["test"])
    assert open_dataset(hub, cache).fingerprint == dataset.fingerprint


def test_one_table_is_divided(hub, saved, tmp_path):
    rows = [{"prompt": f"{n}?", "ground_truth": [BOOKS[n % 8]]} for n in range(60)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "table")
    columns = {"prompt": "prompt", "ground_truth": "ground_truth"}
    dataset = load_dataset(replace(hub, path=str(tmp_path / "table"), columns=columns, splits={}))
    assert set(dataset.splits) == {"train", "validation", "test"} and sum(map(len, dataset.splits.values())) == 60


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"columns": {"prompt": "question"}}, "dataset.columns has no ground_truth"),
        ({"columns": {"prompt": "q", "ground_truth": "answers"}}, "there is no column q; there are question, answers"),
        ({"columns": {"prompts": "question"}}, "dataset.columns names the field 'prompts', which is unknown"),
        ({"splits": {"train": "larn", "test": "final"}}, "dataset.splits.train = 'larn': "),
        ({"splits": {"trian": "learn"}}, "dataset.splits names 'trian', which is unknown; known: sft,"),
        ({"splits": {}}, "has the splits learn, check, final, but no train; map them in dataset.splits"),
        ({"path": None}, "dataset.path is not set: give dataset.path=ID"),
        ({"columns": {"prompt": "answers", "ground_truth": "reply"}}, "row 0: prompt must be a text"),
    ],
)  # fmt: skip
def test_settings_of_hf(hub, changes, said):
    with pytest.raises(BadInput) as error:
        load_dataset(replace(hub, **changes))
    assert any(said in problem for problem in error.value.problems), error.value.problems


def test_a_folder_that_is_no_dataset(hub, tmp_path):
    (tmp_path / "odd").mkdir()
    with pytest.raises(BadInput, match="cannot be opened: .*; give the id of a dataset on the hub, or a folder"):
        load_dataset(replace(hub, path=str(tmp_path / "odd")))


def test_oddities_of_a_folder_are_named(load, refused, folder):
    (folder / "catalog.txt").write_text("\n".join(["Hello", "2. Fast", "Big\tSky", *BOOKS[1:]]))
    for name in ("train-2.jsonl", "Test.JSONL", "catalogue.txt"):
        (folder / name).write_text("{}\n")
    told = "\n".join(load().notices)
    assert "3 files of the folder are not read: Test.JSONL, catalogue.txt, train-2.jsonl; records are read" in told
    assert "train: 16.67% of the ground-truth books are not in the catalogue and can never be hits" in told
    assert (
        "2 titles of the catalogue look like layout or a sentence" in told and "names the book: Hello, 2. Fast" in told
    )
    assert "catalogue catalog.txt: white space was collapsed in 1 titles" in told
    assert ("Big Sky", None) in load().catalog.items
    (folder / "catalog.csv").write_text("title\nDune\n")
    assert "there are several catalogues, catalog.csv, catalog.txt; keep one" in "\n".join(refused())
    assert "files of the folder are not read: Test.JSONL, catalog.csv" in "\n".join(
        load(catalog=str(folder / "catalog.txt")).notices
    )
    (folder / "catalog.txt").unlink(), (folder / "catalog.csv").unlink(), (folder / "catalog.txt").mkdir()
    assert "catalog.txt: is a folder; give a file" in "\n".join(refused())
    assert "cannot be read: File name too long" in "\n".join(refused(path="x" * 300))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('title\nDune\n"Emma\nSolaris\n', "line 3: the row is not CSV; quotes may be unclosed"),
        ('title\n"Emma\nBig "Sky"\nDune\n', "line 2: the row is not CSV; quotes may be unclosed"),
        ("title\nDune\nGood, Bad\n", "line 3: there are more cells than columns; put quotes around a title"),
    ],
)
def test_a_csv_catalogue_that_would_lose_titles(refused, folder, text, words):
    (folder / "catalog.txt").unlink()
    (folder / "catalog.csv").write_text(text)
    assert any(words in problem for problem in refused())


@pytest.mark.parametrize("gain", [10**400, 1e13, 1e-300, 1.7e308])
def test_relevances_that_would_overflow_are_refused(refused, folder, gain):
    write(folder / "train.jsonl", [record(0, ground_truth=[{"title": "Dune", "relevance": gain}])])
    (problem,) = refused()
    assert "train.jsonl, line 1: ground_truth has a relevance that is not 0 or between 1e-12 and 1e+12" in problem


def test_records_of_one_context_agree(refused, folder):
    rows = [
        record(0, seen=["Emma", "Dune"], ground_truth=["Solaris"]),
        record(0, seen=["dune", "EMMA", "Dune"]),
        record(0, seen=["Emma"]),
    ]
    write(folder / "train.jsonl", rows)
    write(folder / "test.jsonl", [record(0, seen=["Emma", "Dune"]), record(9, ground_truth=[])])
    problems = "\n".join(refused())
    assert problems.count("this context also stands in another split; keep all records of a context in one") == 3
    assert f"test in line 1 of {folder / 'test.jsonl'}" in problems and "line 2: ground_truth is empty" in problems
    assert problems.count("seen differs from that of an earlier record of the same context") == 1
    assert "train.jsonl, line 3: seen differs" in problems


def test_notices_are_told_with_the_problems(load, folder):
    write(folder / "train-2.jsonl", [record(3)])
    write(folder / "train.jsonl", [record(0, mood="good"), record(1, ground_truth=[])])
    with pytest.raises(BadInput) as error:
        load()
    assert len(error.value.problems) == 1 and "ground_truth is empty" in error.value.problems[0]
    told = "\n".join(error.value.notices)
    assert "1 files of the folder are not read: train-2.jsonl" in told and "1 field 'mood' is not read" in told
    (folder / "train.jsonl").unlink()
    with pytest.raises(BadInput, match="there are no train records") as error:
        load()
    assert "train-2.jsonl" in "\n".join(error.value.notices)


def test_a_key_that_stands_twice_is_a_problem_of_its_line(refused, folder):
    (folder / "train.jsonl").write_text('{"prompt": "?", "ground_truth": ["Dune"], "prompt": "!"}\n{"prompt')
    first, second = refused()
    assert "line 1: a key stands twice in one object; keep one: \"'prompt'\"" in first and "may be cut off" in second


def test_titles_with_special_tokens_are_counted_and_may_not_be_demonstrated(folder, tmp_path, capsys):
    (folder / "catalog.txt").write_text("\n".join(["The <|end|> of It", "<|pad|>", *BOOKS]), encoding="utf-8")
    words = ["dataset=jsonl", f"dataset.path={folder}", 'dataset.line_format="{title}"', "dataset.item=book",
             "dataset.list_length=3", *SMALL[2:], "generation.max_new_tokens=64", f"cache_dir={tmp_path}",
             f"runs_dir={tmp_path}"]  # fmt: skip
    prepare(composed(*words, "stage=zero_shot"))
    said = " ".join(capsys.readouterr().err.split())
    assert "2 books of the catalogue cannot be in a list, because their lines contain the text of a special" in said
    write(folder / "sft.jsonl", [record(0, completion="Dune\nThe <|end|> of It"), record(1, completion="Dune\nEmma")])
    inputs.forget()
    with pytest.raises(BadInput, match="1 of 2 demonstrations contain the text of a special token.*The <.end.> of It"):
        prepare(composed(*words, "stage=sft", "trainer.sft.batch_size=2", "trainer.sft.micro_batch_size=2"))


def test_names_that_differ_only_in_case_are_counted_without_a_catalogue_too(load, folder):
    (folder / "catalog.txt").unlink()
    write(folder / "train.jsonl", [record(0, ground_truth=["Dune", "Emma"]), record(1, ground_truth=["DUNE", "EMMA"])])
    told = "\n".join(load().notices)
    assert "2 books equal an earlier book under the matching policy" in told and "DUNE = Dune, EMMA = Emma" in told
