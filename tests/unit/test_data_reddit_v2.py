"""Reddit-v2, read from a small dataset in the published form, which `datasets.save_to_disk` writes."""

import json
import pickle
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from rlbench.base.errors import BadInput
from rlbench.config.schema import Config, RedditV2Config
from rlbench.data import load_dataset
from rlbench.data.checks import check_dataset
from rlbench.data.record import RankedListDataset
from tests.helpers import shared_data
from tests.helpers_inputs import refuser

FILMS = [("Heat", 1995), ("Alien", 1979), ("Jaws", 1975), ("The Wall", 201)]
LIST = "Heat (1995)\nAlien (1979)\nJaws (1975)"


def row(prompt: str, truth: Any, completion: str | None = None) -> dict:
    sample: dict = {
        "prompt": [{"content": prompt, "role": "user"}],
        "seen_titles": ["Up"],
        "groundtruth_with_release_year": truth,
    }
    if completion is not None:
        sample["completion"] = [{"content": completion, "role": "assistant"}]
    return sample


PARTS = {
    "sft_dataset/train": [row("a thriller?", [["Heat", "1995"]], LIST), row("a shark?", [["Jaws", "1975"]], LIST)],
    "sft_dataset/validation": [row("space?", [["Alien", "1979"]], LIST)],
    "sft_dataset/test": [
        row("any?", [["Heat", "1995"], ["Jaws", "1975"]], LIST),
        row("any?", [["Alien", "1979"]], LIST),
        row("a shark?", [["Jaws", "1975"]], LIST),
    ],
    "grpo/grpo_dataset/train": [row("a thriller?", [["Heat", "1995"]]), row("a thriller?", [["Alien", "1979"]])],
}


def save(root: Path, part: str, rows: list[dict]) -> None:
    folder = root / part
    if folder.exists():
        shutil.rmtree(folder)
    datasets.Dataset.from_list(rows).save_to_disk(str(folder))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, rows in PARTS.items():
        save(tmp_path, part, rows)
    (tmp_path / "gt_catalog.pkl").write_bytes(pickle.dumps(FILMS))
    return tmp_path


def load(root: Path, list_length: int = 3, catalog: Path | None = None) -> RankedListDataset:
    settings = RedditV2Config("reddit_v2", list_length, [1], path=str(root), catalog=str(catalog) if catalog else None)
    return load_dataset(settings)


refusal = refuser(load)


def test_parts_become_splits_in_canonical_form(root: Path) -> None:
    data = load(root)
    assert {split: len(records) for split, records in data.splits.items()} == {
        "sft": 2,
        "train": 2,
        "validation": 1,
        "test": 3,
    }
    record = data.splits["test"][0]
    assert record.prompt == [{"role": "user", "content": "any?"}]
    assert record.ground_truth == [("Heat", 1995), ("Jaws", 1975)]
    assert record.seen_titles == ["Up"]
    assert record.completion == [{"role": "assistant", "content": LIST}]
    assert data.splits["train"][0].completion is None
    assert data.catalog.items == FILMS
    assert data.oracle is None
    assert check_dataset(data, 3) == []


def test_samples_with_one_prompt_share_their_context_within_a_split(root: Path) -> None:
    data = load(root)
    first, second, third = (record.context_id for record in data.splits["test"])
    assert first == second != third
    assert data.splits["train"][0].context_id == data.splits["train"][1].context_id
    assert data.splits["train"][0].context_id == data.splits["sft"][0].context_id
    assert third != data.splits["sft"][1].context_id, "the same words in train and test are two requests"
    assert "test: 1 prompts also occur word for word in the training data" in data.notices


def test_string_years_are_counted(root: Path) -> None:
    save(root, "grpo/grpo_dataset/train", PARTS["grpo/grpo_dataset/train"][:1])
    notices = load(root).notices
    assert "sft_dataset/test: 4 years given as strings were converted" in notices
    assert "grpo/grpo_dataset/train: 1 years given as strings were converted" in notices
    assert any("The Wall (201)" in notice for notice in notices)


def test_truth_outside_the_catalogue_is_told(root: Path) -> None:
    save(root, "sft_dataset/test", [row("any?", [["Heat", "1995"], ["Gone", "2001"]], LIST)])
    assert any(n.startswith("test: 50.00% of the ground-truth films are not in") for n in load(root).notices)


def test_longer_demonstrations_are_cut_and_counted(root: Path) -> None:
    data = load(root, list_length=2)
    assert data.splits["sft"][0].completion == [{"role": "assistant", "content": "Heat (1995)\nAlien (1979)"}]
    assert "sft_dataset/train: 2 completions were truncated to their first 2 lines" in data.notices


def test_the_form_written_by_older_releases_of_datasets(root: Path) -> None:
    expected = load(root)
    text = {"dtype": "string", "_type": "Value"}
    texts = {"feature": text, "_type": "Sequence"}
    features = {
        "prompt": [{"content": text, "role": text}],
        "seen_titles": texts,
        "groundtruth_with_release_year": {"feature": texts, "_type": "Sequence"},
        "completion": [{"content": text, "role": text}],
    }
    file = root / "sft_dataset" / "train" / "dataset_info.json"
    info = json.loads(file.read_text())
    file.write_text(json.dumps({**info, "features": features}))
    again = load(root)
    assert again.splits == expected.splits
    assert again.notices == expected.notices


def test_fingerprint_is_of_the_data(root: Path) -> None:
    before = load(root).fingerprint
    assert load(root).fingerprint == before
    save(root, "sft_dataset/test", PARTS["sft_dataset/test"][:2])
    assert load(root).fingerprint != before


@pytest.mark.parametrize("name", ["gt_catalog.json", "reddit_catalog/gt_catalog.csv", "reddit_catalog/gt_catalog.pkl"])
def test_the_catalogue_is_found_in_each_place_and_form(root: Path, name: str) -> None:
    (root / "gt_catalog.pkl").unlink()
    file = root / name
    file.parent.mkdir(exist_ok=True)
    if name.endswith("pkl"):
        file.write_bytes(pickle.dumps(FILMS))
    elif name.endswith("json"):
        file.write_text(json.dumps(FILMS))
    else:
        file.write_text("title,year\n" + "\n".join(f"{title},{year}" for title, year in FILMS))
    assert load(root).catalog.items == FILMS


def test_another_catalogue_can_be_named(root: Path) -> None:
    other = root / "other.json"
    other.write_text(json.dumps(FILMS[:3]))
    assert load(root, catalog=other).catalog.items == FILMS[:3]


def test_no_path() -> None:
    folders = "sft_dataset/train, grpo/grpo_dataset/train, sft_dataset/validation, sft_dataset/test"
    with pytest.raises(BadInput, match=f"dataset.path=FOLDER, a folder with {folders} and"):
        load_dataset(RedditV2Config("reddit_v2", 3, [1], path=None, catalog=None))


def test_missing_folder(tmp_path: Path) -> None:
    (problem,) = refusal(tmp_path / "nowhere")
    assert "nowhere: there is no such folder" in problem
    assert "sft_dataset/train" in problem


def test_everything_that_is_missing_is_named_at_once(root: Path) -> None:
    shutil.rmtree(root / "grpo")
    (root / "gt_catalog.pkl").unlink()
    (root / "sft_dataset" / "test" / "state.json").unlink()
    save(root, "sft_dataset/validation", [{"prompt": "x"}])
    problems = "\n".join(refusal(root))
    assert "no catalogue; looked for gt_catalog.pkl" in problems
    assert "reddit_catalog/gt_catalog.json" in problems
    assert f"{root / 'grpo/grpo_dataset/train'}: there is no such folder" in problems
    assert f"{root / 'sft_dataset/test'}: not a dataset written by datasets.save_to_disk" in problems
    assert "column seen_titles, groundtruth_with_release_year is missing; it has prompt" in problems


def test_demonstrations_need_completions(root: Path) -> None:
    save(root, "sft_dataset/train", PARTS["grpo/grpo_dataset/train"])
    (problem,) = refusal(root)
    assert "column completion is missing" in problem


def test_a_dataset_dict_is_refused(root: Path) -> None:
    shutil.rmtree(root / "sft_dataset" / "test")
    one = datasets.Dataset.from_list(PARTS["sft_dataset/test"])
    datasets.DatasetDict({"test": one}).save_to_disk(str(root / "sft_dataset" / "test"))
    (problem,) = refusal(root)
    assert "has the splits test" in problem


def test_a_truncated_arrow_file_is_refused(root: Path) -> None:
    (file,) = (root / "sft_dataset" / "test").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    (problem,) = refusal(root)
    assert problem.startswith(f"{root / 'sft_dataset/test'}: not a dataset")


ARROW = "data-00000-of-00001.arrow"
WHOLE_JSON = ("3", "null", '"x"', "[]", "[3]", '{"a": [}', "", '{"a"', "[" * 100_000, "9" * 5000)


def one_refusal(root: Path, content: bytes, name: str) -> str:
    """Return the single problem found if a file of the test split has this content."""
    (root / "sft_dataset/test" / name).write_bytes(content)
    (problem,) = refusal(root)
    assert problem.startswith(f"{root / 'sft_dataset/test'}: ") and "\n" not in problem and len(problem) < 500
    return problem


def test_arrow_files_of_any_damage_are_refused(root: Path) -> None:
    whole = (root / "sft_dataset/test" / ARROW).read_bytes()
    for length in (0, 1, 8, len(whole) // 4, len(whole) // 2, len(whole) - 1):
        one_refusal(root, whole[:length], ARROW)
    for content in (b"hello\n" * 50, b"PAR1" + bytes(100), bytes(len(whole)), b"\xff" * len(whole)):
        one_refusal(root, content, ARROW)
    (root / "sft_dataset/test" / ARROW).unlink()
    (problem,) = refusal(root)
    assert problem.startswith(f"{root / 'sft_dataset/test'}: ")


@pytest.mark.parametrize("text", [b"\xed\xa0\x80t", b"\xff\xfeat", b"He\xc3t"], ids=["surrogate", "utf-16", "half"])
def test_text_in_an_arrow_file_that_is_no_utf_8_is_refused(root: Path, text: bytes) -> None:
    """This used to end in a UnicodeDecodeError."""
    whole = (root / "sft_dataset/test" / ARROW).read_bytes()
    assert "UTF8" in one_refusal(root, whole.replace(b"Heat", text, 1), ARROW)


def test_flipped_bytes_of_an_arrow_file_end_in_data_or_one_refusal(root: Path) -> None:
    """A damaged offset used to crash the process, because rows were read from arbitrary memory."""
    file = root / "sft_dataset/test" / ARROW
    whole = file.read_bytes()
    draws = random.Random(1)
    refused = 0
    for _ in range(30):
        damaged = bytearray(whole)
        damaged[draws.randrange(len(whole))] ^= draws.randrange(1, 256)
        file.write_bytes(bytes(damaged))
        try:
            load(root)
        except BadInput as error:
            refused += 1
            assert all(problem.startswith(f"{root / 'sft_dataset/test'}") for problem in error.problems)
    assert refused > 15


def test_a_damaged_schema_or_length_of_an_arrow_file_is_refused(root: Path) -> None:
    """The length used to end in a MemoryError."""
    save(root, "sft_dataset/test", [row("any?" * 200, [["Heat", "1995"]], LIST) | {"number": 3}] * 40)
    whole = (root / "sft_dataset/test" / ARROW).read_bytes()
    places = [found.start() for found in re.finditer(rb"\x40\x00\x00\x00", whole)]  # one of them is the integer's bits
    said = [one_refusal(root, whole[:place] + b"\x80" + whole[place + 1 :], ARROW) for place in places]
    assert any("more than 64 bits" in one for one in said)
    table = pa.ipc.open_stream(whole).read_all()
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    packed = bytearray(stream.getvalue().to_pybytes())
    place = packed.index(b"\x28\xb5\x2f\xfd")  # zstd's mark, behind the length of the first compressed column
    packed[place - 8 : place] = (2**60).to_bytes(8, "little")
    assert "malloc" in one_refusal(root, bytes(packed), ARROW)


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
def test_json_of_a_saved_dataset_that_is_cut_or_of_another_kind_is_refused(root: Path, name: str) -> None:
    for content in WHOLE_JSON:
        one_refusal(root, content.encode(), name)
    one_refusal(root, b'{"a": "\xe9"}', name)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *(("state.json", {"_data_files": value}) for value in (3, [], [3], [{}], [{"filename": 3}])),
        ("state.json", {"_data_files": [{"filename": "gone.arrow"}]}),
        *(("state.json", {key: "none"}) for key in ("_format_type", "_format_columns")),
        *(("state.json", {key: 3}) for key in ("_format_kwargs", "_split")),
        *(("dataset_info.json", {"features": v}) for v in (3, {}, {"prompt": 3}, {"prompt": {"_type": "None"}})),
        ("dataset_info.json", {"features": {"prompt": {"dtype": "int64", "_type": "Value"}}}),
        ("dataset_info.json", {"features": {"prompt": []}}),
        *(("dataset_info.json", {key: 3}) for key in ("splits", "version")),
    ],
)
def test_values_of_a_saved_dataset_of_the_wrong_type_are_refused(root: Path, name: str, changes: dict) -> None:
    file = root / "sft_dataset/test" / name
    said = one_refusal(root, json.dumps(json.loads(file.read_text()) | changes).encode(), name)
    assert "has no records" not in said, said


@pytest.mark.parametrize("column", ["prompt", "completion", "seen_titles", "groundtruth_with_release_year"])
def test_columns_of_other_types_are_refused_row_by_row(root: Path, column: str) -> None:
    """The Arrow file is valid but holds numbers, bytes or lists of another depth."""
    values: list[Any] = [3, "x", [3], [["x"]], [[["x"]]], {"a": 1}, [None], b"\xff"]
    where = root / "sft_dataset/test"
    field = "ground_truth" if column.startswith("ground") else column
    for value in values:
        save(root, "sft_dataset/test", [row("any?", [["Heat", "1995"]], LIST) | {column: value}])
        problems = refusal(root)
        assert all(problem.startswith(f"{where}, row 0: {field} ") for problem in problems), problems


def test_bad_records_are_named_with_file_row_field_and_reason(root: Path) -> None:
    good = PARTS["sft_dataset/test"][0]
    bad: list[dict] = [
        good,
        {**good, "prompt": []},
        {**good, "prompt": None},
        {**good, "groundtruth_with_release_year": [["Heat", "mid 90s"]]},
        {**good, "groundtruth_with_release_year": [["Heat"]]},
        {**good, "groundtruth_with_release_year": []},
        {**good, "seen_titles": None},
        {**good, "completion": []},
    ]
    save(root, "sft_dataset/test", bad)
    (root / "gt_catalog.pkl").write_bytes(pickle.dumps([("Heat", "x")]))
    problems = refusal(root)
    where = root / "sft_dataset/test"
    assert "the year is not an integer: ('Heat', 'x')" in problems[0]
    assert problems[1:] == [
        f"{where}, row 1: prompt is missing or empty",
        f"{where}, row 2: prompt is missing or empty",
        f"{where}, row 3: ground_truth has a year that is not an integer: ('Heat', 'mid 90s')",
        f"{where}, row 4: ground_truth has an entry that is not (title, year): ['Heat']",
        f"{where}, row 5: ground_truth is missing or empty",
        f"{where}, row 6: seen_titles is not a list of str: None",
        f"{where}, row 7: completion is missing or empty",
    ]


def test_an_empty_split_is_refused(root: Path) -> None:
    shutil.rmtree(root / "sft_dataset" / "validation")
    whole = datasets.Dataset.from_list(PARTS["sft_dataset/validation"])
    whole.select([]).save_to_disk(str(root / "sft_dataset" / "validation"))
    (problem,) = refusal(root)
    assert problem == f"{root / 'sft_dataset/validation'}: the dataset has no records"


def test_the_shipped_config_loads_it(root: Path, config: Callable[..., Config]) -> None:
    data = load_dataset(config("dataset=reddit_v2", f"dataset.path={root}").dataset)
    assert len(data.splits["test"]) == 3


def test_with_the_published_catalogue(root: Path) -> None:
    shutil.copy(shared_data("reddit_v2", "gt_catalog.pkl"), root / "gt_catalog.pkl")
    data = load(root)
    assert len(data.catalog) == 7404
    assert check_dataset(data, 20) == []
