"""Reddit-Movie: small hand-made files in the published form. The real files are not among the shared data."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlbench.config.datasets import DATASETS
from rlbench.config.schema import Config, RedditMovieConfig
from rlbench.data import load_dataset
from rlbench.data.checks import check_dataset
from tests.helpers_inputs import loader, refuser

NAMES = {
    "tt0078748": "Alien (1979)",
    "tt0073195": "Jaws  (1975)",
    "tt0113277": "Heat (1995)",
    "tt1049413": "Up (2009)",
    "tt9999999": "Nameless",
}
ALIEN, JAWS, HEAT, UP = list(NAMES)[:4]


def comment(thread: str, turn: str, text: str, before: list[tuple[str, str]], seeker: bool = False, path: str = "0/1"):
    """A row. Texts have films as IMDb ids; the raw ones have their names. `before` is (turn, text)."""
    raw = [text.replace(key, name) for _, text in before for key, name in [("tt0078748", "Alien &amp; co")]]
    return {
        "conv_id": f"{thread}_{path}",
        "turn_id": turn,
        "turn_order": len(before),
        "user_id": "u1",
        "is_seeker": seeker,
        "utc_time": 1641234238,
        "upvotes": "",
        "processed": text,
        "raw": text,
        "context_raw": repr([("user", text) for text in raw]),
        "context_processed": repr([text for _, text in before]),
        "context_turn_ids": repr([turn for turn, _ in before]),
    }


def thread(name: str, first: str = f"Films like {ALIEN}?", answer: str = f"Try {JAWS}, {UP}") -> list[dict]:
    return [
        comment(name, f"{name}-1", first, [], seeker=True),
        comment(name, f"{name}-2", answer, [(f"{name}-1", first)]),
    ]


ASKED = ("t3_a-1", f"Films like {ALIEN}?")
ANSWERED = ("t3_a-2", f"Try {JAWS} or tt1234567 or tt9999999")
THANKED = ("t3_a-3", "Seen it")
TALK = [
    comment("t3_a", *ASKED, [], seeker=True, path="0/2"),
    comment("t3_a", *ANSWERED, [ASKED], path="0/2"),
    comment("t3_a", *THANKED, [ASKED, ANSWERED], seeker=True, path="0/2"),
    comment("t3_a", "t3_a-4", f"Then {HEAT}, {JAWS}", [ASKED, ANSWERED, THANKED], path="0/2"),
    comment("t3_a", *ASKED, [], seeker=True, path="1/2"),
    comment("t3_a", *ANSWERED, [ASKED], path="1/2"),
    comment("t3_a", "t3_a-5", f"No, {UP}", [ASKED, ANSWERED], path="1/2"),
    comment("t3_a", "t3_a-6", f"{UP}!", [ASKED], path="2/2"),
]
TRAIN = [row for number in range(3) for row in thread(f"t3_t{number}")]


def write(folder: Path, train: list[dict], valid: list[dict], test: list[dict], names: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("train", train), ("valid", valid), ("test", test)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(TALK[0]))
            writer.writeheader()
            writer.writerows(rows)
    (folder / "id2name.json").write_text(json.dumps(NAMES if names is None else names))
    return folder


load = loader(
    RedditMovieConfig,
    name="reddit_movie",
    cutoffs=[],
    list_length=2,
    prompt_template="{n}:\n{conversation}",
)
refusal = refuser(load)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "reddit", TRAIN, thread("t3_v"), TALK)


def test_the_records_of_a_thread(folder: Path) -> None:
    data = load(folder)
    first, second, third = data.splits["test"]
    assert first.prompt == [{"role": "user", "content": "2:\nUser: Films like Alien & co?"}]
    assert first.ground_truth == [("Jaws", 1975)] and first.seen_titles == ["Alien"]
    assert second.prompt[0]["content"].startswith("2:\nUser: Films like Alien & co?\nSystem: Try ")
    assert second.prompt[0]["content"].endswith("\nUser: Seen it")
    assert second.ground_truth == [("Heat", 1995)] and second.seen_titles == ["Alien", "Jaws"]
    assert third.context_id == first.context_id != second.context_id, "two answers to one request"
    assert third.ground_truth == [("Up", 2009)]
    assert {record.cluster_id for record in data.splits["test"]} == {"t3_a"}
    assert check_dataset(data, 2) == []
    assert len(data.catalog) == 4


def test_what_is_left_out_is_counted(folder: Path) -> None:
    notices = load(folder).notices
    assert notices[0].startswith(
        "left out: 6 turns of seekers, 2 turns that stand on several paths, 1 answers to other"
    )
    assert "id2name.json: 1 names have no year and are ignored" in notices
    assert any(notice.endswith("mentions have an id without a film in id2name.json") for notice in notices)


def test_threads_of_a_later_split_are_left_out(tmp_path: Path) -> None:
    plain = load(write(tmp_path / "plain", TRAIN, thread("t3_v"), TALK))
    both = load(write(tmp_path / "both", [*TRAIN, *thread("t3_v"), *TALK], [*thread("t3_v"), *TALK], TALK))
    assert both.splits == plain.splits
    assert "and 18 turns of threads of a later split" in both.notices[0]


def test_demonstrations_are_the_truth_then_films_of_train(folder: Path) -> None:
    (record, *_) = load(folder).splits["sft"]
    assert record.completion == [{"role": "assistant", "content": "Jaws (1975)\nUp (2009)"}]


def test_the_shipped_config_loads_it(folder: Path, config: Callable[..., Config]) -> None:
    settings = config("dataset=reddit_movie", f"dataset.path={folder}", "dataset.list_length=2").dataset
    assert load_dataset(settings).splits["test"]
    assert set(DATASETS["reddit_movie"].sources(settings)) == {"train.csv", "valid.csv", "test.csv", "id2name.json"}


def test_missing_files_are_named(tmp_path: Path) -> None:
    assert "dataset.path=FOLDER" in refusal(None)[0]
    assert "there is no such folder" in refusal(tmp_path / "none")[0]
    (problem,) = refusal(tmp_path)
    assert "train.csv, valid.csv, test.csv, id2name.json is missing" in problem


def test_problems_are_refused_together(folder: Path) -> None:
    good = TALK[1]
    rows = [
        {**good, "is_seeker": "maybe"},
        {**good, "conv_id": ""},
        {**good, "context_raw": "[1, 2]"},
        {**good, "context_raw": "open('x')"},
        {**good, "context_turn_ids": "[]"},
        good,
    ]
    write(folder, rows, thread("t3_v"), TALK, names=["no", "object"])
    (folder / "valid.csv").write_text("conv_id,turn_id\na,b\n")
    text = "\n".join(refusal(folder, prompt_template="x"))
    file = folder / "train.csv"
    assert "dataset.prompt_template has no {conversation}" in text
    assert f"{file}, line 2: is_seeker must be True or False: 'maybe'" in text
    assert f"{file}, line 3: conv_id is empty" in text
    assert f"{file}, line 4: context_raw must be a list of texts or of (speaker, text): '[1, 2]'" in text
    assert f"{file}, line 5: context_raw must be a list of texts" in text
    assert f"{file}, line 6: context_turn_ids, context_raw and context_processed differ in length: 0, 1, 1" in text
    assert f"{folder / 'valid.csv'}: column is_seeker, processed" in text
    assert f"{folder / 'id2name.json'}: expected an object of IMDb id to name" in text
